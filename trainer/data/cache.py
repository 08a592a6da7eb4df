"""A split's images, decoded once to the network's side and kept, so that epochs decode nothing.

A row has a fixed length: the pixels, and the mask's, eight to a byte. Rows lie in numpy arrays, in
memory or in files of a folder, where later runs with the same lake and side find them. The order of
training, its draws and therefore its batches are those without a cache, bit for bit: files that are
not as they were written are found by their checksums before the first step, and made again.
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

from lake import InputError, signals, storage
from trainer.config.run import Data
from trainer.data.order import OUTSIDE, Split

MEMORY = "memory"  # data.cache; anything else is a folder
GIGABYTE = 1e9
IMAGE, MASK, OTHERS = FILES = ("image.npy", "mask.npy", "others.npz")
CHECKSUMS = "checksums.json"  # of the FILES, and what they were made of
UNFINISHED = "unfinished."  # before the name of a folder that is being written


class DecodedImages(NamedTuple):
    """The M images of a split."""

    rows: np.ndarray  # per stored record: its row, -1 where it is not in the split
    image: np.ndarray  # [M, S, S, 1]
    mask: np.ndarray  # uint8 [M, S·S / 8]
    other_fields: dict[str, np.ndarray]  # window, label, has_mask, weight: [M, …]

    def look_up(self, batch: dict) -> dict:
        """Return a batch of images for {"number": [B] in the split, …}, and what else was in it."""
        batch = dict(batch)
        side = self.image.shape[1]
        rows = tf.gather(tf.constant(self.rows), batch.pop("number"))
        image, mask = tf.numpy_function(
            self._pixels, [rows], [self.image.dtype, self.mask.dtype], stateful=False
        )
        shape = (rows.shape[0], side, side, 1)
        columns = self.other_fields
        fields = {name: tf.gather(tf.constant(columns[name]), rows) for name in columns}
        return {
            "image": tf.ensure_shape(image, shape),
            "mask": tf.ensure_shape(mask, shape),
            **fields,
            **batch,
        }

    def _pixels(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image = self.image[rows]
        return image, np.unpackbits(self.mask[rows], axis=1).reshape(image.shape)


def decode_all(split: Split, data: Data, shards_sha256: str, batches: Callable) -> DecodedImages:
    """Return all images of a split, kept where data.cache says.

    `batches`: (split, data) -> the batches of every record once, in order; `shards_sha256`: the
    lakes' checksum. Raises InputError where there is no room.
    """
    size = num_bytes(split, data)
    place = "in memory" if data.cache == MEMORY else f"in {data.cache}"
    title = f"{split.num_records:,} images at {data.side} px {place}, {size / GIGABYTE:,.2f} GB"
    if data.cache == MEMORY:
        _check_room(size, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), title)
        print(f"caching {title}", flush=True)
        return _decode(split, data, batches)
    if storage.is_remote(data.cache):
        raise InputError(f"data.cache={data.cache}: expected {MEMORY} or a local folder")
    cache_folder, source = Path(data.cache), _source(split, data, shards_sha256)
    if cache_folder.exists() and not cache_folder.is_dir():
        raise InputError(f"data.cache={data.cache} is a file; expected {MEMORY} or a folder")
    folder = cache_folder / hashlib.sha256(source.encode()).hexdigest()[:16]
    if folder.exists():
        print(f"cached: {title}, {folder.name}", flush=True)
        fault = _fault(folder, source)
        if not fault:
            return _load_images(folder, split)
        print(f"{folder}: {fault}; it is made again", flush=True)
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    storage.check_writable(cache_folder)
    cache_folder.mkdir(parents=True, exist_ok=True)
    _check_room(size, shutil.disk_usage(cache_folder).free, title, cache_folder)
    print(f"caching {title}, {folder.name}", flush=True)
    return _write(folder, split, data, source, batches)


def _write(folder: Path, split: Split, data: Data, source: str, batches: Callable) -> DecodedImages:
    """Return the split's images after they were written into a new folder, whole or not at all."""
    unfinished_folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.parent))
    try:
        with signals.removing(str(unfinished_folder)):
            _decode(split, data, batches, unfinished_folder)
            checksums = {name: _sha256(unfinished_folder / name) for name in FILES}
            content = json.dumps({"source": source, "sha256": checksums})
            (unfinished_folder / CHECKSUMS).write_text(content)
        # Opened before another run that finds fault with them could remove them.
        images = _load_images(unfinished_folder, split)
        with contextlib.suppress(OSError):  # another worker was faster
            unfinished_folder.rename(folder)
        return images
    except OSError as error:
        error.filename = error.filename or str(folder)  # which a write without room leaves out
        raise
    finally:
        shutil.rmtree(unfinished_folder, ignore_errors=True)


def _fault(folder: Path, source: str) -> str:
    """Return what is wrong with the files of a folder, "" where they are as they were written."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return f"no {CHECKSUMS}, as of a writer that was killed, or of an earlier radlake"
    try:
        content = json.loads(path.read_text())
        checksums = content["sha256"]
        if content["source"] != source:
            return f"{CHECKSUMS} is of other images"
        for name in FILES:
            if not (folder / name).is_file():
                return f"no {name}"
            if _sha256(folder / name) != checksums[name]:
                return f"{name} is not as it was written"
    except (ValueError, KeyError, TypeError):
        return f"{CHECKSUMS} is damaged"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def num_bytes(split: Split, data: Data) -> int:
    """Return the bytes that the pixels and masks of a split take."""
    pixels = data.side**2
    return split.num_records * (pixels * np.dtype(split.dtype).itemsize + pixels // 8)


def _source(split: Split, data: Data, shards_sha256: str) -> str:
    """Return all that decides about the cached pixels, as JSON: the name of their folder is its
    hash, so that two runs share one only where every one of their pixels is the same.

    It has the stored bytes (by the manifests' checksums), which of them belong to the split and in
    which order, and how they are brought to the network's side. Batch size, shares and augmentation
    come later, and are not in it.
    """
    members = hashlib.sha256((split.kinds != OUTSIDE).tobytes()).hexdigest()
    stored_bytes = [shards_sha256, split.records_per_shard, members]
    return json.dumps([*stored_bytes, split.dtype, data.side, data.fit])


def _decode(
    split: Split, data: Data, batches: Callable, folder: Path | None = None
) -> DecodedImages:
    """Return the split's images in memory; with a folder, in its files."""

    def allocate(name: str, *shape: int, dtype: str) -> np.ndarray:
        if folder is None:
            return np.empty(shape, dtype)
        path = folder / name
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        # A disk that fills would end the process while pages are written, without a word.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array

    count, side = split.num_records, data.side
    image = allocate(IMAGE, count, side, side, 1, dtype=split.dtype)
    mask = allocate(MASK, count, side * side // 8, dtype="uint8")
    parts_by_name, row = {}, 0  # of the other fields: a part per batch
    for batch in batches(split, data).as_numpy_iterator():
        is_real = batch.pop("weight") > 0  # the last batch is filled up with padding
        batch = {name: values[is_real] for name, values in batch.items()}
        rows = slice(row, row := row + int(is_real.sum()))
        image[rows] = batch.pop("image")
        mask[rows] = np.packbits(batch.pop("mask").reshape(-1, side * side), axis=1)
        batch["weight"] = is_real[is_real].astype(np.float32)
        for name, values in batch.items():
            parts_by_name.setdefault(name, []).append(values)
    other_fields = {name: np.concatenate(parts) for name, parts in parts_by_name.items()}
    if folder:
        image.flush()
        mask.flush()
        np.savez(folder / OTHERS, **other_fields)
    return DecodedImages(_row_numbers(split), image, mask, other_fields)


def _load_images(folder: Path, split: Split) -> DecodedImages:
    """Return the images that `_decode` left in a folder; pixels stay on the disk."""
    with np.load(folder / OTHERS) as arrays:
        other_fields = {name: arrays[name] for name in arrays.files}
    image, mask = (np.load(folder / name, mmap_mode="r") for name in (IMAGE, MASK))
    return DecodedImages(_row_numbers(split), image, mask, other_fields)


def _row_numbers(split: Split) -> np.ndarray:
    is_member = split.kinds != OUTSIDE
    return np.where(is_member, np.cumsum(is_member) - 1, -1)


def _check_room(size: int, free: int, title: str, folder: Path | None = None) -> None:
    if size <= free:
        return
    left_over = [path.name for path in folder.glob(f"{UNFINISHED}*")] if folder else []
    advice = f"; {', '.join(left_over)} may be of a run that was killed" * bool(left_over)
    raise InputError(
        f"data.cache: {title}, but {free / GIGABYTE:,.2f} GB are free; leave data.cache out, "
        f"or give a folder on a disk with room{advice}"
    )
