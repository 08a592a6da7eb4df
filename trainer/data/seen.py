"""Which images a run learnt from, and which picked its epoch and thresholds: hashes of their ids,
so that evaluate finds them in any lake. A run keeps them, as its lake may change or go.

In: the indexes of a run's lakes. Out: Seen, and its file in the workdir.
"""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow

from lake import InputError, storage
from lake.records import index, manifest
from lake.records.identity import shards_sha256
from lake.scan import stable_hash
from trainer.config.run import Data


class Seen(NamedTuple):
    """Hashes, uint64, sorted, each once."""

    trained: np.ndarray  # of the ids of the images that networks learnt from
    chosen: np.ndarray  # of those of validation, which pick the epoch and the thresholds
    patients: np.ndarray  # of the patients of `trained`


def hashes(names: Iterable[str]) -> np.ndarray:
    """Return the hash of each name, uint64 [N], in their order."""
    return np.array([stable_hash(name) for name in names], np.uint64)


def unite(parts: Sequence[Seen]) -> Seen:
    """Return all that several runs saw, each image once."""
    empty = np.array([], np.uint64)
    return Seen(*(np.unique(np.concatenate([empty, *arrays])) for arrays in _columns(parts)))


def _columns(parts: Sequence[Seen]) -> list[tuple]:
    return list(zip(*parts, strict=True)) if parts else [()] * len(Seen._fields)


def from_lakes(folder: str, data: Data) -> Seen:
    """Return the images that a run on the lake in `folder` and data.more_lakes sees."""
    names = manifest.FOLDED if data.fold is not None else (data.train_split, data.val_split)
    rows = _read(folder, dict.fromkeys(names))
    if data.fold is None:
        split = np.array(rows["split"].to_pylist())
        is_trained, is_chosen = split == data.train_split, split == data.val_split
    else:
        is_chosen = rows["fold"].to_numpy() == data.fold
        is_trained = ~is_chosen
    parts = [_hash(rows, is_trained, is_chosen)]
    for other in data.more_lakes:
        rows = _read(other, [data.train_split])
        parts.append(_hash(rows, np.ones(len(rows), bool), np.zeros(len(rows), bool)))
    return unite(parts)


def _read(folder: str, names: Iterable[str]) -> pyarrow.Table:
    """Return the index's rows of these splits of a lake."""
    columns = ("image_id", "patient", "split", "fold")
    return index.read(storage.path_of(folder), columns, list(names))


def _hash(rows: pyarrow.Table, is_trained: np.ndarray, is_chosen: np.ndarray) -> Seen:
    """Return the Seen of the index's rows [N]."""
    images = hashes(rows["image_id"].to_pylist())
    names = rows["patient"].filter(pyarrow.array(is_trained)).unique().to_pylist()
    return Seen(images[is_trained], images[is_chosen], hashes(filter(None, names)))


def write(path: Path, seen: Seen) -> None:
    """Write the file of a run."""
    file = io.BytesIO()
    np.savez(file, **seen._asdict())
    storage.write(path, file.getvalue())


def read(path: Path) -> Seen | None:
    """Return the content of a run's file, None where there is none; raise InputError where it
    cannot be read."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            return Seen(*(arrays[name] for name in Seen._fields))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it: it is made again from the run's lake"
        ) from None


def gather(folder: str, data: Data, earlier_files: Iterable[Path]) -> Seen:
    """Return the images that a run sees: those of its lakes, and those that the run saw whose
    weights it starts from; the first of `earlier_files` that exists has them."""
    earlier_parts = (read(path) for path in earlier_files)
    parts = [part for part in earlier_parts if part is not None][:1]
    return unite([from_lakes(folder, data), *parts])


def recall(path: Path, folder: str, data: Data, shards: str | None) -> Seen | None:
    """Return the images that a run with this file saw. Without the file, as in runs of an earlier
    radlake, they are those of its lakes; None where these are gone, or have another checksum than
    `shards`."""
    seen = read(path)
    if seen is not None:
        return seen
    try:
        lakes = [manifest.load(name) for name in (folder, *data.more_lakes)]
        return from_lakes(folder, data) if shards_sha256(lakes) == shards else None
    except InputError:
        return None
