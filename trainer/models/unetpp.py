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
"""

import keras

from trainer.models import blocks


def network(
    side: int,
    depth: int,
    filters: int,
    norm: str,
    deep_supervision: bool,
    channels: int = 1,
) -> keras.Model:
    """With deep supervision logits[..., j - 1] is the head on X(0,j), the last one the deepest."""
    blocks.check_side(side, depth)
    blocks.check(norm, filters)

    images = keras.Input((side, side, channels), name="images")
    x = {}  # (i, j): [B, side / 2^i, side / 2^i, filters * 2^i]
    for i in range(depth + 1):
        if i == 0:
            entry = keras.layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="rescale")(
                images
            )
        else:
            entry = keras.layers.MaxPooling2D(name=f"x_{i}_0_pool")(x[i - 1, 0])
        x[i, 0] = blocks.double_convolution(entry, filters * 2**i, norm, f"x_{i}_0")
    for j in range(1, depth + 1):
        for i in range(depth + 1 - j):
            name = f"x_{i}_{j}"
            up = keras.layers.Conv2DTranspose(filters * 2**i, 2, strides=2, name=f"{name}_up")
            inputs = [x[i, k] for k in range(j)] + [up(x[i + 1, j - 1])]
            entry = keras.layers.Concatenate(name=f"{name}_concat")(inputs)
            x[i, j] = blocks.double_convolution(entry, filters * 2**i, norm, name)

    ends = range(1, depth + 1) if deep_supervision else [depth]
    heads = [keras.layers.Conv2D(1, 1, dtype="float32", name=f"head_{j}")(x[0, j]) for j in ends]
    if len(heads) == 1:
        return keras.Model(images, heads[0], name="unetpp")
    logits = keras.layers.Concatenate(dtype="float32", name="heads")(heads)
    return keras.Model(images, logits, name="unetpp")
