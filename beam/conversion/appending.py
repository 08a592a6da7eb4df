"""`--append`, before a worker starts: the version that it continues, and the one that it makes.

In: flags and options. Out: the same for the next version; InputError where the two do not fit.
"""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from beam.conversion import deidentify, quotas
from beam.conversion.earlier_lake import Base
from beam.conversion.options import ConversionOptions
from beam.running import files, paths, patterns
from beam.running.options import WORK
from lake import InputError, storage
from lake.records import example, manifest

VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# Options that may differ from those of the earlier version.
FREE = {"version", "splits_from", "shard_mb", "shard_images", "min_shards", "id_column", "bits"}
ADVICE = "give the options of that version, or convert all to a new one with --splits_from"


def next_version(flags: argparse.Namespace) -> argparse.Namespace:
    """Return the flags of the next version: `--splits_from` the newest finished one of the lake
    that `--output` names, from the named one on and with the same first number, `--output` the one
    that follows it. Raises InputError."""
    for name in ("splits_from", "replace", "estimate"):
        if getattr(flags, name):
            raise InputError(f"--append and --{name}: expected one of them")
    if flags.source == "metaimage":
        raise InputError(
            "--append is for X-rays: in a CT volume other labels choose other slices; convert to a "
            "new version with --splits_from"
        )
    root, _, version = flags.output.rstrip("/").rpartition("/")
    first = _numbers(version)
    if first is None or not root:
        raise InputError(
            f"--append --output={flags.output}: expected a version, such as lakes/siim/1.0.0"
        )
    versions = [numbers for numbers in _finished_versions(root) if numbers >= first]
    newest = max((v for v in versions if v[0] == first[0]), default=None)
    if newest is None:
        raise manifest.no_manifest_error(flags.output)
    names = {"splits_from": newest, "output": (newest[0], newest[1] + 1, 0)}
    folders = {key: paths.join(root, ".".join(map(str, n))) for key, n in names.items()}
    return argparse.Namespace(**vars(flags) | folders)


def check_newest(original_flags: argparse.Namespace, flags: argparse.Namespace) -> None:
    """Raise InputError where another append has finished since `flags` became of the original
    ones."""
    if next_version(original_flags).output != flags.output:
        raise InputError(f"{flags.output} has been finished meanwhile; repeat the command")


@contextmanager
def removing_if_unused(folder: str) -> Iterator[None]:
    """Remove the new version's folder after the block, where nothing came into it that is listed or
    that a repeat could use; one on gs:// stays."""
    try:
        yield
    finally:
        work = Path(folder, WORK)
        if not storage.is_remote(folder) and work.exists():
            is_unused = os.listdir(folder) == [WORK] and not list(work.glob("*.json"))
            if is_unused:
                shutil.rmtree(folder)


def without_news(options: ConversionOptions) -> str:
    """Return what a user reads where an append found nothing new."""
    text = f"nothing is new: {options.base.folder} has all of this already"
    path = options.path(manifest.REJECTS)
    return f"{text}; images that were rejected: {path}" if paths.exists(path) else text


def _numbers(version: str) -> tuple[int, ...] | None:
    """Return the three numbers of a version, None where it has not three."""
    match = VERSION.fullmatch(version)
    return tuple(map(int, match.groups())) if match else None


def _finished_versions(root: str) -> list[tuple[int, ...]]:
    """Return the versions in a folder that have a manifest."""
    pattern = paths.join(patterns.as_it_stands(root), "*", manifest.MANIFEST)
    folders = [file.path.split("/")[-2] for file in paths.match(pattern)]
    return [numbers for folder in folders if (numbers := _numbers(folder))]


def onto_base(options: ConversionOptions) -> ConversionOptions:
    """Return the options with the version that the append continues; raise InputError where it was
    made with others, or with another key, or by a radlake that did not prepare for this."""
    from beam.conversion import finished  # Beam takes a second to import

    folder = options.splits_from
    content = manifest.parse(files.read_text(paths.join(folder, manifest.MANIFEST)), folder)
    manifest.check_keys(content, folder)
    bits = content["options"]["bits"]
    changes = finished.option_changes(content, bits, options, FREE)
    patterns = options.patient_pattern, content["options"].get("patient_pattern")
    if patterns[0] != patterns[1]:
        changes.append("--patient_pattern {} instead of {}".format(*patterns))
    if options.bits not in (None, bits):
        changes.append(f"--bits {options.bits} instead of {bits}")
    if changes:
        raise InputError(f"--append: {folder} has other options: {'; '.join(changes)}. {ADVICE}")
    _check_sidecars(folder, content, options)
    num_shards = dict.fromkeys(content["counts"]["splits"], 0)
    for shard in content["shards"]:
        num_shards[shard["split"]] += 1
    by_split, by_fold = _groups(folder, content, options)
    base = Base(
        folder=folder,
        version=content["version"],
        bits=bits,
        classes=tuple(content.get("classes", ())),
        num_shards=num_shards,
        records=content["counts"]["records"],
        by_split=by_split,
        by_fold=by_fold,
    )
    return replace(options, base=base)


def _check_sidecars(folder: str, content: dict, options: ConversionOptions) -> None:
    """Raise InputError where a shard's sidecar is not there, or not of today, or made with another
    key."""
    for shard in content["shards"]:
        path = paths.join(folder, WORK, f"{shard['name']}.json")
        if not paths.exists(path):
            raise InputError(
                f"--append: {path} is absent, which says what its records were made of; append to "
                f"the lake where it was converted, or convert to a new version with --splits_from"
            )
    if not content["shards"]:
        return
    sidecar = json.loads(files.read_text(path))  # of the last; all have one writer and one key
    if "digests" not in sidecar:
        raise InputError(
            f"--append: an earlier radlake made {folder}, and kept no checksums of single images; "
            f"convert once to a new version with --splits_from {folder}, and append to that"
        )
    if sidecar["key"] != deidentify.key_digest(options.key_file):
        raise InputError(
            f"--append: {folder} was made with another --deidentify_key_file: no patient would be "
            f"recognised; give the same"
        )


def _groups(
    folder: str, content: dict, options: ConversionOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Return (of each of `--splits`, of each fold): the number of patients, or of images without
    one, and of those with each finding or class, or a lesion; int64 [splits or folds, 1 + F]."""
    import pyarrow.compute

    from lake.records import index  # pyarrow takes 0.2 s to import

    findings, classes = manifest.findings(content), content.get("classes", ())
    columns = ["patient", "split", "fold", "label", *([example.FINDINGS] if findings else [])]
    with files.open_binary(paths.join(folder, manifest.INDEX)) as file:
        table = index.read_file(file, columns)
    labels = table["label"].to_numpy()
    if findings:
        has = index.findings(table, len(findings)) == 1
    elif classes:
        has = labels[:, None] == np.arange(len(classes))
    else:
        has = labels[:, None] == 1
    patients = pyarrow.compute.index_in(table["patient"], table["patient"].unique()).to_numpy()
    is_alone = pyarrow.compute.equal(table["patient"], "").to_numpy(zero_copy_only=False)
    groups = np.where(is_alone, len(table) + np.arange(len(table)), patients)
    groups, first_rows, group_of = np.unique(groups, return_index=True, return_inverse=True)
    counted = np.zeros((len(groups), 1 + has.shape[1]), np.int64)
    np.maximum.at(counted, group_of, np.insert(has, 0, True, axis=1))
    split = np.array(table["split"].to_pylist(), dtype=object)[first_rows]
    fold = table["fold"].to_numpy()[first_rows]
    split_names = [name for name, _ in quotas.parse(options.splits)]
    return (
        np.array([counted[split == name].sum(axis=0) for name in split_names]),
        np.array([counted[fold == number].sum(axis=0) for number in range(options.folds)]),
    )
