"""Image classifiers: encoder, pooling over the image, dropout, one logit.

Images [B, side, side, 1] in [0, 1] -> logits [B, 1].

    plain         [side, side, f] -> [side/2, side/2, f] -> [side/4, side/4, 2f] … -> [16f] -> [1]
                  3x3 convolution; `depth` levels of max pooling and a residual block, up to 8f
                  wide; mean and maximum over the image. Residual block: He et al. 2016
                  (arXiv:1512.03385), with group normalisation (Wu & He 2018, arXiv:1803.08494)
    densenet121   [side, side, 1] -> [side, side, 3] -> [side/32, side/32, c] -> [c] -> [1]
       169, 201   Huang et al. 2017 (arXiv:1608.06993) from keras.applications, c = 1024, 1664,
                  1920; mean over the image
"""

from pathlib import Path

import keras

from lake import InputError
from trainer.models import norms

DENSENETS = {
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "densenet201": keras.applications.DenseNet201,
}
HEAD_DEVIATION = 0.01  # of the last layer's first weights: Goyal et al. 2017, arXiv:1706.02677
MAX_WIDENING = 8  # of the plain encoder's deepest levels, over its first
MIN_DENSENET_SIDE = 32  # keras.applications takes no smaller image


def network(
    side: int, encoder: str, filters: int, depth: int, weights: str | None, dropout: float
) -> keras.Model:
    images = keras.Input((side, side, 1), name="images")
    if encoder == "plain":
        if weights is not None:
            raise InputError(
                f"weights={weights}: encoder=plain has none; use a DenseNet, or leave weights out"
            )
        features = plain(images, side, filters, depth)
    else:
        features = densenet(images, side, encoder, weights)
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    small = keras.initializers.RandomNormal(stddev=HEAD_DEVIATION)  # first logits near 0
    head = keras.layers.Dense(1, kernel_initializer=small, dtype="float32", name="head")
    return keras.Model(images, head(features), name=encoder)


def plain(images, side: int, filters: int, depth: int):
    if side < 2**depth:
        raise InputError(
            f"side={side} is too small for {depth} poolings (depth={depth}); use {2**depth} or more"
        )
    norms.check("group", filters)
    x = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(images)
    x = keras.layers.ReLU(name="stem_relu")(convolution(x, filters, 3, "stem"))
    for i in range(depth):
        x = keras.layers.MaxPooling2D(padding="same", name=f"level_{i}_pool")(x)
        x = residual(x, filters * min(2**i, MAX_WIDENING), f"level_{i}")
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    maximum = keras.layers.GlobalMaxPooling2D(name="maximum")(x)
    return keras.layers.Concatenate(name="features")([mean, maximum])


def residual(x, filters: int, name: str):
    shortcut = x
    if x.shape[-1] != filters:
        shortcut = convolution(x, filters, 1, f"{name}_shortcut")
    x = keras.layers.ReLU(name=f"{name}_relu1")(convolution(x, filters, 3, f"{name}_1"))
    x = convolution(x, filters, 3, f"{name}_2")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu2")(x)


def convolution(x, filters: int, size: int, name: str):
    x = keras.layers.Conv2D(
        filters,
        size,
        padding="same",
        use_bias=False,  # the normalisation has one
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return norms.layer("group", f"{name}_norm")(x)


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
    x = network(keras.applications.densenet.preprocess_input(x))
    return keras.layers.GlobalAveragePooling2D(name="mean")(x)
