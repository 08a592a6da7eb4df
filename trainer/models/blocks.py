"""The blocks of encoders and decoders: convolutions with their norm and activation, and ways to
double a map's height and width.

    block       1 or 2 x convolution: [B, H, W, any] -> [B, H, W, filters]
    convolution 3x3, norm, activation (conv_norm_act), or 3x3, activation, norm (conv_act_norm)
    residual    the block's input, through a 1x1 convolution where the widths differ, is added
                before the last activation (He et al. 2016, arXiv:1512.03385)

Every function takes the layers' names, by which weights find their layer in another network.
`style` is a section of trainer/config/network.py: norm, order, activation, negative_slope,
residual. The norms compute in float32, also under mixed precision.
"""

import keras

from lake import InputError
from trainer.config import parts
from trainer.config.network import Blocks

LESION = "lesion"  # the layer of a segmenter that gives the logit "there is a lesion"


def check_sizes(side: int, depth: int, widths: tuple[int, ...], norm: str) -> None:
    """Raise InputError for sizes that the layers cannot have."""
    if side % 2**depth:
        cause = f"side={side} cannot be halved {depth} times (depth={depth})"
        raise InputError(f"{cause}; use a multiple of {2**depth}")
    if norm == "instance" and side == 2**depth:
        cause = f"norm=instance makes zeros of the single pixel that depth={depth} leaves"
        raise InputError(f"{cause} of side={side}; use a smaller depth or another norm")
    for filters in widths:
        if norm == "group" and filters % parts.GROUPS:
            cause = f"filters={filters} cannot be split into {parts.GROUPS} groups of norm=group"
            raise InputError(f"{cause}; use a multiple of {parts.GROUPS}")


def block(x, filters: int, style: Blocks, convolutions: int, name: str):
    """Apply a block, [B, H, W, any] -> [B, H, W, filters]."""
    shortcut = None
    if style.residual:
        shortcut = x
        if x.shape[-1] != filters:
            shortcut = keras.layers.Conv2D(filters, 1, name=f"{name}_shortcut")(x)
    for k in range(1, convolutions + 1):
        is_last = k == convolutions
        x = convolution(x, filters, style, name, k, shortcut if is_last else None)
    return x


def convolution(x, filters: int, style: Blocks, name: str, k: int | str, shortcut=None):
    """Apply a 3x3 convolution, norm and activation, [B, H, W, any] -> [B, H, W, filters]. A
    shortcut [B, H, W, filters] is added before the activation; `k` ends the layers' names."""
    x = keras.layers.Conv2D(
        filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_conv{k}"
    )(x)
    return norm_and_activation(x, style, name, k, shortcut)


def norm_and_activation(x, style: Blocks, name: str, k: int | str, shortcut=None):
    """Apply both in the style's order, and add the shortcut before the activation."""
    if style.order == "conv_norm_act":
        x = norm(x, style, f"{name}_norm{k}")
    if shortcut is not None:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    x = activation(x, style, f"{name}_{style.activation}{k}")
    if style.order == "conv_act_norm":
        x = norm(x, style, f"{name}_norm{k}")
    return x


def norm(x, style: Blocks, name: str):
    if parts.NORMS[style.norm] is None:
        return x
    layer, options = parts.NORMS[style.norm]
    return getattr(keras.layers, layer)(**options, name=name)(x)


def activation(x, style: Blocks, name: str):
    layer, options = parts.ACTIVATIONS[style.activation]
    if style.activation == "leaky_relu":
        options = {"negative_slope": style.negative_slope}
    return getattr(keras.layers, layer)(**options, name=name)(x)


def upsampling(x, filters: int, style: Blocks, kind: str, name: str):
    """Double height and width, [B, H, W, c] -> [B, 2H, 2W, filters]; it stays at c channels where
    the kind has no convolution."""
    row = parts.UPSAMPLINGS[kind]
    options = row.options
    if row.layer == "Conv2DTranspose":
        options = options | {"filters": filters}
    x = getattr(keras.layers, row.layer)(**options, name=f"{name}_up")(x)
    if row.convolution:
        return convolution(x, filters, style, f"{name}_up", "")
    return norm_and_activation(x, style, f"{name}_up", "") if row.is_activated else x


def head(x, name: str):
    """Give one logit per pixel, float32: [B, H, W, c] -> [B, H, W, 1]."""
    return keras.layers.Conv2D(1, 1, dtype="float32", name=name)(x)


class FirstOf(keras.layers.Layer):
    """Returns the first of its inputs.

    It makes the other inputs part of the network, so that their weights are trained, saved and
    counted. The loss takes them from their layers (trainer/scoring/objective.py); a compiled
    prediction does not compute them.
    """

    def call(self, inputs):
        return inputs[0]


def with_extra_outputs(logits, extra: list):
    """Return the logits, float32, as the output of a network that has the extra outputs in it."""
    return FirstOf(dtype="float32", name="answer")([logits, *extra]) if extra else logits


def lesion_head(features):
    """Give the logit "there is a lesion", float32: [B, h, w, c] -> [B, 1]."""
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"{LESION}_mean")(features)
    return keras.layers.Dense(1, dtype="float32", name=LESION)(x)
