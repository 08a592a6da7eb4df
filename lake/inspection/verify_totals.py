"""The checks of a lake's totals: the manifest's counts, rejects.jsonl and the two TFDS files,
against the index and each other."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.compute

from lake import exam
from lake.inspection.verify_shard import Problems
from lake.records import index, manifest


def check_counts(rows: pyarrow.Table, content: dict, problems: Problems) -> None:
    """Compare the manifest's counts with the index's rows."""
    counts, splits = content["counts"], {}
    for split in rows["split"].unique().to_pylist():
        members = rows.filter(pyarrow.compute.field("split") == split)
        patients = set(members["patient"].unique().to_pylist()) - {""}
        splits[split] = index.count(members, len(content.get("classes", ())))
        splits[split]["patients"] = len(patients)
    if names := manifest.findings(content):
        _check_findings(rows, names, content, problems)
    by_index = {"splits": splits, "records": len(rows)}
    for where, expected, actual in differences(by_index, counts, "counts", all_keys=False):
        problems.add("counts", f"{where}: {actual} in the manifest, {expected} by the index")
    if "exams" in counts:
        num_shown = sum(counts["exams"][exam.MODALITIES].values())
        if num_shown != counts["records"]:
            message = f"{num_shown} images in the manifest, {counts['records']} records"
            problems.add("counts", f"counts.exams.{exam.MODALITIES}: {message}")
    left_out = counts.get("slices_left_out", 0)
    num_outcomes = counts["records"] + sum(counts["rejects"].values()) + left_out
    if counts["images"] != num_outcomes:
        message = f"{counts['images']}, but records, rejects and slices left out are {num_outcomes}"
        problems.add("counts", f"counts.images: {message}")


def _check_findings(
    rows: pyarrow.Table, names: list[str], content: dict, problems: Problems
) -> None:
    """Compare the manifest's counts of each finding with the index's rows."""
    by_index = {}
    for split in rows["split"].unique().to_pylist():
        members = rows.filter(pyarrow.compute.field("split") == split)
        by_index[split] = index.named_counts(index.count_findings(members, len(names)), names)
    in_manifest = content["statistics"].get("findings", {})
    where = "statistics.findings"
    for place, expected, actual in differences(by_index, in_manifest, where):
        problems.add("counts", f"{place}: {actual} in the manifest, {expected} by the index")


def check_rejects(folder: Path, content: dict, problems: Problems) -> None:
    """Compare the manifest's rejects with rejects.jsonl, reason by reason."""
    in_file, path = Counter(), folder / manifest.REJECTS
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    reject = json.loads(line)
                    in_file[reject["reason"]] += reject.get("images", 1)
                except (ValueError, KeyError, TypeError, AttributeError):
                    message = f"{manifest.REJECTS} line {number}: expected an object with a reason"
                    problems.add("rejects", message)
    except (OSError, UnicodeDecodeError) as error:
        problems.add("rejects", f"{manifest.REJECTS} cannot be read: {error}")
        return
    in_manifest = Counter(content["counts"]["rejects"])
    for reason in sorted(in_manifest.keys() | in_file.keys()):
        if in_manifest[reason] != in_file[reason]:
            message = f"{in_manifest[reason]} in the manifest, {in_file[reason]} listed"
            problems.add("rejects", f"{reason}: {message}")


def check_tfds(folder: Path, content: dict, problems: Problems) -> None:
    """Compare the two TFDS files with those that the manifest gives."""
    info = manifest.dataset_info_json(content["dataset"], content["version"], content["shards"])
    features = manifest.features_json(content["dtype"], len(manifest.findings(content)))
    for name, expected in ((manifest.FEATURES, features), (manifest.DATASET_INFO, info)):
        kind = name.removesuffix(".json").replace("_", "-")
        try:
            actual = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.add(kind, f"{name} cannot be read: {error}")
            continue
        for where, *values in differences(expected, actual, name):
            problems.add(kind, "{}: expected {}, found {}".format(where, *values))


def differences(expected, actual, where: str, all_keys: bool = True) -> Iterator[tuple]:
    """Yield (where, expected, actual) for every difference between two JSON values; without
    `all_keys`, keys that only `actual` has do not count."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected | actual if all_keys else expected:
            pair = expected.get(key, "nothing"), actual.get(key, "nothing")
            yield from differences(*pair, f"{where}.{key}", all_keys)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for number, pair in enumerate(zip(expected, actual, strict=True)):
            yield from differences(*pair, f"{where}[{number}]", all_keys)
    elif expected != actual:
        yield where, expected, actual
