"""The masks of images from DICOM files -> a DICOM Segmentation object that refers to those images.

What it takes over from the files is chosen in seg_sources.py, and which images share an object in
seg_series.py. Everything in it but the time of writing follows from the images, their masks and the
networks, the UIDs and the series number, too: the same prediction again gives the same object.
"""

import copy
import hashlib
import importlib.metadata
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DSfloat

from lake import InputError, Reject, exam
from lake.predictions import seg_sources
from lake.predictions.seg_sources import PLACE, THICKNESS
from lake.terminal import extras


class Finding(NamedTuple):
    """What a segment shows: a code of SNOMED CT and its meaning, from DICOM's CID 7151 and CID 7159
    where those have them; and the colour that a viewer should give it."""

    code: str
    meaning: str
    rgb: tuple[int, int, int]


# Colours that are told apart on grey, by colour-blind people, too (Okabe and Ito).
FINDINGS = {
    "lesion": Finding("52988006", "Lesion", (213, 94, 0)),
    "pneumothorax": Finding("36118008", "Pneumothorax", (86, 180, 233)),
    "nodule": Finding("27925004", "Nodule", (240, 228, 66)),
}
LESION = "lesion_threshold"  # of a decision
MAX_CHARACTERS = 64  # of a text (VR LO)
# Of series numbers: distinct ones for the objects of a study, which no other series will have.
FIRST_NUMBER, NUM_NUMBERS = 10_000, 10**9


class Algorithm(NamedTuple):
    """What made the masks, in words for a SEG."""

    name: str
    thresholds: str
    parameters: dict[str, str]


def algorithm(description: dict, any_modality: bool = False) -> Algorithm:
    """Return the Algorithm that a SEG's masks are made with, from its `description` in export.json
    or by trainer.inference.decision.describe_masks. `any_modality`: images may show things that the
    networks did not learn from."""
    triplet, lesion = description["decision"]["triplet"], description["decision"].get(LESION)
    thresholds = f"p > {triplet['bottom']:g}"
    if triplet["area_share"]:
        thresholds += f", where {triplet['area_share']:.2%} have p > {triplet['top']:g}"
    if lesion:
        thresholds += f", image p >= {lesion:g}"
    runs = "+".join(description.get("runs", [])) or "an export"  # of an earlier version
    weights = description["weights_sha256"]
    parameters = {
        "runs": runs,
        "evaluated as": description["evaluated_as"],
        **{f"sha256 of {kind}": " ".join(sums) for kind, sums in weights.items() if sums},
        **{f"threshold {name}": f"{value:g}" for name, value in triplet.items()},
        **({} if lesion is None else {"threshold of the image": f"{lesion:g}"}),
        "tta": "+".join(description["tta"]),
        **({} if description["level"] is None else {"level": str(description["level"])}),
        **({exam.OPTION: "given"} if any_modality else {}),
    }
    return Algorithm(_text(f"radlake {runs}"), thresholds, parameters)


def check_options(finding: str | None, mint_uids: bool) -> None:
    """Raise InputError where --seg and --mint_uids do not go together, or not on this machine."""
    if finding not in (None, *FINDINGS):
        raise InputError(f"--seg={finding}: expected one of {', '.join(FINDINGS)}")
    if mint_uids and not finding:
        raise InputError("--mint_uids is for --seg; give both or none")
    if finding:
        extras.check_installed("--seg", "highdicom", extra="seg")


def segmentation(
    frames: Sequence[tuple[Dataset, int]],
    masks: Iterator[np.ndarray],
    spacing_mm: float | None,
    path: str,
    finding: str,
    algorithm: Algorithm,
) -> Dataset:
    """Return the SEG of frames (seg_sources.references, frame's number in its file) of one series,
    in the order of their positions, with a mask bool [Rows, Columns] each.

    An empty mask is a frame, too, which says that the image was examined. `spacing_mm`: from one
    slice to the next, None where that is not known; `path`: of the first, for messages. Raise
    Reject.
    """
    references = [reference for reference, _ in frames]
    first = references[0]
    pixels = _pack(masks, first.Rows * first.Columns)
    parts = [repr((reference.SOPInstanceUID, number)) for reference, number in frames]
    content = [finding, repr(algorithm), _version(), first.SeriesInstanceUID, *parts]
    digest = hashlib.sha256("\n".join(content).encode() + pixels).hexdigest()
    stand_ins = _stand_ins(references, spacing_mm)
    try:
        result = _segmentation(stand_ins, FINDINGS[finding], algorithm, digest)
    except ValueError as error:  # highdicom's, about elements that the class must have
        needs = f"a place in the patient takes {', '.join((*PLACE, THICKNESS))}"
        raise Reject("unusable-source", f"{path}: {error} ({needs})") from None
    result.PixelData = pixels + bytes(len(pixels) % 2)
    _refer(result, frames)
    if seg_sources.has_place(stand_ins[0]):
        [measures] = result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
        if spacing_mm is None:  # highdicom says 1 mm of a single slice
            measures.pop("SpacingBetweenSlices", None)
    else:
        result.PatientOrientation = first.PatientOrientation  # Type 2C, which highdicom leaves out
    return result


def encode(dataset: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _pack(masks: Iterator[np.ndarray], num_pixels: int) -> bytes:
    """Return masks of so many pixels as one bit per pixel, without a gap between them."""
    parts, rest = [], np.zeros(0, bool)
    for mask in masks:
        bits = np.concatenate([rest, mask.ravel()])
        end = len(bits) // 8 * 8
        parts.append(np.packbits(bits[:end], bitorder="little").tobytes())
        rest = bits[end:]
    return b"".join([*parts, np.packbits(rest, bitorder="little").tobytes()])


def _stand_ins(references: list[Dataset], spacing_mm: float | None) -> list[Dataset]:
    """Return the references as highdicom takes them: each an image of one frame, with a UID of its
    own, and all with the very same orientation and spacing."""
    import highdicom

    stand_ins = []
    for number, reference in enumerate(references):
        stand_in = copy.deepcopy(reference)
        stand_in.SOPInstanceUID = seg_sources.uid_of("stand-in", str(number))
        thickness_mm = reference.get(THICKNESS) or spacing_mm  # slices that touch, if none is known
        if not seg_sources.has_place(reference) or not thickness_mm:
            for name in (*PLACE, THICKNESS):
                stand_in.pop(name, None)
        else:
            stand_in.ImageOrientationPatient = references[0].ImageOrientationPatient
            stand_in.PixelSpacing = references[0].PixelSpacing
            stand_in.SliceThickness = DSfloat(thickness_mm, auto_format=True)
            if spacing_mm is not None:
                stand_in.SpacingBetweenSlices = DSfloat(spacing_mm, auto_format=True)
        if highdicom.image.is_multiframe_image(reference):
            stand_in.SOPClassUID = SecondaryCaptureImageStorage
        stand_ins.append(stand_in)
    return stand_ins


def _segmentation(
    stand_ins: list[Dataset], finding: Finding, algorithm: Algorithm, digest: str
) -> Dataset:
    """Return a SEG without a set pixel, with one segment, that refers to the stand-ins; raise
    ValueError where they lack elements that their class must have."""
    import highdicom  # it takes 0.7 s, and is an extra of its own
    from pydicom.sr.codedict import codes

    first, version = stand_ins[0], _version()
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.DCM.ArtificialIntelligence,
        version=_text(version),
        source="radlake",
        parameters=algorithm.parameters,
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=finding.meaning,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=highdicom.sr.CodedConcept(finding.code, "SCT", finding.meaning),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=identification,
        display_color=highdicom.color.CIELabColor.from_rgb(*finding.rgb),
    )
    result = highdicom.seg.Segmentation(
        source_images=stand_ins,
        # [frames, Rows, Columns], which takes no memory; the pixels come afterwards, packed.
        pixel_array=np.broadcast_to(False, (len(stand_ins), first.Rows, first.Columns)),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=seg_sources.uid_of("SEG series", digest),
        series_number=_series_number(digest, first),
        series_description=_text(f"{finding.meaning} by {algorithm.name}"),
        sop_instance_uid=seg_sources.uid_of("SEG", digest),
        instance_number=1,
        manufacturer="radlake",
        manufacturer_model_name="radlake",
        software_versions=_text(version),
        device_serial_number="none",
        content_label="SEGMENTATION",
        content_description=_text(algorithm.thresholds),
        omit_empty_frames=False,
    )
    organisation_uid = seg_sources.uid_of("SEG dimensions", digest)
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation_uid
    return result


def _refer(result: Dataset, frames: Sequence[tuple[Dataset, int]]) -> None:
    """Let a SEG that refers to stand-ins refer to the images themselves, and to the frames of those
    with several, and put its frames into the order of `frames`."""
    stand_ins = {seg_sources.uid_of("stand-in", str(n)): n for n in range(len(frames))}
    groups = [None] * len(frames)
    for group in result.PerFrameFunctionalGroupsSequence:
        [item] = group.DerivationImageSequence[0].SourceImageSequence
        place = stand_ins[item.ReferencedSOPInstanceUID]
        groups[place] = group
        if "PlanePositionSequence" in group:
            group.FrameContentSequence[0].DimensionIndexValues = [1, place + 1]  # segment, plane
        reference, number = frames[place]
        _name_image(item, reference)
        if seg_sources.FRAMES in reference:
            item.ReferencedFrameNumber = number + 1
    result.PerFrameFunctionalGroupsSequence = groups
    images = {reference.SOPInstanceUID: reference for reference, _ in frames}
    items = [_name_image(Dataset(), reference) for reference in images.values()]
    result.SourceImageSequence = items
    result.ReferencedSeriesSequence[0].ReferencedInstanceSequence = items


def _name_image(item: Dataset, reference: Dataset) -> Dataset:
    item.ReferencedSOPClassUID = reference.SOPClassUID
    item.ReferencedSOPInstanceUID = reference.SOPInstanceUID
    return item


def _series_number(digest: str, reference: Dataset) -> int:
    """Return a series number that follows from the content, and is not that of the source."""
    number = FIRST_NUMBER + int(digest, 16) % NUM_NUMBERS
    return number + (number == reference.get("SeriesNumber"))


def _text(text: str) -> str:
    """Return a text that DICOM allows, cut where it is too long."""
    printable = "".join(c if c.isprintable() and c != "\\" else "_" for c in text)
    return printable[:MAX_CHARACTERS].strip()


def _version() -> str:
    try:
        return importlib.metadata.version("radlake")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout that is not installed"
