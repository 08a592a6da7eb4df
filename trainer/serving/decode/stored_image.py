"""One image as a lake would store it, made inside a TensorFlow graph of grey levels, of a JPEG that
stays unchanged, or of the reason why there is none."""

from typing import NamedTuple

import tensorflow as tf

from lake.scan import Storage
from trainer.serving.decode.grey import GreyTensor, shrunk_size, stored_levels, view


class StoredImage(NamedTuple):
    """One image as the converter would store it, or why there is none."""

    jpeg: tf.Tensor  # [] string: the JPEG where the converter stores it unchanged, else ""
    pixels: tf.Tensor  # else [H, W, 1] uint8 | uint16; [1, 1, 1] zero with a jpeg or an error
    height: tf.Tensor  # [] int32, as stored; 0 with an error
    width: tf.Tensor
    original_height: tf.Tensor  # [] int32, as in the file; 0 with an error
    original_width: tf.Tensor
    window: tf.Tensor  # [2] float32: low, high in stored values
    error: tf.Tensor  # [] string: "", or a Reject's reason, a colon and what is wrong


def from_grey(grey: GreyTensor, storage: Storage) -> StoredImage:
    """Return grey levels as a lake stores them."""
    original_size = tf.shape(grey.levels)
    size = shrunk_size(original_size, storage.max_side)
    pixels, window = stored_levels(grey, storage, size)
    return _image(tf.constant(""), pixels, size, original_size, window)


def from_jpeg(jpeg: tf.Tensor, grey: GreyTensor, size: tf.Tensor, storage: Storage) -> StoredImage:
    """Return a JPEG of `size`, [2] int32, that a lake stores unchanged.

    `grey` needs its levels only where the lake's window counts them.
    """
    return _image(jpeg, _no_pixels(storage), size, size, view(grey, storage))


def refuse(error: tf.Tensor, storage: Storage) -> StoredImage:
    """Return a StoredImage that holds no image, only the error."""
    zero_size, window = tf.zeros([2], tf.int32), (0.0, 1.0)
    image = _image(tf.constant(""), _no_pixels(storage), zero_size, zero_size, window)
    return image._replace(error=error)


def _image(
    jpeg: tf.Tensor, pixels: tf.Tensor, size: tf.Tensor, original: tf.Tensor, window: tuple
) -> StoredImage:
    sizes, ends = (*tf.unstack(size, 2), *tf.unstack(original, 2)), tf.stack(window)
    return StoredImage(jpeg, pixels, *sizes, tf.cast(ends, tf.float32), tf.constant(""))


def _no_pixels(storage: Storage) -> tf.Tensor:
    """Return the placeholder of pixels that are not there, [1, 1, 1] zero."""
    return tf.zeros([1, 1, 1], tf.uint8 if storage.bits == 8 else tf.uint16)
