"""beam.predict: trainer.task predict's tables, from an export, on Beam."""

import csv
import json
import shutil
from pathlib import Path

import pydicom
import pytest
import tensorflow as tf
from makers.trained import commanded, predicted
from PIL import Image

from beam import predict
from beam.prediction import listing

# Several shards, and batches that do not fill them.
# Ten of the files get a SEG, and a shard has at most twice --shard_images: at least two do.
OPTIONS = ("--max_reject_fraction=0.5", "--shard_images=2", "--batch_size=3", "--seg")


@pytest.fixture(scope="module")
def files(phantoms, tmp_path_factory) -> Path:
    """Nine phantoms, one of them again below, one without a legal UID, a PNG, a file that is cut
    off, and no image."""
    folder = tmp_path_factory.mktemp("asked")
    (folder / "z").mkdir()
    dicoms = sorted((phantoms / "dicom").glob("*.dcm"))[:10]
    for path in [*dicoms[:9], dicoms[4]]:
        shutil.copy(path, folder / "z" if (folder / path.name).exists() else folder)
    dataset = pydicom.dcmread(dicoms[9])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "ID_b"
    dataset.save_as(folder / "illegal.dcm")
    (folder / "cut.dcm").write_bytes(dicoms[3].read_bytes()[:-3000])
    (folder / "notes.txt").write_text("no image")
    Image.fromarray(dataset.pixel_array[:100]).save(folder / "grey.png")
    return folder


@pytest.fixture(scope="module")
def told(systems, files, tmp_path_factory) -> Path:
    """What trainer.task predict says of them."""
    output = tmp_path_factory.mktemp("told") / "out"
    inputs = ("--input", files, "--output", output, "--seg", "--mint_uids")
    commanded("predict", *systems["cascade"], *inputs)
    return output


@pytest.fixture(scope="module")
def answered(exported, files, tmp_path_factory) -> Path:
    """What beam.predict says of them."""
    output = tmp_path_factory.mktemp("answered") / "out"
    assert asked_of(exported, files / "**", output, *OPTIONS, "--mint_uids") == 0
    return output


def asked_of(model: Path, pattern: Path, output: Path, *options: str) -> int:
    arguments = [f"--model={model}", f"--images={pattern}", f"--output={output}"]
    return predict.main([*arguments, "--runner=DirectRunner", *options])


def column(path: Path, name: str) -> list[str]:
    with path.open() as file:
        return [row[name] for row in csv.DictReader(file)]


def written(folder: Path) -> dict[str, int]:
    """{file: when}."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_the_tables_are_those_of_predict(answered, told):
    ours, theirs = predicted(answered), predicted(told)
    assert list(ours) == list(theirs) and len(ours) == 11  # in the order of the paths
    assert len({text for text, *_ in theirs.values()}) > 3
    for image_id, (text, probability, lesion_px) in theirs.items():
        assert (ours[image_id][0], ours[image_id][2]) == (text, lesion_px)
        assert ours[image_id][1] == pytest.approx(probability, abs=2e-6)  # written in six digits
    assert column(answered / "predictions.csv", "area_mm2") == column(
        told / "predictions.csv", "area_mm2"
    )
    for name in ("path", "image_id", "what"):
        assert column(answered / "rejects.csv", name) == column(told / "rejects.csv", name)


def test_every_file_is_accounted_for(answered):
    counts = json.loads((answered / "predict.json").read_text())["counts"]
    # The last is what the graph says of a file that is cut off; the converter says undecodable.
    reasons = {"not-dicom": 1, "duplicate-id": 1, "unreadable-header": 1}
    assert counts.pop("reasons") == reasons and counts.pop("with_lesion") > 2
    assert counts == {"files": 14, "predicted": 11, "rejected": 3, "without_seg": 1}


def test_segs_are_those_of_predict(answered, told):
    """But for the UIDs of the SEGs themselves, which are new each time."""
    names = sorted(path.name for path in (told / "seg").iterdir())
    assert len(names) == 11 and "illegal.source.dcm" in names
    assert sorted(path.name for path in (answered / "seg").iterdir()) == names
    for name in names:
        ours, theirs = (pydicom.dcmread(folder / "seg" / name) for folder in (answered, told))
        assert (ours.pixel_array == theirs.pixel_array).all()
        assert ours.StudyInstanceUID == theirs.StudyInstanceUID


def test_repeating_writes_what_is_missing_and_nothing_else(
    exported, files, answered, tmp_path, capsys, monkeypatch
):
    """A shard's sidecar, a SEG, unfinished files of a worker that was killed; and then nothing."""
    output, command = tmp_path / "out", (exported, files / "**", tmp_path / "out", *OPTIONS)
    shutil.copytree(answered, output)
    sidecars = sorted((output / ".work").glob("*[0-9a-f].json"))
    segs = {path: json.loads(path.read_text()).get("segs") for path in sidecars}
    first, second = [path for path in sidecars if segs[path]][:2]
    first.unlink()
    (output / "seg" / segs[second][0]).unlink()
    (output / ".work" / f"{first.name}.unfinished-7").write_text("{")
    (output / "predict.json").unlink()
    before = written(output)
    assert asked_of(*command, "--mint_uids") == 0
    after = written(output)
    tables = {str(output / name) for name in ("submission.csv", "predictions.csv", "rejects.csv")}
    of_two = {str(output / "seg" / name) for path in (first, second) for name in segs[path]}
    new = {path for path in after if before.get(path) != after[path]}
    assert new == {str(first), str(second), str(output / "predict.json")} | of_two | tables
    assert {Path(path).relative_to(output) for path in after} == {
        Path(path).relative_to(answered) for path in written(answered)
    }
    for name in ("submission.csv", "predictions.csv", "rejects.csv"):
        assert (output / name).read_bytes() == (answered / name).read_bytes()
    monkeypatch.setattr(tf.saved_model, "load", None)  # nothing is left to answer
    assert asked_of(*command, "--mint_uids") == 0
    assert written(output) == after
    assert asked_of(*command) == 2  # without --mint_uids
    assert "was made with mint_uids=True" in capsys.readouterr().err


def test_a_new_file_changes_its_shard_alone():
    found = [(f"images/{number:04d}.dcm", 1, 0.0) for number in range(1000)]
    shards = list(listing.divided(found, 20))
    assert sum(shards, []) == found and {len(shard) for shard in shards[:-1]} <= set(range(10, 41))
    assert 30 < len(shards) < 80
    more = list(listing.divided(sorted([*found, ("images/0500.dcm.new", 1, 0.0)]), 20))
    assert sum(shard not in shards for shard in more) <= 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "{tmp}/none"}, "no saved_model.pb in it"),
        ({"model": "{tmp}/bare"}, "a SavedModel without export.json"),
        ({"model": "{tmp}/pixels"}, "has no signature for files (dicom, image)"),
        ({"model": "{tmp}/tfio"}, "pip install -r requirements/tfio.txt"),
        ({"images": "{tmp}/*.dcm"}, "no file matches"),
        ({"output": "{tmp}/used"}, "is there and not by beam.predict"),
        ({"output": "{tmp}/others"}, "is there and not by beam.predict"),  # in seg/ of it
        ({"output": "{tmp}/other"}, "was made with model_sha256=7"),
        ({"seg": "cat"}, "--seg=cat: expected one of lesion"),
        ({"batch": "3"}, "unknown options --batch=3; see python -m beam.predict --help"),
    ],
)
def test_mistakes_of_a_user(tmp_path, capsys, change, said):
    described = {"signatures": {"dicom": {}, "image": {}}, "stored": {"image_id_from": "name"}}
    for name in ("good", "bare", "pixels", "tfio"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    for name, decoder in (("good", "graph"), ("tfio", "tfio")):
        text = json.dumps(described | {"decoder": decoder})
        (tmp_path / name / "export.json").write_text(text)
    (tmp_path / "pixels" / "export.json").write_text('{"signatures": {"pixels": {}}}')
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a.txt").write_text("a")
    (tmp_path / "others" / "seg").mkdir(parents=True)
    (tmp_path / "others" / "seg" / "a.dcm").write_text("a")
    (tmp_path / "other" / ".work").mkdir(parents=True)
    made_by = dict.fromkeys(("model_sha256", "image_id_from", "seg", "mint_uids"), 7)
    (tmp_path / "other" / ".work" / "made_by.json").write_text(json.dumps(made_by))
    asked_for = {"model": "{tmp}/good", "images": "{tmp}/used/*", "output": "{tmp}/out"} | change
    options = [f"--{name}={value.format(tmp=tmp_path)}" for name, value in asked_for.items()]
    assert predict.main(options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
