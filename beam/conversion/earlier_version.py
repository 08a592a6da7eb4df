"""The version that an append continues: what its records were made of, and where they lie.

In: its sidecars and manifest. Out: tables in which images find their records; its shards.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np

from beam.conversion import earlier_lake
from beam.conversion.earlier_lake import EarlierLake
from beam.conversion.options import ConversionOptions
from beam.running import files, paths
from beam.running.options import WORK
from lake import Stopped, storage
from lake.records import manifest
from lake.scan import stable_hash

PLACE = [("shard", np.uint32), ("position", np.uint32), ("image", np.uint64), ("label", np.uint64)]
RECORD = [*PLACE, ("key", np.uint64), ("group", np.uint64)]
RECORD += [("split", earlier_lake.SPLIT_TYPE), ("fold", earlier_lake.FOLD_TYPE)]


class EarlierRecords(NamedTuple):
    """Holds what every record of the earlier version was made of, and where it lies."""

    keys: np.ndarray  # uint64 [N], sorted: hashes of image ids as records have them
    places: np.ndarray  # PLACE [N]: `shard` counts in the manifest's order
    rejects: dict[int, dict]  # digest of an image that no record could be made of -> its line

    def find(self, names: list[str]) -> np.void | None:
        """Return the place of the first name that is there."""
        for name in names:
            key = np.uint64(stable_hash(name))
            position = np.searchsorted(self.keys, key)
            if position < len(self.keys) and self.keys[position] == key:
                return self.places[position]
        return None


def read(options: ConversionOptions) -> tuple[EarlierRecords, EarlierLake]:
    """Return the records of the earlier version, and the places of its images and their groups,
    from its sidecars."""
    tables, rejects = [np.array([], RECORD)], {}  # an array per shard takes less memory
    for number, (_, entry) in shards(options):
        sidecar = read_sidecar(options, entry["name"])
        rejects |= dict(sidecar["rejected"])
        pairs = zip(sidecar["rows"], sidecar["digests"], strict=True)
        table = [
            (number, position, image, label, stable_hash(f"image/{row['image_id']}"), group)
            + (row["split"], row["fold"])
            for position, (row, (image, label, group)) in enumerate(pairs)
        ]
        tables.append(np.array(table, RECORD))
    table = np.concatenate(tables)
    keys, order = table["key"], np.argsort(table["key"])
    places = table[[name for name, _ in PLACE]][order]
    all_keys, rows = np.unique(np.r_[table["group"], keys], return_index=True)
    rows %= max(len(keys), 1)
    lake = EarlierLake(all_keys, table["split"][rows], table["fold"][rows])
    return EarlierRecords(keys[order], places, rejects), lake


def read_sidecar(options: ConversionOptions, name: str) -> dict:
    """Return the sidecar of a shard of the earlier version."""
    return json.loads(files.read_text(paths.join(options.base.folder, WORK, f"{name}.json")))


def shards(options: ConversionOptions) -> Iterator[tuple[int, tuple[int, dict]]]:
    """Yield (number in the manifest, (number in its split, the manifest's entry)) of each shard of
    the earlier version."""
    text = files.read_text(paths.join(options.base.folder, manifest.MANIFEST))
    numbers = dict.fromkeys(options.base.num_shards, 0)
    for shard, entry in enumerate(json.loads(text)["shards"]):
        yield shard, (numbers[entry["split"]], entry)
        numbers[entry["split"]] += 1


@contextmanager
def open_shard(path: str) -> Iterator[BinaryIO]:
    """Open a shard; one on gs:// is copied to this machine, as tfrecord's functions need it."""
    if not storage.is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        with files.open_binary(path) as remote_file:
            shutil.copyfileobj(remote_file, file)
        file.flush()
        file.seek(0)
        yield file


def damage(path: str, what: str) -> Stopped:
    """Return the error about a damaged shard."""
    return Stopped(f"{path}: {what}; convert that version again, or copy it again, and repeat this")
