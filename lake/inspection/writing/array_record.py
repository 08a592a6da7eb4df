"""A lake as ArrayRecords, in which Grain finds any record at once, and the files by which TFDS
reads them. A record has the fields that it has in the lake. Its mask is a PNG of 8 bits: of one bit
some decoders make 0 and 1, others 0 and 255.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lake import picture
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.shards import Record, Shard
from lake.records import example, manifest
from lake.terminal import extras

OPTIONS = "group_size:1"  # which Grain expects: each record by itself
FORMAT = "array_record"


def check() -> None:
    """Raise InputError where the package is absent."""
    extras.check_installed("--to array_record", "array_record", extra="array-record")


def _mask(record: Record) -> bytes:
    """Return the PNG of a mask, 0 and 255; where it is unknown, of zeros, as `has_mask` says."""
    mask = np.zeros(record.pixels.shape, np.uint8) if record.mask is None else record.mask
    return picture.to_png(mask)


def write(output: Path, content: dict, shards: Iterable[Shard]) -> Counts:
    """Write the records of the shards into the folder; return how many."""
    from array_record.python.array_record_module import ArrayRecordWriter

    counts, entries = Counts(), []
    for shard in shards:
        path = output / shard.entry["name"].replace(".tfrecord-", f".{FORMAT}-")
        writer = ArrayRecordWriter(str(path), OPTIONS)
        for record in shard.records:
            writer.write(example.encode(record.fields | {"mask": _mask(record)}))
            counts.add(shard.split, record)
        writer.close()
        entries.append(shard.entry | {"bytes": path.stat().st_size})
    info = manifest.dataset_info_json(content["dataset"], content["version"], entries)
    files = {
        manifest.FEATURES: manifest.features_json(
            content["dtype"], len(manifest.findings(content))
        ),
        manifest.DATASET_INFO: info | {"fileFormat": FORMAT},
    }
    for name, text in files.items():
        (output / name).write_text(manifest.to_json(text), encoding="utf-8")
    return counts
