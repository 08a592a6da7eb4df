"""The mask of an image from a DICOM file -> a DICOM Segmentation object that refers to that image.

Only elements on a list are copied from the file, and those that are not legal are left out or
empty: a SEG must name its patient and study, but need not repeat a file's mistakes. A source that
no SEG can refer to is a Reject:

illegal-uid         an SOP Instance, Study or Series UID is missing or not legal (`mint_uids`: one
                    is made, the same for the same file)
multi-frame         more than one frame
unusable-source     no image class, elements that contradict the format, or too few for this class
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import re
import uuid

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import DSfloat

from lake import InputError, Reject
from lake.sources.damage import reject_damage

# SNOMED CT codes and their meanings, from DICOM's CID 7151 and CID 7159 where those have them.
FINDINGS = {
    "lesion": ("52988006", "Lesion"),
    "pneumothorax": ("36118008", "Pneumothorax"),
    "nodule": ("27925004", "Nodule"),
}
UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "image": "SOPInstanceUID"}
# Type 2 elements: present, but perhaps empty (PS3.3, Patient, General Study and General Image).
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientOrientation"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Modality"),
)
MAY_BE_ABSENT = (
    *("PatientAge", "IssuerOfPatientID", "StudyDescription"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# Elements of an image with a place in the patient: all of them or none. highdicom cannot read a SEG
# with a spacing and no thickness, so the spacing of a projection is left to the image itself.
PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
PLACE += ("SliceThickness",)
# The roots of UIDs that a maker of images can have (ISO/IEC 9834-1; root 0 belongs to ITU-T).
LEGAL_ROOT = re.compile(r"(1\.[0-3]?\d|2\.\d+)(\.|$)")
UTF_8 = "ISO_IR 192"
SERIES_NUMBER = 100  # a number that the series of scanners seldom have


def check_options(finding: str | None, mint_uids: bool) -> None:
    """Raise InputError where --seg and --mint_uids do not go together, or not on this machine."""
    if finding not in (None, *FINDINGS):
        raise InputError(f"--seg={finding}: expected one of {', '.join(FINDINGS)}")
    if mint_uids and not finding:
        raise InputError("--mint_uids is for --seg; give both or none")
    if finding and importlib.util.find_spec("highdicom") is None:
        raise InputError("--seg needs highdicom; pip install 'radlake[seg]'")


def segmentation(
    source: bytes, path: str, mask: np.ndarray, finding: str, mint_uids: bool = False
) -> tuple[Dataset, Dataset | None]:
    """Return (SEG, None) for a mask [Rows, Columns] of the image in the DICOM file `source`; any
    value but 0 is lesion. An empty mask gets a SEG without a set pixel, which says that the image
    was examined. Where the file has no legal UIDs, `mint_uids` makes some and returns (SEG, copy of
    the source that has them); without it such a file is a Reject. Raise Reject.
    """
    with reject_damage("unusable-source", path):
        dataset = pydicom.dcmread(io.BytesIO(source), force=True)
        new_uids = _mint_uids(dataset, source) if mint_uids else {}
        dataset.update({UIDS[kind]: uid for kind, uid in new_uids.items()})
        _check_uids(dataset)
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise Reject("multi-frame", "several frames; a SEG is made of a single one")
        try:
            result = _segmentation(_legal_reference(dataset), mask, finding)
        except ValueError as error:  # highdicom's, about elements that the class must have
            needs = f"a place in the patient takes {', '.join(PLACE)}"
            raise Reject("unusable-source", f"{error} ({needs})") from None
        if new_uids:
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return result, dataset if new_uids else None


def encode(dataset: Dataset) -> bytes:
    """Return the bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def is_legal(uid: str) -> bool:
    """Return whether PS3.5, chapter 9 allows a UID: digits and dots, no leading zeros, at most 64
    characters."""
    is_valid = UID(uid, validation_mode=pydicom.config.IGNORE).is_valid
    return is_valid and LEGAL_ROOT.match(uid) is not None


def _check_uids(dataset: Dataset) -> None:
    """Raise Reject unless the file is an image whose UIDs are all legal."""
    sop_class = UID(dataset.get("SOPClassUID", ""))
    if "ImageStorage" not in sop_class.keyword:
        fault = f"SOP Class UID {sop_class[:64]!r}" if sop_class else "no SOP Class UID"
        raise Reject("unusable-source", f"{fault}; a SEG refers to a DICOM image")
    for name in UIDS.values():
        if not is_legal(uid := str(dataset.get(name, ""))):
            fault = f"{uid[:64]!r} is not a legal" if uid else "no"
            raise Reject("illegal-uid", f"{fault} {name}; --mint_uids makes one")


def _mint_uids(dataset: Dataset, source: bytes) -> dict[str, str]:
    """Return a UID for each of UIDS that is missing or illegal, made from what the file has there.

    Files of one patient that share an illegal study or series share the UID made from it; a file
    without any is a study of its own.
    """
    sha256, patient = hashlib.sha256(source).hexdigest(), str(dataset.get("PatientID", ""))
    new_uids = {}
    for kind, name in UIDS.items():
        uid = str(dataset.get(name, ""))
        if not is_legal(uid):
            origin = f"{patient} {uid}" if uid and kind != "image" else sha256
            number = uuid.uuid5(uuid.NAMESPACE_OID, f"radlake {kind} {origin}").int
            new_uids[kind] = f"2.25.{number}"  # PS3.5, B.2: UUID derived UID
    return new_uids


def _legal_reference(dataset: Dataset) -> Dataset:
    """Return a data set of the elements that a SEG copies from its source image. Where one is
    missing or illegal it is left out, or empty if the standard wants it present."""
    reference = Dataset()
    reference.SpecificCharacterSet = UTF_8  # pydicom has decoded the text
    for name in ("SOPClassUID", *UIDS.values(), "Rows", "Columns"):
        setattr(reference, name, dataset[name].value)
    for name in MAY_BE_EMPTY:
        setattr(reference, name, _legal_value(dataset, name) or "")
    for name in (*MAY_BE_ABSENT, *PLACE):
        if (value := _legal_value(dataset, name)) is not None:
            setattr(reference, name, value)
    # A place that is known in part is left out as a whole.
    has_place = all(name in reference for name in PLACE)
    if not has_place or not is_legal(reference.FrameOfReferenceUID):
        for name in PLACE:
            reference.pop(name, None)
    return reference


def _legal_value(dataset: Dataset, name: str):
    """Return the value of an element; None where there is none or the standard forbids it."""
    try:
        if name not in dataset or dataset[name].is_empty:
            return None
        element = dataset[name]
        value = str(element.value) if element.VR == "PN" else element.value
        # An age without its unit is in years, as the sources read it.
        if name == "PatientAge" and re.fullmatch(r"\d{1,3}", value):
            value = f"{int(value):03d}Y"
        if element.VR == "DS":  # numbers of more than its 16 characters are rounded
            numbers = value if isinstance(value, MultiValue) else [value]
            value = [DSfloat(float(number), auto_format=True) for number in numbers]
        mode = pydicom.config.RAISE
        return pydicom.DataElement(element.tag, element.VR, value, validation_mode=mode).value
    except (ValueError, TypeError, OverflowError):  # bytes that are not a number, or break the VR
        return None


def _segmentation(reference: Dataset, mask: np.ndarray, finding: str) -> Dataset:
    """Return the SEG of a mask [Rows, Columns], with one segment, that refers to `reference`; raise
    ValueError where the image lacks elements that its class must have."""
    import highdicom  # it takes 0.7 s, and is an extra of its own
    from pydicom.sr.codedict import codes

    try:
        version = importlib.metadata.version("radlake")
    except importlib.metadata.PackageNotFoundError:
        version = "a checkout that is not installed"
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="radlake", family=codes.DCM.ArtificialIntelligence, version=version
    )
    code, meaning = FINDINGS[finding]
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=meaning,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=highdicom.sr.CodedConcept(code, "SCT", meaning),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    result = highdicom.seg.Segmentation(
        source_images=[reference],
        pixel_array=(mask != 0)[None],  # [frames, Rows, Columns]
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="radlake",
        manufacturer_model_name="radlake",
        software_versions=version,
        device_serial_number="none",
        content_label="SEGMENTATION",
        omit_empty_frames=False,
    )
    if "ImageOrientationPatient" not in reference:
        # Type 2C, which highdicom leaves out.
        result.PatientOrientation = reference.PatientOrientation
    return result
