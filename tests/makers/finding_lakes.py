"""A lake whose images have several findings each, made of the records of another lake."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from lake.labels import rle
from lake.records import example, index, manifest, mask_png, tfrecord

# What they are of in a phantom: a lesion; one that is large; a number of its id; nothing.
NAMES = ("Effusion", "Mass/Nodule", "Pleural, Other", "Hernia")
LARGE_PX = 300  # of a phantom of 128 px


def truth_of(fields: dict) -> tuple[int, ...]:
    """Return the findings of a phantom's record, in the order of NAMES: 1, 0, or -1 for unknown."""
    lesion_px = fields["lesion_px"]
    number = int(hashlib.sha256(fields["image_id"]).hexdigest(), 16)
    is_large = int(lesion_px > LARGE_PX) if lesion_px or number % 2 else -1
    return int(lesion_px > 0), is_large, number % 3 - 1, -(number % 5 == 0)


def label_of(findings: tuple[int, ...]) -> int:
    """Return the label of an image with these findings."""
    if 1 in findings:
        return 1
    return -1 if -1 in findings else 0


def write(lake: Path, folder: Path, names: tuple[str, ...] = NAMES) -> None:
    """Write a lake with the images of `lake` and some of the findings of NAMES, in this order."""
    places = [NAMES.index(name) for name in names]
    content, rows = json.loads((lake / manifest.MANIFEST).read_text()), []
    for shard in content["shards"]:
        with (lake / shard["name"]).open("rb") as file:
            records = [example.decode(record) for record, _ in tfrecord.records(file)]
        data = io.BytesIO()
        number = int(shard["name"].rpartition("-of-")[0][-5:])
        for position, fields in enumerate(records):
            findings = tuple(np.array(truth_of(fields))[places].tolist())
            fields |= {"findings": findings, "label": label_of(findings), "has_mask": 0}
            fields |= {"lesion_px": -1, "original_rle": rle.EMPTY.encode()}
            fields["mask"] = mask_png.encode_empty(fields["height"], fields["width"])
            data.writelines(tfrecord.frame(example.encode(fields)))
            rows.append(index.row(fields, shard["split"], number, position))
        (folder / shard["name"]).write_bytes(data.getvalue())
        digest = hashlib.sha256(data.getvalue()).hexdigest()
        shard |= {"bytes": len(data.getvalue()), "sha256": digest}
    table = index.table(rows, index.schema(len(names)).names)
    pyarrow.parquet.write_table(table, folder / manifest.INDEX)
    for split, counts in content["counts"]["splits"].items():
        counts |= index.count(table.filter(pyarrow.compute.field("split") == split))
    version = manifest.schema_version(len(names))
    content |= {"findings": list(names), "schema_version": version, "dataset": "findings"}
    (folder / manifest.MANIFEST).write_text(manifest.to_json(content))


def records_of(lake: Path, split: str) -> list[dict]:
    """Return the fields of the records of a split of such a lake, in their order."""
    content = json.loads((lake / manifest.MANIFEST).read_text())
    records = []
    for shard in content["shards"]:
        if shard["split"] == split:
            with (lake / shard["name"]).open("rb") as file:
                records += [record for record, _ in tfrecord.records(file)]
    return [example.decode(record, len(content["findings"])) for record in records]
