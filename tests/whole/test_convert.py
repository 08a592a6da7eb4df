"""The real Beam job on phantoms, and on real X-rays where they are, against a plain loop over the
same files."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pydicom
import pytest
from makers import findings, lakes, marks

from beam import convert as converter
from beam.conversion import options
from lake import Stopped
from lake.labels import rle, tables

ROOT = Path(__file__).parents[2]


def plain_labels(path: Path, side: int) -> dict[str, tables.Label]:
    """A second reading of a run-length CSV, independent of the pipeline."""
    rows = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for image_id, text in csv.reader(file):
            if image_id != "ImageId":
                rows.setdefault(image_id, []).append(text.strip())
    return {
        name: tables.label_from_runs(rle.unite([rle.runs(text, side, side) for text in texts]))
        for name, texts in rows.items()
    }


def check_against_files(folder: Path, images: list[Path], csv_path: Path) -> None:
    """Every file is a record; its pixels are within 1 grey level of pydicom's and its mask is the
    united rows."""
    records = {record["image_id"].decode(): record for record in lakes.records(folder)}
    assert records.keys() == {path.stem if path.suffix == ".dcm" else path.name for path in images}
    truth = plain_labels(csv_path, pydicom.dcmread(images[0], stop_before_pixels=True).Rows)
    for path in images:
        record, dataset = records[path.stem], pydicom.dcmread(path)
        difference = np.abs(lakes.pixels(record["image"]).astype(int) - dataset.pixel_array)
        assert difference.max() <= 1, path
        expected = truth[path.stem]
        mask = rle.decode(expected.rle, dataset.Rows, dataset.Columns)
        assert (lakes.pixels(record["mask"]) == mask).all(), path
        assert record["original_rle"].decode() == expected.rle
        assert (record["label"], record["lesion_px"]) == (expected.label, expected.lesion_px)
        assert (record["has_mask"], record["encoding"]) == (1, b"jpeg-kept")


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a lake but for the moment of its creation."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    manifest = json.loads(contents["manifest.json"])
    del manifest["created"]
    return {**contents, "manifest.json": manifest}


def test_records_equal_the_files(lake, phantoms):
    check_against_files(lake, sorted(phantoms.glob("dicom/*.dcm")), phantoms / "train-rle.csv")


def test_patients_stay_in_one_split_and_strata_are_dealt(lake):
    lake_records = lakes.records(lake)
    splits = {}
    for record in lake_records:
        splits.setdefault(record["patient"], set()).add(record["split"])
    assert len(splits) < len(lake_records)  # some patients have several images
    assert all(len(names) == 1 for names in splits.values())
    positives = Counter(record["split"] for record in lake_records if record["label"])
    assert Counter(record["split"] for record in lake_records)["train"] == pytest.approx(24, abs=3)
    assert positives["train"] > positives["val"] > 0 and positives["test"] > 0


def test_index_and_manifest_say_what_the_shards_hold(lake):
    lake_records = lakes.records(lake)
    manifest = json.loads((lake / "manifest.json").read_text())
    index = pyarrow.parquet.read_table(lake / "index.parquet").to_pylist()
    for row, record in zip(index, lake_records, strict=True):
        for name, value in row.items():
            expected = record[name].decode() if isinstance(record[name], bytes) else record[name]
            assert value == expected, name
    counts = manifest["counts"]
    assert (
        counts["images"] == counts["records"] == len(lake_records) == 40 and counts["rejects"] == {}
    )
    for name, split in counts["splits"].items():
        of_split = [record for record in lake_records if record["split"] == name]
        assert split["records"] == len(of_split)
        assert split["positives"] == sum(record["label"] for record in of_split)
        assert split["lesion_pixels"] == sum(record["lesion_px"] for record in of_split)
        assert split["patients"] == len({record["patient"] for record in of_split})
    share = sum(record["lesion_px"] for record in lake_records) / (40 * 128 * 128)
    assert manifest["statistics"]["positive_pixel_share"] == pytest.approx(share)
    assert {shard["name"] for shard in manifest["shards"]} == {
        path.name for path in lake.glob("*.tfrecord-*")
    }
    # The manifest takes both from one image per shard; those of all images must be near.
    everything = np.stack([lakes.pixels(record["image"]) for record in lake_records])
    assert manifest["statistics"]["mean"] == pytest.approx(everything.mean(), rel=0.1)


def test_tfds_opens_the_lake(lake):
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(lake))
    rows = list(builder.as_dataset(split="train"))
    assert len(rows) == builder.info.splits["train"].num_examples
    expected = {record["image_id"]: record for record in lakes.records(lake)}
    for row in rows:
        record = expected[row["image_id"].numpy()]
        assert row["mask"].shape == (128, 128, 1)
        assert (row["mask"].numpy()[..., 0] == lakes.pixels(record["mask"])).all()


def test_tfds_opens_a_lake_of_findings(findings_lake, phantoms):
    tfds = pytest.importorskip("tensorflow_datasets")
    rows = tfds.builder_from_directory(str(findings_lake)).as_dataset(split="val")
    expected = findings.values_of(phantoms)
    values = {row["image_id"].numpy().decode(): row["findings"].numpy() for row in rows}
    assert len(values) > 4 and {value.shape for value in values.values()} == {(3,)}
    assert all(tuple(value) == expected[image_id] for image_id, value in values.items())


@marks.exhaustive  # test_restart.py compares the bytes of two conversions
def test_same_input_same_bytes_with_two_processes(lake, phantoms, convert, tmp_path):
    output = tmp_path / "phantoms" / "1.0.0"
    options = ["--splits=train=0.6,val=0.2,test=0.2", "--direct_running_mode=multi_processing"]
    convert(
        phantoms / "dicom" / "*.dcm",
        phantoms / "train-rle.csv",
        output,
        *options,
        "--direct_num_workers=2",
    )
    assert contents(output) == contents(lake)


def test_no_name_travels_and_the_key_matters(phantoms, convert, tmp_path, lake, capsys):
    inputs = (phantoms / "dicom" / "*.dcm", phantoms / "train-rle.csv")
    raw = b"".join(path.read_bytes() for path in lake.iterdir() if path.is_file())
    assert b"PHANTOM" not in raw and b"Phantom^" not in raw
    plain, hashed_lake = tmp_path / "kept" / "1.0.0", tmp_path / "hashed" / "1.0.0"
    arguments = [f"--images={inputs[0]}", f"--labels={inputs[1]}", f"--output={plain}"]
    assert converter.main([*arguments, "--deidentify=keep", "--runner", "DirectRunner"]) == 0
    streams = capsys.readouterr()
    assert "records         40" in streams.out and "images/s" in streams.out
    assert "40 of 40 images (100%)" in streams.err
    assert all(record["patient"].startswith(b"PHANTOM-") for record in lakes.records(plain))
    other_key = tmp_path / "other.key"
    other_key.write_bytes(bytes(range(1, 33)))
    convert(*inputs, hashed_lake, f"--deidentify_key_file={other_key}", "--image_id=hash")
    patients = [
        {record["patient"] for record in lakes.records(folder)} for folder in (lake, hashed_lake)
    ]
    assert len(patients[0]) == len(patients[1]) and not patients[0] & patients[1]
    ids = {record["image_id"] for record in lakes.records(hashed_lake)}
    assert len(ids) == 40 and not ids & {record["image_id"] for record in lakes.records(lake)}
    secret = other_key.read_bytes()
    assert not [
        path for path in hashed_lake.rglob("*") if path.is_file() and secret in path.read_bytes()
    ]


@pytest.fixture
def broken_inputs(phantoms, tmp_path) -> tuple[Path, Path]:
    """Twelve good images, a text file, and a label file whose first three rows are impossible."""
    folder = tmp_path / "dicom"
    folder.mkdir()
    names = sorted(phantoms.glob("dicom/*.dcm"))[:12]
    for path in names:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.dcm").write_text("not an image " * 30)
    values = ["1 2 3", "5 -2", f"{128 * 128 - 1} 2", *["-1"] * 9]
    rows = [f"{path.stem},{value}" for path, value in zip(names, values, strict=True)]
    csv_path = tmp_path / "labels.csv"
    csv_path.write_text("\n".join(["ImageId,EncodedPixels", *rows, "somebody-else,1 2"]) + "\n")
    return folder, csv_path


def test_every_input_is_a_record_or_a_reject(broken_inputs, convert, tmp_path):
    folder, csv_path = broken_inputs
    manifest = convert(
        folder / "*", csv_path, tmp_path / "x" / "1.0.0", "--max_reject_fraction=0.5"
    )
    reasons = {"rle-odd-count": 1, "rle-negative": 1, "rle-out-of-bounds": 1, "not-dicom": 1}
    assert manifest["counts"]["rejects"] == reasons
    assert (manifest["counts"]["images"], manifest["counts"]["records"]) == (13, 9)
    assert manifest["counts"]["labels_without_image"] == 1
    rejects = [
        json.loads(line)
        for line in (tmp_path / "x" / "1.0.0" / "rejects.jsonl").read_text().splitlines()
    ]
    assert {row["reason"] for row in rejects} == reasons.keys()
    assert any("row 3" in row["message"] for row in rejects if row["reason"] == "rle-negative")
    assert all(Path(row["path"]).exists() for row in rejects)


def test_too_many_rejects_leave_no_manifest(broken_inputs, tmp_path, capsys):
    folder, csv_path = broken_inputs
    output = tmp_path / "x" / "1.0.0"
    arguments = [
        f"--images={folder}/*",
        f"--labels={csv_path}",
        f"--output={output}",
        "--deidentify=keep",
    ]
    assert converter.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("failed: 4 of 13 images rejected") and "max_reject_fraction" in error
    assert not (output / "manifest.json").exists() and (output / "rejects.jsonl").exists()


def test_unlabelled_images_and_class_labels(phantoms, convert, tmp_path):
    names = sorted(path.stem for path in phantoms.glob("dicom/*.dcm"))
    csv_path = tmp_path / "classes.csv"
    csv_path.write_text(
        "ImageId,Class\n" + "".join(f"{name},{n % 2}\n" for n, name in enumerate(names[:30]))
    )
    output = tmp_path / "x" / "1.0.0"
    manifest = convert(phantoms / "dicom" / "*.dcm", csv_path, output, "--unlabelled=keep")
    records = {record["image_id"].decode(): record for record in lakes.records(output)}
    assert [records[name]["label"] for name in names] == [0, 1] * 15 + [-1] * 10
    assert {(record["has_mask"], record["lesion_px"]) for record in records.values()} == {(0, -1)}
    assert sum(split["unknown"] for split in manifest["counts"]["splits"].values()) == 10


def test_12_bit_images_make_a_16_bit_lake_and_a_mix_must_be_decided(phantoms, convert, tmp_path):
    from beam import synthetic

    deep = tmp_path / "deep"
    synthetic.write(deep, images=6, seed=3, side=64, bits=12, photometric="MONOCHROME1")
    output = tmp_path / "deep-lake" / "1.0.0"
    assert convert(deep / "dicom" / "*.dcm", deep / "train-rle.csv", output)["dtype"] == "uint16"
    for record in lakes.records(output):
        dataset = pydicom.dcmread(deep / "dicom" / f"{record['image_id'].decode()}.dcm")
        assert (lakes.pixels(record["image"]) == 4095 - dataset.pixel_array).all()
    for path in list(phantoms.glob("dicom/*.dcm"))[:3]:
        (deep / "dicom" / path.name).write_bytes(path.read_bytes())
    files = (
        deep / "dicom" / "*.dcm",
        deep / "train-rle.csv",
        tmp_path / "mixed" / "1.0.0",
        "--unlabelled=negative",
    )
    with pytest.raises(Stopped, match="--bits 8 or --bits 16"):
        convert(*files)
    assert convert(*files, "--bits=8")["counts"]["records"] == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "/nowhere/*.dcm"}, "no file matches"),
        ({"labels": str(ROOT / "setup.py")}, "no known columns|expected ImageId"),
        ({"labels": "/nowhere.csv"}, "no such file"),
        ({"output": "lakes"}, "ROOT/NAME/VERSION"),
        ({"output": "lakes/siim/one"}, "1.0.0"),
        ({"splits": "train=2"}, "--splits"),
        ({"max_sidee": "3"}, "did you mean --max_side"),
        ({"image_id": "hash"}, "--image_id=hash needs"),
        ({"masks": "/nowhere/*.png"}, "no file matches"),
        ({"lung_roi": None}, "--lung_roi is for --source metaimage"),
        ({"split_column": "nosuch"}, "no column 'nosuch'"),
        ({"splits_from": "/nowhere"}, "/nowhere: no manifest.json"),
        ({"source": "metaimage"}, "seriesuid,coordX"),
        ({"rle": "absolute"}, "--rle"),
        ({"deidentify_key_file": "/nowhere.key"}, "no such file"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(phantoms, tmp_path, capsys, change, message):
    flags = {
        "images": f"{phantoms}/dicom/*.dcm",
        "labels": f"{phantoms}/train-rle.csv",
        "output": str(tmp_path / "x" / "1.0.0"),
        "deidentify": "keep",
    }
    if "deidentify_key_file" in change:
        del flags["deidentify"]
    arguments = [
        f"--{name}" if value is None else f"--{name}={value}"
        for name, value in (flags | change).items()
    ]
    try:
        code = converter.main(arguments)
    except SystemExit as end:  # an option that there is not
        code = end.code
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and re.search(message, error[0]), error
    assert not (tmp_path / "x" / "1.0.0" / "manifest.json").exists()


@pytest.mark.parametrize(
    "flag",
    [
        "--window=5,1",
        "--folds=1",
        "--max_side=0",
        "--shard_mb=0",
        "--min_shards=-1",
        "--max_reject_fraction=2",
    ],
)
def test_impossible_numbers_are_refused_by_the_parser(flag, capsys):
    with pytest.raises(SystemExit) as error:
        options.parser().parse_args(["--images=x", "--labels=y", "--output=z", flag])
    assert error.value.code == 2 and flag.split("=")[0] in capsys.readouterr().err


@marks.exhaustive  # the organisers' ten follow
def test_all_real_images_convert(real_data, convert, tmp_path):
    source, output = real_data / "siim", tmp_path / "siim" / "1.0.0"
    manifest = convert(source / "dicom" / "*.dcm", source / "train-rle.csv", output)
    assert manifest["counts"]["records"] == 720 and manifest["counts"]["rejects"] == {}
    assert sum(split["positives"] for split in manifest["counts"]["splits"].values()) == 200
    check_against_files(output, sorted(source.glob("dicom/*.dcm")), source / "train-rle.csv")


@marks.exhaustive  # the phantoms' shards are compared above
def test_two_processes_make_the_same_of_all_real_images(real_data, convert, tmp_path):
    source, output = real_data / "siim", tmp_path / "siim" / "1.0.0"
    convert(source / "dicom" / "*.dcm", source / "train-rle.csv", output)
    twice = tmp_path / "two" / "siim" / "1.0.0"
    workers = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    convert(source / "dicom" / "*.dcm", source / "train-rle.csv", twice, *workers)
    assert contents(twice) == contents(output)


def test_the_organisers_sample_converts(real_data, convert, tmp_path):
    source, output = real_data / "siim_organiser", tmp_path / "organiser" / "1.0.0"
    manifest = convert(source / "dicom" / "*.dcm", source / "train-rle-sample.csv", output)
    assert manifest["counts"]["records"] == 10 and manifest["counts"]["rejects"] == {}
    assert sum(split["positives"] for split in manifest["counts"]["splits"].values()) == 5
    check_against_files(output, sorted(source.glob("dicom/*.dcm")), source / "train-rle-sample.csv")
