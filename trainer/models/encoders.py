"""Encoders: images in, features of every size out; of our own blocks, or from keras.applications.

Images [B, side, side, 1] in [0, 1] -> [features at 1/1, 1/2, … 1/2^depth of the side].

    plain         [side, side, f0] -> [side/2, side/2, f1] -> … -> [side/2^depth, …, f_depth]:
                  one block per level, and max pooling between
    others        the rows of parts.ENCODERS; the network of keras.applications, cut behind the
                  deepest feature, is one layer of ours. The feature at 1/1 is None but for VGG16,
                  that at 1/2 is None for ConvNeXt.

Grey becomes three equal channels before the preprocessing that ImageNet's weights expect. Both are
part of the network, so its first convolution pads with the zeros that it was trained with.
"""

import re

import keras

from lake import InputError
from trainer.config import parts
from trainer.config.network import Blocks, Decoder, Encoded
from trainer.models import blocks, weight_files

INTO = "into "  # before a layer's name in parts.ENCODERS: what enters it
NO_DOWNLOAD = "URL fetch failure"  # how Keras's message begins


def encode(images, side: int, section: Decoder, name: str, is_pooled: bool = True) -> list:
    """Return the features of the encoder that a U-Net's or U-Net++'s section names.

    `name` is for the layers of the encoder `plain`. `is_pooled`: the deepest feature of any other
    encoder is the pooled one, if its row in parts.ENCODERS names one for this depth.
    """
    if section.encoder == "plain":
        return plain_features(images, side, section.widths(), section, name)
    row, depth = parts.ENCODERS[section.encoder], section.depth
    blocks.check_sizes(side, depth, (), "none")
    names = [*row.layers[:depth]]
    if is_pooled and row.bottoms:
        names[-1] = row.bottoms[depth - 1]
    names = [row.full_size, *names] if row.full_size else names
    features = iter(layer_outputs(images, side, [name for name in names if name], section))
    features = [next(features) if name else None for name in names]
    features = features if row.full_size else [None, *features]
    return [x if x is None else pad(x, side // 2**i, f"pad_{i}") for i, x in enumerate(features)]


def plain_features(images, side: int, widths: tuple[int, ...], style: Blocks, name: str) -> list:
    """Return the features of our own blocks, one per width; `name` has a {} for the level, such as
    level_{} or x_{}_0."""
    depth = len(widths) - 1
    blocks.check_sizes(side, depth, widths, style.norm)
    x = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(images)
    features = []
    for i, filters in enumerate(widths):
        level = name.format(i)
        if i > 0:
            x = keras.layers.MaxPooling2D(name=f"{level}_pool")(x)
        x = blocks.block(x, filters, style, style.convolutions, level)
        features.append(x)
    return features


def layer_outputs(images, side: int, names: list[str], section: Encoded) -> list:
    """Return the outputs of the named layers of the section's network of keras.applications, at the
    sizes that they have there.

    `freeze`: none, all, or a number of stages; stage N ends with the feature at 1/2^N. A frozen
    BatchNormalization keeps its statistics, in training too. Raises InputError for a side that is
    too small, and for weights that cannot be had.
    """
    encoder, freeze, row = section.encoder, section.freeze, parts.ENCODERS[section.encoder]
    if side < row.min_side:
        raise InputError(f"side={side} is too small for {encoder}; use {row.min_side} or more")
    whole = build_application(row, side, section.weights)
    set_norms(whole, is_synchronized=section.norm == "sync_batch")
    start = input_of(whole, row.start) if row.start else whole.input
    network = keras.Model(start, [output_of(whole, name) for name in names], name=encoder)
    if freeze == "all":
        network.trainable = False
    elif freeze != "none":
        ends = [output_of(whole, name) for name in row.layers[:freeze] if name]
        for layer in keras.Model(start, ends).layers:
            layer.trainable = False
    return network(preprocess(images, row, whole))


def preprocess(images, row: parts.Encoder, whole: keras.Model):
    """Map grey [0, 1] to the three channels that ImageNet's weights expect, in float32 under every
    precision: [B, side, side, 1 or 3] -> [B, side, side, 3]."""
    x = keras.layers.Rescaling(255.0, dtype="float32", name="to_255")(images)
    if images.shape[-1] == 1:
        x = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    if row.mode:
        return keras.applications.imagenet_utils.preprocess_input(x, mode=row.mode)
    names = [layer.name for layer in whole.layers]
    for layer in whole.layers[1 : names.index(row.start)]:
        x = type(layer).from_config(layer.get_config() | {"dtype": "float32"})(x)
    return x


def set_norms(network: keras.Model, is_synchronized: bool) -> None:
    """Give the batch norms of an encoder the momentum of ours, and joint statistics of all replicas
    with norm=sync_batch. Keras's 0.99 and MobileNet's 0.999 still remember photographs after a
    thousand steps on X-rays."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = parts.MOMENTUM
            layer.synchronized = is_synchronized


def output_of(network: keras.Model, name: str):
    """Return the tensor that a row of parts.ENCODERS names."""
    if name.startswith(INTO):
        return input_of(network, name.removeprefix(INTO))
    return network.get_layer(name).output


def input_of(network: keras.Model, name: str):
    """Return the tensor that a layer takes. The `input` of a Sequential would be another tensor,
    its own."""
    return network.get_layer(name)._inbound_nodes[0].input_tensors[0]


def build_application(row: parts.Encoder, side: int, weights: str | None) -> keras.Model:
    """Return the whole network of keras.applications, without its top. A weights file is loaded
    here if it is one of keras.applications; one of radlake's is left to build.py. Raises InputError
    where weights cannot be downloaded, or do not fit."""
    is_file = weights not in (None, "imagenet")
    is_of_application = is_file and not weight_files.is_radlake_file(weights)
    application = getattr(keras.applications, row.application)
    shape = (side, side, 3)
    try:
        network = application(
            include_top=False, weights=None if is_file else weights, input_shape=shape
        )
    except Exception as error:  # Keras has no class of its own for it
        if not str(error).startswith(NO_DOWNLOAD):
            raise
        raise InputError(
            f"weights={weights}: cannot be downloaded: {error}; download it on another machine and "
            f"give the file (docs/encoders.md), or leave weights out"
        ) from None
    if is_of_application:
        weight_files.load_application(network, weights, row.application)
    # Keras numbers layers without a name through the whole process, such as conv2d_12, so the next
    # network would have other names. The position in the network stays the same.
    for position, layer in enumerate(network.layers):
        stem = re.sub(r"_\d+$", "", layer.name).replace("_", "")
        if stem == type(layer).__name__.lower():
            layer.name = f"layer_{position}"
    return network


def pad(feature, side: int, name: str):
    """Return the feature with zeros around it, [B, side, side, c].

    Xception and Inception-ResNet have convolutions without padding, so theirs are a little smaller.
    Of an odd number of rows or columns, one more is added at the end than at the start: so the
    feature's pixels lie closest to those of the other sizes.
    """
    num_zeros = side - feature.shape[1]
    if not num_zeros:
        return feature
    margins = (num_zeros // 2, num_zeros - num_zeros // 2)
    return keras.layers.ZeroPadding2D((margins, margins), name=name)(feature)
