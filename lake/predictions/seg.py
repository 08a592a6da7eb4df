"""The mask of an image from a DICOM file -> a DICOM Segmentation object that refers to that image.

What of the file goes into it is allow-listed, and left out or empty where it is not legal: a SEG
must name its patient and study, but need not repeat a file's mistakes. A source that cannot be
referred to is a Reject:

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
from lake.sources.damage import broken_is

# SNOMED CT; of DICOM's CID 7151 categories and CID 7159 lesions, where they are in them.
FINDINGS = {
    "lesion": ("52988006", "Lesion"),
    "pneumothorax": ("36118008", "Pneumothorax"),
    "nodule": ("27925004", "Nodule"),
}
UIDS = {"study": "StudyInstanceUID", "series": "SeriesInstanceUID", "image": "SOPInstanceUID"}
# Type 2: there, but perhaps empty (PS3.3, Patient, General Study and General Image modules).
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientOrientation"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "Modality"),
)
MAY_BE_ABSENT = (
    *("PatientAge", "IssuerOfPatientID", "StudyDescription"),
    *("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"),
)
# Of an image with a place in the patient: all of them or none. highdicom cannot read a SEG that has
# a spacing without a thickness, so that of a projection is left to the image itself.
PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
PLACE += ("SliceThickness",)
# The roots that a maker of images can have (ISO/IEC 9834-1; 0 is of ITU-T's recommendations).
LEGAL_ROOT = re.compile(r"(1\.[0-3]?\d|2\.\d+)(\.|$)")
UTF_8 = "ISO_IR 192"
SERIES_NUMBER = 100  # anything that a scanner's own series seldom have


def check_options(finding: str | None, mint_uids: bool) -> None:
    """Of --seg and --mint_uids; raises InputError for what does not go together, or not here."""
    if finding not in (None, *FINDINGS):
        raise InputError(f"--seg={finding}: expected one of {', '.join(FINDINGS)}")
    if mint_uids and not finding:
        raise InputError("--mint_uids is for --seg; give both or none")
    if finding and importlib.util.find_spec("highdicom") is None:
        raise InputError("--seg needs highdicom; pip install 'radlake[seg]'")


def segmentation(
    source: bytes, path: str, mask: np.ndarray, finding: str, mint_uids: bool = False
) -> tuple[Dataset, Dataset | None]:
    """(SEG, None) of a mask [Rows, Columns] of the DICOM file `source`; any value but 0 is lesion.

    An empty mask gives a SEG without a set pixel: the image was looked at. With `mint_uids` a file
    without legal UIDs gives (SEG, the source with the UIDs that the SEG refers to). Raises Reject.
    """
    with broken_is("unusable-source", path):
        found = pydicom.dcmread(io.BytesIO(source), force=True)
        minted = _minted(found, source) if mint_uids else {}
        found.update({UIDS[kind]: uid for kind, uid in minted.items()})
        _check_uids(found)
        if int(found.get("NumberOfFrames") or 1) > 1:
            raise Reject("multi-frame", "several frames, a SEG is made of a single one")
        try:
            made = _segmentation(_reference(found), mask, finding)
        except ValueError as error:  # highdicom's, of elements that the class must have
            asked = f"a place in the patient takes {', '.join(PLACE)}"
            raise Reject("unusable-source", f"{error} ({asked})") from None
        if minted:
            found.file_meta.MediaStorageSOPInstanceUID = minted.get("image", found.SOPInstanceUID)
    return made, found if minted else None


def encode(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def is_legal(uid: str) -> bool:
    """Whether PS3.5, chapter 9 allows it: digits and dots, no leading zeros, 64 characters."""
    is_valid = UID(uid, validation_mode=pydicom.config.IGNORE).is_valid
    return is_valid and LEGAL_ROOT.match(uid) is not None


def _check_uids(found: Dataset) -> None:
    of_class = UID(found.get("SOPClassUID", ""))
    if "ImageStorage" not in of_class.keyword:
        said = f"SOP Class UID {of_class[:64]!r}" if of_class else "no SOP Class UID"
        raise Reject("unusable-source", f"{said}; a SEG refers to a DICOM image")
    for name in UIDS.values():
        if not is_legal(value := str(found.get(name, ""))):
            said = f"{value[:64]!r} is no legal" if value else "no"
            raise Reject("illegal-uid", f"{said} {name}; --mint_uids makes one")


def _minted(found: Dataset, source: bytes) -> dict[str, str]:
    """A UID for each of UIDS that is missing or illegal, from what the file holds instead.

    Files that share an illegal study or series of one patient share the one made for it; a file
    that says nothing is a study of its own.
    """
    sha256, patient = hashlib.sha256(source).hexdigest(), str(found.get("PatientID", ""))
    minted = {}
    for kind, name in UIDS.items():
        value = str(found.get(name, ""))
        if not is_legal(value):
            of = f"{patient} {value}" if value and kind != "image" else sha256
            made_from = uuid.uuid5(uuid.NAMESPACE_OID, f"radlake {kind} {of}")
            minted[kind] = f"2.25.{made_from.int}"  # PS3.5, B.2: UUID derived UID
    return minted


def _reference(found: Dataset) -> Dataset:
    """What a SEG takes from its source, every element of it legal."""
    made = Dataset()
    made.SpecificCharacterSet = UTF_8  # pydicom has decoded the text
    for name in ("SOPClassUID", *UIDS.values(), "Rows", "Columns"):
        setattr(made, name, found[name].value)
    for name in MAY_BE_EMPTY:
        setattr(made, name, _legal(found, name) or "")
    for name in (*MAY_BE_ABSENT, *PLACE):
        if (value := _legal(found, name)) is not None:
            setattr(made, name, value)
    if not all(name in made for name in PLACE) or not is_legal(made.FrameOfReferenceUID):
        for name in PLACE:
            made.pop(name, None)
    return made


def _legal(found: Dataset, name: str):
    """The value of an element, None where there is none or the standard does not allow it."""
    try:
        if name not in found or found[name].is_empty:
            return None
        element = found[name]
        value = str(element.value) if element.VR == "PN" else element.value
        # An age without its unit is one in years, as the sources read it.
        if name == "PatientAge" and re.fullmatch(r"\d{1,3}", value):
            value = f"{int(value):03d}Y"
        if element.VR == "DS":  # numbers of more than its 16 characters are rounded
            value = [DSfloat(float(number), auto_format=True) for number in _listed(value)]
        raising = pydicom.config.RAISE
        return pydicom.DataElement(element.tag, element.VR, value, validation_mode=raising).value
    except (
        ValueError,
        TypeError,
        OverflowError,
    ):  # of bytes that are no number, of a value that breaks the VR
        return None


def _version() -> str:
    try:
        return importlib.metadata.version("radlake")
    except importlib.metadata.PackageNotFoundError:
        return "a checkout that is not installed"


def _listed(value) -> list:
    return list(value) if isinstance(value, MultiValue) else [value]


def _segmentation(reference: Dataset, mask: np.ndarray, finding: str) -> Dataset:
    import highdicom  # 0.7 s, and an extra of its own
    from pydicom.sr.codedict import codes

    version = _version()
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
    made = highdicom.seg.Segmentation(
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
        made.PatientOrientation = (
            reference.PatientOrientation
        )  # type 2C, which highdicom leaves out
    return made
