"""A split's images, decoded once to the network's side and kept, so that epochs decode nothing.

A row has a fixed length: the pixels, and the mask's, eight to a byte. Rows lie in numpy arrays, in
memory or in files of a folder, which later runs of the same lake and side find again. The order of
training, its draws and so its batches are those without a cache, bit for bit.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError, storage
from trainer.config import run
from trainer.data.order import OUTSIDE, Split

MEMORY = "memory"  # data.cache; anything else is a folder
GIGABYTE = 1e9


class DecodedImages(NamedTuple):
    """Of M images of a split."""

    rows: np.ndarray  # of each stored record of the split: its row, -1 where it is none of it
    image: np.ndarray  # [M, S, S, 1]
    mask: np.ndarray  # uint8 [M, S·S / 8]
    others: dict[str, np.ndarray]  # [M, …] window, label, has_mask, weight

    def look_up(self, batch: dict) -> dict:
        """{"number": [B] in the split, …} -> a batch of images, and what else was in it."""
        batch = dict(batch)
        side = self.image.shape[1]
        rows = tf.gather(tf.constant(self.rows), batch.pop("number"))
        image, mask = tf.numpy_function(
            self._pixels, [rows], [self.image.dtype, self.mask.dtype], stateful=False
        )
        shape = (rows.shape[0], side, side, 1)
        others = {n: tf.gather(tf.constant(values), rows) for n, values in self.others.items()}
        return {
            "image": tf.ensure_shape(image, shape),
            "mask": tf.ensure_shape(mask, shape),
            **others,
            **batch,
        }

    def _pixels(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = self.image[rows]
        return image, np.unpackbits(self.mask[rows], axis=1).reshape(image.shape)


def decode_all(
    split: Split, settings: run.Data, shards_sha256: str, batches: Callable
) -> DecodedImages:
    """All of a split, as data.cache says; `batches`: split, settings -> the batches of every record
    once, in order; `shards_sha256`: of the lakes. Raises InputError where there is no room."""
    size = num_bytes(split, settings)
    where = "in memory" if settings.cache == MEMORY else f"in {settings.cache}"
    said = f"{split.num_records:,} images at {settings.side} px {where}, {size / GIGABYTE:,.2f} GB"
    if settings.cache == MEMORY:
        _check_room(size, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), said)
        print(f"caching {said}", flush=True)
        return _filled(split, settings, batches, np.empty)
    if storage.is_remote(settings.cache):
        raise InputError(f"data.cache={settings.cache}: expected {MEMORY} or a local folder")
    folder = Path(settings.cache)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / _cache_key(split, settings, shards_sha256)
    if place.exists():
        print(f"cached: {said}, {place.name}", flush=True)
        return _opened(place, split)
    _check_room(size, shutil.disk_usage(folder).free, said)
    print(f"caching {said}, {place.name}", flush=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished.", dir=folder))
    try:
        _write(unfinished, split, settings, batches)
        with contextlib.suppress(OSError):  # another worker was faster
            unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _opened(place, split)


def _write(folder: Path, split: Split, settings: run.Data, batches: Callable) -> None:
    def in_file(shape: tuple, dtype: np.dtype) -> np.ndarray:
        path = folder / ("image.npy" if len(shape) == 4 else "mask.npy")
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)

    decoded = _filled(split, settings, batches, in_file)
    decoded.image.flush()
    decoded.mask.flush()
    np.savez(folder / "others.npz", **decoded.others)


def num_bytes(split: Split, settings: run.Data) -> int:
    """Of pixels and masks."""
    pixels = settings.side**2
    return split.num_records * (pixels * np.dtype(split.dtype).itemsize + pixels // 8)


def _filled(split: Split, settings: run.Data, batches: Callable, empty: Callable) -> DecodedImages:
    count, side = split.num_records, settings.side
    image = empty((count, side, side, 1), np.dtype(split.dtype))
    mask = empty((count, side * side // 8), np.dtype(np.uint8))
    others, done = {}, 0
    for batch in batches(split, settings).as_numpy_iterator():
        is_real = batch.pop("weight") > 0
        batch = {name: values[is_real] for name, values in batch.items()}
        own = slice(done, done := done + int(is_real.sum()))
        image[own] = batch.pop("image")
        mask[own] = np.packbits(batch.pop("mask").reshape(-1, side * side), axis=1)
        batch["weight"] = is_real[is_real].astype(np.float32)
        for name, values in batch.items():
            others.setdefault(name, []).append(values)
    joined = {name: np.concatenate(values) for name, values in others.items()}
    return DecodedImages(_rows(split), image, mask, joined)


def _opened(place: Path, split: Split) -> DecodedImages:
    with np.load(place / "others.npz") as others:
        read = {name: others[name] for name in others.files}
    image, mask = (np.load(place / f"{name}.npy", mmap_mode="r") for name in ("image", "mask"))
    return DecodedImages(_rows(split), image, mask, read)


def _rows(split: Split) -> np.ndarray:
    is_member = split.kinds != OUTSIDE
    return np.where(is_member, np.cumsum(is_member) - 1, -1)


def _cache_key(split: Split, settings: run.Data, shards_sha256: str) -> str:
    """Return the name of the folder for a split's images.

    It is a hash of all that decides about the cached pixels, so that two runs share a folder only
    where every one of their pixels is the same: the stored bytes (by the manifests' checksums),
    which of them belong to the split and in which order, and how they are brought to the network's
    side. Batch size, shares and augmentation come later, and are not in it.
    """
    members = hashlib.sha256((split.kinds != OUTSIDE).tobytes()).hexdigest()
    stored_bytes = [shards_sha256, split.records_per_shard, members]
    key = json.dumps([*stored_bytes, split.dtype, settings.side, settings.fit])
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _check_room(wanted: int, free: int, said: str) -> None:
    if wanted > free:
        raise InputError(
            f"data.cache: {said}, but {free / GIGABYTE:,.2f} GB are free; leave data.cache out, "
            f"or give a folder on a disk with room"
        )
