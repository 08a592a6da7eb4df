"""A lake as Parquet files that Hugging Face's datasets, pandas and DuckDB read:
data/SPLIT-00000-of-00004.parquet, a file per shard, a row per record.

Images keep their bytes; masks are PNGs of 0 and 255, null where they are unknown, and so is
`original_rle`.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet

from lake import picture
from lake.inspection.writing import table
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.shards import Record, Shard

# A group of rows is what readers hold at once, and this module.
GROUP_BYTES, GROUP_ROWS = 32 * 2**20, 256
PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
TYPES = {bytes: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float32()}
TYPE_NAMES = dict(zip(TYPES.values(), ("string", "int64", "float32"), strict=True))
RLE = "original_rle"


def schema(content: dict) -> pyarrow.Schema:
    """Return the schema of a lake with this manifest; its metadata tell Hugging Face's datasets
    which columns are images."""
    columns = {table.IMAGE: PICTURE, table.MASK: PICTURE}
    columns |= {name: TYPES[kind] for name, kind in table.columns(content).items()}
    columns[RLE] = pyarrow.string()
    features = {
        name: {"_type": "Image"}
        if kind == PICTURE
        else {"_type": "Value", "dtype": TYPE_NAMES[kind]}
        for name, kind in columns.items()
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.schema([*columns.items()], metadata)


def write(output: Path, content: dict, shards: Iterable[Shard]) -> Counts:
    """Write the records of the shards into the folder; return how many."""
    counts, columns = Counts(), schema(content)
    (output / "data").mkdir()
    for shard in shards:
        path = output / "data" / f"{shard.split}-{shard.number:05d}-of-{shard.count:05d}.parquet"
        with pyarrow.parquet.ParquetWriter(path, columns) as writer:
            rows, num_bytes = [], 0
            for record in shard.records:
                counts.add(shard.split, record)
                rows.append(_row(record, shard.split, content))
                num_bytes += record.num_bytes
                if num_bytes >= GROUP_BYTES or len(rows) == GROUP_ROWS:
                    writer.write_table(pyarrow.Table.from_pylist(rows, columns))
                    rows, num_bytes = [], 0
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, columns))
    return counts


def _row(record: Record, split: str, content: dict) -> dict:
    """Return {column: value} of a record."""
    mask = None if record.mask is None else picture.to_png(record.mask)
    return {
        table.IMAGE: _picture(record, record.fields["image"]),
        table.MASK: mask and _picture(record, mask),
        **table.values(record, split, content),
        RLE: None if mask is None else record.fields[RLE].decode(),
    }


def _picture(record: Record, data: bytes) -> dict:
    return {"bytes": data, "path": record.image_id}
