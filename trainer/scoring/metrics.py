"""Metrics of each image, and of a set through histograms and pixel counts that add up over batches
and replicas.

All in float32: sums of zeros and ones are exact up to 2^24 pixels (4096 x 4096), in any order.
"""

import math

import numpy as np
from keras import ops
from scipy import special

from trainer.scoring import losses

BINS = 4096  # of a score histogram: 0.01 of a logit wide
SCORE_LIMIT = 20.0  # logits beyond ± this share the outermost bins; p is 2e-9 there


def pixel_counts(masks, predictions):
    """Pixels [4, B] of masks and predictions [B, H, W, 1] of 0 and 1: in both, of the mask,
    predicted, all there are.

    Counts add up over images, batches and replicas; the scores below take those of each image, or
    a sum [4] for one score of all the pixels together. Where an image's score is nan, it is not
    defined there and belongs in no mean (np.nanmean); in a sum such an image takes no part anyway.
    """
    masks, predictions = ops.cast(masks, "float32"), ops.cast(predictions, "float32")
    hits, truth, predicted = count(masks * predictions), count(masks), count(predictions)
    return ops.stack([hits, truth, predicted, ops.full_like(hits, math.prod(masks.shape[1:]))])


def iou(counts):
    """|X∩Y| / |X∪Y|; 1 if both are empty, as with dice."""
    hits, truth, predicted, _ = ops.unstack(counts, 4)
    return _quotient(hits, truth + predicted - hits, 1.0)


def sensitivity(counts):
    """The share of the mask's pixels that are predicted; nan without a lesion."""
    hits, truth, _, _ = ops.unstack(counts, 4)
    return _quotient(hits, truth, math.nan)


def specificity(counts):
    """The share of the other pixels that are not predicted; nan if the mask covers all."""
    hits, truth, predicted, all_there_are = ops.unstack(counts, 4)
    others = all_there_are - truth
    return _quotient(others - (predicted - hits), others, math.nan)


def ppv(counts):
    """The share of the predicted pixels that are of the mask; nan if nothing is predicted."""
    hits, _, predicted, _ = ops.unstack(counts, 4)
    return _quotient(hits, predicted, math.nan)


def hard_dice(masks, predictions):
    """Dice of each image, [B], of masks and predictions [B, H, W, 1] of 0 and 1.

    Two empty masks score 1, as the challenge rules it.
    """
    hits, truth, predicted, _ = ops.unstack(pixel_counts(masks, predictions), 4)
    return dice_of_counts(hits, truth + predicted)


def soft_dice(masks, probabilities):
    """2Σyp / (Σy + Σp) of each image, [B], without a threshold; 1 if all of it is 0.

    An empty mask scores 0 as soon as any p is above 0, and a sigmoid's always is: this is no
    substitute for the challenge's metric.
    """
    masks, probabilities = ops.cast(masks, "float32"), ops.cast(probabilities, "float32")
    hits, truth, predicted = (
        losses.image_mean(part) for part in (masks * probabilities, masks, probabilities)
    )
    return dice_of_counts(hits, truth + predicted)


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
    return _quotient(2 * hits, total, 1.0)


def _quotient(part, whole, otherwise: float):
    """part / whole, and `otherwise` where the whole is 0."""
    return ops.where(whole > 0, part / ops.where(whole > 0, whole, 1.0), otherwise)


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


def class_histograms(logits, labels, weights, bins: int = BINS):
    """score_histogram of each class against all others, [C, 2, bins], of logits [B, C]: a class
    scores an image by the log-odds of its probability, log p/(1−p)."""
    logits = ops.cast(logits, "float32")
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    classes = logits.shape[-1]
    # log p/(1−p) is the logit less the log-sum-exp of the others: exact where p is near 0 or 1.
    itself = ops.where(ops.eye(classes) > 0, -math.inf, 0.0)
    odds = logits - ops.logsumexp(logits[:, None, :] + itself, axis=-1)  # [B, C]
    ours = ops.where(labels < 0, -1, ops.cast(labels == ops.arange(classes), "int32"))  # [B, C]
    each = [score_histogram(odds[:, c], ours[:, c], weights, bins) for c in range(classes)]
    return ops.stack(each)


def macro_auc(histograms) -> float:
    """Mean of the AUCs of class_histograms; nan where one of the classes has no image."""
    return float(np.mean([auc(histogram) for histogram in np.asarray(histograms)]))


def correct(logits, labels):
    """Whether the highest of the logits [B, C] is the label's, 0 or 1, [B]; 0 for an unknown."""
    return ops.cast(ops.argmax(logits, axis=-1) == ops.cast(labels, "int32"), "float32")


def auc(histogram) -> float:
    """Area under the ROC curve of a score_histogram: ties count half, nan without both classes."""
    negatives, positives = np.asarray(histogram, np.float64)
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives  # negatives with a lower score than each bin
    return float((positives * (below + negatives / 2)).sum() / pairs)


def average_precision(histogram) -> float:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ of a score_histogram, from the highest scores down; nan without positives.

    Rₙ and Pₙ: recall and precision of the images at or above a bin. It is scikit-learn's
    average_precision_score, of scores rounded to bins; by chance alone, the share of positives.
    """
    negatives, positives = np.asarray(histogram, np.float64)[:, ::-1]
    if positives.sum() == 0:
        return float("nan")
    hits, alarms = np.cumsum(positives), np.cumsum(negatives)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    return float((positives * precision).sum() / positives.sum())


def of_logits(logits: np.ndarray) -> np.ndarray:
    """Probabilities: of pixels [B, H, W, heads], of lesions [B, 1] or of classes [B, C]."""
    if logits.ndim == 2 and logits.shape[-1] > 1:
        return special.softmax(logits, axis=-1)
    return special.expit(logits)
