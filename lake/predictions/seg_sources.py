"""A DICOM file -> what a SEG takes over from its frames: whom they show, and where each lies in the
patient.

Only elements on a list are copied from the file, and those that are not legal are left out or
empty: a SEG must name its patient and study, but need not repeat a file's mistakes. A source that
no SEG can refer to is a Reject:

illegal-uid         an SOP Instance, Study or Series UID is missing or not legal (`mint_uids`: one
                    is made, the same for the same file)
multi-frame         more than one frame, and no functional groups that say where each lies
unusable-source     no image class, or elements that contradict the format
"""

import copy
import hashlib
import io
import re
import uuid

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID
from pydicom.valuerep import DSfloat

from lake import Reject
from lake.sources.damage import reject_damage

UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "image": "SOPInstanceUID"}
# Type 2 elements: present, but perhaps empty (PS3.3, Patient, General Study and General Image).
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientOrientation"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Modality"),
)
NUMBERS = ("TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber")  # of slices
MAY_BE_ABSENT = (
    *("PatientAge", "IssuerOfPatientID", "StudyDescription", "SeriesNumber", *NUMBERS),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# Elements of an image with a place in the patient: all of them or none. The spacing of a projection
# is left to the image itself, as highdicom cannot read a SEG with a spacing and no thickness.
PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
THICKNESS = "SliceThickness"
# Where the functional groups of a multi-frame image hold them (PS3.3, C.7.6.16.2).
GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", THICKNESS),
}
FRAMES = "NumberOfFrames"  # in a reference: only where a frame has to be named
# The roots of UIDs that a maker of images can have (ISO/IEC 9834-1; root 0 belongs to ITU-T).
LEGAL_ROOT = re.compile(r"(1\.[0-3]?\d|2\.\d+)(\.|$)")
UTF_8 = "ISO_IR 192"


def references(
    source: bytes, path: str, frames: list[int], mint_uids: bool
) -> tuple[list[Dataset], bool]:
    """Return (a reference for each of the frames, counted from 0, of the DICOM file `source`;
    whether UIDs were minted for it). Raise Reject."""
    with reject_damage("unusable-source", path):
        dataset = pydicom.dcmread(io.BytesIO(source), force=True, stop_before_pixels=True)
        is_minted = mint_uids and _mint(dataset, source)
        _check_uids(dataset)
        num_frames = int(dataset.get(FRAMES) or 1)
        shared, per_frame = _functional_groups(dataset)
        if num_frames > 1 and len(per_frame) != num_frames:
            raise Reject(
                "multi-frame",
                f"{num_frames} frames, and no functional groups that say where each lies",
            )
        root = _legal_reference(dataset)
        result = []
        for frame in frames:
            groups = [shared, *per_frame[frame : frame + 1]]
            result.append(_with_place(root, dataset, groups))
            if num_frames > 1:
                result[-1].NumberOfFrames = num_frames
        return result, is_minted


def copy_with_uids(source: bytes, path: str) -> Dataset:
    """Return the data set of the DICOM file `source` with UIDs minted where it has none. Raise
    Reject."""
    with reject_damage("unusable-source", path):
        dataset = pydicom.dcmread(io.BytesIO(source), force=True)
        _mint(dataset, source)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        return dataset


def has_place(reference: Dataset) -> bool:
    """Return whether the reference says where the frame lies in the patient."""
    return all(name in reference for name in PLACE)


def is_legal(uid: str) -> bool:
    """Return whether PS3.5, chapter 9 allows a UID: digits and dots, no leading zeros, at most 64
    characters."""
    is_valid = UID(uid, validation_mode=pydicom.config.IGNORE).is_valid
    return is_valid and LEGAL_ROOT.match(uid) is not None


def uid_of(kind: str, origin: str) -> str:
    """Return a UID that depends on what it is of alone."""
    number = uuid.uuid5(uuid.NAMESPACE_OID, f"radlake {kind} {origin}").int
    return f"2.25.{number}"  # PS3.5, B.2: UUID derived UID


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


def _mint(dataset: Dataset, source: bytes) -> bool:
    """Set each of UIDS that is missing or illegal, to one made from what the file has there; return
    whether there was any.

    Files of one patient that share an illegal study or series share the UID made from it; a file
    without any is a study of its own.
    """
    sha256, patient = hashlib.sha256(source).hexdigest(), str(dataset.get("PatientID", ""))
    new_uids = {}
    for kind, name in UIDS.items():
        uid = str(dataset.get(name, ""))
        if not is_legal(uid):
            origin = f"{patient} {uid}" if uid and kind != "image" else sha256
            new_uids[name] = uid_of(kind, origin)
    dataset.update(new_uids)
    return bool(new_uids)


def _functional_groups(dataset: Dataset) -> tuple[Dataset, list[Dataset]]:
    """Return (those that all frames share, those of each frame) of a multi-frame image; empty for
    any other."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    return shared[0], list(dataset.get("PerFrameFunctionalGroupsSequence") or [])


def _legal_reference(dataset: Dataset) -> Dataset:
    """Return a data set of the elements that a SEG copies from its source image, but for its place.
    Where one is missing or illegal it is left out, or empty if the standard wants it present."""
    reference = Dataset()
    reference.SpecificCharacterSet = UTF_8  # pydicom has decoded the text
    for name in ("SOPClassUID", *UIDS.values(), "Rows", "Columns"):
        setattr(reference, name, dataset[name].value)
    for name in MAY_BE_EMPTY:
        setattr(reference, name, _legal_value(dataset, name) or "")
    for name in MAY_BE_ABSENT:
        if (value := _legal_value(dataset, name)) is not None:
            setattr(reference, name, value)
    return reference


def _with_place(root: Dataset, dataset: Dataset, groups: list[Dataset]) -> Dataset:
    """Return a copy of a reference with the place of a frame, which the data set itself or its
    functional groups hold. A place that is known in part is left out as a whole."""
    reference, place = copy.deepcopy(root), {}
    for name in (*PLACE, THICKNESS):
        if (value := _legal_value(dataset, name)) is not None:
            place[name] = value
    for group in groups:
        for sequence, names in GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                values = {name: _legal_value(item, name) for name in names}
                place.update({name: v for name, v in values.items() if v is not None})
    lengths = (len(place.get(name, ())) for name in PLACE[1:])
    if tuple(lengths) == (3, 6, 2) and is_legal(place.get("FrameOfReferenceUID", "")):
        for name, value in place.items():
            setattr(reference, name, value)
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
