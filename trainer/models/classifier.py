"""Image classifiers: encoder, then one logit from the pooled features or from a lesion map.

Images [B, side, side, 1] in [0, 1] -> logits [B, 1]; [B, classes] for more than two classes;
[B, findings] where an image can show several.

    plain         [side, side, f] -> [side/2, side/2, 2f] … up to 8f wide, `depth` times halved:
                  one block per level, as in a U-Net, and max pooling between
    others        [side, side, 1] -> [side/32, side/32, c]: the rows of parts.ENCODERS

    average       features -> mean over the image -> dropout -> [1], or -> [hidden], ReLU -> [1]
    lesion_map    features -> dropout -> 1x1 convolution: a coarse map of lesion logits -> [1] by
                  log-sum-exp, a smooth maximum (Wang et al. 2017, arXiv:1705.02315). Where masks
                  are known, loss.lesion_map also teaches the map (as Li et al. 2018,
                  arXiv:1711.06373); then a few hundred images suffice where labels alone do not.
"""

import json
import math
from collections.abc import Sequence

import keras

from lake.scan import stable_hash
from trainer.config import parts
from trainer.config.network import Classifier, Unet, UnetPlusPlus, num_logits
from trainer.models import encoders

# The standard deviation of the last layer's first weights: Goyal et al. 2017 (arXiv:1706.02677),
# section 5.1.
HEAD_DEVIATION = 0.01
FIRST_MAP_LOGIT = -4.0  # the first bias of the lesion map: most of an image is not lesion
MAX_WIDENING = 8  # how many times as wide as its first level the plain encoder becomes
LESION_MAP = "lesion_map"  # the layer whose output is the map


def build(section: Classifier, side: int) -> keras.Model:
    """Return the network for images [B, side, side, 1]."""
    images = keras.Input((side, side, 1), name="images")
    if section.encoder == "plain":
        widths = tuple(section.filters * min(2**i, MAX_WIDENING) for i in range(section.depth + 1))
        features = encoders.plain_features(images, side, widths, section, "level_{}")[-1]
    else:
        last_layer = parts.ENCODERS[section.encoder].layers[-1]
        [features] = encoders.layer_outputs(images, side, [last_layer], section)
    if section.pooling == "lesion_map":
        logits = lesion_map_head(features, section.dropout)
    else:
        logits = average_head(features, section, section.hidden, "head")
    return keras.Model(images, logits, name=section.encoder)


def average_head(features, section: Classifier | Unet | UnetPlusPlus, hidden: int, name: str):
    """Give the section's num_logits per image, [B, h, w, c] -> [B, num_logits], float32. The layer
    has this name, or one that is made of the findings."""
    if section.findings:
        name = findings_head(section.findings)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(features)
    x = keras.layers.Dropout(section.dropout, name="dropout")(x)
    if hidden:
        x = keras.layers.Dense(hidden, activation="relu", name="hidden")(x)
    # Small first weights, so that the first logits are near 0.
    initializer = keras.initializers.RandomNormal(stddev=HEAD_DEVIATION)
    return keras.layers.Dense(
        num_logits(section), kernel_initializer=initializer, dtype="float32", name=name
    )(x)


def findings_head(findings: Sequence[str]) -> str:
    """Return the name of the last layer of these findings in this order, so that a file of weights
    holds it, and the weights of other findings, or of the same in another order, do not fit."""
    return f"findings_{stable_hash(json.dumps(list(findings))):016x}"


def pretraining_classifier(images, features, section: Unet | UnetPlusPlus) -> keras.Model:
    """Return a U-Net or U-Net++ as a classifier by the mean of its last features, [B, S, S, c].
    Its last layer is not named like a segmenter's head, whose weights it cannot have."""
    logits = average_head(features, section, 0, "class_head")
    return keras.Model(images, logits, name=section.kind)


def lesion_map_head(features, dropout: float):
    """Give one logit per image from a map of logits: [B, h, w, c] -> [B, 1], float32."""
    x = keras.layers.Dropout(dropout, name="dropout")(features)
    bias = keras.initializers.Constant(FIRST_MAP_LOGIT)
    layer = keras.layers.Conv2D(1, 1, bias_initializer=bias, dtype="float32", name=LESION_MAP)
    lesion_map = layer(x)  # [B, h, w, 1]
    # log-sum-exp minus log(cells) lies between the map's mean and its maximum. Minus the first bias
    # the logit starts near 0.
    num_cells = math.prod(lesion_map.shape[1:3])
    peak = keras.ops.logsumexp(lesion_map, axis=(1, 2)) - math.log(num_cells) - FIRST_MAP_LOGIT
    return keras.layers.Dense(1, kernel_initializer="ones", dtype="float32", name="head")(peak)
