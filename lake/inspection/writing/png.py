"""A lake as PNGs: images/SPLIT/ID.png, masks/SPLIT/ID.png and table.csv.

A mask is 0 or 255; where it is unknown there is no file.
"""

from collections.abc import Iterable
from pathlib import Path

from lake import picture
from lake.inspection.writing import table
from lake.inspection.writing.counts import Counts
from lake.inspection.writing.shards import Shard


def write(output: Path, content: dict, shards: Iterable[Shard]) -> Counts:
    """Write the records of the shards into the folder; return how many."""
    counts = Counts()
    with table.create(output, content) as add_row:
        for shard in shards:
            for name in ("images", "masks"):
                (output / name / shard.split).mkdir(parents=True, exist_ok=True)
            for record in shard.records:
                name = table.file_name(record, ".png")
                image, mask = f"images/{shard.split}/{name}", ""
                (output / image).write_bytes(record.to_png())
                if record.mask is not None:
                    mask = f"masks/{shard.split}/{name}"
                    (output / mask).write_bytes(picture.to_png(record.mask))
                add_row(record, shard.split, image, mask)
                counts.add(shard.split, record)
    return counts
