"""index.parquet: one row per record of a lake, without images; the one place that reads and counts
it.

In: a lake's folder, or rows as the shard writer made them. Out: a pyarrow Table, and its counts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow
import pyarrow.parquet

from lake import InputError, storage
from lake.records import example, manifest

PLACE = ("split", "shard", "position")  # `shard` counts from 0 in each split
SCHEMA = pyarrow.schema(
    [
        *(("split", pyarrow.string()), ("shard", pyarrow.int32()), ("position", pyarrow.int32())),
        *((name, pyarrow.string()) for name in ("image_id", "patient")),
        *((name, pyarrow.int64()) for name in ("fold", "label", "has_mask", "lesion_px")),
        *((name, pyarrow.string()) for name in ("view", "sex")),
        ("age", pyarrow.int64()),
    ]
)
COUNTED = ("label", "has_mask", "lesion_px")  # the columns that `count` needs
FINDINGS = pyarrow.field(example.FINDINGS, pyarrow.list_(pyarrow.int8()))  # of a multi-label lake


def schema(num_findings: int = 0) -> pyarrow.Schema:
    """Return the schema of the index of a lake of so many findings."""
    return SCHEMA.append(FINDINGS) if num_findings else SCHEMA


def row(fields: dict, split: str, shard: int, position: int) -> dict:
    """Return the row of a record with these fields (lake.records.example.fields_of) at its
    place."""
    result = {"split": split, "shard": shard, "position": position}
    names = schema(len(fields.get(example.FINDINGS, ()))).names
    for name in names[len(PLACE) :]:
        value = fields[name]
        result[name] = value.decode() if isinstance(value, bytes) else value
    return result


def table(rows: list[dict], columns: Sequence[str] = SCHEMA.names) -> pyarrow.Table:
    """Return rows as a Table with these of the columns of `schema`."""
    every_column = schema(num_findings=1)
    return pyarrow.Table.from_pylist(rows, pyarrow.schema([every_column.field(c) for c in columns]))


def write(file: Path | BinaryIO, rows_of_shards: Iterable[list[dict]], num_findings: int) -> None:
    """Write index.parquet, a shard at a time, because ten million rows do not fit into a worker's
    memory."""
    columns = schema(num_findings)
    with pyarrow.parquet.ParquetWriter(file, columns) as writer:
        for rows in rows_of_shards:
            writer.write_table(table(rows, columns.names))


def read(
    folder: Path, columns: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> pyarrow.Table:
    """Return the index of the lake in `folder`, in the file's order: these columns of it, and the
    rows of these splits; None means all. Raises InputError where it cannot be read."""
    path = folder / manifest.INDEX
    try:
        with storage.local(path) as file:
            return read_file(file, columns, splits)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]  # the rest lists all columns
        raise InputError(f"{path} cannot be read: {reason}") from None


def read_file(
    file: Path | BinaryIO, columns: Sequence[str] | None = None, splits: Sequence[str] | None = None
) -> pyarrow.Table:
    """Return the index as `read` does, from the file itself, which may be open; raises OSError or
    pyarrow.ArrowException."""
    filters = None if splits is None else [("split", "in", list(splits))]
    return pyarrow.parquet.read_table(file, columns=columns and list(columns), filters=filters)


def in_order(rows: pyarrow.Table) -> pyarrow.Table:
    """Return the rows sorted by PLACE, which is the order of a split's shards and records."""
    return rows.sort_by([(name, "ascending") for name in PLACE])


def count(rows: pyarrow.Table, num_classes: int = 0) -> dict:
    """Return the manifest's counts of a split, all but its patients, from rows with the columns
    COUNTED; `num_classes` is the number of class folders, 0 in a lake without them."""
    label, has_mask, lesion_px = (rows[name].to_numpy() for name in COUNTED)
    counts = {
        "records": len(rows),
        "positives": int((label > 0).sum()),
        "negatives": int((label == 0).sum()),
        "unknown": int((label < 0).sum()),
        "with_mask": int(has_mask.sum()),
        "lesion_pixels": int(np.maximum(lesion_px, 0).sum()),
    }
    if num_classes:
        counts["classes"] = [int((label == number).sum()) for number in range(num_classes)]
    return counts


def findings(rows: pyarrow.Table, num_findings: int) -> np.ndarray:
    """Return the values of the findings of rows with that column, int8 [N, findings]."""
    values = rows[example.FINDINGS].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(rows), num_findings)


def count_findings(rows: pyarrow.Table, num_findings: int) -> np.ndarray:
    """Return how many of the rows have each finding in each of
    manifest.FINDING_STATES, int64 [findings, 3]."""
    values = findings(rows, num_findings)
    return np.stack(
        [(values == state).sum(axis=0) for state in manifest.FINDING_STATES.values()], axis=1
    )


def named_counts(counts: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the manifest's counts of the findings of a split, {name: {state: images}}, from those
    that `count_findings` returns."""
    rows = zip(names, counts.tolist(), strict=True)
    return {
        name: dict(zip(manifest.FINDING_STATES, numbers, strict=True)) for name, numbers in rows
    }


def total(counts: Sequence[dict]) -> dict:
    """Return the sums of one or more dicts as `count` returns them, key by key."""
    return {key: np.sum([part[key] for part in counts], axis=0).tolist() for key in counts[0]}
