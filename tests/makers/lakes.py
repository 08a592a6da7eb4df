"""The content of a converted lake, read without the project's reader."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image

from lake.records import example
from trainer.data.record import parse_record


def records(folder: Path) -> list[dict]:
    """Return the fields of every record of a lake, with its split, shard and position."""
    import tensorflow as tf

    rows = []
    for path in sorted(folder.glob("*.tfrecord-*")):
        split, shard = path.name.split(".")[0].split("-")[1], int(path.name.split("-")[-3])
        for position, record in enumerate(tf.data.TFRecordDataset(str(path))):
            fields = {
                name: value.numpy() for name, value in parse_record(record, example.FIELDS).items()
            }
            rows.append({"split": split, "shard": shard, "position": position, **fields})
    return rows


def pixels(png_or_jpeg: bytes) -> np.ndarray:
    import tensorflow as tf

    if png_or_jpeg.startswith(b"\xff\xd8"):
        return tf.io.decode_jpeg(png_or_jpeg, channels=1, dct_method="INTEGER_ACCURATE").numpy()[
            ..., 0
        ]
    with Image.open(io.BytesIO(png_or_jpeg)) as image:
        return np.asarray(image.convert("L") if image.mode == "1" else image)  # a mask


def index(folder: Path) -> list[dict]:
    return pyarrow.parquet.read_table(folder / "index.parquet").to_pylist()


def rejects(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord-*")}
