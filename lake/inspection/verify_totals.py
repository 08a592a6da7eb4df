"""The manifest's counts, rejects.jsonl and the two TFDS files, against the index and each other."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.compute

from lake.inspection.verify_shard import Problems
from lake.records import index, manifest


def check_counts(rows: pyarrow.Table, content: dict, problems: Problems) -> None:
    """Compare the manifest's counts with the index's rows."""
    counts, by_index = content["counts"], {}
    for split in rows["split"].unique().to_pylist():
        members = rows.filter(pyarrow.compute.field("split") == split)
        patients = set(members["patient"].unique().to_pylist()) - {""}
        by_index[split] = index.count(members, len(content.get("classes", ())))
        by_index[split]["patients"] = len(patients)
    stated = counts["splits"]
    for where, expected, came in differences(by_index, stated, "counts.splits", known_only=True):
        problems.add("counts", f"{where}: {came} in the manifest, {expected} by the index")
    if counts["records"] != len(rows):
        message = f"{counts['records']} in the manifest, {len(rows)} by the index"
        problems.add("counts", f"counts.records: {message}")
    left_out = counts.get("slices_left_out", 0)
    outcome = counts["records"] + sum(counts["rejects"].values()) + left_out
    if counts["images"] != outcome:
        message = f"{counts['images']}, but records, rejects and slices left out make {outcome}"
        problems.add("counts", f"counts.images: {message}")


def check_rejects(folder: Path, content: dict, problems: Problems) -> None:
    found, path = Counter(), folder / manifest.REJECTS
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    reject = json.loads(line)
                    found[reject["reason"]] += reject.get("images", 1)
                except (ValueError, KeyError, TypeError, AttributeError):
                    message = f"{manifest.REJECTS} line {number}: expected an object with a reason"
                    problems.add("rejects", message)
    except (OSError, UnicodeDecodeError) as error:
        problems.add("rejects", f"{manifest.REJECTS} cannot be read: {error}")
        return
    stated = content["counts"]["rejects"]
    for reason in sorted(stated.keys() | found.keys()):
        if stated.get(reason, 0) != found[reason]:
            message = f"{stated.get(reason, 0)} in the manifest, {found[reason]} listed"
            problems.add("rejects", f"{reason}: {message}")


def check_tfds(folder: Path, content: dict, problems: Problems) -> None:
    info = manifest.dataset_info_json(content["dataset"], content["version"], content["shards"])
    features = manifest.features_json(content["dtype"])
    for name, expected in ((manifest.FEATURES, features), (manifest.DATASET_INFO, info)):
        kind = name.removesuffix(".json").replace("_", "-")
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.add(kind, f"{name} cannot be read: {error}")
            continue
        for where, wanted, came in differences(expected, found, name):
            problems.add(kind, f"{where}: expected {wanted}, found {came}")


def differences(expected, found, where: str, known_only: bool = False) -> Iterator[tuple]:
    """(where, expected, found) of every difference between two JSON values; with `known_only`,
    keys that only `found` has do not count."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = expected if known_only else expected | found
        for key in keys:
            below = expected.get(key, "nothing"), found.get(key, "nothing")
            yield from differences(*below, f"{where}.{key}", known_only)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, below in enumerate(zip(expected, found, strict=True)):
            yield from differences(*below, f"{where}[{number}]", known_only)
    elif expected != found:
        yield where, expected, found
