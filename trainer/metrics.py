"""Metrics of each image, and of a set through histograms that add up over batches and replicas.

All in float32: sums of zeros and ones are exact up to 2^24 pixels (4096 x 4096), in any order.
"""

import numpy as np
from keras import ops

BINS = 4096  # of a score histogram: 0.01 of a logit wide
SCORE_LIMIT = 20.0  # logits beyond ± this share the outermost bins; p is 2e-9 there


def hard_dice(masks, predictions):
    """Dice of each image, [B], of masks and predictions [B, H, W, 1] of 0 and 1.

    Two empty masks score 1, as the challenge rules it.
    """
    masks, predictions = ops.cast(masks, "float32"), ops.cast(predictions, "float32")
    return dice_of_counts(count(masks * predictions), count(masks) + count(predictions))


def triplet_dice(masks, probabilities, tops, areas, bottoms):
    """Dice [B, T, A, K] of: mask p > bottom, but empty if fewer than `area` pixels have p > top.

    masks, probabilities [B, H, W, 1]; tops [T], areas [A] in pixels, bottoms [K]. Pixels are
    counted once for a top and once for a bottom, whatever the number of combinations.
    """
    masks, probabilities = ops.cast(masks, "float32"), ops.cast(probabilities, "float32")
    tops, areas, bottoms = (ops.cast(values, "float32") for values in (tops, areas, bottoms))

    sure = ops.stack([count(probabilities > top) for top in ops.unstack(tops)], axis=1)  # [B, T]
    predictions = [probabilities > bottom for bottom in ops.unstack(bottoms)]  # K of [B, H, W, 1]
    hits = ops.stack([count(masks * ops.cast(p, "float32")) for p in predictions], axis=1)  # [B, K]
    sizes = ops.stack([count(p) for p in predictions], axis=1)  # [B, K]
    truth = count(masks)[:, None]  # [B, 1]

    is_kept = (sure[:, :, None] >= areas)[..., None]  # [B, T, A, 1]
    kept = dice_of_counts(hits, truth + sizes)[:, None, None, :]  # [B, 1, 1, K]
    emptied = dice_of_counts(ops.zeros_like(truth), truth)[:, None, None, :]  # [B, 1, 1, 1]
    return ops.where(is_kept, kept, emptied)


def keep_by_triplet(probabilities, top: float, area: float, bottom: float):
    """Masks of 0 and 1 [B, H, W, 1] float32 by the rule of triplet_dice."""
    is_kept = (count(probabilities > top) >= area)[:, None, None, None]
    return ops.cast((probabilities > bottom) & is_kept, "float32")


def count(values):
    return ops.sum(ops.cast(values, "float32"), axis=(1, 2, 3))  # [B]


def dice_of_counts(hits, total):
    return ops.where(total > 0, 2 * hits / ops.maximum(total, 1.0), 1.0)


def lesion_score(logits, blocks: int = 32):
    """One score an image, [B], of logits [B, H, W, 1]: the highest mean of a block.

    There are `blocks` x `blocks`. A lesion is many neighbouring pixels, so one bright pixel should
    not decide; as a share of the side, a block means the same at 256 and at 1024 px. The score
    ranks images (AUC); it is no calibrated logit.
    """
    block_px = max(1, logits.shape[1] // blocks)
    logits = ops.cast(logits, "float32")
    means = ops.average_pool(logits, block_px, strides=block_px, padding="same")
    return ops.max(means, axis=(1, 2, 3))


def score_histogram(logits, labels, weights, bins: int = BINS):
    """Summed weights [2, bins] of negatives (row 0) and positives (row 1) at each score.

    logits, labels, weights [B] or [B, 1]; a label of −1 (unknown) or a weight of 0 (padding) leaves
    an image out. Histograms of batches and replicas add up.
    """
    logits, labels = ops.reshape(logits, (-1,)), ops.cast(ops.reshape(labels, (-1,)), "int32")
    weights = ops.where(labels < 0, 0.0, ops.cast(ops.reshape(weights, (-1,)), "float32"))
    share = ops.cast(logits, "float32") / (2 * SCORE_LIMIT) + 0.5  # [0, 1) within the limits
    position = ops.cast(ops.clip(ops.floor(share * bins), 0, bins - 1), "int32")
    row = ops.maximum(labels, 0)
    return ops.reshape(ops.segment_sum(weights, row * bins + position, 2 * bins), (2, bins))


def auc(histogram) -> float:
    """Area under the ROC curve of a score_histogram: ties count half, nan without both classes."""
    negatives, positives = np.asarray(histogram, np.float64)
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives  # negatives with a lower score than each bin
    return float((positives * (below + negatives / 2)).sum() / pairs)
