"""U-Net++ of Zhou et al. 2018 (arXiv:1807.10165), in the layout of the authors' Keras code.

Images [B, side, side, channels] in [0, 1] -> logits [B, side, side, heads]. 9,041,601 parameters at
depth 4, 32 filters, one grey channel, one head, no norm.

    size      filters   j = 0      1        2        3          depth 3
    side      f         X(0,0)   X(0,1)   X(0,2)   X(0,3)       1x1 head on X(0,3); with deep
    side/2    2f        X(1,0)   X(1,1)   X(1,2)                supervision on X(0,1), X(0,2) too
    side/4    4f        X(2,0)   X(2,1)
    side/8    8f        X(3,0)

    X(i,0) = block(pool(X(i-1,0)))            block = 2 x (3x3 convolution, norm, ReLU)
    X(i,j) = block(concat[X(i,0) … X(i,j-1), up(X(i+1,j-1))])

With an encoder of keras.applications (encoders.py) X(i,0) is its feature of that size, and only
VGG16 has an X(0,0). An empty_head, as in a U-Net, takes X(depth,0). With `classes`, for
pretraining: X(0,L) -> mean over the image -> logits [B, 1] or [B, classes]; with `findings` ->
[B, findings].
"""

import keras

from lake import InputError
from trainer.config.network import UnetPlusPlus
from trainer.models import blocks, classifier, encoders, weight_files


def build(section: UnetPlusPlus, side: int, channels: int = 1) -> keras.Model:
    """Return the network for images [B, side, side, channels]. With deep supervision
    logits[..., j - 1] is the head on X(0,j); the last one is the deepest."""
    images = keras.Input((side, side, channels), name="images")
    depth, widths = section.depth, section.decoder_widths()
    column = encoders.encode(images, side, section, "x_{}_0", is_pooled=False)
    blocks.check_sizes(side, depth, widths, section.norm)
    x = {(i, 0): feature for i, feature in enumerate(column)}  # [B, side / 2^i, side / 2^i, c]
    # One column of the table above after the other, from top to bottom: X(i,j) needs its row to the
    # left and, below it, X(i+1,j-1).
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            name = f"x_{i}_{j}"
            up = blocks.upsampling(x[i + 1, j - 1], widths[i], section, section.upsampling, name)
            inputs = [x[i, k] for k in range(j) if x[i, k] is not None] + [up]
            entry = up
            if len(inputs) > 1:
                entry = keras.layers.Concatenate(name=f"{name}_concat")(inputs)
            if section.dropout:
                entry = keras.layers.Dropout(section.dropout, name=f"{name}_dropout")(entry)
            x[i, j] = blocks.block(entry, widths[i], section, section.decoder_convolutions, name)

    if section.classes or section.findings:
        return classifier.pretraining_classifier(images, x[0, depth], section)
    ends = range(1, depth + 1) if section.deep_supervision else [depth]
    heads = [blocks.head(x[0, j], f"head_{j}") for j in ends]
    logits = heads[0]
    if len(heads) > 1:
        logits = keras.layers.Concatenate(dtype="float32", name="heads")(heads)
    extra = [blocks.lesion_head(column[-1])] if section.empty_head else []
    return keras.Model(images, blocks.with_extra_outputs(logits, extra), name="unetpp")


def prune(
    trained_network: keras.Model, section: UnetPlusPlus, side: int, level: int
) -> tuple[UnetPlusPlus, keras.Model]:
    """Return the U-Net++ of depth `level` (Zhou et al., section 3.2) and its section.

    Its logits are those of head `level` of the network trained with deep supervision, and it has
    the weights for them alone. A smaller depth has no X(depth,0), so no empty_head. Raises
    InputError for a depth that it does not have.
    """
    if not 1 <= level <= section.depth:
        raise InputError(f"level={level}: expected 1 to model.depth={section.depth}")
    if level < section.depth and not section.deep_supervision:
        cause = f"level={level}: X(0,{level}) has a head of its own only after training"
        raise InputError(f"{cause} with model.deep_supervision=true")
    num_widths = level + (section.encoder == "plain")  # other encoders have widths of their own
    smaller_section = section.model_copy(
        update={
            "depth": level,
            "filters": section.widths()[:num_widths],
            "decoder_filters": section.decoder_filters and section.decoder_filters[:level],
            "weights": None,
            "deep_supervision": False,
            "empty_head": section.empty_head and level == section.depth,
        }
    )
    network = build(smaller_section, side, trained_network.input.shape[-1])
    weight_files.copy_weights(trained_network, network)
    return smaller_section, network
