"""Whether anything is left of what erased.jsonl says was erased: records, rows of the index and of
sidecars, lines of rejects and of labels without an image.

In: a lake, and the key where somebody gave it. Out: Problems.
"""

import json
from pathlib import Path

import pyarrow

from lake.inspection import erase_shard
from lake.inspection.verify_shard import Problems
from lake.records import erased, example, manifest
from lake.records.erased import Erased

KIND = "erased"


def needs_key(content: dict, entries: list[dict]) -> bool:
    """Return whether image ids can be compared with the key alone: they are in the lake as they
    are, but hashed in erased.jsonl."""
    has_images = any(entry["images"] or entry["kind"] == "image" for entry in entries)
    has_ids = manifest.is_hashed(content) and not manifest.has_image_hashes(content)
    return has_images and has_ids


def check(
    folder: Path, content: dict, rows: pyarrow.Table | None, key: bytes | None, problems: Problems
) -> None:
    """Compare the index, sidecars and lists with erased.jsonl. The records are those of the index,
    or another check says so."""
    entries = erased.read(folder)
    if not entries:
        return
    key, gone = key if manifest.is_hashed(content) else b"", erased.union(entries)
    if rows is not None:
        pairs = zip(rows["image_id"].to_pylist(), rows["patient"].to_pylist(), strict=True)
        for position, (image_id, patient) in enumerate(pairs):
            if gone.has_record(image_id, patient, content, key):
                problems.add(KIND, f"{manifest.INDEX} row {position}: was erased, and is there")
    for shard in content["shards"]:
        path = manifest.sidecar_path(folder / shard["name"])
        if path.exists():
            sidecar = json.loads(path.read_text(encoding="utf-8"))
            _check_sidecar(sidecar, gone, content, key, problems)
    if key is not None:
        _check_lists(folder, gone, key, problems)


def _check_sidecar(
    sidecar: dict, gone: Erased, content: dict, key: bytes | None, problems: Problems
) -> None:
    """Check the rows and rejects of a shard's sidecar."""
    where = f"{manifest.SIDECARS}/{sidecar['name']}.json"
    for row in sidecar["rows"]:
        if gone.has_record(row["image_id"], row["patient"], content, key):
            problems.add(KIND, f"{where}: has a row of what was erased")
    lines = [*sidecar["rejects"], *(line for _, line in sidecar.get("rejected", ()))]
    if key is not None and any(gone.has_line(line, key) for line in lines):
        problems.add(KIND, f"{where}: has a reject of what was erased")


def _check_lists(folder: Path, gone: Erased, key: bytes, problems: Problems) -> None:
    """Check rejects.jsonl and labels_without_image.txt."""
    for name, has in ((manifest.REJECTS, gone.has_line), (manifest.ORPHANS, gone.has_text)):
        for number, line in enumerate(erased.lines_of_list(folder / name), start=1):
            if has(json.loads(line) if name == manifest.REJECTS else line, key):
                problems.add(KIND, f"{name} line {number}: is of what was erased")


def scan(folder: Path, content: dict, key: bytes, problems: Problems, seen: set) -> int:
    """Read every record of every shard in the folder, also of those that no manifest lists, but for
    files that were `seen` under another name; return the number of records."""
    gone, num_records = erased.union(erased.read(folder)), 0
    for path in sorted(folder.glob("*.tfrecord-*")):
        status = path.stat()
        if (inode := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(inode)
        for position, record in erase_shard.records(path):
            fields = example.decode(record, len(manifest.findings(content)))
            ids = fields["image_id"].decode(), fields["patient"].decode()
            if gone.has_record(*ids, content, key):
                problems.add(KIND, f"{path} record {position}: was erased, and is there")
            num_records += 1
    return num_records
