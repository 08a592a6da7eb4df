"""What an image shows is read in words of closed vocabularies, and compared with a lake's."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from makers.dicom import make
from PIL import Image
from pydicom.dataset import Dataset

from beam.prediction import listing
from lake import InputError, Reject, exam
from lake.exam import Exam
from lake.predictions import exported
from lake.scan import ReaderSettings, Storage
from lake.sources import reader
from lake.sources.dicom import body_parts, examination
from trainer.prediction import input_files

CAPTURE, US_CLASS = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1"
RADIOGRAPHS = {
    "modalities": {"CR": 30, "absent": 2},
    "body_parts": {"CHEST": 28, "absent": 4},
    "secondary_captures": 0,
}
PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
SCREEN = {"SOPClassUID": CAPTURE, "ImageType": ["DERIVED", "SECONDARY"]}


def region(code: str, meaning: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "SCT", meaning
    return [item]


def read(lakes=(RADIOGRAPHS,), any_modality=False, pixels=PIXELS, **attributes) -> Exam:
    """Read a DICOM file of these attributes as predict does."""
    content = make(pixels, **attributes)
    settings = ReaderSettings(False, "name", Storage(8, None), lakes, any_modality)
    _, headers = reader.read_file(io.BytesIO(content), "x.dcm", len(content), settings, "")
    return headers[0].exam


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "US"}, "other-modality"),
        ({"SOPClassUID": US_CLASS}, "other-modality"),  # which says it alone
        ({"Modality": "OT", "SOPClassUID": CAPTURE}, "other-modality"),
        ({"Modality": "RF"}, "other-modality"),
        ({"Modality": "ULTRASOUND"}, "other-modality"),  # no term of DICOM, whatever it means
        ({"Modality": "CR", **SCREEN}, "secondary-capture"),
        ({"Modality": "DX", "SOPClassUID": CAPTURE, "pixels": np.stack([PIXELS] * 3, 2)}, None),
        ({"Modality": "CR", "BodyPartExamined": "ABDOMEN"}, "other-body-part"),
        ({"Modality": "DX", "BodyPartExamined": "RT KNEE"}, "other-body-part"),
        ({"BodyPartExamined": "TSPINE"}, "other-body-part"),
        ({"AnatomicRegionSequence": region("T-D8700", "Main")}, "other-body-part"),  # a hand
        ({"AnatomicRegionSequence": region("", "Lumbar spine")}, "other-body-part"),
    ],
)
def test_what_the_lake_did_not_have_is_refused(attributes, reason):
    reason = reason or "secondary-capture"  # of a screen: a radiograph has no colours
    with pytest.raises(Reject) as info:
        read(**attributes)
    assert info.value.reason == reason
    assert info.value.message.startswith("x.dcm: ") and "--any_modality" in info.value.message
    assert "the networks learnt from " in info.value.message
    read(any_modality=True, **attributes)
    read(lakes=(), **attributes)  # a lake that does not say what it had


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, Exam()),
        ({"Modality": "CR", "BodyPartExamined": "CHEST"}, Exam("CR", ("CHEST",))),
        ({"Modality": "DX", "BodyPartExamined": "THORAX"}, Exam("DX", ("CHEST",))),
        ({"Modality": "dr ", "BodyPartExamined": "PORT CHEST AP"}, Exam("DX", ("CHEST",))),
        # SIIM-ACR's are copies of original images, of the class of secondary captures.
        ({"Modality": "CR", "SOPClassUID": CAPTURE}, Exam("CR")),
        ({"BodyPartExamined": "CHESTABDOMEN"}, Exam("", ("ABDOMEN", "CHEST"))),
        ({"BodyPartExamined": "LUNGS"}, Exam("", ("CHEST",))),
        ({"BodyPartExamined": "RIB"}, Exam("", ("RIB",))),  # it lies in the chest
        ({"BodyPartExamined": "WHOLE BODY"}, Exam("", ("WHOLEBODY",))),
        ({"BodyPartExamined": "DOE JANE"}, Exam("", ("other",))),  # free text: never kept
        ({"AnatomicRegionSequence": region("51185008", "Thorax")}, Exam("", ("CHEST",))),
        ({"BodyPartExamined": "CHEST" + "X" * 2000}, Exam("", ("other",))),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value", "ignore:The value length")
def test_what_the_lake_had_is_read(attributes, expected):
    assert read(**attributes) == expected


def test_only_words_of_the_vocabularies_are_counted():
    exams = [read((), Modality=text, BodyPartExamined=text) for text in ("DOE", "CR", "CHEST", "")]
    counts = exam.count(dict.fromkeys(exams, 2))
    assert counts == {
        "modalities": {"CR": 2, "absent": 2, "other": 4},
        "body_parts": {"CHEST": 2, "absent": 2, "other": 4},
        "secondary_captures": 0,
    }
    assert exam.total([counts, counts])["modalities"] == {"CR": 4, "absent": 4, "other": 8}
    assert exam.total([counts, None]) is None and exam.total([]) is None
    assert {*examination.MODALITY_SYNONYMS.values()} <= examination.TERMS
    assert {*examination.CLASS_NAMES.values()} <= examination.TERMS
    for table in (body_parts.PARTS_OF_WORD, body_parts.PARTS_OF_CODE):
        assert {part for parts in table.values() for part in parts} <= body_parts.PARTS


def test_a_lake_is_compared_as_far_as_it_says_what_it_had():
    def refused(exam_of_file: Exam, modalities=(), parts=(), captures=0) -> bool:
        words = {"modalities": dict.fromkeys(modalities, 1), "body_parts": dict.fromkeys(parts, 1)}
        lake = words | {"secondary_captures": captures}
        return exam.difference(exam_of_file, [lake]) is not None

    ultrasound, hand = Exam("US"), Exam("", ("HAND",))
    assert not refused(ultrasound, ["absent"]) and refused(ultrasound, ["absent", "DX"])
    # Two words beyond the vocabulary may be one.
    assert not refused(ultrasound, ["other"]) and not refused(Exam("other"), ["CR", "other"])
    assert refused(Exam("other"), ["CR"]) and not refused(Exam("CT"), ["CT"])
    assert refused(Exam("CR"), ["MG"]) and not refused(Exam("CR"), ["RG"])
    assert not refused(Exam("CR", (), True), ["CR"], captures=1)
    assert not refused(Exam("", (), True), ["absent"])  # a lake of PNGs
    assert not refused(hand, parts=["absent", "other"]) and refused(hand, parts=["FOOT", "other"])
    assert not refused(hand, parts=["FINGER"]) and not refused(hand, parts=["EXTREMITY"])
    assert not refused(hand, parts=["WHOLEBODY"])
    # Each network has to have learnt from what it is shown.
    lakes = [RADIOGRAPHS, RADIOGRAPHS | {"modalities": {"US": 3}}]
    assert exam.difference(ultrasound, lakes) and exam.difference(Exam("CR"), lakes)


def write_files(folder) -> None:
    (folder / "dx.dcm").write_bytes(make(PIXELS, Modality="DX"))
    (folder / "us.dcm").write_bytes(make(PIXELS, Modality="US"))
    (folder / "none.dcm").write_bytes(make(PIXELS))
    Image.fromarray(PIXELS).save(folder / "grey.png")


def test_predict_refuses_and_says_what_it_could_not_compare(tmp_path):
    write_files(tmp_path)
    settings = ReaderSettings(False, "name", Storage(8, None), (RADIOGRAPHS,))
    inputs = input_files.from_files([str(tmp_path)], settings)
    assert [(row["path"], row["reason"]) for row in inputs.rejects] == [
        (str(tmp_path / "us.dcm"), "other-modality")
    ]
    standing = {"modality not compared": 2, "body part not compared": 3}
    assert inputs.remarks == standing
    refused, others = exam.sentences(inputs.remarks, {"other-modality": 1}, inputs.is_known)
    assert "other-modality 1; leave them out, or give --any_modality" in refused
    assert "modality of 2 images, body part of 3 images" in others
    inputs = input_files.from_files([str(tmp_path)], settings._replace(any_modality=True))
    assert inputs.remarks == standing | {"other-modality": 1, "body part not compared": 4}
    line, _ = exam.sentences(inputs.remarks, {}, inputs.is_known)
    assert line.startswith("--any_modality: the networks learnt from no such images as 1 of")
    inputs = input_files.from_files([str(tmp_path)], settings._replace(exams=()))
    (line,) = exam.sentences(inputs.remarks, {}, inputs.is_known)
    assert "modality of 4 images" in line and "before these were counted" in line
    with pytest.raises(InputError, match="1 of 1 files are refused; the first: .*modality US"):
        input_files.from_files([str(tmp_path / "us.dcm")], settings)


def test_predict_files_refuses_and_counts_the_same(tmp_path):
    write_files(tmp_path)
    section = exported.settings_to_json(
        ReaderSettings(False, "name", Storage(8, None), (RADIOGRAPHS,))
    )
    options = SimpleNamespace(
        reader_settings=exported.settings_from_json(json.loads(json.dumps(section))),
        images_root=str(tmp_path),
        progress_file=None,
    )
    files = [(str(path), path.stat().st_size, 0.0) for path in sorted(tmp_path.iterdir())]
    outputs = list(listing.read_headers(("first", files), options))
    images = [one[1] for one in outputs if isinstance(one, tuple)]
    (reject,) = [one.value for one in outputs if not isinstance(one, tuple)]
    assert reject["reason"] == "other-modality"
    pairs = [pair for image in images for pair in listing.standings(image, options)]
    assert sorted(pairs) == [("body part not compared", 1)] * 3 + [("modality not compared", 1)] * 2


def counts(modalities: dict, body_parts: dict, captures: int = 0) -> dict:
    return {"modalities": modalities, "body_parts": body_parts, "secondary_captures": captures}


@pytest.mark.parametrize(
    ("lake", "difference", "not_compared"),
    [
        (counts({"DX": 5}, {"CHEST": 5}), "", ""),
        (counts({"DX": 5}, {"HEART": 4, "absent": 1}), "", ""),
        (
            counts({"US": 1200, "CR": 3}, {"CHEST": 1203}),
            "modality US 1,200 (they: CR 30, absent 2)",
            "",
        ),
        (
            counts({"MG": 2}, {"BREAST": 2}, 1),
            "modality MG 2 (they: CR 30, absent 2); body part BREAST 2 (they: CHEST 28, absent 4); "
            "1 secondary captures, as of a screen (they: none)",
            "",
        ),
        (counts({"other": 2}, {"CHEST": 2}), "modality other 2 (they: CR 30, absent 2)", ""),
        (
            counts({"absent": 9}, {"other": 2, "absent": 7}),
            "",
            "modality and body part: one of the lakes names none that DICOM has",
        ),
        (
            counts({"CT": 9}, {}),
            "modality CT 9 (they: CR 30, absent 2)",
            "body part: one of the lakes names none that DICOM has",
        ),
        (
            None,
            "",
            "modality and body part: one of the lakes was written before these were counted",
        ),
    ],
)
def test_a_lake_is_compared_with_that_which_networks_learnt_from(lake, difference, not_compared):
    assert exam.lake_difference(lake, RADIOGRAPHS) == difference
    assert exam.lake_not_compared(lake, RADIOGRAPHS) == not_compared
    assert not exam.lake_difference(lake, None) and exam.lake_not_compared(lake, None)
