"""python -m lake verify: a whole lake is ok; every kind of damage is reported by its name."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from lake.__main__ import main
from lake.inspection import verify_shard
from lake.labels import rle
from lake.records import example, index, manifest, mask_png, tfrecord


@pytest.fixture
def copy(lake, tmp_path) -> Path:
    """A lake to damage."""
    return Path(shutil.copytree(lake, tmp_path / "phantoms" / "1.0.0"))


@pytest.fixture
def run_verify(capsys) -> Callable[..., tuple[set[str], str]]:
    """Run verify; return the kinds of the problems it printed, and all that it printed."""

    def run(folder: Path, *options: str) -> tuple[set[str], str]:
        code = main(["verify", str(folder), *options])
        output = capsys.readouterr().out
        lines = output.splitlines()
        if code == 0:
            assert lines[-1] == "ok"
            return set(), output
        assert code == 1
        assert "ok" not in lines
        return {line.split(":")[0] for line in lines[4:-1]}, output

    return run


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shard_paths(folder: Path) -> list[Path]:
    return [folder / shard["name"] for shard in manifest.load(str(folder))["shards"]]


def payloads(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        return [record for record, _ in tfrecord.records(file)]


def write_payloads(path: Path, records: list[bytes]) -> None:
    path.write_bytes(b"".join(part for record in records for part in tfrecord.frame(record)))


def reseal(folder: Path) -> None:
    """States the checksums, sizes, index and TFDS files of the shards as they now are."""
    content, rows, numbers = manifest.load(str(folder)), [], {}
    for shard in content["shards"]:
        path, split = folder / shard["name"], shard["split"]
        number = numbers[split] = numbers.get(split, -1) + 1
        records = payloads(path)
        shard["records"], shard["bytes"] = len(records), path.stat().st_size
        shard["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        for position, fields in enumerate(map(example.decode, records)):
            rows.append(index.row(fields, split, number, position))
    pyarrow.parquet.write_table(index.table(rows), folder / manifest.INDEX)
    (folder / manifest.MANIFEST).write_text(json.dumps(content))
    info = manifest.dataset_info_json(content["dataset"], content["version"], content["shards"])
    (folder / "dataset_info.json").write_text(json.dumps(info))


def alter(folder: Path, change: Callable[[dict], None], is_wanted=lambda fields: True) -> str:
    """Change the fields of the first wanted record and makes all checksums right again; return
    its image id."""
    for path in shard_paths(folder):
        records = payloads(path)
        for position, fields in enumerate(map(example.decode, records)):
            if is_wanted(fields):
                change(fields)
                records[position] = example.encode(fields)
                write_payloads(path, records)
                reseal(folder)
                return fields["image_id"].decode()
    raise ValueError("no such record")


def is_positive(fields: dict) -> bool:
    return fields["label"] == 1


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("options", [[], ["--quick"], ["--processes", "2"]])
def test_a_whole_lake_is_ok(lake, run_verify, options):
    kinds, output = run_verify(lake, *options)
    assert not kinds
    assert "40 records in" in output


def test_the_helpers_of_these_tests_alone_damage_nothing(copy, run_verify):
    alter(copy, lambda fields: None)
    assert run_verify(copy)[0] == set()


def test_a_flipped_byte(copy, run_verify):
    path = shard_paths(copy)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for options in ([], ["--quick"], ["--processes", "2"]):
        kinds, output = run_verify(copy, *options)
        assert kinds == {"shard-sha256", "record-checksum"}
        assert path.name in output


def test_a_truncated_shard(copy, run_verify):
    path = shard_paths(copy)[1]
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    kinds, output = run_verify(copy)
    assert kinds == {"shard-bytes", "shard-sha256", "frame"}
    assert f"expected {len(data):,} by the manifest, found {len(data) - 100:,}" in output


def test_a_wrong_length(copy, run_verify):
    path = shard_paths(copy)[1]
    data = bytearray(path.read_bytes())
    data[7] ^= 255  # a record of 2**63 bytes must not be read into memory
    path.write_bytes(data)
    assert run_verify(copy)[0] == {"shard-sha256", "frame"}


def test_a_missing_and_an_unlisted_shard(copy, run_verify):
    path = shard_paths(copy)[0]
    path.rename(path.with_name("phantoms-more.tfrecord-00000-of-00001"))
    kinds, output = run_verify(copy)
    assert kinds == {"shard-missing", "shard-unlisted"}
    assert f"shard-missing: {path.name}" in output


def test_swapped_records(copy, run_verify):
    path = next(path for path in shard_paths(copy) if len(payloads(path)) > 1)
    first, second, *others = payloads(path)
    write_payloads(path, [second, first, *others])
    kinds, output = run_verify(copy, "--quick")
    assert kinds == {"shard-sha256", "index"}
    assert "its image_id is" in output


def test_a_lost_record(copy, run_verify):
    path = shard_paths(copy)[0]
    write_payloads(path, payloads(path)[:-1])
    assert run_verify(copy)[0] == {"shard-bytes", "shard-sha256", "shard-records", "index"}


def test_a_shard_that_is_not_of_examples(copy, run_verify):
    path = shard_paths(copy)[0]
    count = len(payloads(path))
    write_payloads(path, [b"abc"] * count)
    kinds, output = run_verify(copy)
    assert kinds == {"shard-bytes", "shard-sha256", "fields"}
    assert "not a tf.train.Example" in output


def test_an_image_twice(copy, run_verify):
    first, *_, last = shard_paths(copy)
    write_payloads(last, [*payloads(last), payloads(first)[0]])
    reseal(copy)
    kinds, output = run_verify(copy)
    assert {"image-twice", "counts", "patient-across-splits"} == kinds
    name = example.decode(payloads(first)[0])["image_id"].decode()
    assert f"image-twice: image_id {name}: test shard 0 record 0, val shard" in output


def test_a_patient_across_splits(copy, run_verify):
    patient = example.decode(payloads(shard_paths(copy)[-1])[0])["patient"]
    # Where the patient has other images, one split loses a patient, which the counts show too.
    alter(copy, lambda fields: fields.update(patient=patient))
    kinds, output = run_verify(copy, "--quick")
    assert "patient-across-splits" in kinds and kinds <= {"patient-across-splits", "counts"}
    assert patient.decode() in output


def test_a_patient_across_folds(copy, run_verify):
    patient = b"somebody"
    for fold, path in enumerate(shard_paths(copy)[-2:]):
        fields = example.decode(payloads(path)[0])
        fields.update(patient=patient, fold=fold)
        write_payloads(path, [example.encode(fields), *payloads(path)[1:]])
    reseal(copy)
    kinds, output = run_verify(copy, "--quick")
    assert "patient-across-folds" in kinds and kinds <= {"patient-across-folds", "counts"}
    assert "(fold 0)" in output and "(fold 1)" in output


def test_an_edited_index(copy, run_verify):
    table = pyarrow.parquet.read_table(copy / manifest.INDEX)
    ages = table["age"].to_pylist()
    ages[3] += 1
    column = table.column_names.index("age")
    table = table.set_column(column, index.SCHEMA.field("age"), pyarrow.array(ages))
    pyarrow.parquet.write_table(table, copy / manifest.INDEX)
    kinds, output = run_verify(copy, "--quick")
    assert kinds == {"index"}
    assert f"its age is {ages[3] - 1}, the index has {ages[3]}" in output


@pytest.mark.parametrize("damage", ["row", "column", "type", "file"])
def test_an_incomplete_index(copy, run_verify, damage):
    path = copy / manifest.INDEX
    table = pyarrow.parquet.read_table(path)
    match damage:
        case "row":
            pyarrow.parquet.write_table(table.slice(1), path)
        case "column":
            pyarrow.parquet.write_table(table.drop_columns("sex"), path)
        case "type":
            shards = table["shard"].cast(pyarrow.int64())
            pyarrow.parquet.write_table(table.set_column(1, "shard", shards), path)
        case "file":
            path.write_bytes(b"PAR1")
    kinds, _ = run_verify(copy, "--quick")
    assert "index" in kinds and kinds <= {"index", "counts"}


def test_edited_counts(copy, run_verify):
    edit(copy / manifest.MANIFEST, lambda m: m["counts"]["splits"]["val"].update(positives=99))
    kinds, output = run_verify(copy, "--quick")
    assert kinds == {"counts"}
    assert "counts.splits.val.positives: 99 in the manifest" in output


def test_a_lost_reject(copy, run_verify):
    line = {"path": "a.dcm", "image_id": "a", "reason": "not-dicom", "message": "?"}
    (copy / manifest.REJECTS).write_text(json.dumps(line) + "\n")

    def reject(content: dict) -> None:
        content["counts"]["rejects"] = {"not-dicom": 1}
        content["counts"]["images"] += 1

    edit(copy / manifest.MANIFEST, reject)
    assert run_verify(copy, "--quick")[0] == set()
    (copy / manifest.REJECTS).write_text("")
    kinds, output = run_verify(copy, "--quick")
    assert kinds == {"rejects"}
    assert "not-dicom: 1 in the manifest, 0 listed" in output


def test_edited_tfds_files(copy, run_verify):
    def shorten(info: dict) -> None:
        info["splits"][0]["shardLengths"][0] = "999"

    edit(copy / "dataset_info.json", shorten)
    edit(copy / "features.json", lambda content: content["content"]["features"].pop("age"))
    kinds, output = run_verify(copy, "--quick")
    assert kinds == {"dataset-info", "features"}
    assert "dataset_info.json.splits[0].shardLengths[0]" in output


DAMAGES = {
    "more of the mask": (
        lambda fields: fields.update(mask=png(np.full((128, 128), 255, np.uint8))),
        {"lesion-px", "run-lengths"},
    ),
    "a grey mask": (lambda f: f.update(mask=png(mask_png.decode(f["mask"]) // 2)), {"mask"}),
    "a small mask": (
        lambda fields: fields.update(mask=png(np.zeros((64, 128), np.uint8))),
        {"mask"},
    ),
    "no mask": (lambda fields: fields.update(mask=b"none"), {"mask"}),
    "half an image": (
        lambda fields: fields.update(image=fields["image"][: len(fields["image"]) // 2]),
        {"image"},
    ),
    "16 bits": (
        lambda f: f.update(image=png(np.zeros((128, 128), np.uint16)), encoding=b"png"),
        {"image"},
    ),
    "colour": (
        lambda f: f.update(image=png(np.zeros((128, 128, 3), np.uint8)), encoding=b"png"),
        {"image"},
    ),
    "another encoding": (lambda fields: fields.update(encoding=b"png"), {"image"}),
    "an unknown encoding": (lambda fields: fields.update(encoding=b"webp"), {"image"}),
    "another size": (lambda fields: fields.update(height=64), {"image", "mask"}),
    "another lesion": (lambda fields: fields.update(original_rle=b"0 7"), {"run-lengths"}),
    "impossible run lengths": (lambda f: f.update(original_rle=b"1 2 3"), {"run-lengths"}),
    "a lesion that the label denies": (lambda fields: fields.update(label=0), {"label", "counts"}),
    "an impossible label": (lambda fields: fields.update(label=2), {"label"}),
    "a mask that is unknown": (lambda fields: fields.update(has_mask=0), {"label", "counts"}),
    "a size that is wrong": (
        lambda fields: fields.update(lesion_px=fields["lesion_px"] + 1),
        {"lesion-px", "counts"},
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_record_that_contradicts_itself(copy, run_verify, name):
    change, kinds = DAMAGES[name]
    image_id = alter(copy, change, is_positive)
    actual, output = run_verify(copy)
    assert actual == kinds
    assert f"({image_id}): " in output
    quick = {"label", "counts"}
    assert run_verify(copy, "--quick")[0] == kinds & quick


def test_many_problems_are_counted_not_listed():
    problems, more = verify_shard.Problems(), verify_shard.Problems()
    for number in range(15):
        problems.add("mask", str(number))
        more.add("mask", str(number))
    problems.update(more)
    lines = problems.lines()
    assert len(lines) == verify_shard.MAX_LISTED + 1
    assert lines[-1] == "mask: and 10 more"


def test_without_a_mask_the_lesion_is_unknown():
    fields = {"label": 1, "has_mask": 0, "lesion_px": -1, "original_rle": rle.EMPTY.encode()}
    assert list(verify_shard.label_problems(fields)) == []
    assert list(verify_shard.label_problems({**fields, "lesion_px": 0}))
    # A lesion too small for a stored pixel.
    tiny = {"label": 1, "has_mask": 1, "lesion_px": 0, "original_rle": b"0 1"}
    assert list(verify_shard.label_problems(tiny)) == []


def test_decode_is_the_inverse_of_encode(lake):
    for record in payloads(shard_paths(lake)[0]):
        assert example.encode(example.decode(record)) == record
    with pytest.raises(ValueError, match="image_id: expected 1 in its bytes_list, found nothing"):
        example.decode(b"")


def test_chosen_records_are_those_at_their_positions(lake):
    path = max(shard_paths(lake), key=lambda path: path.stat().st_size)
    records = payloads(path)
    with path.open("rb") as file:
        assert list(tfrecord.records_at(file, [len(records) - 1, 1])) == [
            (1, records[1]),
            (len(records) - 1, records[-1]),
        ]
    with path.open("rb") as file, pytest.raises(tfrecord.FrameError, match="ends before record"):
        list(tfrecord.records_at(file, [len(records)]))
