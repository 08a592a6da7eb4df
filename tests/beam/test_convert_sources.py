"""The job with every source, label kind and way to split."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from makers.lakes import index, pixels, records, rejects
from PIL import Image

from beam.conversion import finished
from lake import InputError, Stopped
from lake.labels import rle
from lake.records.identity import ancestry, identity


@pytest.fixture
def pngs(tmp_path) -> Path:
    """images/ and masks/ of 24 PNGs of 30 x 40 pixels, every third with a lesion, and the CSVs."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    rows = {"siim": [], "absolute": [], "row_major": []}
    for number in range(24):
        image = generator.integers(0, 256, (30, 40)).astype(np.uint8)
        mask = np.zeros((30, 40), np.uint8)
        if number % 3 == 0:
            mask[5 : 9 + number // 2, 10:14] = 255
        Image.fromarray(image).save(tmp_path / "images" / f"case{number:02d}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"case{number:02d}.png")
        rows["siim"].append(f"case{number:02d},{rle.encode(mask)}")
        for dialect in ("absolute", "row_major"):
            rows[dialect].append(f"case{number:02d},{rle.encode(mask, dialect)}")
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["ImageId,EncodedPixels", *lines]) + "\n")
    return tmp_path


@pytest.mark.slow
def test_masks_and_run_lengths_of_every_dialect_give_one_lake(pngs, convert, tmp_path):
    lakes = {}
    for name, option in (
        ("siim", "--rle=relative"),
        ("absolute", "--rle=absolute"),
        ("row_major", "--rle=row_major"),
    ):
        output = tmp_path / "lakes" / name / "x" / "1.0.0"
        convert(pngs / "images" / "*.png", pngs / f"{name}.csv", output, "--source=images", option)
        lakes[name] = records(output)
    output = tmp_path / "lakes" / "masks" / "x" / "1.0.0"
    from beam import convert as converter

    arguments = [f"--images={pngs}/images/*.png", f"--masks={pngs}/masks/*.png"]
    arguments += ["--source=images", f"--output={output}", "--deidentify=keep"]
    assert converter.main(arguments) == 0
    lakes["masks"] = records(output)
    # As text, because NaN (no slice position) differs from itself.
    assert len({str(lakes[name]) for name in lakes}) == 1 and len(lakes["masks"]) == 24
    for record in lakes["masks"]:
        name = f"{record['image_id'].decode()}.png"
        for field, folder in (("image", "images"), ("mask", "masks")):
            assert (pixels(record[field]) == np.asarray(Image.open(pngs / folder / name))).all()


def test_the_wrong_dialect_is_noticed(pngs, convert, tmp_path):
    arguments = (pngs / "images" / "*.png", pngs / "row_major.csv", tmp_path / "x" / "1.0.0")
    with pytest.raises(Stopped, match="row_major"):
        convert(*arguments, "--source=images", "--rle=absolute")
    assert not (tmp_path / "x" / "1.0.0" / "manifest.json").exists()


def test_a_broken_mask_and_one_of_another_size_are_rejects(pngs, tmp_path):
    from beam import convert as converter

    (pngs / "masks" / "case00.png").write_bytes(b"no image")
    Image.new("L", (10, 10)).save(pngs / "masks" / "case01.png")
    (pngs / "masks" / "case02.png").unlink()
    (pngs / "masks" / "stranger.png").write_bytes((pngs / "masks" / "case03.png").read_bytes())
    output = tmp_path / "x" / "1.0.0"
    arguments = [f"--images={pngs}/images/*.png", f"--masks={pngs}/masks/*.png", "--source=images"]
    arguments += [f"--output={output}", "--deidentify=keep", "--max_reject_fraction=0.2"]
    assert converter.main(arguments) == 0
    reasons = {row["image_id"]: row["reason"] for row in rejects(output)}
    assert reasons == {"case00": "not-an-image", "case01": "mask-size", "case02": "no-label"}
    assert (output / "labels_without_image.txt").read_text() == "stranger\n"


def test_duplicates_and_orphans_are_counted_and_listed(phantoms, convert, tmp_path):
    folder, output = tmp_path / "d", tmp_path / "x" / "1.0.0"
    paths = sorted(phantoms.glob("dicom/*.dcm"))[:6]
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
    for path in paths:
        (folder / "one" / path.name).write_bytes(path.read_bytes())
    (folder / "two" / paths[0].name).write_bytes(paths[0].read_bytes())
    orphans = [f"nobody{n}" for n in range(50)]
    rows = [f"{path.stem},-1" for path in paths] + [f"{name},1 2" for name in orphans] * 2
    (folder / "labels.csv").write_text("\n".join(["ImageId,EncodedPixels", *rows]))
    options = ("--max_reject_fraction=0.5",)
    counts = convert(folder / "*" / "*.dcm", folder / "labels.csv", output, *options)["counts"]
    assert (counts["files"], counts["images"], counts["records"]) == (7, 7, 5)
    assert counts["rejects"] == {"duplicate-id": 2} and counts["labels_without_image"] == 50
    for row, other in zip(rejects(output), ("two", "one"), strict=True):  # neither has its labels
        assert f"is also that of {folder / other / paths[0].name}" in row["message"]
        assert "--image_id_from path (or uid)" in row["message"]
    assert sorted((output / "labels_without_image.txt").read_text().split()) == sorted(orphans)


@pytest.mark.slow
def test_frames_are_named_rejected_or_each_a_record(convert, tmp_path):
    from makers import dicom

    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 20)).astype(np.uint8)
    data = dicom.make(frames[0], NumberOfFrames=3, PixelData=frames.tobytes())
    (tmp_path / "film.dcm").write_bytes(data)
    rows = "film,-1\nfilm#0000,-1\nfilm#0001,1 5\nfilm#0002,-1\n"
    (tmp_path / "labels.csv").write_text("ImageId,EncodedPixels\n" + rows)
    inputs = (tmp_path / "*.dcm", tmp_path / "labels.csv")
    with pytest.raises(Stopped, match="multi-frame"):
        convert(*inputs, tmp_path / "a" / "1.0.0")
    convert(*inputs, tmp_path / "b" / "1.0.0", "--frames=first")
    [record] = records(tmp_path / "b" / "1.0.0")
    assert record["image_id"] == b"film" and (pixels(record["image"]) == frames[0]).all()
    counts = convert(*inputs, tmp_path / "c" / "1.0.0", "--frames=each")["counts"]
    assert (counts["files"], counts["images"], counts["records"]) == (1, 3, 3)
    assert counts["splits"]["train"]["records"] == 3  # one file is never torn
    for record in records(tmp_path / "c" / "1.0.0"):
        number = int(record["image_id"][-4:])
        assert (pixels(record["image"]) == frames[number]).all()
        assert record["lesion_px"] == (5 if number == 1 else 0)


@pytest.mark.slow
def test_splits_by_column_folds_and_an_earlier_lake(phantoms, convert, tmp_path):
    patients = {}
    first = tmp_path / "first" / "1.0.0"
    images, csv_path = phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv"
    convert(images, csv_path, first, "--folds=3")
    before = {row["image_id"]: (row["split"], row["fold"]) for row in index(first)}
    assert {fold for split, fold in before.values() if split != "test"} == {0, 1, 2}
    for row in index(first):
        patients.setdefault(row["patient"], set()).add((row["split"], row["fold"]))
    assert all(len(places) == 1 for places in patients.values())
    later = tmp_path / "later" / "1.0.0"
    manifest = convert(images, csv_path, later, "--folds=3", f"--splits_from={first}")
    assert {row["image_id"]: (row["split"], row["fold"]) for row in index(later)} == before
    assert manifest["options"]["splits_from"] == str(first)
    first_manifest = json.loads((first / "manifest.json").read_text())
    # A lake knows all that it continues, and a repeat of one from before this field is the same.
    assert manifest["earlier_lakes"] == [identity(first_manifest)]
    assert ancestry(manifest) == [identity(manifest), identity(first_manifest)]
    old = {name: value for name, value in manifest.items() if name != "earlier_lakes"}
    assert finished.is_same(old, manifest) and not finished.is_same(manifest, old)
    assert not finished.is_same(old, manifest | {"warnings": ["one"]})
    # The same splits again, from a column.
    lines = ["ImageId,EncodedPixels,part"]
    lines += [f"{name},-1,{split}" for name, (split, _) in before.items()]
    (tmp_path / "column.csv").write_text("\n".join(lines))
    third = tmp_path / "third" / "1.0.0"
    convert(images, tmp_path / "column.csv", third, "--split_column=part")
    assert {row["image_id"]: row["split"] for row in index(third)} == {
        name: split for name, (split, _) in before.items()
    }


def test_ct_volumes_become_slices(convert, tmp_path, real_data):
    source, output = real_data / "luna", tmp_path / "luna" / "1.0.0"
    options = ("--source=metaimage", "--unlabelled=negative", "--empty_slices=0.25")
    manifest = convert(source / "mhd" / "*", source / "annotations.csv", output, *options)
    counts = manifest["counts"]
    assert counts["files"] == 3 and manifest["dtype"] == "uint16"
    assert counts["images"] == counts["records"] + counts["slices_left_out"]
    lake_records = records(output)
    splits = Counter((record["series"], record["split"]) for record in lake_records)
    assert len(splits) == 3  # no series is torn
    positives = [record for record in lake_records if record["label"] == 1]
    assert len({record["series"] for record in positives}) == 2
    for record in positives:
        assert record["lesion_px"] == (pixels(record["mask"]) > 0).sum() > 0
        slope, intercept = record["rescale"]
        low, high = np.array(record["window"]) * slope + intercept
        assert (low, high) == pytest.approx((-1000, 400)) and np.isfinite(record["slice_mm"])
    for series in {record["series"] for record in positives}:
        slices = [record for record in positives if record["series"] == series]
        record = max(slices, key=lambda record: record["lesion_px"])  # through the nodule's centre
        slope, intercept = record["rescale"]
        rows, columns = np.nonzero(pixels(record["mask"]))
        centre = pixels(record["image"])[int(rows.mean()), int(columns.mean())]
        assert centre * slope + intercept > -200, "air, not tissue"


def test_packed_labels_are_read_and_damaged_ones_refused(phantoms, convert, tmp_path):
    import gzip

    whole = gzip.compress((phantoms / "train-rle.csv").read_bytes())
    (tmp_path / "whole.csv.gz").write_bytes(whole)
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "junk.csv.gz").write_bytes(b"no gzip at all")
    images = phantoms / "dicom" / "*.dcm"
    counts = convert(images, tmp_path / "whole.csv.gz", tmp_path / "x" / "1.0.0")["counts"]
    assert counts["records"] == 40 and counts["labels_without_image"] == 0
    for name in ("cut", "junk"):
        with pytest.raises((InputError, Stopped), match=f"{name}.csv.gz: not readable"):
            convert(images, tmp_path / f"{name}.csv.gz", tmp_path / name / "1.0.0")


def test_a_file_name_that_is_not_utf8_is_a_reject(phantoms, convert, tmp_path):
    import os

    folder = tmp_path / "d"
    folder.mkdir()
    paths = sorted(phantoms.glob("dicom/*.dcm"))[:3]
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    with open(os.fsencode(folder) + b"/caf\xe9.dcm", "wb") as file:
        file.write(paths[0].read_bytes())
    output = tmp_path / "x" / "1.0.0"
    convert(folder / "*.dcm", phantoms / "train-rle.csv", output, "--max_reject_fraction=0.5")
    [row] = rejects(output)
    assert row["reason"] == "unreadable-file" and "not UTF-8" in row["message"]
