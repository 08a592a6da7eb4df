"""What encoders and decoders are built of: two convolutions, each with its normalisation and
activation.

Normalisation computes in float32, also under mixed precision.
"""

import keras

from lake import InputError

GROUPS = 8  # of group normalisation, at every width
# Of the moving statistics. Keras's 0.99 still remembers the first weights after 300 steps, so that
# validation lags behind training; 0.9 is PyTorch's.
MOMENTUM = 0.9


def check_side(side: int, depth: int) -> None:
    if side % 2**depth:
        raise InputError(
            f"side={side} cannot be halved {depth} times (depth={depth}); "
            f"use a multiple of {2**depth}"
        )


def check(norm: str, filters: int) -> None:
    if norm == "group" and filters % GROUPS:
        raise InputError(
            f"filters={filters} cannot be split into the {GROUPS} groups of norm=group; "
            f"use a multiple of {GROUPS}"
        )


def normalisation(norm: str, name: str) -> keras.Layer | None:
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


def double_convolution(x, filters: int, norm: str, name: str):
    """2 x (3x3 convolution, norm, ReLU): [B, H, W, any] -> [B, H, W, filters]."""
    for k in (1, 2):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_conv{k}"
        )(x)
        if normalise := normalisation(norm, f"{name}_norm{k}"):
            x = normalise(x)
        x = keras.layers.ReLU(name=f"{name}_relu{k}")(x)
    return x
