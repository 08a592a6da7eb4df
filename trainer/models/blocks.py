"""What encoders and decoders are built of: convolutions with their norm and activation, one block a
node, and ways to double a map's height and width.

    block       1 or 2 x convolution: [B, H, W, any] -> [B, H, W, filters]
    convolution 3x3, norm, activation (conv_norm_act), or 3x3, activation, norm (conv_act_norm)
    residual    the block's input, through a 1x1 convolution where the widths differ, is added
                before the last activation (He et al. 2016, arXiv:1512.03385)

Every function takes the layers' names, so that weights find their layer in another network. `style`
is a section of config.py: norm, order, activation, negative_slope, residual. Normalisation computes
in float32, also under mixed precision.
"""

import keras

from lake import InputError
from trainer.config import parts
from trainer.config.network import Blocks

LESION = "lesion"  # the layer of a segmenter whose output says whether there is a lesion


def check(side: int, depth: int, widths: tuple[int, ...], norm: str) -> None:
    """Raises InputError for sizes that the layers cannot have."""
    if side % 2**depth:
        raise InputError(
            f"side={side} cannot be halved {depth} times (depth={depth}); "
            f"use a multiple of {2**depth}"
        )
    if norm == "instance" and side == 2**depth:
        raise InputError(
            f"norm=instance makes zeros of the single pixel that depth={depth} leaves of "
            f"side={side}; use a smaller depth or another norm"
        )
    for filters in widths:
        if norm == "group" and filters % parts.GROUPS:
            raise InputError(
                f"filters={filters} cannot be split into the {parts.GROUPS} groups of norm=group; "
                f"use a multiple of {parts.GROUPS}"
            )


def block(x, filters: int, style: Blocks, convolutions: int, name: str):
    """[B, H, W, any] -> [B, H, W, filters]."""
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
    x = keras.layers.Conv2D(
        filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_conv{k}"
    )(x)
    return finished(x, style, name, k, shortcut)


def finished(x, style: Blocks, name: str, k: int | str, shortcut=None):
    """Norm and activation in the style's order; the shortcut is added before the activation."""
    if style.order == "conv_norm_act":
        x = normalised(x, style, f"{name}_norm{k}")
    if shortcut is not None:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    x = activated(x, style, f"{name}_{style.activation}{k}")
    if style.order == "conv_act_norm":
        x = normalised(x, style, f"{name}_norm{k}")
    return x


def normalised(x, style: Blocks, name: str):
    if parts.NORMS[style.norm] is None:
        return x
    layer, options = parts.NORMS[style.norm]
    return getattr(keras.layers, layer)(**options, name=name)(x)


def activated(x, style: Blocks, name: str):
    layer, options = parts.ACTIVATIONS[style.activation]
    if style.activation == "leaky_relu":
        options = {"negative_slope": style.negative_slope}
    return getattr(keras.layers, layer)(**options, name=name)(x)


def upsampled(x, filters: int, style: Blocks, upsampling: str, name: str):
    """[B, H, W, c] -> [B, 2H, 2W, filters], or c channels where no convolution takes part."""
    row = parts.UPSAMPLINGS[upsampling]
    options = row.options
    if row.layer == "Conv2DTranspose":
        options = options | {"filters": filters}
    x = getattr(keras.layers, row.layer)(**options, name=f"{name}_up")(x)
    if row.convolution:
        return convolution(x, filters, style, f"{name}_up", "")
    return finished(x, style, f"{name}_up", "") if row.is_activated else x


def head(x, name: str):
    """One logit a pixel, float32: [B, H, W, c] -> [B, H, W, 1]."""
    return keras.layers.Conv2D(1, 1, dtype="float32", name=name)(x)


class FirstOf(keras.layers.Layer):
    """The first of its inputs. The others belong to the network all the same: their weights are
    trained, saved and counted, and objective.outputs asks for them; a compiled prediction leaves
    them out."""

    def call(self, inputs):
        return inputs[0]


def with_beside(logits, beside: list):
    """The logits, float32, of a network that `beside` is part of."""
    return FirstOf(dtype="float32", name="answer")([logits, *beside]) if beside else logits


def lesion_head(features):
    """The logit "there is a lesion", float32: [B, h, w, c] -> [B, 1]."""
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name=f"{LESION}_mean")(features)
    return keras.layers.Dense(1, dtype="float32", name=LESION)(x)
