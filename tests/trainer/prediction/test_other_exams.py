"""predict on files of a modality or a body part that its lake did not have: refused, unless
--any_modality takes them, which its outputs say."""

import csv
import json
import shutil
from pathlib import Path

import pydicom
import pytest
from makers.trained import exit_code


@pytest.fixture(scope="module")
def files(phantoms, tmp_path_factory) -> Path:
    """A folder of a phantom, which is a radiograph of a chest, and of what says to be others."""
    folder = tmp_path_factory.mktemp("exams")
    paths = sorted((phantoms / "dicom").glob("*.dcm"))
    shutil.copy(paths[0], folder / "chest.dcm")
    changes = ({"Modality": "US"}, {"BodyPartExamined": "HAND"})
    for name, path, change in zip(("heart", "hand"), paths[1:], changes, strict=False):
        dataset = pydicom.dcmread(path)
        for keyword, value in change.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{name}.dcm")
    return folder


def test_they_are_counted_rejects(systems, files, tmp_path, capsys):
    options = ("--input", files, "--output", tmp_path / "out")
    assert exit_code("predict", *systems["cascade"], *options) == 0
    with (tmp_path / "out" / "rejects.csv").open() as file:
        rejects = {Path(row["path"]).stem: row["reason"] for row in csv.DictReader(file)}
    assert rejects == {"heart": "other-modality", "hand": "other-body-part"}
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("refused, as the networks learnt from no such images: ")
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["counts"]["exams"] == {}


def test_nothing_is_written_where_all_are(systems, files, tmp_path, capsys):
    options = ("--input", files / "heart.dcm", "--output", tmp_path / "out", "--seg=pneumothorax")
    assert exit_code("predict", *systems["cascade"], *options) == 2
    message = capsys.readouterr().err
    assert "1 of 1 files are refused" in message and "modality US" in message
    assert "CR 40" in message and "--any_modality" in message and not (tmp_path / "out").exists()
    assert exit_code("predict", *systems["cascade"], "--output", tmp_path, "--any_modality") == 2
    assert "--any_modality is for files of --input" in capsys.readouterr().err


def test_consent_is_written_into_what_is_made(systems, files, tmp_path, capsys):
    options = ("--input", files, "--output", tmp_path / "out", "--seg", "--any_modality")
    assert exit_code("predict", *systems["cascade"], *options) == 0
    assert "--any_modality: the networks learnt from no such images as 2 of" in (
        capsys.readouterr().out
    )
    content = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert content["options"]["any_modality"] is True
    assert content["counts"]["exams"] == {"other-modality": 1, "other-body-part": 1}
    for path in (tmp_path / "out" / "seg").iterdir():
        (segment,) = pydicom.dcmread(path).SegmentSequence
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert "--any_modality=given" in algorithm.AlgorithmParameters
