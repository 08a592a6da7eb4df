"""The predicted images of one DICOM series -> its SEG files: one object per stack of slices that
lie side by side, and one per image that has no place in the patient, such as a radiograph.

A series is a single stack, unless its slices differ in size, orientation or spacing, or lie several
times at one position (phases of a heart): then each part is an object of its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from lake import Reject
from lake.labels import rle
from lake.predictions import seg, seg_sources
from lake.predictions.folder import SEGS, file_name, reject_row
from lake.predictions.seg import Algorithm
from lake.scan import Files, Header
from lake.sources import reader
from lake.sources.damage import reject_damage

# Modalities whose images have no place in the patient. Each is by itself: there are data sets of a
# hundred thousand of them with one made-up series.
PROJECTIONS = ("CR", "DX", "MG", "RF", "XA", "US")
# What all frames of an object have in common, exactly …
SAME = ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Rows", "Columns")
# … and but for rounding: 1e-4 of a slice of 500 mm is 0.05 mm.
SIMILAR = ("ImageOrientationPatient", "PixelSpacing")
ROUNDING = 1e-4
SAME_POSITION_MM = 1e-3
# How much slices at one distance may seem to be apart: positions are rounded, often to 0.01 mm.
DISTANCE_TOLERANCE, DISTANCE_TOLERANCE_MM = 0.01, 0.011


class SegRequest(NamedTuple):
    """Which DICOM SEG files are to be written."""

    finding: str  # a name in lake.predictions.seg.FINDINGS
    mint_uids: bool
    algorithm: Algorithm


class PredictedMask(NamedTuple):
    """The mask of an image. As run lengths, as thousands of a series may wait to be written."""

    header: Header
    rle: str


class Frame(NamedTuple):
    """An image, and what a SEG takes over from its file."""

    image: PredictedMask
    reference: Dataset

    def distance_mm(self) -> float:
        """Return the distance of the slice from the patient's origin, along its normal."""
        cosines = np.array(self.reference.ImageOrientationPatient, float)
        return float(np.cross(cosines[:3], cosines[3:]) @ self.reference.ImagePositionPatient)

    def order(self) -> tuple[float, ...]:
        """Return the key by which slices are sorted: their position, then when they were taken."""
        distance_mm = round(self.distance_mm() / SAME_POSITION_MM) * SAME_POSITION_MM
        return distance_mm, *(int(self.reference.get(name) or 0) for name in seg_sources.NUMBERS)


def series_key(header: Header) -> str:
    """Return the key that the images which may share a SEG have in common."""
    return header.path if header.modality in PROJECTIONS else header.series or header.path


def files(
    inputs: Files, images: Sequence[PredictedMask], request: SegRequest, rejects: list[dict]
) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the SEGs of the predicted images of a series, in any order, and
    with minted UIDs of copies of the sources that have them. Where there can be none, append to
    `rejects` why."""
    frames, minted_paths = [], set()
    by_path = itertools.groupby(
        sorted(images, key=lambda image: (image.header.path, image.header.frame)),
        lambda image: image.header.path,
    )
    for path, group in by_path:
        group = list(group)
        try:
            numbers = [image.header.frame for image in group]
            references, is_minted = seg_sources.references(
                _read(inputs, path), path, numbers, request.mint_uids
            )
        except Reject as reject:
            rejects.append(_reject_row(group[0].header, reject))
            continue
        frames += map(Frame, group, references)
        minted_paths |= {path} if is_minted else set()
    names = set()
    for stack in stacks(_without_doubles(frames, rejects)):
        try:
            yield _name(stack, names), _encode(stack, request)
            yield from _copies(inputs, stack, minted_paths)
        except Reject as reject:
            rejects.append(_reject_row(stack[0].image.header, reject))


def stacks(frames: list[Frame]) -> list[list[Frame]]:
    """Return the frames of each SEG, in their order along the normal: frames with a place in the
    patient that are alike and lie side by side are one SEG, and any other frame is one alone."""
    alike, result = [], []
    for frame in frames:
        if not seg_sources.has_place(frame.reference):
            result.append([frame])
            continue
        group = next((group for group in alike if _are_alike(group[0], frame)), None)
        if group is None:
            alike.append(group := [])
        group.append(frame)
    for group in alike:
        layers = []  # the first of those at one position, the second …
        for frame in sorted(group, key=Frame.order):
            layer = next((layer for layer in layers if _lies_beyond(frame, layer[-1])), None)
            if layer is None:
                layers.append(layer := [])
            layer.append(frame)
        result += layers
    return result


def spacing_mm(stack: list[Frame]) -> float | None:
    """Return the distance of neighbouring slices along their normal. Where slices are missing, it
    is that of the others; None for a single slice and where there is no such distance."""
    if len(stack) < 2:
        return None
    distances_mm = np.array([frame.distance_mm() for frame in stack])
    steps_mm = np.diff(distances_mm)
    counts = np.rint(steps_mm / steps_mm.min())  # of slices from one to the next
    step_mm = float((distances_mm[-1] - distances_mm[0]) / counts.sum())
    error_mm = np.abs(steps_mm - counts * step_mm).max()
    is_regular = error_mm <= max(DISTANCE_TOLERANCE * step_mm, DISTANCE_TOLERANCE_MM)
    return step_mm if is_regular else None


def _read(inputs: Files, path: str) -> bytes:
    """Return the bytes of the file; raise Reject where it cannot be read."""
    with reader.reject_unreadable(path):
        return inputs.read(path)


def _reject_row(header: Header, reject: Reject) -> dict:
    return reject_row(header.path, header.image_id, reject, SEGS)


def _without_doubles(frames: list[Frame], rejects: list[dict]) -> list[Frame]:
    """Return the first of the frames that have one UID; the others become rows of `rejects`."""
    by_uid = {}
    for frame in frames:
        header, uid = frame.image.header, frame.reference.SOPInstanceUID
        first = by_uid.setdefault((uid, header.frame), frame)
        if first is not frame:
            message = f"{header.path}: has the SOPInstanceUID of {first.image.header.path}"
            reject = Reject("duplicate-uid", f"{message}, whose mask is in the SEG")
            rejects.append(_reject_row(header, reject))
    return list(by_uid.values())


def _are_alike(one: Frame, other: Frame) -> bool:
    """Return whether two frames with a place can belong to one stack."""
    a, b = one.reference, other.reference
    return all(a[name].value == b[name].value for name in SAME) and all(
        np.allclose(a[name].value, b[name].value, rtol=0, atol=ROUNDING) for name in SIMILAR
    )


def _lies_beyond(frame: Frame, last: Frame) -> bool:
    return frame.distance_mm() - last.distance_mm() > SAME_POSITION_MM


def _name(stack: list[Frame], names: set[str]) -> str:
    """Return the file name of a stack, which is none of `names`, and add it to them: the image's
    for one without a place, else the series'."""
    reference = stack[0].reference
    is_series = seg_sources.has_place(reference)
    stem = reference.SeriesInstanceUID if is_series else stack[0].image.header.image_id
    name, number = file_name(stem, ".dcm"), 1
    while name in names:
        number += 1
        name = file_name(stem, f"_{number}.dcm")
    names.add(name)
    return name


def _encode(stack: list[Frame], request: SegRequest) -> bytes:
    """Return the bytes of the SEG of a stack; raise Reject."""
    header = stack[0].image.header

    def masks() -> Iterator[np.ndarray]:
        for frame in stack:
            rows, columns = frame.reference.Rows, frame.reference.Columns
            yield rle.decode(frame.image.rle, rows, columns) > 0

    frames = [(frame.reference, frame.image.header.frame) for frame in stack]
    result = seg.segmentation(
        frames, masks(), spacing_mm(stack), header.path, request.finding, request.algorithm
    )
    with reject_damage("unusable-source", header.path):
        return seg.encode(result)


def _copies(inputs: Files, stack: list[Frame], paths: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of a copy with minted UIDs of each file of a stack that is among
    `paths`."""
    headers = {frame.image.header.path: frame.image.header for frame in reversed(stack)}
    for path in sorted(headers.keys() & paths):
        copy = seg_sources.copy_with_uids(_read(inputs, path), path)
        with reject_damage("unusable-source", path):
            content = seg.encode(copy)
        yield file_name(headers[path].image_id, ".source.dcm"), content
