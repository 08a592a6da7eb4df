"""One version of a lake without some of its records. The manifest goes first and comes last: until
then the folder is no lake, and erasing.json says how a repeat completes it.

In: the positions of records, and entries of erased.jsonl. Out: the version without them.
"""

import json
from pathlib import Path
from typing import NamedTuple

from lake import InputError, storage
from lake.inspection import erase_shard, find
from lake.inspection.erase_shard import Links, write_durably
from lake.records import erased, identity, index, manifest, pseudonym
from lake.records.erased import Erased
from lake.records.totals import Totals, num_by_reason

UNFINISHED = (storage.UNFINISHED, ".unfinished-")  # in names of files that a killed command left


class Version(NamedTuple):
    """A finished version, or one from which an erasure was interrupted."""

    folder: Path
    content: dict  # the manifest of before
    key: bytes  # of its hashes; empty where nothing is hashed
    entries: list[dict]  # of erased.jsonl

    @property
    def was_interrupted(self) -> bool:
        return (self.folder / manifest.ERASING).exists()


class Part(NamedTuple):
    """What a version has of one id."""

    kind: str  # patient | image
    name: str  # as it was asked for
    images: dict[str, dict[int, str]]  # shard -> {position: image id as the record has it}
    num_lines: int  # of rejects, and of labels without an image

    @property
    def num_records(self) -> int:
        return sum(map(len, self.images.values()))


def read(folder: Path, key: bytes | None) -> Version:
    """Return the version in a folder; raise InputError where it is none, was made with another key,
    or lacks what an erasure needs. `key`: None where nobody has given one."""
    content = erased.manifest_of(folder)
    is_hashed = manifest.is_hashed(content)
    if is_hashed:
        if key is None:
            raise InputError(f"{folder} has hashes of ids: expected --deidentify_key_file")
        find.check_key(folder, content, key)
    paths = [manifest.sidecar_path(folder / shard["name"]) for shard in content["shards"]]
    if absent := [path for path in paths if not path.exists()]:
        raise InputError(
            f"{absent[0]} is absent, which says what a shard's records were made of: erase from "
            f"the lake where it was converted, and copy it from there again"
        )
    entries, hash_key = erased.read(folder), key if is_hashed else b""
    erased.check_key(entries, hash_key, str(folder / manifest.ERASED))
    return Version(folder, content, hash_key, entries)


# --- what is to go ---


def look(version: Version, patients: list[str], images: list[str]) -> list[Part]:
    """Return what a version has of each id."""
    folder, content, key = version.folder, version.content, version.key
    rows_by_id = find.find(folder, content, patients, images, key)
    result, num_shards = [], manifest.num_shards(content)
    for label, rows in rows_by_id.items():
        kind, _, name = label.partition(" ")
        of_shards = {}
        for row in rows.to_pylist():
            split, number = row["split"], row["shard"]
            shard = manifest.shard_name(content["dataset"], split, number, num_shards[split])
            of_shards.setdefault(shard, {})[row["position"]] = row["image_id"]
        part = Part(kind, name, of_shards, 0)
        ids = erased.union([entry(version, part, "", hashes(version, part))])
        result.append(part._replace(num_lines=_num_lines(version, ids)))
    return result


def hashes(version: Version, part: Part) -> set[str]:
    """Return the hashes of the images that a version has of an id."""
    return {_hash(image_id, version) for ids in part.images.values() for image_id in ids.values()}


def check(version: Version, parts: list[Part]) -> None:
    """Raise InputError where no record would be left, Stopped where a shard to write is damaged."""
    ids = _ids_by_shard(parts)
    num_records = sum(map(len, ids.values()))
    if num_records and num_records == version.content["counts"]["records"]:
        raise InputError(
            f"{version.folder}: all of its {num_records:,} records would go; delete the folder, "
            f"and repeat this for what is left"
        )
    for name, of_shard in ids.items():
        num_findings = len(manifest.findings(version.content))
        erase_shard.check(version.folder / name, of_shard, num_findings)


def entry(version: Version, part: Part, date: str, image_hashes: set[str]) -> dict:
    """Return the entry of erased.jsonl for an id, of which the versions have these images."""
    return {
        "date": date,
        "kind": part.kind,
        "id": hash_of(version, part),
        "records": part.num_records,
        "lines": part.num_lines,
        "shards": sorted(part.images),
        "images": sorted(image_hashes),
        "key": erased.digest(version.key),
    }


def hash_of(version: Version, part: Part) -> str:
    """Return the hash of an id as it was asked for."""
    return pseudonym.hashed(part.kind, part.name, version.key)


def _hash(image_id: str, version: Version) -> str:
    """Return the hash of a record's image id."""
    if manifest.has_image_hashes(version.content):
        return image_id
    return pseudonym.hashed("image", image_id, version.key)


def _ids_by_shard(parts: list[Part]) -> dict[str, dict[int, str]]:
    """Return shard -> {position: image id} of all ids together."""
    result = {}
    for part in parts:
        for name, ids in part.images.items():
            result.setdefault(name, {}).update(ids)
    return result


def _num_lines(version: Version, gone: Erased) -> int:
    """Return how many rejects and labels without an image are of the ids in `gone`."""
    rejects, orphans = (
        erased.lines_of_list(version.folder / name) for name in (manifest.REJECTS, manifest.ORPHANS)
    )
    num_rejects = sum(gone.has_line(json.loads(line), version.key) for line in rejects)
    return num_rejects + sum(gone.has_text(line, version.key) for line in orphans)


# --- the steps ---


def log(version: Version, entries: list[dict]) -> Version:
    """Add entries to erased.jsonl, and return the version with them: from then on no conversion
    brings their images back."""
    news = [one for one in entries if _without_date(one) not in map(_without_date, version.entries)]
    if not news:  # a repeat
        return version
    entries = [*version.entries, *news]
    text = erased.to_text(entries)
    write_durably(version.folder / manifest.ERASED, text.encode())
    return version._replace(entries=entries)


def _without_date(entry: dict) -> dict:
    return {name: value for name, value in entry.items() if name != "date"}


def begin(version: Version, parts: list[Part]) -> None:
    """Note what is to go, and take the manifest away: the folder is no lake any more."""
    positions = {name: sorted(ids) for name, ids in _ids_by_shard(parts).items()}
    journal = {"manifest": version.content, "positions": positions}
    write_durably(version.folder / manifest.ERASING, json.dumps(journal).encode())
    (version.folder / manifest.MANIFEST).unlink()
    erase_shard.sync(version.folder)


def complete(version: Version, links: Links, siblings: list[Path]) -> None:
    """Take the records, rows and lines away, and write the manifest; as often as it takes. Of the
    `siblings`, the earlier versions are completed already."""
    folder, content, key = version.folder, version.content, version.key
    journal = json.loads((folder / manifest.ERASING).read_text(encoding="utf-8"))
    (folder / manifest.MANIFEST).unlink(missing_ok=True)
    gone = erased.union(version.entries)
    _remove_unfinished(folder)
    findings = tuple(manifest.findings(content))
    totals, rows = Totals(len(content.get("classes", ())), findings), []
    for shard in content["shards"]:
        path, positions = folder / shard["name"], journal["positions"].get(shard["name"], ())
        sidecar = erase_shard.erase(path, shard["records"], positions, content, links)
        sidecar = _without_lines(sidecar, gone, key)
        if sidecar != erase_shard.read_sidecar(path):
            write_durably(manifest.sidecar_path(path), json.dumps(sidecar).encode())
        totals.add(sidecar)
        rows.append(sidecar["rows"])
    with storage.whole_file(folder / manifest.INDEX) as file:
        index.write(file, rows, len(findings))
    counts_of_records = totals.counts()
    counts = content["counts"] | counts_of_records | _count_lines(version, gone)
    if "exams" not in counts_of_records:
        counts.pop("exams", None)
    outcomes = counts["records"] + sum(counts["rejects"].values())
    counts["images"] = outcomes + counts.get("slices_left_out", 0)
    if "unlisted" in counts:
        counts["unlisted"] = min(counts["unlisted"], counts["records"])
    if "empty_splits" in counts:
        empty = {name for name, split in counts["splits"].items() if not split["records"]}
        counts["empty_splits"] = sorted({*counts["empty_splits"], *empty})
        counts["empty_folds"] = totals.empty_folds(content["options"]["folds"])
    after = content | {"counts": counts, "statistics": totals.statistics(), "shards": totals.shards}
    after["earlier_lakes"] = _ancestry(content, [path for path in siblings if path != folder])
    info = manifest.dataset_info_json(content["dataset"], content["version"], totals.shards)
    write_durably(folder / manifest.DATASET_INFO, manifest.to_json(info).encode())
    write_durably(folder / manifest.MANIFEST, manifest.to_json(after).encode())
    (folder / manifest.ERASING).unlink()
    erase_shard.sync(folder)


def _ancestry(content: dict, siblings: list[Path]) -> list[dict]:
    """Return the identities of what a version was before, so that runs on it go on counting as runs
    on this lake, and of the versions that it continues, as they are now, too."""
    lakes = identity.ancestry(content)
    shards = {lake["shards"] for lake in lakes[1:]}
    for folder in siblings:
        if (folder / manifest.MANIFEST).exists():
            own_lake, *earlier_lakes = identity.ancestry(manifest.load(str(folder)))
            is_new = own_lake["shards"] not in shards | {lakes[0]["shards"]}
            if is_new and any(lake["shards"] in shards for lake in earlier_lakes[:1]):
                lakes.append(own_lake)
    return lakes


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed command had half written."""
    for path in [*folder.iterdir(), *(folder / manifest.SIDECARS).iterdir()]:
        if any(text in path.name for text in UNFINISHED):
            path.unlink()


def _without_lines(sidecar: dict, gone: Erased, key: bytes) -> dict:
    """Return a shard's sidecar without the rejects that `gone` has."""
    rejects = [line for line in sidecar["rejects"] if not gone.has_line(line, key)]
    rejected = [pair for pair in sidecar.get("rejected", ()) if not gone.has_line(pair[1], key)]
    more = {"rejected": rejected} if "rejected" in sidecar else {}
    return sidecar | {"rejects": rejects} | more


def _count_lines(version: Version, gone: Erased) -> dict:
    """Take the rejects and labels without an image that `gone` has from their lists; return the
    manifest's counts of those that are left."""
    folder, key, counts = version.folder, version.key, {}
    path = folder / manifest.REJECTS
    if path.exists():
        kept = [
            line for line in erased.lines_of_list(path) if not gone.has_line(json.loads(line), key)
        ]
        write_durably(path, "".join(f"{line}\n" for line in kept).encode())
        counts["rejects"] = num_by_reason(map(json.loads, kept))
    for path in [folder / manifest.ORPHANS, *(folder / manifest.SIDECARS).iterdir()]:
        if path.suffix == ".json" or not path.exists():
            continue
        kept = [line for line in erased.lines_of_list(path) if not gone.has_text(line, key)]
        write_durably(path, "".join(f"{line}\n" for line in kept).encode())
        if path.name == manifest.ORPHANS:
            counts["labels_without_image"] = len(kept)
    return counts
