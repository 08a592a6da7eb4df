"""beam.predict: trainer.task predict's tables, from an export, on Beam."""

import shutil
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from trained import commanded, predicted

from beam import predict

TABLES = ("submission.csv", "predictions.csv", "rejects.csv")


@pytest.fixture(scope="module")
def files(phantoms, tmp_path_factory) -> Path:
    """Ten phantoms, a PNG, one of them again in a subfolder, a cut one, and no image."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "z").mkdir()
    dicoms = sorted((phantoms / "dicom").glob("*.dcm"))[:10]
    for path in dicoms:
        shutil.copy(path, folder)
    shutil.copy(dicoms[4], folder / "z")
    (folder / "cut.dcm").write_bytes(dicoms[3].read_bytes()[:-3000])
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(pydicom.dcmread(dicoms[5]).pixel_array[:100]).save(folder / "grey.png")
    return folder


@pytest.fixture(scope="module")
def told(systems, files, tmp_path_factory) -> Path:
    """What trainer.task predict says of them."""
    output = tmp_path_factory.mktemp("told") / "out"
    arguments = ("--input", files, "--output", output, "--seg", "--mint_uids")
    commanded("predict", *systems["cascade"], *arguments)
    return output


@pytest.fixture
def asked(exported, capsys):
    """Runs beam.predict; (exit code, what it said)."""

    def run(pattern, output, *options: str, model=exported) -> tuple[int, str]:
        arguments = [f"--model={model}", f"--images={pattern}", f"--output={output}"]
        code = predict.main([*arguments, "--runner=DirectRunner", *options])
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return run


MOST = ("--max_reject_fraction=0.5", "--shard_images=4", "--batch_size=3")


def test_the_tables_are_those_of_predict(asked, files, told, tmp_path):
    code, said = asked(files / "**", tmp_path / "out", *MOST, "--seg", "--mint_uids")
    assert code == 0, said
    assert "files                   14" in said and "predicted               11" in said
    assert "rejected                 3" in said and "duplicate-id 1" in said
    ours, theirs = predicted(tmp_path / "out"), predicted(told)
    assert list(ours) == list(theirs)  # in the order of the paths
    assert sum(text != "-1" for text, *_ in theirs.values()) >= 2
    for image_id, (text, probability, lesion_px) in theirs.items():
        assert ours[image_id][0] == text and ours[image_id][2] == lesion_px
        assert ours[image_id][1] == pytest.approx(probability, abs=1e-5)
    for at in (3, 4):  # columns of predictions.csv and rejects.csv
        name, column = {3: ("predictions.csv", "area_mm2"), 4: ("rejects.csv", "reason")}[at]
        assert column_of(tmp_path / "out" / name, column) == column_of(told / name, column)
    for path in (told / "seg").iterdir():
        ours, theirs = pydicom.dcmread(tmp_path / "out" / "seg" / path.name), pydicom.dcmread(path)
        assert (ours.pixel_array == theirs.pixel_array).all()
        assert ours.StudyInstanceUID == theirs.StudyInstanceUID
    names = {path.name for path in (told / "seg").iterdir()}
    assert len(names) == 20 == len(list((tmp_path / "out" / "seg").iterdir()))
