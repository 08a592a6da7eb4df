"""Take patients or images out of all versions of a lake: which, in which order, and the proof.

In: a lake, ids as its files had them, the key. Out: what a user reads, and whether all is well.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lake import clock, lock, signals
from lake.inspection import erase_version, find, verify_erased
from lake.inspection.erase_shard import Links
from lake.inspection.erase_version import Part, Version
from lake.inspection.verify_shard import Problems
from lake.records import erased, index, manifest

NAME = re.compile(r"\d+\.\d+\.\d+")  # of a version's folder
LOCK_WORDS = "converts or erases", "end it"  # in the message of lake.lock
NOTHING = ": no record"
REPEAT = "an erasure has begun, and its versions are no lakes until the same command completes it"


class Versions(NamedTuple):
    """The folders of a lake."""

    finished: list[Path]  # or interrupted while an erasure went on
    unfinished: list[Path]  # what a conversion left that was killed
    kept: list[Path]  # with --keep_versions, all but the one that was named


def erase(
    lake: str, patients: list[str], images: list[str], key: bytes | None, keep_versions: bool
) -> tuple[list[str], bool]:
    """Erase from all versions beside the lake, or with `keep_versions` from it alone; return (the
    lines that a user reads, whether each id had records and none is left). Raises InputError, and
    changes nothing, where that cannot be done."""
    folder = Path(os.path.abspath(lake))
    versions = _versions(folder, keep_versions)
    with contextlib.ExitStack() as stack:
        for path in [*versions.finished, *versions.unfinished]:
            stack.enter_context(lock.hold(path, manifest.LOCK, *LOCK_WORDS))
        return _erase(versions, patients, images, key)


def _versions(folder: Path, keep_versions: bool) -> Versions:
    """Return the versions beside the one in `folder`, and it itself."""
    if not _is_finished(folder):
        raise manifest.no_manifest_error(str(folder))
    others = [path for path in folder.parent.iterdir() if NAME.fullmatch(path.name)]
    others = [path for path in others if path.is_dir() and path != folder]
    others.sort(key=_number)
    finished = [path for path in others if _is_finished(path)]
    unfinished = [path for path in others if path not in finished and _has_shards(path)]
    if keep_versions:
        return Versions([folder], [], finished + unfinished)
    return Versions(sorted([folder, *finished], key=_number), unfinished, [])


def _number(folder: Path) -> tuple:
    """Return what versions are sorted by; one whose folder has another name comes last."""
    is_other = NAME.fullmatch(folder.name) is None
    return is_other, [] if is_other else [*map(int, folder.name.split("."))]


def _is_finished(folder: Path) -> bool:
    return any((folder / name).exists() for name in (manifest.MANIFEST, manifest.ERASING))


def _has_shards(folder: Path) -> bool:
    names = manifest.SIDECARS, manifest.LOCK  # the lock is there before the first file
    return any((folder / name).exists() for name in names) or any(folder.glob("*.tfrecord-*"))


def _erase(
    folders: Versions, patients: list[str], images: list[str], key: bytes | None
) -> tuple[list[str], bool]:
    """Erase as `erase` does, while the folders are locked."""
    links, lines = Links(), []
    versions = [erase_version.read(path, key) for path in folders.finished]
    # --- what an interrupted erasure left ---
    for number, version in enumerate(versions):
        if version.was_interrupted:
            signals.set_repeat(REPEAT)
            erase_version.complete(version, links, folders.finished)
            lines.append(f"{version.folder}: an interrupted erasure is completed")
            versions[number] = erase_version.read(version.folder, key)
    # --- what is to go; nothing is changed yet ---
    parts = [erase_version.look(version, patients, images) for version in versions]
    for version, its_parts in zip(versions, parts, strict=True):
        erase_version.check(version, its_parts)
    entries = _entries(versions, parts)
    # --- from here on a repeat completes it ---
    signals.set_repeat(REPEAT)
    for path in folders.unfinished:
        _empty(path)
        lines.append(f"{path}: removed, as a conversion was interrupted there; repeat that")
    started = []
    for version, its_parts, its_entries in zip(versions, parts, entries, strict=True):
        version = erase_version.log(version, its_entries)
        if any(part.num_records or part.num_lines for part in its_parts):
            erase_version.begin(version, its_parts)
            started.append(version)
    for version in started:
        erase_version.complete(version, links, folders.finished)
    return _report(folders, versions, parts, lines, links, key)


def _entries(versions: list[Version], parts: list[list[Part]]) -> list[list[dict]]:
    """Return the new entries of erased.jsonl of each version: of all ids, be it that none of them
    has anything, as their images may come yet."""
    date, entries = clock.now(), [[] for _ in versions]
    for of_id in zip(*parts, strict=True):
        pairs = [*zip(versions, of_id, strict=True)]
        for its_entries, (version, part) in zip(entries, pairs, strict=True):
            hashes = set().union(
                *(erase_version.hashes(v, p) for v, p in pairs if v.key == version.key)
            )
            its_entries.append(erase_version.entry(version, part, date, hashes))
    return entries


def _empty(folder: Path) -> None:
    """Remove what a killed conversion left in a folder; it is no lake."""
    for path in folder.glob("*.tfrecord-*"):
        path.unlink()
    for name in (manifest.INDEX, manifest.REJECTS, manifest.ORPHANS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / manifest.SIDECARS, ignore_errors=True)


# --- the proof ---


def _report(
    folders: Versions,
    versions: list[Version],
    parts: list[list[Part]],
    lines: list[str],
    links: Links,
    key: bytes | None,
) -> tuple[list[str], bool]:
    """Return what a user reads, and whether all is well."""
    is_well = True
    for of_id in zip(*parts, strict=True):
        lines.append(_line_of_id(versions, of_id))
        is_well = is_well and NOTHING not in lines[-1]
    for version, its_parts in zip(versions, parts, strict=True):
        shards = {name for part in its_parts for name in part.images}
        num_lines = sum(part.num_lines for part in its_parts)
        if shards or num_lines:
            more = f", {num_lines:,} lines of rejects and labels" if num_lines else ""
            lines.append(f"{version.folder}: {len(shards):,} shards written anew{more}")
    lines += _kept_lines(folders.kept, parts[0], key)
    if (num_left := links.num_left()) and not folders.kept:
        lines.append(
            f"problem: the old bytes of {num_left:,} shards are still there under other names "
            f"(hard links outside of {folders.finished[0].parent}); delete those copies"
        )
        is_well = False
    problems, num_records, seen = Problems(), 0, set()
    for version in versions:
        content = manifest.load(str(version.folder))
        num_records += verify_erased.scan(version.folder, content, version.key, problems, seen)
        rows = index.read(version.folder)
        verify_erased.check(version.folder, content, rows, version.key, problems)
    lines += problems.lines()
    names = ", ".join(version.folder.name for version in versions)
    if not problems.counts:
        lines.append(f"none is left in {names}: {num_records:,} records, indexes, sidecars, lists")
    return lines, is_well and not problems.counts


def _line_of_id(versions: list[Version], parts: tuple[Part, ...]) -> str:
    """Return the line about an id, from its part of each version."""
    part = parts[0]
    numbers = [
        f"{version.folder.name}: {part.num_records:,}"
        for version, part in zip(versions, parts, strict=True)
        if part.num_records
    ]
    label = f"{part.kind} {part.name}"
    if numbers:
        return f"{label}: records erased from {', '.join(numbers)}"
    if any(part.num_lines for part in parts):
        return f"{label}: only lines of rejects and labels erased"
    for version in versions:
        for entry in version.entries:
            is_of_id = entry["id"] == erase_version.hash_of(version, part)
            if is_of_id and (entry["images"] or entry["lines"]):
                return f"{label}: erased already, {entry['date']}"
    return f"{label}{NOTHING}, but it stays out from now on"


def _kept_lines(kept: list[Path], parts: list[Part], key: bytes | None) -> Iterator[str]:
    """Yield what --keep_versions leaves as it is, aloud."""
    names = {kind: [part.name for part in parts if part.kind == kind] for kind in erased.KINDS}
    for path in kept:
        what = "unfinished, with whatever it has"
        if (path / manifest.MANIFEST).exists():
            content = manifest.load(str(path))
            rows = find.find(path, content, names["patient"], names["image"], key)
            what = f"with {sum(map(len, rows.values())):,} records of these ids"
        yield f"warning: {path} is kept as it is (--keep_versions), {what}"
