"""Changes of grey values alone: images [B, S, S] in [0, 1] stay images in [0, 1]. `parameters` are
augment.parameters: [B, …], one value per example."""

import math

import numpy as np
from keras import ops

EVEN_BYTES = np.uint32(0x00FF00FF)
SIGMAS = 3  # where a Gaussian is cut off
# The sum of four independent bytes: mean 510, variance 4 (256² − 1) / 12.
BYTES_MEAN, BYTES_DEVIATION = 510.0, math.sqrt((256**2 - 1) / 3)


def mean(images):
    """Return each image's mean, [B, 1, 1]."""
    # One axis at a time: compiled for a CPU, one float32 sum over a megapixel is off by up to 1%.
    return ops.mean(ops.mean(images, axis=2), axis=1)[:, None, None]


def adjust(images, mean, parameters: dict, largest_sigma_px: float):
    """Return images after blur, contrast about `mean` [B, 1, 1], brightness, gamma, inversion,
    noise and cut-out: those that the parameters have."""
    if "blur.sigma_px" in parameters:
        images = blur(images, parameters["blur.sigma_px"], largest_sigma_px)
    factor, offset = parameters.get("contrast.factor", 1.0), parameters.get("brightness.add", 0.0)
    images = images * factor + (mean * (1 - factor) + offset)  # exact where nothing changes
    images = ops.clip(images, 0, 1)
    if "gamma.exponent" in parameters:
        exponent = parameters["gamma.exponent"]
        images = ops.where(exponent == 1, images, ops.exp(exponent * ops.log(images)))
    if "invert.is_on" in parameters:
        images = ops.where(parameters["invert.is_on"] > 0, 1 - images, images)
    if "noise.sigma" in parameters:
        images = images + parameters["noise.sigma"] * noise(
            images.shape[1], parameters["noise.seed"]
        )
        images = ops.clip(images, 0, 1)
    if "cutout.share" in parameters:
        images = images * cut(images.shape[1], parameters)
    return images


def blur(images, sigma_px, largest_sigma_px: float):
    """Return images [B, S, S] blurred by a Gaussian, whose sigmas are [B, 1, 1]. Images are
    mirrored at the border, so the Gaussian reaches no further than an image's side."""
    side = images.shape[1]
    radius = min(math.ceil(SIGMAS * largest_sigma_px), side)
    is_on = sigma_px > 0
    width = ops.where(is_on, sigma_px, 1.0)
    weights = [
        ops.where(is_on, ops.exp(-0.5 * (step / width) ** 2), float(step == 0))
        for step in range(radius + 1)
    ]
    total = weights[0] + 2 * sum(weights[1:])
    # Padded once for both axes: padded between them, XLA on a CPU would compute the images twice.
    margin = (radius, radius)
    images = ops.pad(images, ((0, 0), margin, margin), mode="symmetric")
    for axis in (1, 2):
        leading, trailing = (slice(None),) * axis, (slice(None),) * (2 - axis)
        shifts = [
            images[(*leading, slice(start, start + side), *trailing)]
            for start in range(2 * radius + 1)
        ]
        images = (weights[0] / total) * shifts[radius]
        for step in range(1, radius + 1):
            pair_sum = shifts[radius + step] + shifts[radius - step]
            images = images + (weights[step] / total) * pair_sum
    return images


def noise(side: int, seed):
    """Return roughly standard normal noise [B, S, S], within ±3.5: the sum of four bytes of a hash
    of (seed [B, 1, 1], pixel)."""
    pixels = ops.reshape(ops.arange(side * side, dtype="int32"), (1, side, side))
    key = _hash(ops.cast(seed, "uint32"))
    bits = _hash(ops.bitwise_xor(ops.cast(pixels, "uint32"), key))
    pairs = ops.bitwise_and(bits, EVEN_BYTES)
    pairs += ops.bitwise_and(ops.right_shift(bits, np.uint32(8)), EVEN_BYTES)
    total = ops.bitwise_and(pairs, np.uint32(0xFFFF)) + ops.right_shift(pairs, np.uint32(16))
    return (ops.cast(total, "float32") - BYTES_MEAN) / BYTES_DEVIATION  # of 0 … 1020


def _hash(x):
    """Return a bijection of 32 bits in which each bit changes about half of the others: "lowbias32"
    of https://nullprogram.com/blog/2018/07/31/."""
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(16))) * np.uint32(0x7FEB352D)
    x = ops.bitwise_xor(x, ops.right_shift(x, np.uint32(15))) * np.uint32(0x846CA68B)
    return ops.bitwise_xor(x, ops.right_shift(x, np.uint32(16)))


def cut(side: int, parameters: dict):
    """Return 0 within any of the squares, else 1: [B, S, S]."""
    centres = ops.arange(side, dtype="float32") + 0.5  # pixel centres
    result = 1.0
    for hole in range(parameters["cutout.share"].shape[1]):
        share, row, column = (
            parameters[f"cutout.{name}"][:, hole, None, None] for name in ("share", "row", "column")
        )
        # Computed anew for each pixel: XLA on a CPU was far slower where the distances of rows and
        # of columns were stored.
        distance = ops.maximum(ops.abs(centres[:, None] - row), ops.abs(centres - column))
        result = result * ops.cast(distance >= share * (side / 2), "float32")
    return result
