"""Stored grey values become network input in [0, 1]."""

from keras import ops


def to_unit(images, window):
    """Return images [B, S, S, 1], as a lake stores them, as float32 in [0, 1]; `window` [B, 2]: the
    stored values that become 0 and 1."""
    low, high = (ops.reshape(end, (-1, 1, 1, 1)) for end in ops.unstack(window, num=2, axis=1))
    return ops.clip((ops.cast(images, "float32") - low) / (high - low), 0, 1)
