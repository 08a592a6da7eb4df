"""Metrics of each image, and of a set of images: the latter from histograms and pixel counts that
add up over batches and replicas.

All are in float32: sums of zeros and ones are exact up to 2^24 pixels (4096 x 4096), in any order.
"""

import math

import numpy as np
from keras import ops

from trainer.scoring.ratios import tensor_ratio

BINS = 4096  # of a score histogram: 0.01 of a logit wide
SCORE_LIMIT = 20.0  # logits beyond ± this fall into the outermost bins, where p or 1 − p is 2e-9


def pixel_counts(masks, predictions):
    """Return the pixels [4, B] of masks and predictions [B, H, W, 1] of 0 and 1: those in both,
    those of the mask, those predicted, and all.

    Counts add up over images, batches and replicas. The scores below take those of each image
    [4, B], or a sum [4] for one score of all pixels together. A score that is not defined for an
    image is nan and belongs in no mean (np.nanmean).
    """
    masks, predictions = ops.cast(masks, "float32"), ops.cast(predictions, "float32")
    hits, truth, prediction = count(masks * predictions), count(masks), count(predictions)
    return ops.stack([hits, truth, prediction, ops.full_like(hits, math.prod(masks.shape[1:]))])


def iou(counts):
    """Return |X∩Y| / |X∪Y|; 1 if both are empty, as with dice."""
    hits, truth, prediction, _ = ops.unstack(counts, 4)
    return tensor_ratio(hits, truth + prediction - hits, 1.0)


def sensitivity(counts):
    """Return TP / (TP + FN), the share of the mask's pixels that are predicted; nan without a
    lesion."""
    hits, truth, _, _ = ops.unstack(counts, 4)
    return tensor_ratio(hits, truth, math.nan)


def specificity(counts):
    """Return TN / (TN + FP), the share of the other pixels that are not predicted; nan if the mask
    covers all."""
    hits, truth, prediction, pixels = ops.unstack(counts, 4)
    negatives = pixels - truth
    return tensor_ratio(negatives - (prediction - hits), negatives, math.nan)


def ppv(counts):
    """Return TP / (TP + FP), the share of the predicted pixels that are of the mask; nan if nothing
    is predicted."""
    hits, _, prediction, _ = ops.unstack(counts, 4)
    return tensor_ratio(hits, prediction, math.nan)


def hard_dice(masks, predictions):
    """Return 2|X∩Y| / (|X| + |Y|) of each image, [B], of masks and predictions [B, H, W, 1] of 0
    and 1. Two empty masks score 1: the rule of the SIIM-ACR pneumothorax challenge."""
    hits, truth, prediction, _ = ops.unstack(pixel_counts(masks, predictions), 4)
    return dice_of_counts(hits, truth + prediction)


def keep_by_triplet(probabilities, top: float, area: float, bottom: float):
    """Return masks of 0 and 1, [B, H, W, 1] float32, of probabilities [B, H, W, 1]: p > bottom,
    emptied where fewer than `area` pixels have p > top. It is the rule of the challenge's best
    entries."""
    is_kept = (count(probabilities > top) >= area)[:, None, None, None]
    return ops.cast((probabilities > bottom) & is_kept, "float32")


def count(values):
    """Return the sum of each image's values, [B] float32, of [B, H, W, 1]."""
    return ops.sum(ops.cast(values, "float32"), axis=(1, 2, 3))


def dice_of_counts(hits, total):
    """Return 2·hits / total, where total = |X| + |Y|; 1 where both masks are empty."""
    return tensor_ratio(2 * hits, total, 1.0)


def lesion_score(logits, blocks: int = 32):
    """Return one score per image, [B], of logits [B, H, W, 1]: the highest mean of a block, of
    `blocks` x `blocks` that cover the image.

    A lesion is many neighbouring pixels, so one bright pixel should not decide; a block is a share
    of the side, so it means the same at 256 and at 1024 px. The score ranks images (AUC); it is not
    a calibrated logit.
    """
    block_px = max(1, logits.shape[1] // blocks)
    logits = ops.cast(logits, "float32")
    means = ops.average_pool(logits, block_px, strides=block_px, padding="same")
    return ops.max(means, axis=(1, 2, 3))


def score_histogram(logits, labels, weights, bins: int = BINS):
    """Return the summed weights [2, bins] of negatives (row 0) and positives (row 1) at each score.

    logits, labels, weights [B] or [B, 1]; a label of −1 (unknown) or a weight of 0 (padding) leaves
    an image out. Histograms of batches and replicas add up.
    """
    logits, labels = ops.reshape(logits, (-1,)), ops.cast(ops.reshape(labels, (-1,)), "int32")
    weights = ops.where(labels < 0, 0.0, ops.cast(ops.reshape(weights, (-1,)), "float32"))
    shares = ops.cast(logits, "float32") / (2 * SCORE_LIMIT) + 0.5  # [0, 1) within the limits
    positions = ops.cast(ops.clip(ops.floor(shares * bins), 0, bins - 1), "int32")
    rows = ops.maximum(labels, 0)
    return ops.reshape(ops.segment_sum(weights, rows * bins + positions, 2 * bins), (2, bins))


def class_histograms(logits, labels, weights, bins: int = BINS):
    """Return the score_histogram of each class against all others, [C, 2, bins], of logits [B, C]:
    a class scores an image by the log-odds of its probability, log p/(1−p)."""
    logits = ops.cast(logits, "float32")
    labels = ops.cast(ops.reshape(labels, (-1, 1)), "int32")
    classes = logits.shape[-1]
    # log p/(1−p) is the logit less the log-sum-exp of the others: exact where p is near 0 or 1.
    without_itself = ops.where(ops.eye(classes) > 0, -math.inf, 0.0)  # [C, C]
    log_odds = logits - ops.logsumexp(logits[:, None, :] + without_itself, axis=-1)  # [B, C]
    class_labels = ops.cast(labels == ops.arange(classes), "int32")
    class_labels = ops.where(labels < 0, -1, class_labels)  # [B, C]: 1, 0, or -1 for unknown
    return ops.stack(
        [score_histogram(log_odds[:, c], class_labels[:, c], weights, bins) for c in range(classes)]
    )


def finding_histograms(logits, findings, weights, bins: int = BINS):
    """Return the score_histogram of each finding, [F, 2, bins], of logits and findings [B, F]."""
    columns = range(logits.shape[-1])
    return ops.stack(
        [score_histogram(logits[:, f], findings[:, f], weights, bins) for f in columns]
    )


def macro_auc(histograms) -> float:
    """Return the mean of the AUCs of class_histograms; nan where one of the classes has no
    image."""
    return float(np.mean([auc(histogram) for histogram in np.asarray(histograms)]))


def correct(logits, labels):
    """Return 1 where the highest of the logits [B, C] is the label's, else 0, [B]; 0 for an unknown
    label."""
    return ops.cast(ops.argmax(logits, axis=-1) == ops.cast(labels, "int32"), "float32")


def auc(histogram) -> float:
    """Return the area under the ROC curve of a score_histogram: ties count half, nan without both
    classes."""
    negatives, positives = np.asarray(histogram, np.float64)
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negatives) - negatives  # negatives with a lower score than each bin
    return float((positives * (below + negatives / 2)).sum() / pairs)


def average_precision(histogram) -> float:
    """Return Σ (Rₙ − Rₙ₋₁)·Pₙ of a score_histogram, from the highest scores down; nan without
    positives.

    Rₙ and Pₙ are recall and precision of the images at or above a bin. This is scikit-learn's
    average_precision_score for scores rounded to bins; by chance alone it is the share of
    positives.
    """
    negatives, positives = np.asarray(histogram, np.float64)[:, ::-1]
    if positives.sum() == 0:
        return float("nan")
    hits, alarms = np.cumsum(positives), np.cumsum(negatives)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    return float((positives * precision).sum() / positives.sum())


def to_probabilities(logits: np.ndarray, are_findings: bool = False) -> np.ndarray:
    """Return the probabilities of pixels [B, H, W, heads], of lesions [B, 1], of classes [B, C], or
    where `are_findings` of findings [B, F]."""
    from scipy import special  # an environment that only exports lacks it

    if logits.ndim == 2 and logits.shape[-1] > 1 and not are_findings:
        return special.softmax(logits, axis=-1)
    return special.expit(logits)
