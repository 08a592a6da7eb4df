"""Losses of each image: masks, logits [B, H, W, 1] (or [B, 1] of a classifier) -> [B] float32.

They know nothing of batches and replicas; the caller sums over the batch and divides by the global
batch size.
"""

import math

from keras import ops

from lake import InputError


def dice(masks, logits, smooth: float = 1.0, squared: bool = False):
    """1 − (2Σyp + smooth) / (Σy + Σp + smooth), or with Σy² + Σp²; 0 where all of it is 0."""
    masks, probabilities = ops.cast(masks, "float32"), ops.sigmoid(ops.cast(logits, "float32"))
    power = 2 if squared else 1
    # Means instead of sums (see image_mean), so `smooth`, stated in pixels, becomes a mean too.
    smooth = smooth / math.prod(masks.shape[1:])
    overlap = 2 * image_mean(masks * probabilities) + smooth
    total = image_mean(masks**power) + image_mean(probabilities**power) + smooth
    divisor = ops.where(total > 0, total, 1.0)  # no 0/0, which would spoil the gradient as well
    score = ops.where(total > 0, overlap / divisor, 1.0)
    return 1.0 - score


def bce(masks, logits):
    """Binary cross-entropy, mean over the pixels."""
    return weighted_bce(masks, logits, positive_share=1.0)


def weighted_bce(masks, logits, positive_share: float):
    """Mean of −(1/β)·y·log p − (1−y)·log(1−p), β the training set's share of positive pixels."""
    masks, logits = ops.cast(masks, "float32"), ops.cast(logits, "float32")
    positive = masks * ops.softplus(-logits) / positive_share  # −log p, without a log of 0
    negative = (1.0 - masks) * ops.softplus(logits)
    return image_mean(positive + negative)


def combined(
    masks,
    logits,
    dice_weight: float,
    bce_weight: float,
    weighted_bce_weight: float,
    positive_share: float,
):
    """Weighted sum of the terms, [B]; a weight of 0 leaves its term out.

    Of logits [B, H, W, L] of deep supervision it is the mean over the L heads.
    """
    if not (dice_weight or bce_weight or weighted_bce_weight):
        raise InputError(
            "every weight of the loss is 0; give at least one of dice, bce, weighted_bce"
        )
    num_heads = logits.shape[-1]
    total = 0.0
    for head in range(num_heads):
        head_logits = logits[..., head : head + 1]  # [B, H, W, 1]
        if dice_weight:
            total += dice_weight * dice(masks, head_logits)
        if bce_weight:
            total += bce_weight * bce(masks, head_logits)
        if weighted_bce_weight:
            total += weighted_bce_weight * weighted_bce(masks, head_logits, positive_share)
    return total / num_heads  # [B]


def image_mean(values):
    """Mean of each image, [B], one axis at a time.

    Compiled for a CPU, one float32 sum over a megapixel can be off by 1%, and XLA joins sums over
    one axis after the other into that one sum; means it does not join.
    """
    while len(values.shape) > 1:
        values = ops.mean(values, axis=-1)
    return values
