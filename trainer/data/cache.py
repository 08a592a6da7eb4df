"""A split's images, decoded once to the network's side and kept, so that epochs decode nothing.

A row has a fixed length: the pixels, and the mask's, eight to a byte. Rows lie in numpy arrays, in
memory or in files of a folder, where later runs with the same lake and side find them. The order of
training, its draws and therefore its batches are those without a cache, bit for bit: files that are
not as they were written are found by their checksums before the first step, and made again; one
that is changed while it is in use ends the run (row_file.py).
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError, signals, storage
from lake.records import run_files
from trainer.config.run import Data
from trainer.data import row_file
from trainer.data.order import OUTSIDE, Split
from trainer.data.row_file import RowFile

MEMORY = "memory"  # data.cache; anything else is a folder
GIGABYTE = 1e9
IMAGE, MASK, OTHERS = FILES = ("image.npy", "mask.npy", "others.npz")
CHECKSUMS = run_files.CACHE  # of the FILES, and what they were made of
UNFINISHED = "unfinished."  # before the name of a folder that is being written


class DecodedImages(NamedTuple):
    """The M images of a split."""

    rows: np.ndarray  # per stored record: its row, -1 where it is not in the split
    image: np.ndarray | RowFile  # [M, S, S, 1]
    mask: np.ndarray | RowFile  # uint8 [M, S·S / 8]
    other_fields: dict[str, np.ndarray]  # window, label, has_mask, weight, findings: [M, …]

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
        return _in_memory(split, data, batches)
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
            _write_files(split, data, batches, unfinished_folder)
            checksums = {name: _sha256(unfinished_folder / name) for name in FILES}
            content = json.dumps({"source": source, "sha256": checksums})
            (unfinished_folder / CHECKSUMS).write_text(content)
        # Opened before another run that finds fault with them could remove them.
        images = _load_images(unfinished_folder, split, folder)
        with contextlib.suppress(OSError):  # another worker was faster
            unfinished_folder.rename(folder)
        return images
    except OSError as error:
        error.filename = error.filename or str(folder)  # which a write without room leaves out
        raise
    finally:
        shutil.rmtree(unfinished_folder, ignore_errors=True)


def _fault(folder: Path, source: str) -> str:
    """Return a message on what is wrong with the files of a folder, "" where nothing is."""
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
    num_pixels = data.side**2
    return split.num_records * (num_pixels * np.dtype(split.dtype).itemsize + num_pixels // 8)


def _source(split: Split, data: Data, shards_sha256: str) -> str:
    """Return all that decides about the cached pixels, as JSON: the name of their folder is its
    hash, so that two runs share one only where every one of their pixels is the same.

    It has the stored bytes (by the manifests' checksums), which of them belong to the split and in
    which order, and how they are brought to the network's side. Batch size, shares and augmentation
    come later, and are not in it.
    """
    members = hashlib.sha256((split.kinds != OUTSIDE).tobytes()).hexdigest()
    stored_bytes = [shards_sha256, split.records_per_shard, members]
    # Of findings, too: the other fields of another choice of them are other ones.
    findings = [split.findings] if split.findings else []
    return json.dumps([*stored_bytes, split.dtype, data.side, data.fit, *findings])


def _decode(
    split: Split, data: Data, batches: Callable
) -> Iterator[tuple[np.ndarray, np.ndarray, dict]]:
    """Yield (image, mask, other fields) of DecodedImages in parts, one per batch."""
    for batch in batches(split, data).as_numpy_iterator():
        is_real = batch.pop("weight") > 0  # the last batch is filled up with padding
        fields = {name: values[is_real] for name, values in batch.items()}
        image, mask = fields.pop("image"), fields.pop("mask").reshape(-1, data.side**2)
        fields["weight"] = is_real[is_real].astype(np.float32)
        yield image, np.packbits(mask, axis=1), fields


def _shapes(split: Split, data: Data) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of DecodedImages.image and mask."""
    count, side = split.num_records, data.side
    return (count, side, side, 1), (count, side * side // 8)


def _in_memory(split: Split, data: Data, batches: Callable) -> DecodedImages:
    """Return the split's images as arrays."""
    image_shape, mask_shape = _shapes(split, data)
    image, mask = np.empty(image_shape, split.dtype), np.empty(mask_shape, np.uint8)
    parts, row = [], 0
    for image_part, mask_part, fields in _decode(split, data, batches):
        rows = slice(row, row := row + len(image_part))
        image[rows], mask[rows] = image_part, mask_part
        parts.append(fields)
    return DecodedImages(_row_numbers(split), image, mask, _join_fields(parts))


def _write_files(split: Split, data: Data, batches: Callable, folder: Path) -> None:
    """Write the split's images into the files of a folder, row after row."""
    image_shape, mask_shape = _shapes(split, data)
    parts = []
    with (folder / IMAGE).open("wb") as images, (folder / MASK).open("wb") as masks:
        row_file.write_header(images, image_shape, split.dtype)
        row_file.write_header(masks, mask_shape, "uint8")
        for image_part, mask_part, fields in _decode(split, data, batches):
            images.write(image_part.data)
            masks.write(mask_part.data)
            parts.append(fields)
    np.savez(folder / OTHERS, **_join_fields(parts))


def _join_fields(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _load_images(folder: Path, split: Split, later_folder: Path | None = None) -> DecodedImages:
    """Return the images that `_write_files` left in a folder; pixels stay on the disk.
    `later_folder`: what it will be called when messages name it."""
    checksums = json.loads((folder / CHECKSUMS).read_text())["sha256"]
    with np.load(folder / OTHERS) as arrays:
        other_fields = {name: arrays[name] for name in arrays.files}
    image, mask = (
        RowFile((folder / name).open("rb"), checksums[name], (later_folder or folder) / name)
        for name in (IMAGE, MASK)
    )
    return DecodedImages(_row_numbers(split), image, mask, other_fields)


def _row_numbers(split: Split) -> np.ndarray:
    is_member = split.kinds != OUTSIDE
    return np.where(is_member, np.cumsum(is_member) - 1, -1)


def _check_room(size: int, free: int, title: str, folder: Path | None = None) -> None:
    """Raise InputError where `size` bytes do not fit into `free` ones."""
    if size <= free:
        return
    left_over = [path.name for path in folder.glob(f"{UNFINISHED}*")] if folder else []
    advice = f"; {', '.join(left_over)} may be of a run that was killed" if left_over else ""
    raise InputError(
        f"data.cache: {title}, but {free / GIGABYTE:,.2f} GB are free; leave data.cache out, "
        f"or give a folder on a disk with room{advice}"
    )
