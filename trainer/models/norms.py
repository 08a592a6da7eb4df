"""The normalisation between a convolution and its activation: from its name to a layer.

All of them compute in float32, also under mixed precision.
"""

import keras

from lake import InputError

GROUPS = 8  # of group normalisation, at every width
# Of the moving statistics. Keras's 0.99 still remembers the first weights after 300 steps, so that validation lags
# behind training; 0.9 is PyTorch's.
MOMENTUM = 0.9


def check(norm: str, filters: int) -> None:
    if norm == "group" and filters % GROUPS:
        raise InputError(
            f"filters={filters} cannot be split into the {GROUPS} groups of norm=group; "
            f"use a multiple of {GROUPS}"
        )


def layer(norm: str, name: str) -> keras.Layer | None:
    """The layer called `name`, or None for `none`."""
    match norm:
        case "batch":
            return keras.layers.BatchNormalization(momentum=MOMENTUM, name=name)
        case "sync_batch":
            return keras.layers.BatchNormalization(momentum=MOMENTUM, synchronized=True, name=name)
        case "group":
            return keras.layers.GroupNormalization(GROUPS, name=name)
        case "none":
            return None
    raise InputError(f"norm={norm}: expected none, batch, sync_batch or group")
