"""python -m lake write: each format is opened by a library of those who use it, and has what the
lake has: pixels, masks, labels; what is unknown never looks empty."""

import csv
import functools
import hashlib
import importlib.util
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import SimpleITK
from makers import finding_lakes, lakes
from makers.marks import exhaustive
from PIL import Image

from lake.__main__ import main
from lake.inspection.writing.formats import FORMATS
from lake.labels import coco, rle
from lake.records import example, manifest, mask_png, tfrecord

SPLITS = ("test", "train", "val")


def rewrite(lake: Path, folder: Path, change: Callable[[dict, str, int], None]) -> Path:
    """Write a lake's shards and manifest into a folder, each record changed: `change` takes its
    fields, its split and its number among all records."""
    folder.mkdir(parents=True)
    content, number = manifest.load(str(lake)), 0
    for counts in content["counts"]["splits"].values():
        counts["with_mask"] = 0
    for shard in content["shards"]:
        data = io.BytesIO()
        for record in records_of(lake / shard["name"]):
            fields = example.decode(record)
            change(fields, shard["split"], number)
            data.writelines(tfrecord.frame(example.encode(fields)))
            content["counts"]["splits"][shard["split"]]["with_mask"] += fields["has_mask"]
            number += 1
            content["dtype"] = str(lakes.pixels(fields["image"]).dtype)
        (folder / shard["name"]).write_bytes(data.getvalue())
        digest = hashlib.sha256(data.getvalue()).hexdigest()
        shard |= {"bytes": len(data.getvalue()), "sha256": digest}
    (folder / manifest.MANIFEST).write_text(manifest.to_json(content))
    return folder


def records_of(shard: Path) -> list[bytes]:
    with shard.open("rb") as file:
        return [record for record, _ in tfrecord.records(file)]


def make_odd(fields: dict, split: str, number: int) -> None:
    """Give a record 16 bits, a fold, and an id with a slash; every fourth mask is unknown."""
    pixels = lakes.pixels(fields["image"]).astype(np.uint16) * 200 + number
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    fields |= {"image": png.getvalue(), "encoding": b"png", "window": (7.5, 40000.0)}
    fields["image_id"] = f"a/{number} b".encode()
    fields["fold"] = number % 3 if split != "test" else -1
    if number % 4 == 0:
        fields |= {"has_mask": 0, "lesion_px": -1, "original_rle": rle.EMPTY.encode()}
        fields["mask"] = mask_png.encode_empty(fields["height"], fields["width"])


@pytest.fixture(scope="module")
def odd(lake, tmp_path_factory) -> Path:
    return rewrite(lake, tmp_path_factory.mktemp("odd") / "1.0.0", make_odd)


@pytest.fixture
def write(tmp_path, capsys) -> Callable[..., tuple[Path, str]]:
    """Run lake write; return the new folder and what was printed."""

    def run(lake: Path, to: str, *options: str, name: str = "Dataset501_a") -> tuple[Path, str]:
        output = tmp_path / name
        words = ["write", str(lake), "--to", to, "--output", str(output), *options]
        assert main(words) == 0
        assert [path.name for path in tmp_path.iterdir()] == [name]
        return output, capsys.readouterr().out

    return run


@functools.cache
def truth_of(lake: Path) -> dict[str, dict]:
    """Return {image id: the fields of its record, with its split, pixels and mask, None where it is
    unknown}."""
    rows = lakes.records(lake)
    for row in rows:
        mask = lakes.pixels(row["mask"]) if row["has_mask"] else None
        row |= {"pixels": lakes.pixels(row["image"]), "truth": mask}
    return {row["image_id"].decode(): row for row in rows}


def table_of(output: Path) -> list[dict]:
    with (output / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def is_equal(pixels: np.ndarray, expected: np.ndarray) -> bool:
    return pixels.dtype == expected.dtype and np.array_equal(pixels, expected)


# --- png ---


@pytest.mark.parametrize("name", ["lake", "odd"])
def test_pngs_have_pixels_masks_and_a_table(name, write, request):
    lake = request.getfixturevalue(name)
    output, text = write(lake, "png")
    truths, rows = truth_of(lake), table_of(output)
    assert {row["image_id"] for row in rows} == {*truths} and len(rows) == len(truths) == 40
    files = {str(path.relative_to(output)) for path in output.rglob("*.png")}
    assert files == {row[key] for row in rows for key in ("image", "mask")} - {""}
    for row in rows:
        truth = truths[row["image_id"]]
        assert is_equal(read(output / row["image"]), truth["pixels"])
        assert row["image"].split("/")[:2] == ["images", row["split"]]
        assert row["split"] == truth["split"] and int(row["fold"]) == truth["fold"]
        assert (row["mask"] == "") == (truth["truth"] is None)
        assert row["mask"] == "" or is_equal(read(output / row["mask"]), truth["truth"])
        window = [np.float32(row[key]) for key in ("window_low", "window_high")]
        assert window == truth["window"].tolist()
        assert int(row["label"]) == truth["label"] and int(row["has_mask"]) == truth["has_mask"]
        assert row["patient"].encode() == truth["patient"]
    assert ("of them without a mask" in text) == (name == "odd")
    assert "train: 24 images" in text
    summary = json.loads((output / "lake.json").read_text())
    assert (summary["dataset"], summary["version"], summary["format"]) == (
        "phantoms",
        "1.0.0",
        "png",
    )
    assert {split: part["images"] for split, part in summary["splits"].items()} == {
        "train": 24,
        "val": 8,
        "test": 8,
    }


def test_pngs_of_a_record_keep_their_bytes(odd, write):
    output, _ = write(odd, "png", "--split", "val", "test")
    rows = table_of(output)
    assert {row["split"] for row in rows} == {"val", "test"}
    truths = truth_of(odd)
    for row in rows:
        assert (output / row["image"]).read_bytes() == truths[row["image_id"]]["image"]
    assert "images/val/a%2F" in rows[-1]["image"]


def test_findings_are_columns(lake_of_findings, write):
    output, _ = write(lake_of_findings, "png", "--split", "test")
    truths = finding_lakes.records_of(lake_of_findings, "test")
    for row, truth in zip(table_of(output), truths, strict=True):
        values = tuple(int(row[f"finding: {name}"]) for name in finding_lakes.NAMES)
        assert values == truth["findings"] and row["mask"] == ""


# --- coco ---


@pytest.mark.parametrize("name", ["lake", "odd"])
def test_pycocotools_reads_the_masks(name, write, request, capsys):
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    lake = request.getfixturevalue(name)
    output, text = write(lake, "coco")
    truths, ids, annotation_ids = truth_of(lake), [], []
    for split in SPLITS:
        dataset = COCO(output / "annotations" / f"instances_{split}.json")
        assert dataset.getCatIds() == [1]
        for image in dataset.loadImgs(dataset.getImgIds()):
            truth = truths[image["lake_image_id"]]
            annotations = dataset.loadAnns(dataset.getAnnIds(image["id"]))
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for annotation in annotations:
                part = dataset.annToMask(annotation)
                assert not (mask & part).any()
                mask |= part
                runs = dataset.annToRLE(annotation)
                assert annotation["area"] == coco_mask.area(runs)
                assert annotation["bbox"] == coco_mask.toBbox(runs).tolist()
            assert is_equal(mask * np.uint8(255), truth["truth"])
            assert bool(annotations) == (truth["label"] == 1) == (image["label"] == 1)
            assert is_equal(read(output / split / image["file_name"]), truth["pixels"])
            assert np.float32([image["window_low"], image["window_high"]]).tolist() == list(
                truth["window"]
            )
            ids.append(image["lake_image_id"])
            annotation_ids += [annotation["id"] for annotation in annotations]
    assert len({*annotation_ids}) == len(annotation_ids) > 0 and min(annotation_ids) > 0
    # An image whose mask is unknown is in no JSON, has no file, and is a row of the table.
    with_mask = [image_id for image_id, truth in truths.items() if truth["has_mask"]]
    assert sorted(ids) == sorted(with_mask) and (len(ids) < len(truths)) == (name == "odd")
    assert len([*output.rglob("*.png")]) == len(ids)
    left_out = [row["image_id"] for row in table_of(output) if not row["image"]]
    assert sorted(left_out) == sorted({*truths} - {*ids})
    numbers = [int(number) for number in re.findall(r"(\d+) left out", text)]
    assert sum(numbers) == len(left_out)


def test_our_reader_takes_the_coco_that_we_write(lake, write):
    output, _ = write(lake, "coco", "--split", "train")
    truths = truth_of(lake)
    with (output / "annotations" / "instances_train.json").open("rb") as file:
        rows = dict(coco.read(file, "train", ()))
    assert len(rows) == 24
    for name, row in rows.items():
        truth = truths[name.removesuffix(".png")]["truth"]
        assert is_equal(rle.decode(row.value, *truth.shape), truth)


def test_parts_of_a_mask_that_touch_nowhere_are_annotations_of_their_own(lake, tmp_path, write):
    truth = np.zeros((128, 128), bool)
    truth[3:5, 6:9] = truth[5, 9] = truth[100:, 127] = True  # the first two touch at a corner

    def paint(fields: dict, split: str, number: int) -> None:
        fields |= {"mask": mask_png.encode(truth), "label": 1, "lesion_px": int(truth.sum())}

    painted = rewrite(lake, tmp_path / "1.0.0", paint)
    output = tmp_path / "out"
    assert main(["write", str(painted), "--to=coco", f"--output={output}", "--split", "val"]) == 0
    content = json.loads((output / "annotations" / "instances_val.json").read_text())
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    assert boxes == [[6, 3, 4, 3], [127, 100, 1, 28]] * 8


def test_a_positive_without_a_pixel_is_counted(lake, tmp_path, capsys):
    """As lakes of earlier writers have them."""

    def vanish(fields: dict, split: str, number: int) -> None:
        fields |= {"lesion_px": 0, "mask": mask_png.encode_empty(128, 128)}

    empty = rewrite(lake, tmp_path / "1.0.0", vanish)
    assert main(["write", str(empty), "--to=coco", f"--output={tmp_path}/o", "--split=val"]) == 0
    number = sum(row["label"] == "1" for row in table_of(tmp_path / "o"))
    assert f"val: 8 images, {number} positives with an empty mask" in capsys.readouterr().out
    assert number > 0


# --- nnunet ---


@pytest.mark.parametrize("name", ["lake", "odd"])
def test_nnunet_has_its_names_channels_and_values(name, write, request):
    """By the rules of nnU-Net's documentation/dataset_format.md, read with SimpleITK."""
    lake = request.getfixturevalue(name)
    output, text = write(lake, "nnunet")
    dataset, truths = json.loads((output / "dataset.json").read_text()), truth_of(lake)
    assert dataset["channel_names"].keys() == {"0"}
    assert dataset["labels"] == {"background": 0, "lesion": 1}
    ending = dataset["file_ending"]
    images = {path.name for path in (output / "imagesTr").iterdir()}
    labels = {path.name for path in (output / "labelsTr").iterdir()}
    assert images == {label.removesuffix(ending) + "_0000" + ending for label in labels}
    assert dataset["numTraining"] == len(images)
    rows, cases = table_of(output), {}
    for row in rows:
        truth, part = truths[row["image_id"]], "Ts" if row["split"] == "test" else "Tr"
        if part == "Tr" and not truth["has_mask"]:
            assert row["image"] == row["mask"] == ""
            continue
        assert row["image"].startswith(f"images{part}/")
        assert is_equal(itk(output / row["image"]), truth["pixels"])
        assert (row["mask"] == "") == (truth["truth"] is None)
        if row["mask"]:
            assert row["mask"].startswith(f"labels{part}/")
            assert is_equal(itk(output / row["mask"]), truth["truth"] // 255)
        if part == "Tr":
            cases[Path(row["mask"]).name.removesuffix(ending)] = truth
    assert len([*output.rglob("*.png")]) == sum(bool(r[k]) for r in rows for k in ("image", "mask"))
    assert ("left out" in text) == (name == "odd")
    # --- the folds: each case once on the side to validate, as the lake has them ---
    splits = json.loads((output / "splits_final.json").read_text())
    assert len(splits) == (3 if name == "odd" else 1)
    for number, split in enumerate(splits):
        assert sorted(split["train"] + split["val"]) == sorted(cases)
        expected = [
            case
            for case, truth in cases.items()
            if (truth["fold"] == number if name == "odd" else truth["split"] == "val")
        ]
        assert sorted(split["val"]) == sorted(expected)


def itk(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


# --- parquet ---


@pytest.mark.parametrize("name", ["lake", "odd", "lake_of_findings"])
def test_parquet_has_pictures_and_what_is_known(name, write, request):
    lake = request.getfixturevalue(name)
    output, _ = write(lake, "parquet")
    truths, names, findings = truth_of(lake), [], {}
    for split in SPLITS:
        if name == "lake_of_findings":
            for truth in finding_lakes.records_of(lake, split):
                findings[truth["image_id"].decode()] = [*truth["findings"]]
        files = sorted((output / "data").glob(f"{split}-*-of-00004.parquet"))
        assert len(files) == 4
        for row in (row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()):
            truth = truths[row["image_id"]]
            assert row["image"]["bytes"] == truth["image"]
            assert (row["mask"] is None) == (row["original_rle"] is None) == (not truth["has_mask"])
            if row["mask"]:
                mask = lakes.pixels(row["mask"]["bytes"])
                assert is_equal(mask, truth["truth"])
                assert row["original_rle"].encode() == truth["original_rle"]
            assert row["split"] == split == truth["split"]
            assert (row["label"], row["lesion_px"]) == (truth["label"], truth["lesion_px"])
            assert row["rescale_slope"] == truth["rescale"][0]
            values = [row.get(f"finding: {finding}") for finding in finding_lakes.NAMES]
            assert values == findings.get(row["image_id"], [None] * 4)
            names.append(row["image_id"])
    assert sorted(names) == sorted(truths)
    features = json.loads(pyarrow.parquet.read_schema(files[0]).metadata[b"huggingface"])
    features = features["info"]["features"]
    assert [key for key, kind in features.items() if kind["_type"] == "Image"] == ["image", "mask"]
    assert [*features] == pyarrow.parquet.read_schema(files[0]).names


@exhaustive
def test_hugging_face_reads_the_parquet(odd, write, tmp_path):
    """In the environment of make test-all."""
    import datasets

    output, _ = write(odd, "parquet")
    content = datasets.load_dataset(str(output), cache_dir=str(tmp_path / "cache"))
    truths = truth_of(odd)
    assert {name: len(part) for name, part in content.items()} == {"train": 24, "val": 8, "test": 8}
    for row in (row for part in content.values() for row in part):
        truth = truths[row["image_id"]]
        assert np.array_equal(np.asarray(row["image"]), truth["pixels"])
        assert (row["mask"] is None) == (truth["truth"] is None)
        assert row["mask"] is None or is_equal(np.asarray(row["mask"]), truth["truth"])


# --- array_record ---


def test_tfds_finds_any_array_record(lake, write):
    import tensorflow_datasets as tfds

    output, _ = write(lake, "array_record", "--split", "train", "test")
    builder, truths = tfds.builder_from_directory(output), truth_of(lake)
    assert {*builder.info.splits} == {"train", "test"}
    names = []
    for split in ("train", "test"):
        source = builder.as_data_source(split)
        for position in reversed(range(len(source))):
            row = source[position]
            truth = truths[row["image_id"].decode()]
            assert truth["split"] == split
            assert is_equal(row["image"][..., 0], truth["pixels"])
            assert row["has_mask"] == truth["has_mask"]
            assert is_equal(row["mask"][..., 0], truth["truth"])
            names.append(row["image_id"].decode())
    assert len({*names}) == len(names) == 32


def test_array_records_are_the_records_of_the_shards(odd, write):
    from array_record.python.array_record_module import ArrayRecordReader

    output, _ = write(odd, "array_record")
    for shard in sorted(odd.glob("*.tfrecord-*")):
        reader = ArrayRecordReader(str(output / shard.name.replace("tfrecord", "array_record")))
        for record, expected in zip(reader.read_all(), records_of(shard), strict=True):
            fields, truth = example.decode(record), example.decode(expected)
            assert np.array_equal(lakes.pixels(fields["mask"]), lakes.pixels(truth["mask"]))
            fields["mask"] = truth["mask"] = b""
            assert example.encode(fields) == example.encode(truth)
        reader.close()


def test_without_array_record_the_extra_is_named(lake, tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec

    def find(name: str):
        return None if name == "array_record" else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    assert main(["write", str(lake), "--to=array_record", f"--output={tmp_path}/o"]) == 2
    assert "pip install 'radlake[array-record]'" in capsys.readouterr().err


# --- what is refused ---


@pytest.mark.parametrize(
    ("fixture", "options", "message"),
    [
        ("lake", "--to=png --split tset", "--split=tset: no such split; "),
        (
            "lake",
            "--to=nnunet",
            "takes a folder DatasetNNN_NAME in nnUNet_raw, such as Dataset501_",
        ),
        ("lake_of_findings", "--to=coco", "--to coco is for masks, and no image here has a known"),
        ("lake_of_findings", "--to=nnunet", "--to nnunet is for masks"),
    ],
)
def test_what_a_format_cannot_have_is_refused(fixture, options, message, request, tmp_path, capsys):
    lake = request.getfixturevalue(fixture)
    assert main(["write", str(lake), f"--output={tmp_path}/o", *options.split()]) == 2
    output = capsys.readouterr().err
    assert message in output and output.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_nnunet_needs_cases_to_train_on(lake, tmp_path, capsys):
    output = tmp_path / "Dataset007_x"
    words = ["write", str(lake), "--to=nnunet", f"--output={output}", "--split", "test"]
    assert main(words) == 2
    assert "needs cases to train on" in capsys.readouterr().err


def test_a_folder_that_has_something_is_refused(lake, tmp_path, capsys):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine").write_text("")
    assert main(["write", str(lake), "--to=png", f"--output={tmp_path}/o"]) == 2
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["o", "mine"]


def damage_image(shard: Path) -> None:
    """Write a record whose checksum is right and whose image is no picture any more."""
    records = records_of(shard)
    fields = example.decode(records[0])
    fields["image"] = fields["image"][:100]
    parts = [tfrecord.frame(record) for record in (example.encode(fields), *records[1:])]
    shard.write_bytes(b"".join(piece for part in parts for piece in part))


def drop_a_record(shard: Path) -> None:
    parts = [tfrecord.frame(record) for record in records_of(shard)[:-1]]
    shard.write_bytes(b"".join(piece for part in parts for piece in part))


def flip_a_bit(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


DAMAGES = {
    "image": (damage_image, "record 0"),
    "records": (drop_a_record, "by the manifest, found "),
    "bit": (flip_a_bit, "record "),
    "absent": (Path.unlink, "no such file, which the manifest lists"),
}


@pytest.mark.parametrize(
    ("to", "damage"), [*(("png", name) for name in DAMAGES), *((to, "bit") for to in FORMATS)]
)
def test_damage_is_an_error_and_leaves_no_folder(to, damage, lake, tmp_path, capsys):
    copy = Path(shutil.copytree(lake, tmp_path / "lakes" / "phantoms" / "1.0.0"))
    name = manifest.load(str(copy))["shards"][-1]["name"]  # after others were written
    change, message = DAMAGES[damage]
    change(copy / name)
    output = tmp_path / "Dataset001_a"
    assert main(["write", str(copy), f"--to={to}", f"--output={output}"]) == 2
    text = capsys.readouterr().err
    assert name in text and message in text and "lake verify lists all damage" in text
    assert [path.name for path in tmp_path.iterdir()] == ["lakes"]
