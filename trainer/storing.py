"""Decoded grey levels -> an image as the converter would store it, in TensorFlow's own ops:
lake/sources/pixels.py once more, for graphs that files go into (trainer/image_graph.py,
trainer/dicom_graph.py). Pixels are the same, up to rounding where they are shrunk.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.sources import Storage
from lake.sources.pixels import PERCENTILES, parse_window


class Stored(NamedTuple):
    """One image as a record holds it; tensors."""

    jpeg: tf.Tensor  # [] string, where the converter keeps the file's own; else ""
    pixels: tf.Tensor  # [H, W, 1] uint8 or uint16; [1, 1, 1] where there is a jpeg or an error
    height: tf.Tensor  # [] int32, as stored
    width: tf.Tensor
    original_height: tf.Tensor  # [] int32, of the file
    original_width: tf.Tensor
    window: tf.Tensor  # [2] float32: low, high in stored values
    error: tf.Tensor  # [] string: "", or why there is no image


class Levels(NamedTuple):
    """Grey levels of a file."""

    levels: tf.Tensor  # [H, W, 1] of any integers, brighter is higher
    highest: tf.Tensor  # [] float64, what a level can be
    rescale: tuple  # slope, intercept: float64; modality value = level * slope + intercept
    window: tuple  # low, high: float64, the default view in levels


def refused(error, storage: Storage) -> Stored:
    """No image, and why."""
    one = tf.constant(1)
    return Stored(
        tf.constant(""),
        tf.zeros([1, 1, 1], dtype_of(storage)),
        *(one, one, one, one),
        tf.constant([0.0, 1.0]),
        tf.convert_to_tensor(error),
    )


def attempt(make: Callable, otherwise):
    """What `make` gives, or `otherwise`, of the same structure, where one of its ops fails.

    A graph has no `try`: an op that fails ends the whole call, and with it the other files of the
    batch. A dataset of one element may leave it out.
    """
    call = tf.autograph.experimental.do_not_convert(lambda _: make())
    tried = tf.data.Dataset.from_tensors(0).map(call).ignore_errors()
    return tried.concatenate(tf.data.Dataset.from_tensors(otherwise)).take(1).get_single_element()


def dtype_of(storage: Storage) -> tf.DType:
    return tf.uint8 if storage.bits == 8 else tf.uint16


def store(found: Levels, storage: Storage) -> Stored:
    """lake.sources.pixels.store, but for CLAHE."""
    low, high = view(found, storage)
    levels, window = found.levels, (low, high)
    if storage.bits == 8:
        is_deep = found.highest > 255
        levels = tf.cond(
            is_deep, lambda: _stretched(levels, low, high), lambda: tf.cast(levels, tf.uint8)
        )
        window = (tf.where(is_deep, np.float64(0), low), tf.where(is_deep, np.float64(255), high))
    original = tf.shape(levels)
    height, width = shrunk_size(original[0], original[1], storage.max_side)
    pixels = shrink(tf.cast(levels, dtype_of(storage)), height, width)
    sizes = (height, width, original[0], original[1])
    return Stored(tf.constant(""), pixels, *sizes, as_window(window), tf.constant(""))


def as_window(window: tuple) -> tf.Tensor:
    """[2] float32, as a record holds it."""
    return tf.cast(tf.stack(window), tf.float32)


def view(found: Levels, storage: Storage) -> tuple:
    """(low, high) in levels of what a record's window should be."""
    if storage.window == "percentile":
        return _percentiles(found.levels)
    asked = parse_window(storage.window)
    if asked is None:
        return found.window
    slope, intercept = found.rescale
    ends = tf.sort((np.float64(asked) - intercept) / slope)
    return ends[0], ends[1]


def _percentiles(levels) -> tuple:
    """numpy.percentile of whole numbers, by counting them."""
    counts = tf.math.bincount(tf.reshape(tf.cast(levels, tf.int32), [-1]), dtype=tf.int64)
    up_to = tf.cumsum(counts)  # levels that are not above each value

    def percentile(share: float):
        place = np.float64(share) / 100 * tf.cast(up_to[-1] - 1, tf.float64)
        ends = tf.stack([tf.floor(place), tf.math.ceil(place)])
        values = tf.searchsorted(up_to, tf.cast(ends, tf.int64), side="right")
        lower, upper = tf.unstack(tf.cast(values, tf.float64))
        return lower + (upper - lower) * (place - ends[0])

    low, high = (percentile(share) for share in PERCENTILES)
    return low, tf.maximum(high, low + 1)


def _stretched(levels, low, high):
    """The window as 0 to 255."""
    unit = tf.clip_by_value((tf.cast(levels, tf.float64) - low) / (high - low), 0, 1)
    return tf.cast(tf.round(unit * 255), tf.uint8)


def shrunk_size(height, width, max_side: int | None) -> tuple:
    """lake.sources.pixels.shrunk_size of int32 tensors."""
    if max_side is None:
        return height, width
    longest = tf.maximum(height, width)

    def shrunk(side):
        # Halves go to the even number, as Python rounds them.
        exact = tf.cast(side, tf.float64) * max_side / tf.cast(longest, tf.float64)
        return tf.where(
            longest <= max_side, side, tf.maximum(1, tf.cast(tf.round(exact), side.dtype))
        )

    return shrunk(height), shrunk(width)


def shrink(pixels, height, width):
    """Pillow's box filter: the mean of the whole pixels around each new one's place, along rows and
    then down columns; of pixels [H, W, 1]."""

    def shrunk():
        wide = tf.cast(pixels[..., 0], tf.float64)
        # Pillow keeps single floats in between.
        narrow = tf.cast(_means(wide, width), tf.float32)  # [H, width]
        small = _means(tf.transpose(tf.cast(narrow, tf.float64)), height)  # [width, height]
        rounded = tf.round(tf.cast(tf.transpose(small), tf.float32))
        return tf.cast(rounded, pixels.dtype)[..., None]

    size = tf.stack([height, width])
    return tf.cond(tf.reduce_all(tf.shape(pixels)[:2] == size), lambda: pixels, shrunk)


def _means(values, count):
    """[A, B] float64 -> [A, count] means of the values that each new one covers."""
    stored = tf.shape(values)[1]
    scale = tf.cast(stored, tf.float64) / tf.cast(count, tf.float64)
    # Pillow's own arithmetic (src/libImaging/Resample.c): where a new value ends in the middle of
    # an old one, its rounding decides which side has it.
    centers = (tf.range(count, dtype=tf.float64) + 0.5) * scale
    starts = tf.floor(centers - 0.5 * scale + 0.5)
    ends = tf.minimum(tf.floor(centers + 0.5 * scale + 0.5), tf.cast(stored, tf.float64))
    starts += tf.cast((starts - centers + 0.5) * (1 / scale) <= -0.5, tf.float64)
    ends -= tf.cast((ends - 1 - centers + 0.5) * (1 / scale) > 0.5, tf.float64)
    sums = tf.pad(tf.cumsum(values, axis=1), [[0, 0], [1, 0]])
    covered = [tf.gather(sums, tf.cast(edges, tf.int32), axis=1) for edges in (ends, starts)]
    return (covered[0] - covered[1]) / (ends - starts)
