"""Class folders -> a lake: labels, names and counts of classes; what has none; what is refused."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from makers.lakes import index, records, rejects, shards_of
from makers.marks import exhaustive
from PIL import Image

from beam import convert
from beam.running import patterns
from lake import InputError, Refused, Stopped
from lake.__main__ import main as lake_command

NAMES = ("bone", "air", "water")  # not in the order of their numbers
GREY = {"air": 20, "bone": 220, "water": 120}


@pytest.fixture
def classes(tmp_path) -> Path:
    """Folders of 20 PNGs of 16 x 16 pixels a class, the file names the same in each."""
    generator = np.random.default_rng(0)
    for name in NAMES:
        folder = tmp_path / "classes" / name
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = GREY[name] + generator.integers(0, 10, (16, 16))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"case{number:02d}.png")
    return tmp_path / "classes"


@pytest.fixture
def lake_of_folders(key_file):
    """Runs beam.convert on class folders; returns the manifest."""

    def run(pattern, output, *options: str) -> dict:
        words = [f"--images={pattern}", f"--output={output}", "--source=images"]
        words += ["--class_folders", f"--deidentify_key_file={key_file}"]
        return convert.run([*words, "--splits=train=0.5,val=0.3,test=0.2", *options])

    return run


def level(record: dict) -> float:
    return float(np.asarray(Image.open(io.BytesIO(record["image"]))).mean())


def test_a_folder_is_a_class_numbered_by_name(classes, lake_of_folders, tmp_path, capsys):
    output = tmp_path / "tissues" / "1.0.0"
    manifest = lake_of_folders(classes / "*" / "*.png", output)
    assert manifest["classes"] == ["air", "bone", "water"]
    assert "classes: 0 air, 1 bone, 2 water\n" in capsys.readouterr().out
    lake_records = records(output)
    assert len(lake_records) == 60
    for record in lake_records:
        name, stem = record["image_id"].decode().split("/")
        assert manifest["classes"][record["label"]] == name and stem.startswith("case")
        assert 0 <= level(record) - GREY[name] < 10
        assert (record["has_mask"], record["lesion_px"], record["original_rle"]) == (0, -1, b"-1")
    # Each class is dealt by the shares of its own: 10, 6 and 4 of 20.
    for split, share in (("train", 10), ("val", 6), ("test", 4)):
        counts = manifest["counts"]["splits"][split]
        assert counts["classes"] == [share] * 3
        assert (counts["positives"], counts["negatives"], counts["unknown"]) == (
            2 * share,
            share,
            0,
        )
    assert lake_command(["verify", str(output)]) == 0
    sheet = tmp_path / "sheet.png"
    assert lake_command(["show", str(output), "--sheet", str(sheet)]) == 0
    table = capsys.readouterr().out
    header = next(line for line in table.splitlines() if line.startswith("split "))
    assert "0 air  1 bone  2 water" in header and "positive" not in table
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_verify_finds_a_label_that_is_no_class_and_counts_that_are_not_the_indexs(
    classes, lake_of_folders, tmp_path, capsys
):
    output = tmp_path / "tissues" / "1.0.0"
    manifest = lake_of_folders(classes / "*" / "*.png", output)
    manifest["counts"]["splits"]["val"]["classes"] = [6, 5, 7]
    (output / "manifest.json").write_text(json.dumps({**manifest, "classes": ["air", "bone"]}))
    assert lake_command(["verify", str(output)]) == 1
    message = capsys.readouterr().out
    assert "label=2 has_mask=0 lesion_px=-1: expected a label from -1 to 1" in message
    assert "counts.splits.val.classes: [6, 5, 7] in the manifest, [6, 6] by the index" in message


@pytest.mark.slow
@exhaustive  # test_convert.py has two processes
def test_two_processes_and_a_second_run_give_the_same_bytes(classes, lake_of_folders, tmp_path):
    one, two = (tmp_path / name / "tissues" / "1.0.0" for name in ("one", "two"))
    first = lake_of_folders(classes / "*" / "*.png", one)
    spread = "--direct_running_mode=multi_processing", "--direct_num_workers=2"
    lake_of_folders(classes / "*" / "*.png", two, *spread)
    assert shards_of(one) == shards_of(two)
    assert lake_of_folders(classes / "*" / "*.png", one) == first  # also the moment of its creation


@pytest.mark.slow
def test_a_new_folder_renumbers_the_classes_behind_it(classes, lake_of_folders, tmp_path):
    output, fresh = (tmp_path / name / "tissues" / "1.0.0" for name in ("again", "fresh"))
    lake_of_folders(classes / "*" / "*.png", output)
    (classes / "bone").rename(classes / "zinc#1")  # no frame of a file called zinc
    with pytest.raises(Refused, match="40 images more; 40 images fewer|20 images more"):
        lake_of_folders(classes / "*" / "*.png", output)
    lake_of_folders(classes / "*" / "*.png", output, "--replace")
    manifest = lake_of_folders(classes / "*" / "*.png", fresh)
    assert manifest["classes"] == ["air", "water", "zinc#1"]
    assert manifest["counts"]["splits"]["val"]["classes"] == [6, 6, 6]
    assert shards_of(output) == shards_of(fresh)


def test_two_folders_are_a_binary_lake_and_what_has_no_class_is_listed(
    classes, lake_of_folders, tmp_path, capsys
):
    """A ** reaches every depth: also images that lie beside the folders."""
    output = tmp_path / "tissues" / "1.0.0"
    for name in NAMES:
        (classes / name / "case00.png").rename(classes / f"{name}.png")
    (classes / "water").rename(classes / "more")
    (classes / "more" / "bone").mkdir()
    for path in classes.glob("more/*.png"):
        name = path.name if path.name == "case01.png" else f"more_{path.name}"
        path.rename(path.parent / "bone" / name)
    manifest = lake_of_folders(classes / "**.png", output, "--max_reject_fraction=0.5")
    assert manifest["classes"] == ["air", "bone"]
    assert manifest["counts"]["labels_without_image"] == 0
    assert Counter(row["label"] for row in index(output)) == {0: 19, 1: 36}
    assert Counter(reject["reason"] for reject in rejects(output)) == {
        "no-class": 3,
        "duplicate-id": 2,
    }
    beside = next(reject for reject in rejects(output) if reject["reason"] == "no-class")
    assert beside["message"].endswith(f"air.png: lies directly in {classes}, not in a class folder")


def test_a_class_without_a_readable_image_stops_the_conversion(classes, lake_of_folders, tmp_path):
    for path in (classes / "water").iterdir():
        path.write_bytes(b"no image")
    output = tmp_path / "tissues" / "1.0.0"
    with pytest.raises(Stopped, match="class folder water: none of its images became a record"):
        lake_of_folders(classes / "*" / "*.png", output, "--max_reject_fraction=0.5")
    assert not (output / "manifest.json").exists() and len(rejects(output)) == 20
    with pytest.raises(Stopped, match=r"images in 1 folders \['air'\] of .*at least two classes"):
        lake_of_folders(classes / "a*" / "*.png", output)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels=train.csv"], "--labels and --class_folders: expected one of them"),
        (["--masks={classes}/air/*.png"], "--masks and --class_folders: expected one of them"),
        (["--unlabelled=keep"], "--class_folders labels every image"),
        (["--source=dicom"], "--class_folders is for --source images, not dicom"),
        (["--images={classes}/air/*.png"], "names one folder; expected a wildcard"),
    ],
)
def test_what_class_folders_do_not_go_with(classes, lake_of_folders, tmp_path, options, message):
    options = [option.format(classes=classes) for option in options]
    with pytest.raises(InputError, match=message):
        lake_of_folders(classes / "*" / "*.png", tmp_path / "tissues" / "1.0.0", *options)


@pytest.mark.parametrize(
    ("pattern", "root", "has_folders"),
    [
        ("chest/*/*.png", "chest", True),
        ("gs://bucket/chest/*/*/*.jpeg", "gs://bucket/chest", True),
        ("chest/**.png", "chest", True),
        ("chest/NORM*/x[12].png", "chest", True),
        ("*/*.png", "", True),
        ("chest/NORMAL/*.png", "chest/NORMAL", False),
    ],
)
def test_the_root_of_a_pattern(pattern, root, has_folders):
    assert patterns.fixed_folder(pattern) == root and patterns.has_folders(pattern) == has_folders
