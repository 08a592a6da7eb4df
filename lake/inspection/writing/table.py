"""What is known of each image, in columns: the row of a record, and table.csv beside the pictures.

In: Records. Out: values by column; numbers are those of the record, -1 where unknown.
"""

import contextlib
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lake import InputError
from lake.inspection.writing.shards import Record
from lake.predictions import folder
from lake.records import example, manifest

TABLE = "table.csv"
IMAGE, MASK = "image", "mask"  # the columns with the paths of files, "" where there is none
# The columns of fields that have two values.
PAIRS = {
    "pixel_spacing_mm": ("row_spacing_mm", "column_spacing_mm"),
    "rescale": ("rescale_slope", "rescale_intercept"),
    "window": ("window_low", "window_high"),
}
NOT_COLUMNS = ("image", "mask", "original_rle")  # a cell of run lengths is too long for CSV readers
LONGEST_NAME = 255  # bytes, of a file


def columns(content: dict) -> dict[str, type]:
    """Return {column: the type of its values} of a lake with this manifest."""
    result = {"split": bytes}
    for name, (kind, _) in example.FIELDS.items():
        if name not in NOT_COLUMNS:
            result |= dict.fromkeys(PAIRS.get(name, [name]), kind)
    if "classes" in content:
        result["class"] = bytes
    return result | dict.fromkeys(_findings(content), int)


def _findings(content: dict) -> list[str]:
    return [f"finding: {name}" for name in manifest.findings(content)]


def values(record: Record, split: str, content: dict) -> dict:
    """Return {column: value} of a record: texts, whole numbers, float32."""
    result, fields = {"split": split}, record.fields
    for name, (kind, _) in example.FIELDS.items():
        if name in PAIRS:
            result |= zip(PAIRS[name], map(np.float32, fields[name]), strict=True)
        elif name not in NOT_COLUMNS:
            read = {bytes: bytes.decode, int: int, float: np.float32}[kind]
            result[name] = read(fields[name])
    if "classes" in content:
        result["class"] = content["classes"][fields["label"]] if fields["label"] >= 0 else ""
    return result | dict(zip(_findings(content), fields.get(example.FINDINGS, ()), strict=True))


@contextlib.contextmanager
def create(output: Path, content: dict) -> Iterator[Callable[[Record, str, str, str], None]]:
    """Yield a function that adds a row to the new table of a folder: of a record, its split, and
    the paths of its image and mask, "" where there is none."""
    with (output / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([IMAGE, MASK, *columns(content)])

        def add(record: Record, split: str, image: str, mask: str) -> None:
            writer.writerow([image, mask, *values(record, split, content).values()])

        yield add


def file_name(record: Record, suffix: str) -> str:
    """Return the name of a record's own file; raise InputError where it is too long for one."""
    name = folder.file_name(record.image_id, suffix)
    if len(name) > LONGEST_NAME:
        raise InputError(
            f"image {record.image_id}: {name} is too long for a file's name, which has at most "
            f"{LONGEST_NAME} bytes; write parquet or array_record"
        )
    return name
