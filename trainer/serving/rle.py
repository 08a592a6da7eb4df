"""Run lengths of masks by TensorFlow operations: the graph's version of lake.labels.rle.encode."""

import tensorflow as tf

from lake.labels import rle


def encode_mask(mask):
    """Return the relative text, [] string, of a mask [H, W] bool; `-1` for an empty one."""
    # The code counts down the columns, so the mask is transposed first.
    down = tf.reshape(tf.transpose(mask), [-1])
    border = tf.constant([False])
    flat = tf.concat([border, down, border], axis=0)
    edges = tf.where(flat[1:] != flat[:-1])  # [2 R, 1] int64: start, end, start, end, …
    starts, ends = tf.unstack(tf.reshape(edges, [-1, 2]), axis=1)
    gaps = starts - tf.concat([[0], ends[:-1]], axis=0)[: tf.size(starts)]
    numbers = tf.reshape(tf.stack([gaps, ends - starts], axis=1), [-1])
    text = tf.strings.reduce_join(tf.strings.as_string(numbers), separator=" ")
    return tf.where(tf.size(edges) > 0, text, rle.EMPTY)
