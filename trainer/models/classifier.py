"""Image classifiers: encoder, then one logit from the pooled features or from a lesion map.

Images [B, side, side, 1] in [0, 1] -> logits [B, 1].

    plain         [side, side, f] -> [side/2, side/2, 2f] … up to 8f wide, `depth` times halved:
                  two 3x3 convolutions a level, as in a U-Net, and max pooling
    densenet121   [side, side, 1] -> [side, side, 3] -> [side/32, side/32, c]
       169, 201   Huang et al. 2017 (arXiv:1608.06993) from keras.applications, c = 1024, 1664, 1920

    average       features -> mean over the image -> dropout -> [1]
    lesion_map    features -> dropout -> 1x1 convolution: a coarse map of lesion logits -> [1] by
                  log-sum-exp, a smooth maximum (Wang et al. 2017, arXiv:1705.02315). Where masks
                  are known, loss.lesion_map teaches the map too (as Li et al. 2018,
                  arXiv:1711.06373): a few hundred images then teach what labels alone would not.
"""

import math
from pathlib import Path

import keras

from lake import InputError
from trainer.models import blocks

DENSENETS = {
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "densenet201": keras.applications.DenseNet201,
}
# Of the last layer's first weights: Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
HEAD_DEVIATION = 0.01
FIRST_MAP_LOGIT = -4.0  # most of an image is no lesion
MAX_WIDENING = 8  # of the plain encoder's deepest levels, over its first
MIN_DENSENET_SIDE = 32  # keras.applications takes no smaller image
LESION_MAP = "lesion_map"  # the layer whose output is the map


def network(
    side: int,
    encoder: str,
    filters: int,
    depth: int,
    norm: str,
    weights: str | None,
    pooling: str,
    dropout: float,
) -> keras.Model:
    images = keras.Input((side, side, 1), name="images")
    if encoder == "plain":
        if weights is not None:
            raise InputError(
                f"weights={weights}: encoder=plain has none; use a DenseNet, or leave weights out"
            )
        features = plain(images, side, filters, depth, norm)
    else:
        features = densenet(images, side, encoder, weights)
    head = lesion_map_head if pooling == "lesion_map" else average_head
    return keras.Model(images, head(features, dropout), name=encoder)


def average_head(features, dropout: float):
    x = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    # Small first weights, so that the first logits are near 0.
    small = keras.initializers.RandomNormal(stddev=HEAD_DEVIATION)
    return keras.layers.Dense(1, kernel_initializer=small, dtype="float32", name="head")(x)


def lesion_map_head(features, dropout: float):
    x = keras.layers.Dropout(dropout, name="dropout")(features)
    first = keras.initializers.Constant(FIRST_MAP_LOGIT)
    layer = keras.layers.Conv2D(1, 1, bias_initializer=first, dtype="float32", name=LESION_MAP)
    lesion_map = layer(x)  # [B, h, w, 1]
    num_cells = math.prod(lesion_map.shape[1:3])
    peak = keras.ops.logsumexp(lesion_map, axis=(1, 2)) - math.log(num_cells) - FIRST_MAP_LOGIT
    return keras.layers.Dense(1, kernel_initializer="ones", dtype="float32", name="head")(peak)


def with_lesion_map(network: keras.Model) -> keras.Model:
    """The same layers, giving (logits [B, 1], lesion map [B, h, w, 1])."""
    return keras.Model(network.input, [network.output, network.get_layer(LESION_MAP).output])


def plain(images, side: int, filters: int, depth: int, norm: str):
    blocks.check_side(side, depth)
    blocks.check(norm, filters)
    x = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(images)
    for i in range(depth + 1):
        if i > 0:
            x = keras.layers.MaxPooling2D(name=f"level_{i}_pool")(x)
        x = blocks.double_convolution(x, filters * min(2**i, MAX_WIDENING), norm, f"level_{i}")
    return x


def densenet(images, side: int, encoder: str, weights: str | None):
    if side < MIN_DENSENET_SIDE:
        raise InputError(f"side={side} is too small for {encoder}; use {MIN_DENSENET_SIDE} or more")
    is_local = weights is not None and weights != "imagenet"
    if is_local and not Path(weights).is_file():
        raise InputError(
            f'weights={weights}: no such file; expected "imagenet" or a .weights.h5 of {encoder}'
        )
    network = DENSENETS[encoder](
        include_top=False, weights=None if is_local else weights, input_shape=(side, side, 3)
    )
    if is_local:
        try:
            network.load_weights(weights)
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"{weights}: not the weights of a {encoder} without its top, as "
                f"keras.applications saves them to a .weights.h5: {error}"
            ) from error
    # Three equal channels, each with ImageNet's mean and deviation, so that the first convolution
    # pads with the zeros it was trained with. preprocess_input expects [0, 255].
    x = keras.layers.Rescaling(255.0, dtype="float32", name="to_255")(images)
    x = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    return network(keras.applications.densenet.preprocess_input(x))
