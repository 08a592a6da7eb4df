"""What is wrong with a lake that is read: its manifest, its index, a shard, a record; each is one
message that names the file and the way."""

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet
import pytest
import tensorflow as tf
from makers.marks import exhaustive

from lake import InputError
from lake.records import index, manifest
from trainer.config.run import Config, Data
from trainer.data import damage, splits
from trainer.data.batches import evaluation_batches, training_batches
from trainer.training.run import build_run

SETTINGS = Data(side=128, batch_size=4, group_shards=2)


def wrong_checksum(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    first = int.from_bytes(content[:8], "little") + 16  # bytes of the first record and its frame
    content[first + 300] ^= 1
    shard.write_bytes(content)


def rewrite(shard: Path, change) -> None:
    """The shard with other records, their checksums right."""
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in change(records):
            writer.write(record)


def half_an_image(shard: Path) -> None:
    def change(records):
        decoded = tf.train.Example.FromString(records[1])
        image = decoded.features.feature["image"].bytes_list
        image.value[0] = image.value[0][: len(image.value[0]) // 8]
        return [records[0], decoded.SerializeToString(), *records[2:]]

    rewrite(shard, change)


@pytest.mark.parametrize(
    ("damaging", "expected"),
    [
        (wrong_checksum, "record 1, counted from 0, is damaged: .*corrupted record"),
        pytest.param(half_an_image, "record 1, counted from 0, is damaged", marks=exhaustive),
        pytest.param(
            *(
                lambda shard: rewrite(shard, lambda records: records[:-1]),
                r"\d records, expected \d",
            ),
            marks=exhaustive,
        ),
        pytest.param(Path.unlink, "no such file", marks=exhaustive),
    ],
)
def test_a_damaged_shard_is_named(lake, tmp_path, damaging, expected):
    shutil.copytree(lake, tmp_path / "lake")
    folder = str(tmp_path / "lake")
    shard = sorted(tmp_path.glob("lake/*-train.tfrecord-*"))[0]
    damaging(shard)
    config = Config(model={"kind": "unet"}, data=SETTINGS)
    split = splits.named_split(manifest.load(folder), folder, "train")
    for batches in (
        training_batches(split, SETTINGS, 0, 1, 0, 8),
        evaluation_batches(split, SETTINGS),
    ):
        with (
            pytest.raises(InputError, match=f"{shard}: {expected}.*; remove this file"),
            damage.locate_errors(config, folder),
        ):
            list(batches)


def another_label(shard: Path) -> None:
    """The first record with another label: as many bytes, and a right checksum of its own."""

    def change(records):
        decoded = tf.train.Example.FromString(records[0])
        label = decoded.features.feature["label"].int64_list
        label.value[0] = 1 - label.value[0]
        return [decoded.SerializeToString(deterministic=True), *records[1:]]

    size = shard.stat().st_size
    rewrite(shard, change)
    assert shard.stat().st_size == size


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damaging", "expected"),
    [
        (Path.unlink, "no such file"),
        (another_label, "its bytes are not those that manifest.json lists"),
        (lambda shard: rewrite(shard, lambda records: records[:-1]), r"\d records, expected \d"),
        *(
            pytest.param(damaging, expected, marks=exhaustive)
            for damaging, expected in (
                (cut, "is damaged"),
                (lambda shard: rewrite(shard, lambda _: []), r"0 records, expected \d"),
                (lambda shard: rewrite(shard, lambda r: [*r, r[0]]), r"\d+ records, expected \d"),
                (lambda shard: shard.write_bytes(b""), r"0 records, expected \d"),
            )
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", pytest.param("val", marks=exhaustive)])
def test_a_shard_of_other_bytes_is_named_before_the_first_step(
    lake, tmp_path, damaging, expected, split
):
    shutil.copytree(lake, tmp_path / "lake")
    shard = sorted(tmp_path.glob(f"lake/*-{split}.tfrecord-*"))[-1]
    damaging(shard)
    data = SETTINGS.model_copy(update={"more_lakes": {}})
    config = Config(model={"kind": "unet"}, data=data, lake=str(tmp_path / "lake"))
    with pytest.raises(InputError, match=f"{shard}: .*{expected}.*; remove this file"):
        build_run(config)


def test_a_run_that_goes_on_compares_sizes(lake, tmp_path):
    """Its first start has compared the bytes."""
    folder = str(shutil.copytree(lake, tmp_path / "lake"))
    shard, content = sorted(tmp_path.glob("lake/*-train.tfrecord-*"))[-1], manifest.load(folder)
    another_label(shard)
    damage.check_local_shards(content, folder, ["train"], SETTINGS, is_resumed=True)
    with pytest.raises(InputError, match=f"{shard}: its bytes are not those"):
        damage.check_local_shards(content, folder, ["train"], SETTINGS, is_resumed=False)
    cut(shard)
    with pytest.raises(InputError, match=f"{shard}: .*is damaged"):
        damage.check_local_shards(content, folder, ["train"], SETTINGS, is_resumed=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
def test_a_shard_of_another_user_is_named(lake):
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(lake, Path(name, "lake"))
        Path(name).chmod(0o755)
        shard = sorted(folder.glob("*-train.tfrecord-*"))[0]
        shard.chmod(0o600)
        content = manifest.load(str(folder))
        split = splits.named_split(content, str(folder), "train")
        config = Config(model={"kind": "unet"}, data=SETTINGS)
        message = f"{shard}: permission denied; let this user read it"
        os.seteuid(65534)
        try:
            with pytest.raises(InputError, match=message):
                damage.check_shards(content, str(folder), ["train"], SETTINGS)
            with (
                pytest.raises(InputError, match=message),
                damage.locate_errors(config, str(folder)),
            ):
                list(evaluation_batches(split, SETTINGS))
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("text", ["[1]", "{}", "{", "null"])
def test_a_damaged_manifest_is_an_input_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=f"{tmp_path}"):
        manifest.load(str(tmp_path))


def test_an_index_without_a_column_is_an_input_error(lake, tmp_path):
    table = index.read(lake).drop_columns(["fold"])
    pyarrow.parquet.write_table(table, tmp_path / "index.parquet")
    with pytest.raises(InputError, match="index.parquet cannot be read: No match") as raised:
        index.read(tmp_path, ["image_id", "fold"], ["train"])
    assert "\n" not in str(raised.value)


def test_an_error_of_another_kind_passes(lake):
    config = Config(model={"kind": "unet"}, data=SETTINGS)
    with pytest.raises(tf.errors.InvalidArgumentError), damage.locate_errors(config, str(lake)):
        tf.reshape(tf.zeros([3]), [2])
