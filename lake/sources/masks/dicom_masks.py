"""Masks in DICOM files: grey or colour images, and SEG objects, which name the images that they are
of. In: bytes; out: run lengths of lesions, and SOP Instance UIDs.

A mask's values are its stored ones: no window and no rescale changes what is 0.
"""

import io
from collections import defaultdict
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from lake import Reject
from lake.labels import rle
from lake.scan import frame_id
from lake.sources.damage import reject_damage
from lake.sources.dicom import data_set, dicom, frames, image_module
from lake.sources.dicom.elements import text
from lake.sources.dicom.grey import SOP_CLASS
from lake.sources.masks import lesions

PREFIX, PREFIX_PLACE = b"DICM", 128
# Segmentation Storage, Label Map Segmentation Storage.
SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
SEGMENTATIONS = frozenset((SEGMENTATION, LABEL_MAP))
MAX_FRAMES = 2**16
MAX_SEG_PIXELS = 2**30  # of the frames of the chosen segments: 4,096 of 512 x 512
# PS3.3 10.4: the frame's pixels do not lie where those of its source image do.
MOVED = ("NO", "REORIENTED_ONLY")


def is_dicom(data: bytes) -> bool:
    return data[PREFIX_PLACE : PREFIX_PLACE + len(PREFIX)] == PREFIX


def is_segmentation(file: BinaryIO, path: str) -> bool:
    """Return whether the DICOM file is a DICOM SEG; raises Reject where it has no pixels."""
    file.seek(0)
    dataset = dicom.before_pixels(file, path, frozenset((SOP_CLASS,)))
    with reject_damage("unreadable-header", path):
        return text(dataset.elements, SOP_CLASS) in SEGMENTATIONS


def read(
    data: bytes, path: str, mask_values: tuple[str, ...]
) -> list[tuple[str, np.ndarray, tuple[int, int], tuple[str, ...]]]:
    """Return [(SOP Instance UID of the image or "", the lesion's runs [N, 2], (height, width), the
    values or segments in the file)]: of a SEG one for each image that it refers to, of an image
    one. Raises Reject."""
    sop_class = text(data_set.read(data, frozenset((SOP_CLASS,))).elements, SOP_CLASS)
    if sop_class in SEGMENTATIONS:
        return _read_seg(data, path, lesions.numbers_of(mask_values))
    choice = _read_image(data, path, mask_values)
    return [("", rle.from_mask(choice.lesion), choice.lesion.shape, choice.values)]


def _read_image(data: bytes, path: str, mask_values: tuple[str, ...]) -> lesions.Choice:
    """Return the lesion of a mask stored as a one-frame DICOM image, and which of `mask_values`
    occur in it; raises Reject."""
    file = io.BytesIO(data)
    [header] = dicom.read_headers(file, path, len(data), image_id_from="name", frames="reject")
    dataset = data_set.read(data, dicom.SCAN_TAGS)
    attributes = dicom.frame_attributes(dataset, 0)
    photometric = text(attributes, image_module.PHOTOMETRIC)
    if photometric not in ("MONOCHROME2", "RGB", *image_module.COLOURS):
        raise Reject(
            "unknown-colour",
            f"a mask in {photometric or 'no Photometric Interpretation'}: whether its background "
            f"is 0 is unclear; save it as MONOCHROME2 or PNG",
        )
    levels = frames.decode_frame(attributes, dataset.syntax, header).values
    is_lossy = dataset.syntax in dicom.LOSSY_SYNTAXES
    if levels.ndim == 3 and levels.dtype != np.uint8:
        raise Reject("deep-colour", "16 bits per channel in colour; save it as grey")
    return lesions.choose(levels, is_lossy, mask_values)


# --- SEG objects ---


def _read_seg(
    data: bytes, path: str, numbers: list[int]
) -> list[tuple[str, np.ndarray, tuple[int, int], tuple[str, ...]]]:
    """Return the list of `read` for a SEG: the masks of the chosen segments' frames, united by the
    image that they refer to; an image without a frame has no lesion. Raises Reject."""
    seg = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    file = io.BytesIO(data)
    [header] = dicom.read_headers(file, path, len(data), image_id_from="name", frames="first")
    size, num_frames = (header.height, header.width), int(seg.get("NumberOfFrames") or 1)
    if num_frames > MAX_FRAMES:
        raise Reject("too-large", f"{num_frames} frames, expected at most {MAX_FRAMES}")
    segments = _segments(seg)
    chosen = _chosen_segments(segments, numbers)
    is_label_map = seg.SOPClassUID == LABEL_MAP
    sources = [_source(seg, number) for number in range(num_frames)]
    frames_of, parts = defaultdict(set), {uid: [] for uid in _referenced_uids(seg)}
    for uid, frame, _ in sources:
        frames_of[uid].add(frame)
    # An image of several frames is known by the number of each.
    keys = [frame_id(u, f - 1) if len(frames_of[u]) > 1 else u for u, f, _ in sources]
    needed = {n for n, (_, _, s) in enumerate(sources) if is_label_map or s in chosen}
    if len(needed) * header.height * header.width > MAX_SEG_PIXELS:
        raise Reject("too-large", f"{len(needed)} frames of {size[0]} x {size[1]} pixels")
    dataset = data_set.read(data, dicom.SCAN_TAGS)
    attributes = dicom.complete(dataset.elements, dataset.syntax)
    num_decoded = 0
    for number, frame in frames.decode_frames(
        attributes, dataset.syntax, header, num_frames, needed
    ):
        is_lesion = np.isin(frame.values, chosen) if is_label_map else _binary(frame.values, seg)
        parts.setdefault(keys[number], []).append(rle.from_mask(is_lesion))
        num_decoded += 1
    if num_decoded < len(needed):
        raise Reject("undecodable", f"{num_decoded} frames of {len(needed)}; it may be cut off")
    values = tuple(map(str, segments)) if numbers else ()
    return [(uid, rle.unite(runs), size, values) for uid, runs in parts.items()]


def _segments(seg: Dataset) -> dict[int, str]:
    """Return {number: label} of the segments, without the background of a label map."""
    return {
        int(item.SegmentNumber): str(item.get("SegmentLabel", ""))
        for item in seg.SegmentSequence
        if int(item.SegmentNumber) > 0
    }


def _chosen_segments(segments: dict[int, str], numbers: list[int]) -> list[int]:
    """Return the numbers of the segments that are lesion: those chosen, else the only one. Raises
    Reject where none is chosen of several."""
    if not numbers and len(segments) > 1:
        labels = sorted(segments.items())[:8]
        listed = ", ".join(f"{number} {label[:40]}" for number, label in labels)
        raise Reject(
            "mask-not-binary",
            f"{len(segments)} segments: {listed}; choose those of the lesion with --mask_values",
        )
    return numbers or list(segments)


def _source(seg: Dataset, number: int) -> tuple[str, int, int]:
    """Return (UID of the image that a frame of a SEG segments; which frame of it, from 1, or 0
    where the SEG names none; the segment). Raises Reject where it refers to several images or
    frames, or to other axes."""
    groups = [seg.SharedFunctionalGroupsSequence[0]]
    if "PerFrameFunctionalGroupsSequence" in seg:
        groups.insert(0, seg.PerFrameFunctionalGroupsSequence[number])
    segment = next(
        (
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            for group in groups
            if "SegmentIdentificationSequence" in group
        ),
        0,
    )
    items = [
        item
        for group in groups
        for derivation in group.get("DerivationImageSequence") or ()
        for item in derivation.get("SourceImageSequence") or ()
    ]
    if any(item.get("SpatialLocationsPreserved") in MOVED for item in items):
        raise Reject("mask-axes", "its frames do not lie as the pixels of their images do")
    uids = sorted({str(item.ReferencedSOPInstanceUID) for item in items}) or _referenced_uids(seg)
    if len(uids) != 1:
        raise Reject(
            "mask-without-image", f"frame {number + 1} refers to {len(uids)} images, expected one"
        )
    numbers = items[0].get("ReferencedFrameNumber") if items else None
    if isinstance(numbers, pydicom.multival.MultiValue):
        raise Reject("mask-without-image", f"frame {number + 1} refers to several frames")
    return uids[0], int(numbers or 0), segment


def _referenced_uids(seg: Dataset) -> list[str]:
    """Return the UIDs of all images that a SEG says it refers to."""
    return [
        str(item.ReferencedSOPInstanceUID)
        for series in seg.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedInstanceSequence") or ()
    ]


def _binary(values: np.ndarray, seg: Dataset) -> np.ndarray:
    """Return the lesion of a frame of one segment; raise Reject for shares between all and none."""
    if seg.get("SegmentationType") == "FRACTIONAL":
        whole = int(seg.MaximumFractionalValue)
        if not np.isin(values, (0, whole)).all():
            raise Reject("mask-not-binary", "shares of pixels (FRACTIONAL), expected a binary SEG")
    return values != 0
