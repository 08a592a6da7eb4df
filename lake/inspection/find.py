"""Which records a lake has of a patient, or of an image, whose ids it may hold as hashes alone.

In: a lake, ids as its files had them, and the key. Out: rows of the index.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.compute

from lake import InputError, ids
from lake.records import index, manifest, pseudonym

COLUMNS = (*index.PLACE, "image_id", "patient", "fold", "label")


def check_key(folder: Path, content: dict, key: bytes) -> bool:
    """Return whether it is certain that the lake was made with this key: its sidecars say so, where
    it has them. Raises InputError where it was made with another."""
    for shard in content["shards"]:
        try:
            text = manifest.sidecar_path(folder / shard["name"]).read_text(encoding="utf-8")
        except OSError:
            return False
        if (digest := json.loads(text).get("key")) is not None:
            if digest != pseudonym.digest(key):
                raise InputError(f"{folder} was made with another key; give --deidentify_key_file")
            return True
    return False


def find(
    folder: Path, content: dict, patients: Sequence[str], images: Sequence[str], key: bytes | None
) -> dict[str, pyarrow.Table]:
    """Return {the id as it was asked for: its rows of the index, in their order}. The frames of a
    file count as its image, unless the lake has hashes of image ids. `key`: None where nothing is
    hashed."""
    rows = index.in_order(index.read(folder, COLUMNS))
    result = {}
    for name in patients:
        text = pseudonym.hashed("patient", name, key) if manifest.is_hashed(content) else name
        result[f"patient {name}"] = _where(rows, "patient", rows["patient"], text)
    if images and manifest.has_image_hashes(content):
        for name in images:
            text = pseudonym.hashed("image", name, key)
            result[f"image {name}"] = _where(rows, "image_id", rows["image_id"], text)
    elif images:
        files = pyarrow.array([ids.without_frame(name) for name in rows["image_id"].to_pylist()])
        for name in images:
            column = rows["image_id"] if "#" in name else files
            result[f"image {name}"] = _where(rows, "image_id", column, name)
    return result


def _where(rows: pyarrow.Table, name: str, column, text: str) -> pyarrow.Table:
    """Return the rows where a column, or what was made of it, is a text; none for an empty one."""
    if not text:
        raise InputError(f"an empty {name} is no id: records without one have it")
    return rows.filter(pyarrow.compute.equal(column, text))


def text(content: dict, rows_by_id: dict[str, pyarrow.Table]) -> str:
    """Return what a user reads: a line per record under each id."""
    lines, num_shards = [], manifest.num_shards(content)
    for name, rows in rows_by_id.items():
        lines.append(f"{name}: {len(rows):,} records")
        for row in rows.to_pylist():
            split, number = row["split"], row["shard"]
            shard = manifest.shard_name(content["dataset"], split, number, num_shards[split])
            fold = f"  fold {row['fold']}" if row["fold"] >= 0 else ""
            place = f"{shard} record {row['position']}"
            lines.append(f"  {row['image_id']}  {split}{fold}  label {row['label']}  {place}")
    return "\n".join(lines)
