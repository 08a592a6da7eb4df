"""What a DICOM file says that its image shows (modality, part of the body) -> the words of closed
vocabularies (lake/exam.py). No other word leaves the file: free text could name a person.

Modalities are the defined terms of PS3.3 C.7.3.1.1.1, with what people and devices write instead.
"""

import functools
import struct

from pydicom import uid

from lake import Reject
from lake.exam import ABSENT, OTHER, Exam
from lake.sources.dicom import data_set, grey
from lake.sources.dicom.body_parts import PARTS_OF_CODE, parts_of
from lake.sources.dicom.elements import MAX_TEXT_BYTES, Attributes, Malformed, text
from lake.sources.dicom.image_module import PHOTOMETRIC

MODALITY, IMAGE_TYPE, BODY_PART, REGIONS = 0x00080060, 0x00080008, 0x00180015, 0x00082218
CODE_VALUE, CODE_MEANING = 0x00080100, 0x00080104
TEXTS = (MODALITY, grey.SOP_CLASS, IMAGE_TYPE, PHOTOMETRIC, BODY_PART)
TAGS = frozenset((*TEXTS, REGIONS))

TERMS = frozenset(
    (
        *("BDUS", "BI", "BMD", "CFM", "CR", "CT", "DG", "DMS", "DX", "ES", "GM", "HC", "IO"),
        *("IVOCT", "IVUS", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV"),
        *("OPTENF", "OPV", "OSS", "OT", "PA", "PT", "PX", "RF", "RG", "RTIMAGE", "SM", "TG"),
        *("US", "XA", "XC"),
    )
)
# What is written instead; most were terms of the standard once.
MODALITY_SYNONYMS = {
    **dict.fromkeys(("DR", "XR"), "DX"),
    **dict.fromkeys(("DF", "CF", "VF"), "RF"),
    **dict.fromkeys(("CD", "DD", "EC"), "US"),
    **dict.fromkeys(("MA", "MS", "MRI"), "MR"),
    **dict.fromkeys(("FA", "FS"), "OP"),
    "DS": "XA",
    "ST": "NM",
    "PET": "PT",
    "DM": "GM",
    "LP": "ES",
    "SC": "OT",
}
IMAGE_CLASS = "1.2.840.10008.5.1.4.1.1."
CAPTURE_CLASSES = frozenset((f"{IMAGE_CLASS}7", *(f"{IMAGE_CLASS}7.{n}" for n in range(1, 5))))
# The modality of a file that names its SOP class alone; DICOM's names of classes begin with these.
CLASS_NAMES = {
    "Computed Radiography Image": "CR",
    "Digital X-Ray Image": "DX",
    "Digital Mammography": "MG",
    "Breast ": "MG",
    "Digital Intra-Oral": "IO",
    "CT Image": "CT",
    "Enhanced CT": "CT",
    "Legacy Converted Enhanced CT": "CT",
    "Ultrasound": "US",
    "Enhanced US": "US",
    "MR Image": "MR",
    "Enhanced MR": "MR",
    "Legacy Converted Enhanced MR": "MR",
    "Nuclear Medicine Image": "NM",
    "X-Ray Angiographic": "XA",
    "X-Ray 3D Angiographic": "XA",
    "Enhanced XA": "XA",
    "X-Ray Radiofluoroscopic": "RF",
    "Enhanced XRF": "RF",
    "Positron Emission Tomography": "PT",
    "Legacy Converted Enhanced PET": "PT",
    "Enhanced PET": "PT",
    "RT Image": "RTIMAGE",
    "VL Endoscopic": "ES",
    "VL Microscopic": "GM",
    "VL Slide": "SM",
    "VL Whole Slide": "SM",
    "VL Photographic": "XC",
    "Ophthalmic Photography": "OP",
    "Ophthalmic Tomography": "OPT",
}


def read(attributes: Attributes) -> Exam:
    """Return the Exam of an image, from the elements TAGS of its file."""
    exam = exam_of(*(_text(attributes, tag) for tag in TEXTS))
    if (not exam.body_parts or exam.body_parts == (OTHER,)) and REGIONS in attributes:
        exam = exam._replace(body_parts=_parts_of_regions(attributes) or exam.body_parts)
    return exam


@functools.lru_cache(maxsize=1024)  # the files of a device have the same words
def exam_of(
    modality: str, sop_class: str, image_type: str, photometric: str, body_part: str
) -> Exam:
    """Return the Exam of an image, from the TEXTS of its header."""
    # Copies of original images have the class of secondary captures, too, as those of SIIM-ACR.
    types = [value.strip() for value in image_type.upper().split("\\")]
    is_of_screen = "SECONDARY" in types or not photometric.startswith("MONOCHROME")
    is_capture = sop_class in CAPTURE_CLASSES and is_of_screen
    return Exam(
        modality_of(modality) or modality_of_class(sop_class), parts_of(body_part), is_capture
    )


def modality_of(value: str) -> str:
    """Return the first term in the text of a Modality: OTHER for a word that is no term, "" for an
    empty text."""
    words = [word.strip().upper() for word in value.split("\\")]
    word = next(filter(None, words), "")
    word = MODALITY_SYNONYMS.get(word, word)
    return word if word in TERMS or not word else OTHER


def modality_of_class(sop_class: str) -> str:
    """Return the modality that a SOP class is for, "" where it can be of several."""
    name = uid.UID(sop_class).name.replace("Video", "VL") if sop_class else ""
    return next((word for start, word in CLASS_NAMES.items() if name.startswith(start)), "")


def _parts_of_regions(attributes: Attributes) -> tuple[str, ...]:
    """Return the parts of the body of the Anatomic Region Sequence, by its codes or, without a
    known one, by what they mean; () where it has none, or is damaged."""
    try:
        items = [*data_set.items(attributes, REGIONS, (CODE_VALUE, CODE_MEANING))]
    except (Malformed, Reject, struct.error):
        return ()
    parts = set()
    for item in items:
        code = PARTS_OF_CODE.get(_text(item, CODE_VALUE).upper())
        parts.update(code or parts_of(_text(item, CODE_MEANING)))
    return tuple(sorted(parts))


def _text(attributes: Attributes, tag: int) -> str:
    """Return the text of an element; ABSENT, which no vocabulary has, of one that is too long."""
    element = attributes.get(tag)
    is_long = element is not None and element.end - element.start > MAX_TEXT_BYTES
    return ABSENT if is_long else text(attributes, tag)
