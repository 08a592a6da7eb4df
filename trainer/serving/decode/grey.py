"""Stored values of a DICOM file become what a lake stores, inside a TensorFlow graph, by the rules
of lake/sources/dicom/grey.py and lake/sources/pixels.py."""

from typing import NamedTuple

import tensorflow as tf

from lake.scan import Storage
from lake.sources.dicom.grey import LARGEST, LINEAR_WIDTH
from lake.sources.pixels import PERCENTILES, parse_window


class Numbers(NamedTuple):
    """The rescale and the window in a header, float64 []."""

    slope: tf.Tensor
    intercept: tf.Tensor
    center: tf.Tensor  # NaN where absent
    width: tf.Tensor
    is_exact: tf.Tensor  # bool: the window is LINEAR_EXACT


class GreyTensor(NamedTuple):
    """Grey levels of one image, their meaning (rescale) and how they are displayed (window)."""

    levels: tf.Tensor  # [H, W] int32, 0 ... highest, larger is brighter
    highest: tf.Tensor  # [] int32
    rescale: tuple[tf.Tensor, tf.Tensor]  # slope, intercept of levels
    window: tuple[tf.Tensor, tf.Tensor]  # low, high in levels


def rescale(slope: tf.Tensor, intercept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (slope, intercept), or (1, 0) where they are nonsense."""
    is_sound = (tf.abs(slope) >= 1 / LARGEST) & (tf.abs(slope) <= LARGEST)
    is_sound &= tf.abs(intercept) <= LARGEST
    return tf.where(is_sound, slope, 1.0), tf.where(is_sound, intercept, 0.0)


def from_values(
    values: tf.Tensor,
    numbers: Numbers,
    bits: tf.Tensor,
    is_signed: tf.Tensor,
    is_monochrome1: tf.Tensor,
) -> GreyTensor:
    """Return the grey levels of stored words [H, W] int32, whose bits above `bits` are ignored."""
    slope, intercept = numbers.slope, numbers.intercept
    highest = tf.bitwise.left_shift(1, bits) - 1
    sign = tf.where(is_signed, tf.bitwise.left_shift(1, bits - 1), 0)
    # The value minus the lowest possible one.
    levels = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_and(values, highest), sign)
    intercept -= slope * tf.cast(sign, tf.float64)
    is_inverted = is_monochrome1 != (slope < 0)
    levels = tf.cond(is_inverted, lambda: highest - levels, lambda: levels)
    intercept += tf.where(is_inverted, slope * tf.cast(highest, tf.float64), 0.0)
    slope = tf.where(is_inverted, -slope, slope)
    darkest, brightest = tf.cond(
        bits > 8,
        lambda: (tf.reduce_min(levels), tf.reduce_max(levels)),
        lambda: (tf.zeros([], tf.int32), highest),
    )
    whole = tuple(tf.cast(end, tf.float64) for end in (darkest, tf.maximum(brightest, darkest + 1)))
    view = window(numbers._replace(slope=slope, intercept=intercept), whole)
    return GreyTensor(levels, highest, (slope, intercept), view)


def window(
    numbers: Numbers, whole_range: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the file's window as (low, high) in levels; `whole_range` where none is sound."""
    center, width = numbers.center, numbers.width
    is_linear = ~numbers.is_exact & (width >= 1)
    center = tf.where(is_linear, center - 0.5, center)
    width = tf.where(is_linear, tf.maximum(width - 1, LINEAR_WIDTH), width)
    ends = [(center + side * width / 2 - numbers.intercept) / numbers.slope for side in (-1, 1)]
    low, high = tf.minimum(*ends), tf.maximum(*ends)
    is_sound = (width > 0) & (low >= -LARGEST) & (high <= LARGEST)
    is_sound &= tf.cast(low, tf.float32) < tf.cast(high, tf.float32)
    return tf.where(is_sound, low, whole_range[0]), tf.where(is_sound, high, whole_range[1])


def view(grey: GreyTensor, storage: Storage) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (low, high) in levels of the default view that a lake's `window` option defines."""
    if storage.window == "percentile":
        low, high = (_percentile(grey.levels, percent) for percent in PERCENTILES)
        return low, tf.maximum(high, low + 1)
    modality_window = parse_window(storage.window)
    if modality_window is None:
        return grey.window
    slope, intercept = grey.rescale
    ends = [(end - intercept) / slope for end in modality_window]
    return tf.minimum(*ends), tf.maximum(*ends)


def stored_levels(grey: GreyTensor, storage: Storage, size: tf.Tensor) -> tuple[tf.Tensor, tuple]:
    """Return (pixels [h, w, 1] uint8 | uint16 of `size`, (low, high) of their view)."""
    levels, (low, high) = tf.cast(grey.levels, tf.float64), view(grey, storage)
    if storage.bits == 8:
        is_deep = grey.highest > 255
        levels = tf.cond(is_deep, lambda: _to_8_bits(levels, low, high), lambda: levels)
        low, high = tf.where(~is_deep, low, 0.0), tf.where(~is_deep, high, 255.0)
    has_size = tf.reduce_all(tf.shape(levels) == size)
    levels = tf.cond(has_size, lambda: levels, lambda: _shrink(levels, size))
    dtype = tf.uint8 if storage.bits == 8 else tf.uint16
    return tf.cast(levels, dtype)[..., None], (low, high)


def shrunk_size(size: tf.Tensor, max_side: int | None) -> tf.Tensor:
    """Return (height, width), [2] int32, after fitting into `max_side` with the aspect kept."""
    size = tf.cast(size, tf.float64)
    longest = tf.reduce_max(size)
    side = max_side if max_side is not None else longest
    fitted_size = tf.maximum(tf.round(size * side / longest), 1)
    return tf.cast(tf.where(longest <= side, size, fitted_size), tf.int32)


def _to_8_bits(levels: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    return tf.round(tf.clip_by_value((levels - low) / (high - low), 0, 1) * 255)


def _percentile(levels: tf.Tensor, percent: int) -> tf.Tensor:
    """Return the percentile between two neighbouring levels, interpolated linearly as NumPy
    does."""
    counts = tf.math.bincount(tf.reshape(levels, [-1]), minlength=2**16, maxlength=2**16)
    ranks = tf.cumsum(tf.cast(counts, tf.int64))
    position = percent / 100 * tf.cast(ranks[-1] - 1, tf.float64)
    below = tf.cast(tf.floor(position), tf.int64)
    neighbours = tf.stack([below, tf.minimum(below + 1, ranks[-1] - 1)])
    sorted_levels = tf.searchsorted(ranks, neighbours, side="right")
    lower, upper = tf.unstack(tf.cast(sorted_levels, tf.float64))
    share = position - tf.cast(below, tf.float64)
    gap = upper - lower
    return tf.where(share < 0.5, lower + gap * share, upper - gap * (1 - share))


def _shrink(levels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return an area-filtered copy of [H, W] as Pillow makes it: rows first, float32 in between."""
    return tf.round(_box_filter(_box_filter(levels, size[1]), size[0]))


def _box_filter(levels: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Average `count` boxes along each row: [R, C] -> [count, R] float64, transposed."""
    length = tf.shape(levels)[1]
    scale = tf.cast(length, tf.float64) / tf.cast(count, tf.float64)
    centers = (tf.cast(tf.range(count), tf.float64) + 0.5) * scale  # [count]
    starts = tf.cast(centers - scale / 2 + 0.5, tf.int32)
    ends = tf.minimum(tf.cast(centers + scale / 2 + 0.5, tf.int32), length)
    pixels_in_box = starts[:, None] + tf.range(tf.reduce_max(ends - starts))  # [count, widest]
    distances = (tf.cast(pixels_in_box, tf.float64) - centers[:, None] + 0.5) * (1 / scale)
    is_in = (pixels_in_box < ends[:, None]) & (distances > -0.5) & (distances <= 0.5)
    shares = tf.cast(is_in, tf.float64)
    shares /= tf.reduce_sum(shares, axis=1, keepdims=True)
    rows = tf.repeat(tf.range(count), tf.shape(pixels_in_box)[1])
    columns = tf.reshape(tf.minimum(pixels_in_box, length - 1), [-1])
    boxes = tf.SparseTensor(
        tf.cast(tf.stack([rows, columns], 1), tf.int64),
        tf.reshape(shares, [-1]),
        tf.cast(tf.stack([count, length]), tf.int64),
    )
    sums = tf.sparse.sparse_dense_matmul(boxes, levels, adjoint_b=True)
    return tf.cast(tf.cast(sums, tf.float32), tf.float64)
