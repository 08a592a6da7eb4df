"""beam.predict writes the tables of trainer.task predict, from an export, on Beam."""

import csv
import io
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tensorflow as tf
from makers.ct_series import ROOT, body, positions, slice_file
from makers.dicom import PACKAGED
from makers.marks import exhaustive
from makers.trained import UNET, read_predictions, run_task, with_thresholds, workdir_of
from makers.volumes import volume, write_dicom_slices, write_volume
from PIL import Image

from beam import predict
from beam.prediction import listing
from beam.prediction.options import PredictionOptions
from lake.scan import Storage
from lake.sources.reader import ReaderSettings
from trainer.inference import ensemble

# Several shards, and batches that do not fill them.
# Twelve of the files and a series get a SEG, and a shard has at most twice --shard_images.
OPTIONS = ("--max_reject_fraction=0.5", "--shard_images=2", "--batch_size=3", "--seg")
OPTIONS += ("--any_modality",)  # slices of a CT, and networks that learnt from radiographs
NUM_SLICES = 5


@pytest.fixture(scope="module")
def files(phantoms, tmp_path_factory) -> Path:
    """A folder of nine phantoms, one of them again below, one without a legal UID, a PNG, a file
    that is cut off, one that is no image, and the slices of a series, more than a shard has."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "z").mkdir()
    dicoms = sorted((phantoms / "dicom").glob("*.dcm"))[:10]
    for path in [*dicoms[:9], dicoms[4]]:
        shutil.copy(path, folder / "z" if (folder / path.name).exists() else folder)
    dataset = pydicom.dcmread(dicoms[9])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "ID_b"
    dataset.save_as(folder / "illegal.dcm")
    (folder / "cut.dcm").write_bytes(dicoms[3].read_bytes()[:-3000])
    (folder / "notes.txt").write_text("no image")
    (folder / "Thumbs.db").write_text("left by a system")
    Image.fromarray(dataset.pixel_array[:100]).save(folder / "grey.png")
    for k, place in enumerate(positions(NUM_SLICES)):
        content = slice_file(place, k + 1, body(NUM_SLICES, 128)[k], Modality="")
        (folder / f"slice{k}.dcm").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def expected(systems, files, tmp_path_factory) -> Path:
    """The folder that trainer.task predict makes of them."""
    output = tmp_path_factory.mktemp("expected") / "out"
    inputs = ("--input", files, "--output", output, "--seg", "--mint_uids", "--any_modality")
    run_task("predict", *systems["cascade"], *inputs)
    return output


@pytest.fixture(scope="module")
def actual(exported, files, tmp_path_factory) -> Path:
    """The folder that beam.predict makes of them."""
    output = tmp_path_factory.mktemp("actual") / "out"
    assert beam_predict(exported, files / "**", output, *OPTIONS, "--mint_uids") == 0
    return output


def beam_predict(model: Path, pattern: Path, output: Path, *options: str) -> int:
    """Run the command; return its exit code."""
    arguments = [f"--model={model}", f"--images={pattern}", f"--output={output}"]
    return predict.main([*arguments, "--runner=DirectRunner", *options])


def column(path: Path, name: str) -> list[str]:
    with path.open() as file:
        return [row[name] for row in csv.DictReader(file)]


def times(folder: Path) -> dict[str, int]:
    """Return {file: when it was written}."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def check_tables(actual: Path, expected: Path) -> dict[str, tuple[str, float, int]]:
    """Compare the tables of two folders; return the rows by image id."""
    ours, theirs = read_predictions(actual), read_predictions(expected)
    assert list(ours) == list(theirs)  # in the order of the paths
    for image_id, (text, probability, lesion_px) in theirs.items():
        assert (ours[image_id][0], ours[image_id][2]) == (text, lesion_px), image_id
        assert ours[image_id][1] == pytest.approx(probability, abs=2e-6)  # written in six digits
    tables = [folder / "predictions.csv" for folder in (actual, expected)]
    assert column(tables[0], "area_mm2") == column(tables[1], "area_mm2")
    assert (actual / "rejects.csv").read_text() == (expected / "rejects.csv").read_text()
    return ours


def test_the_tables_are_those_of_predict(actual, expected):
    rows = check_tables(actual, expected)
    assert len(rows) == 12 + NUM_SLICES and len({text for text, *_ in rows.values()}) > 3


def test_every_file_is_accounted_for(actual):
    counts = json.loads((actual / "predict.json").read_text())["counts"]
    reasons = {"not-dicom": 1, "undecodable": 1}
    assert counts.pop("reasons") == reasons and counts.pop("with_lesion") > 2
    images = {"files": 14 + NUM_SLICES, "predicted": 12 + NUM_SLICES}
    assert counts.pop("files_left_out") == 1
    # A PNG has neither, and the slices have a modality alone.
    standings = {"modality not compared": 1, "body part not compared": 1 + NUM_SLICES}
    assert counts.pop("exams") == standings | {"other-modality": NUM_SLICES}
    assert counts == images | {"rejected": 2, "without_seg": 1}


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory) -> Path:
    """A folder of pydicom's own files, of every transfer syntax, colours and palettes, frames and
    damage; a 16-bit PNG, and TIFF, a palette, a BMP, a colour JPEG that lies on its side, and a
    damaged PNG."""
    folder = tmp_path_factory.mktemp("odd")
    for path in PACKAGED.glob("*.dcm"):
        shutil.copy(path, folder)
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 40_000, (70, 90)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep >> 4).save(folder / "twelve_bits.tif", compression="tiff_lzw")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(folder / "bitmap.bmp")
    colours = Image.fromarray(rng.integers(0, 256, (80, 60, 3)).astype(np.uint8))
    colours.quantize(16).save(folder / "palette.png")
    exif = Image.Exif()
    exif[274] = 6  # orientation
    colours.resize((600, 400)).save(folder / "turned.jpg", exif=exif)
    buffer = io.BytesIO()
    Image.fromarray(deep).save(buffer, "PNG")
    (folder / "damaged.png").write_bytes(buffer.getvalue()[:-900])
    return folder


@exhaustive
@pytest.mark.slow  # two exports
@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("uint8", {"clahe": True, "max_side": 200}),
        pytest.param(
            *("uint16", {"max_side": 1024, "window": "percentile", "image_id_from": "name"}),
            marks=exhaustive,
        ),
    ],
)
def test_what_the_converter_takes_is_predicted_as_predict_does(
    dtype, stored, lake, odd_files, tmp_path
):
    options = json.loads((lake / "manifest.json").read_text())["options"] | stored
    workdir = workdir_of(tmp_path / "run", lake, UNET, 64, dtype=dtype, options=options)
    with_thresholds(ensemble.load([workdir]), lake)
    run_task("export", "--workdir", workdir, "--output", tmp_path / "exported")
    inputs = ("--input", odd_files, "--output", tmp_path / "expected", "--any_modality")
    run_task("predict", "--workdir", workdir, *inputs)
    options = ("--max_reject_fraction=0.9", "--shard_images=20", "--any_modality")
    assert beam_predict(tmp_path / "exported", odd_files / "*", tmp_path / "actual", *options) == 0
    rows = check_tables(tmp_path / "actual", tmp_path / "expected")
    names = {"JPEGLSNearLossless_16", "JPEG2000", "MR_small_RLE", "SC_rgb_jpeg_gdcm", "turned"}
    names |= {
        "examples_palette",
        "examples_rgb_color",
        "examples_ybr_color#0029",
        "deep",
        "twelve_bits",
        "bitmap",
        "palette",
    }
    assert names <= rows.keys() and len({text for text, *_ in rows.values()}) > 8
    reasons = set(column(tmp_path / "actual" / "rejects.csv", "reason"))
    assert {"too-many-bits", "no-pixels", "not-dicom", "undecodable"} <= reasons


def chest(rng: np.random.Generator, num_slices: int) -> np.ndarray:
    """Return HU [S, H, W] of noise with two lungs, each slice another."""
    hu = rng.integers(-100, 400, (num_slices, 100, 120)).astype(np.int16)
    for column in (15, 70):
        hu[:, 25:75, column : column + 35] = rng.integers(-1000, -500, (num_slices, 50, 35))
    for number in range(num_slices):
        hu[number, 30 : 35 + 5 * number, 20:45] = 0
    return hu


@exhaustive
@pytest.mark.slow  # an export
def test_the_slices_of_volumes_are_predicted_as_predict_does(lake, tmp_path):
    options = json.loads((lake / "manifest.json").read_text())["options"]
    options |= {"source": "metaimage", "lung_roi": True}
    workdir = workdir_of(tmp_path / "run", lake, UNET, 64, dtype="uint16", options=options)
    with_thresholds(ensemble.load([workdir]), lake)
    run_task("export", "--workdir", workdir, "--output", tmp_path / "exported")
    (tmp_path / "in" / "again").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("one.mhd", "two.nii.gz", "again/one.mhd")):
        voxels = chest(rng, 5 + number)
        write_volume(volume(voxels), tmp_path / "in", name)
    write_volume(volume(voxels), tmp_path / "in", "three.mhd", compress=True)
    (tmp_path / "in" / "notes.mha").write_text("no volume")
    write_dicom_slices(chest(rng, 6), tmp_path / "in")  # their names in no order
    inputs = ("--input", tmp_path / "in", "--output", tmp_path / "expected")
    run_task("predict", "--workdir", workdir, *inputs)
    command = tmp_path / "exported", tmp_path / "in" / "**", tmp_path / "actual"
    assert beam_predict(*command, "--max_reject_fraction=0.9", "--shard_images=2") == 0
    rows = check_tables(tmp_path / "actual", tmp_path / "expected")
    assert len(rows) == 6 + 7 + 6 and "two#0005" in rows
    assert [name for name in rows if name.startswith("1.9#")] == [f"1.9#000{k}" for k in range(6)]
    assert len({probability for _, probability, _ in rows.values()}) > 15
    counts = json.loads((tmp_path / "actual" / "predict.json").read_text())["counts"]
    assert counts["reasons"] == {"mixed-series": 2, "unreadable-header": 1}
    assert counts["files"] == 5 + 6


def test_segs_are_those_of_predict(actual, expected):
    """With the same UIDs and series numbers, and one for the series."""
    names = sorted(path.name for path in (expected / "seg").iterdir())
    assert len(names) == 13 and {"illegal.source.dcm", f"{ROOT}.4.dcm"} <= set(names)
    assert sorted(path.name for path in (actual / "seg").iterdir()) == names
    for name in names:
        ours, theirs = (pydicom.dcmread(folder / "seg" / name) for folder in (actual, expected))
        assert (ours.pixel_array == theirs.pixel_array).all()
        assert ours.StudyInstanceUID == theirs.StudyInstanceUID
        assert ours.SOPInstanceUID == theirs.SOPInstanceUID
        assert ours.get("SeriesNumber") == theirs.get("SeriesNumber")
    assert pydicom.dcmread(actual / "seg" / f"{ROOT}.4.dcm").NumberOfFrames == NUM_SLICES


def test_repeating_writes_what_is_missing_and_nothing_else(
    exported, files, actual, tmp_path, capsys, monkeypatch
):
    """A shard's sidecar, a SEG, unfinished files of a worker that was killed; and then nothing."""
    output, command = tmp_path / "out", (exported, files / "**", tmp_path / "out", *OPTIONS)
    shutil.copytree(actual, output)
    sidecars = sorted((output / ".work").glob("*[0-9a-f].json"))
    segs = {path: json.loads(path.read_text()).get("segs") for path in sidecars}
    first, second = [path for path in sidecars if segs[path]][:2]
    first.unlink()
    (output / "seg" / segs[second][0]).unlink()
    (output / ".work" / f"{first.name}.unfinished-7").write_text("{")
    for name in ("submission.csv", "predict.json"):
        (output / f"{name}.unfinished-7").write_text("{")
    (output / "predict.json").unlink()
    before = times(output)
    assert beam_predict(*command, "--mint_uids") == 0
    after = times(output)
    tables = {str(output / name) for name in ("submission.csv", "predictions.csv", "rejects.csv")}
    segs_of_two = {str(output / "seg" / name) for path in (first, second) for name in segs[path]}
    new = {path for path in after if before.get(path) != after[path]}
    assert new == {str(first), str(second), str(output / "predict.json")} | segs_of_two | tables
    assert {Path(path).relative_to(output) for path in after} == {
        Path(path).relative_to(actual) for path in times(actual)
    }
    for name in ("submission.csv", "predictions.csv", "rejects.csv"):
        assert (output / name).read_bytes() == (actual / name).read_bytes()
    monkeypatch.setattr(tf.saved_model, "load", None)  # nothing is left to predict
    assert beam_predict(*command, "--mint_uids") == 0
    assert times(output) == after
    assert beam_predict(*command) == 2  # without --mint_uids
    assert "was made with mint_uids=True" in capsys.readouterr().err


def test_a_new_file_changes_its_shard_alone():
    matches = [(f"images/{number:04d}.dcm", 1, 0.0) for number in range(1000)]
    shards = list(listing.divide(matches, 20))
    assert sum(shards, []) == matches and {len(shard) for shard in shards[:-1]} <= set(
        range(10, 41)
    )
    assert 30 < len(shards) < 80
    more = list(listing.divide(sorted([*matches, ("images/0500.dcm.new", 1, 0.0)]), 20))
    assert sum(shard not in shards for shard in more) <= 3


def ct_shards(paths: list[Path], output: Path) -> list[listing.Shard]:
    """Return the shards of CT files as the steps before the prediction make them."""
    settings = ReaderSettings(True, "name", Storage(16, None))
    options = PredictionOptions(
        folder=str(output),
        model="",
        model_sha256="",
        reader_settings=settings,
        images_root="",
        seg=None,
        mint_uids=False,
        any_modality=True,
        batch_size=1,
        shard_images=3,
        num_threads=0,
        max_reject_fraction=0.0,
        progress_file=None,
    )
    matches = [(str(path), path.stat().st_size, path.stat().st_mtime) for path in paths]
    series, images_by_path = defaultdict(list), defaultdict(list)
    for key, pair in listing.read_headers((matches[0][0], matches), options):
        series[key].append(pair)
    for key_and_images in series.items():
        for pair in listing.choose_images(key_and_images, options):
            if isinstance(pair, tuple):  # else it counts images
                images_by_path[pair[0]].append(pair[1])
    shards = [listing.make_shard(images, options) for images in images_by_path.items()]
    return [shard for shards_or_tags in shards for shard in shards_or_tags]


def test_a_series_is_a_shard_of_its_own(tmp_path):
    voxels = np.zeros((6, 16, 16), np.int16)
    paths = write_dicom_slices(voxels, tmp_path)
    paths += [write_volume(volume(voxels[:2]), tmp_path, name) for name in ("a.mhd", "b.mha")]
    paths[-1] = paths[-1].rename(tmp_path / "b.MHA")
    shards = {shard.first_path: shard.images for shard in ct_shards(paths, tmp_path / "out")}
    ids = [[image.header.image_id for image in images] for images in shards.values()]
    assert list(shards) == [str(tmp_path / name) for name in ("0.dcm", "a.mhd", "b.MHA")]
    assert ids[0] == [f"1.9#000{number}" for number in range(6)]
    assert ids[1:] == [["a#0000", "a#0001"], ["b#0000", "b#0001"]]


def test_changed_pixels_beside_an_unchanged_header_are_predicted_again(tmp_path):
    """Other bytes, other times and none at all each give another fingerprint."""
    path = write_volume(volume(np.zeros((2, 16, 16), np.int16)), tmp_path, "a.mhd")
    data_file, fingerprints = tmp_path / "a.raw", []
    for change in (
        lambda: None,
        lambda: os.utime(data_file, (1e9, 1e9)),
        lambda: (data_file.write_bytes(bytes(7)), os.utime(data_file, (1e9, 1e9))),
        data_file.unlink,
    ):
        change()
        (shard,) = ct_shards([path], tmp_path / "out")
        assert ct_shards([path], tmp_path / "out") == [shard]
        fingerprints.append(shard.fingerprint)
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "{tmp}/none"}, "no saved_model.pb in it"),
        ({"model": "{tmp}/bare"}, "no export.json in it"),
        ({"model": "{tmp}/earlier"}, "no signature 'records', as exports of earlier versions"),
        ({"images": "{tmp}/*.dcm"}, "no file matches"),
        ({"output": "{tmp}/used"}, "is there and not by beam.predict"),
        ({"output": "{tmp}/others"}, "is there and not by beam.predict"),  # in seg/ of it
        ({"output": "{tmp}/other"}, "was made with model_sha256=7"),
        ({"seg": "cat"}, "--seg=cat: expected one of lesion"),
    ],
)
def test_mistakes_of_a_user(tmp_path, capsys, change, message):
    storage = {"bits": 8, "max_side": 9, "window": "default", "clahe": False, "lung_roi": False}
    section = storage | {"is_ct": False, "image_id_from": "name"}
    for name in ("good", "bare", "earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").touch()
    for name, signatures in (("good", {"records": {}}), ("earlier", {"dicom": {}, "pixels": {}})):
        text = json.dumps({"signatures": signatures, "stored": section})
        (tmp_path / name / "export.json").write_text(text)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a.txt").write_text("a")
    (tmp_path / "others" / "seg").mkdir(parents=True)
    (tmp_path / "others" / "seg" / "a.dcm").write_text("a")
    (tmp_path / "other" / ".work").mkdir(parents=True)
    owner = dict.fromkeys(("model_sha256", "image_id_from", "seg", "mint_uids"), 7)
    (tmp_path / "other" / ".work" / "made_by.json").write_text(json.dumps(owner))
    flags = {"model": "{tmp}/good", "images": "{tmp}/used/*", "output": "{tmp}/out"} | change
    options = [f"--{name}={value.format(tmp=tmp_path)}" for name, value in flags.items()]
    assert predict.main(options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_other_modalities_alone_are_refused(exported, phantoms, tmp_path, capsys):
    dataset = pydicom.dcmread(next((phantoms / "dicom").glob("*.dcm")))
    dataset.Modality = "US"
    (tmp_path / "files").mkdir()
    dataset.save_as(tmp_path / "files" / "heart.dcm")
    assert beam_predict(exported, tmp_path / "files" / "*", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "1 of 1 files are refused" in message and "modality US" in message
    assert column(tmp_path / "out" / "rejects.csv", "reason") == ["other-modality"]
    assert not (tmp_path / "out" / "submission.csv").exists()
