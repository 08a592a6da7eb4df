"""The VAE-regularised network of Myronenko 2018 (arXiv:1810.11654), in two dimensions.

Images [B, side, side, 1] in [0, 1] -> logits [B, side, side, 1]. A second decoder, the VAE branch,
reconstructs the image from a few numbers drawn at the deepest features. This teaches the encoder
from images without a mask, too.

    size      filters   encoder                     decoder                        VAE branch
    side      f         conv, dropout, 1 block ───> up + skip, block, 1x1 head     up, block, 1x1
    side/2    2f        conv / 2, 2 blocks ───────> up + skip, block               up, block
    side/4    4f        conv / 2, 2 blocks ───────> up + skip, block               up, block
    side/8    8f        conv / 2, 4 blocks ───────┘            └─┐                 up
    side/16   16                                      norm, ReLU, conv / 2         dense, ReLU
              latent                                  dense: mean, log σ² ─ draw ──┘

conv = 3x3; block = 2 x (norm, ReLU, conv), its input added; up = 1x1 convolution to the level's
filters, bilinear; norm in 8 groups. The paper's dense layer of 256 is mean and log σ² in one.
"""

import math

import keras
from keras import ops

from lake import InputError
from trainer.config import parts
from trainer.config.network import Blocks, Vae
from trainer.models import blocks

STYLE = Blocks(norm="group", activation="relu")
CODE_FILTERS = 16  # of the map that mean and log σ² are read from, and of the one painted from
MEAN, LOG_VARIANCE, RECONSTRUCTION = "vae_mean", "vae_log_variance", "reconstruction"  # layers


class Draw(keras.layers.Layer):
    """Returns a draw from N(mean, σ²) in training, else the mean; mean and log σ² are [B, Z]. The
    counter of the random numbers is a state of the layer, as in Dropout."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator()

    def call(self, mean, log_variance, training=False):
        if not training:
            return mean
        noise = keras.random.normal(ops.shape(mean), dtype=self.compute_dtype, seed=self.seeds)
        return mean + ops.exp(log_variance / 2) * noise


def build(section: Vae, side: int) -> keras.Model:
    """Return the network for images [B, side, side, 1]; raise InputError for a side that cannot be
    halved so often."""
    num_halvings = len(section.blocks)  # the VAE branch halves once more than the encoder
    if side % 2**num_halvings:
        cause = f"side={side} cannot be halved {num_halvings} times, once per level of model.blocks"
        raise InputError(f"{cause}; use a multiple of {2**num_halvings}")
    images = keras.Input((side, side, 1), name="images")
    widths = [section.filters * 2**i for i in range(len(section.blocks))]
    skips = encoder_features(images, widths, section)
    x = decoder(skips[-1], widths, skips, "decoder")
    logits = blocks.head(x, "head")
    extra = [vae_branch(skips[-1], widths, section.latent)]
    if section.empty_head:
        extra.append(blocks.lesion_head(skips[-1]))
    return keras.Model(images, blocks.with_extra_outputs(logits, extra), name="vae")


def encoder_features(images, widths: list[int], section: Vae) -> list:
    """Return the features of each level, [B, side / 2^i, side / 2^i, f · 2^i]."""
    x = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(images)
    features = []
    for i, (filters, count) in enumerate(zip(widths, section.blocks, strict=True)):
        x = convolution(x, filters, f"level_{i}_conv", strides=2 if i else 1)
        if i == 0 and section.dropout:
            x = keras.layers.SpatialDropout2D(section.dropout, name="dropout")(x)
        for k in range(1, count + 1):
            x = block(x, filters, f"level_{i}_block{k}")
        features.append(x)
    return features


def decoder(x, widths: list[int], skips: list | None, name: str):
    """Bring the deepest features, or a map of their shape, up to [B, side, side, f]."""
    for i in reversed(range(len(widths) - 1)):
        x = upsampling(x, widths[i], f"{name}_{i}")
        if skips:
            x = keras.layers.Add(name=f"{name}_{i}_skip")([skips[i], x])
        x = block(x, widths[i], f"{name}_{i}")
    return x


def vae_branch(deepest, widths: list[int], latent: int):
    """Reconstruct the image, [B, side, side, 1] float32, from the deepest features [B, h, w, c]."""
    x = norm_and_relu(deepest, "vae_code")
    x = convolution(x, CODE_FILTERS, "vae_code_conv", strides=2)
    shape = x.shape[1:]
    x = keras.layers.Flatten(name="vae_code_flat")(x)
    mean = keras.layers.Dense(latent, dtype="float32", name=MEAN)(x)
    log_variance = keras.layers.Dense(latent, dtype="float32", name=LOG_VARIANCE)(x)
    x = Draw(dtype="float32", name="vae_draw")(mean, log_variance)
    x = keras.layers.Dense(math.prod(shape), activation="relu", name="vae_dense")(x)
    x = keras.layers.Reshape(shape, name="vae_map")(x)
    x = upsampling(x, widths[-1], "vae_entry")
    return blocks.head(decoder(x, widths, skips=None, name="vae"), RECONSTRUCTION)


def block(x, filters: int, name: str):
    """Apply a residual block, [B, H, W, filters] -> the same shape."""
    shortcut = x
    for k in (1, 2):
        x = convolution(norm_and_relu(x, name, k), filters, f"{name}_conv{k}")
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def norm_and_relu(x, name: str, k: int | str = ""):
    return blocks.activation(blocks.norm(x, STYLE, f"{name}_norm{k}"), STYLE, f"{name}_relu{k}")


def convolution(x, filters: int, name: str, strides: int = 1):
    return keras.layers.Conv2D(
        filters, 3, strides, padding="same", kernel_initializer="he_normal", name=name
    )(x)


def upsampling(x, filters: int, name: str):
    """Double height and width, [B, h, w, any] -> [B, 2h, 2w, filters]."""
    x = keras.layers.Conv2D(filters, 1, kernel_initializer="he_normal", name=f"{name}_conv")(x)
    return keras.layers.UpSampling2D(**parts.BILINEAR, name=f"{name}_up")(x)
