"""Encoders: images in, features of every size out; of our own blocks, or from keras.applications.

Images [B, side, side, 1] in [0, 1] -> [features at 1/1, 1/2, … 1/2^depth of the side].

    plain         [side, side, f0] -> [side/2, side/2, f1] -> … -> [side/2^depth, …, f_depth]:
                  a block a level, and max pooling
    others        the rows of parts.ENCODERS; the network of keras.applications, cut behind the
                  deepest feature, is one layer of ours. The feature at 1/1 is None but for VGG16.

Grey becomes three equal channels before the preprocessing that ImageNet's weights expect, all in
the graph: so the first convolution pads with the zeros that it was trained with.
"""

import re

import keras

from lake import InputError
from trainer.config import parts
from trainer.config.network import Blocks, Decoder
from trainer.models import blocks, weight_files


def of_section(images, side: int, section: Decoder, name: str, is_pooled: bool = True) -> list:
    """The features that a decoder's section asks for; `name` is that of plain."""
    if section.encoder == "plain":
        return plain(images, side, section.widths(), section, name)
    return pretrained(
        *(images, side, section.encoder, section.depth, section.weights, section.freeze), is_pooled
    )


def plain(images, side: int, widths: tuple[int, ...], style: Blocks, name: str) -> list:
    """`name` has a {} for the level, such as level_{} or x_{}_0."""
    depth = len(widths) - 1
    blocks.check(side, depth, widths, style.norm)
    x = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(images)
    features = []
    for i, filters in enumerate(widths):
        level = name.format(i)
        if i > 0:
            x = keras.layers.MaxPooling2D(name=f"{level}_pool")(x)
        x = blocks.block(x, filters, style, style.convolutions, level)
        features.append(x)
    return features


def pretrained(
    images, side: int, encoder: str, depth: int, weights: str | None, freeze, is_pooled: bool = True
) -> list:
    """`is_pooled`: the deepest feature is the bottom that the row names, if it names one."""
    row = parts.ENCODERS[encoder]
    blocks.check(side, depth, (), "none")
    names = [*row.layers[:depth]]
    if is_pooled and row.bottoms:
        names[-1] = row.bottoms[depth - 1]
    full_size = [row.full_size] if row.full_size else []
    found = features(images, side, encoder, full_size + names, weights, freeze)
    found = found if full_size else [None, *found]
    return [x if x is None else fitted(x, side // 2**i, f"pad_{i}") for i, x in enumerate(found)]


def features(
    images, side: int, encoder: str, names: list[str], weights: str | None, freeze: str | int
) -> list:
    """What the named layers of a network of keras.applications give, at the sizes they have there.

    `freeze`: none, all, or a number of stages: stage N ends with the feature at 1/2^N. A frozen
    BatchNormalization keeps its statistics, in training too.
    """
    row = parts.ENCODERS[encoder]
    if side < row.min_side:
        raise InputError(f"side={side} is too small for {encoder}; use {row.min_side} or more")
    whole = application(row, side, weights)
    start = whole.get_layer(row.start).input if row.start else whole.input
    outputs = [whole.get_layer(name).output for name in names]
    network = keras.Model(start, outputs, name=encoder)
    if freeze == "all":
        network.trainable = False
    elif freeze != "none":
        ends = [whole.get_layer(name).output for name in row.layers[:freeze]]
        for layer in keras.Model(start, ends).layers:
            layer.trainable = False
    x = keras.layers.Rescaling(255.0, dtype="float32", name="to_255")(images)
    if images.shape[-1] == 1:
        x = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    return network(keras.applications.imagenet_utils.preprocess_input(x, mode=row.mode))


def application(row: parts.Encoder, side: int, weights: str | None) -> keras.Model:
    """The whole network of keras.applications, without its top; a weights file of radlake's is not
    read here."""
    is_file = weights not in (None, "imagenet")
    is_for_this = is_file and not weight_files.is_of_radlake(weights)
    network = getattr(keras.applications, row.application)(
        include_top=False, weights=None if is_file else weights, input_shape=(side, side, 3)
    )
    if is_for_this:
        weight_files.load_application(network, weights, row.application)
    for position, layer in enumerate(network.layers):
        if is_nameless(layer):
            layer.name = f"layer_{position}"
    return network


def is_nameless(layer: keras.Layer) -> bool:
    """Keras numbers such layers through the whole process: conv2d_12 is another one next time."""
    stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    return stem == type(layer).__name__.lower()


def fitted(feature, side: int, name: str):
    """The feature with zeros around it, [B, side, side, c]: Xception and Inception-ResNet have
    convolutions without padding. An odd row or column is behind, where its pixels come closest to
    those of the other sizes."""
    missing = side - feature.shape[1]
    if not missing:
        return feature
    before = (missing // 2, missing - missing // 2)
    return keras.layers.ZeroPadding2D((before, before), name=name)(feature)
