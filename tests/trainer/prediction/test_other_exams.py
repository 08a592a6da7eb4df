"""predict on files of a modality or a body part that its lake did not have: refused, unless
--any_modality takes them, which its outputs say."""

import csv
import json
import shutil
from pathlib import Path

import pydicom
import pytest
from makers.trained import exit_code

from lake.records import manifest


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


def test_a_lake_of_others_is_taken_as_it_is_named_and_that_is_said(systems, lake, tmp_path, capsys):
    other = shutil.copytree(lake, tmp_path / "other")
    content = manifest.load(str(lake))
    exams = {"modalities": {"US": 40}, "body_parts": {"CHEST": 40}, "secondary_captures": 0}
    content["counts"]["exams"] = exams
    content["shards"] = content["shards"][::-1]  # another checksum
    (other / manifest.MANIFEST).write_text(json.dumps(content))
    options = ("--lake", other, "--output", tmp_path / "out")
    assert exit_code("predict", *systems["deep"], *options) == 0
    external, different = capsys.readouterr().out.splitlines()[-2:]
    assert external.startswith("External lake: ")
    assert different == (
        f"{other} has images of a kind that the networks in {systems['deep'][1]} did not learn "
        f"from: modality US 40 (they: CR 40)."
    )
    counts = json.loads((tmp_path / "out" / "predict.json").read_text())["counts"]
    assert counts["notes"] == [external, different]
