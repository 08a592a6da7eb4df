"""Sums of an epoch that add up over batches and replicas, and the scores computed from them."""

import math
from collections.abc import Sequence

import numpy as np
from keras import ops

from trainer.config.score_names import HALF_NETWORK, auc_of
from trainer.scoring import metrics
from trainer.scoring.ratios import mean_of_defined, ratio

THRESHOLD = 0.5  # on p while training; evaluate chooses others on the validation split
BARS = 30  # of a histogram: TensorBoard rebins any other number and changes the heights
THRESHOLDS = np.linspace(0, 1, BARS + 1)  # TensorBoard's PR curves need evenly spaced ones
SMALLEST = -5.0  # log10 of a lesion's share of the image: 10 pixels of 1024 x 1024


def example_sums(
    is_classifier: bool, masks, logits, batch: dict, weights, lesion_logits=None
) -> dict:
    """Return the sums over a batch from which `scores` computes its scores.

    masks [B, H, W, 1], logits [B, H, W, heads] of a segmenter or [B, C] of a classifier, whose
    batch has findings [B, F] where it learns from these, weights [B] or None for all 1. A segmenter
    ranks images by the `lesion_logits` [B, 1] of its empty_head; None: by the lesion_score of its
    map.
    """
    weights = ops.ones_like(batch["label"]) if weights is None else weights
    if "findings" in batch:
        histograms = metrics.finding_histograms(logits, batch["findings"], weights)
        return {"finding_histograms": histograms}  # [F, 2, bins]
    if is_classifier and logits.shape[-1] > 1:
        label_weights = weights * ops.cast(batch["label"] >= 0, "float32")
        return {
            "images": ops.sum(label_weights),
            "correct": ops.sum(label_weights * metrics.correct(logits, batch["label"])),
            "histograms": metrics.class_histograms(logits, batch["label"], weights),  # [C, 2, bins]
        }
    if is_classifier:
        return {"histogram": metrics.score_histogram(logits, batch["label"], weights)}
    logits = ops.cast(logits[..., -1:], "float32")  # the deepest head
    mask_weights = weights * batch["has_mask"]  # [B]
    counts = metrics.pixel_counts(masks, ops.sigmoid(logits) > THRESHOLD)  # [4, B]
    hits, truth, prediction, _ = ops.unstack(counts, 4)
    dices = metrics.dice_of_counts(hits, truth + prediction)
    positive_weights = mask_weights * ops.cast(truth > 0, "float32")
    ranks = metrics.lesion_score(logits) if lesion_logits is None else lesion_logits
    return {
        "images": ops.sum(mask_weights),
        "dice": ops.sum(mask_weights * dices),
        "positives": ops.sum(positive_weights),
        "dice_of_positives": ops.sum(positive_weights * dices),
        "pixels": ops.sum(mask_weights * counts, axis=1),  # [4]
        "histogram": metrics.score_histogram(ranks, batch["label"], weights),
    }


def scores(sums: dict, findings: Sequence[str] = ()) -> dict[str, float]:
    """Return the scores of summed example_sums by the names of trainer/config/score_names.py; nan
    where one is not defined. With more than two
    classes `auc` is the mean over the classes, each against all others; with these `findings` the
    mean of those that have one."""
    result = {}
    if "finding_histograms" in sums:
        aucs = np.array([metrics.auc(histogram) for histogram in sums["finding_histograms"]])
        result["auc"] = mean_of_defined(aucs)
        result |= dict(zip(map(auc_of, findings), aucs, strict=True))
    elif "histograms" in sums:
        result["accuracy"] = ratio(sums["correct"], sums["images"])
        result["auc"] = metrics.macro_auc(sums["histograms"])
    else:
        result["auc"] = metrics.auc(sums["histogram"])
        result["ap"] = metrics.average_precision(sums["histogram"])
    if "dice" in sums:
        result[f"dice_mean{HALF_NETWORK}"] = ratio(sums["dice"], sums["images"])
        dice_positives = ratio(sums["dice_of_positives"], sums["positives"])
        result[f"dice_positives{HALF_NETWORK}"] = dice_positives
        num_empty = sums["images"] - sums["positives"]
        result["dice_all_empty_network_size"] = ratio(num_empty, sums["images"])
        # Over all pixels of the split together: an image without a lesion is not a special case.
        for score in (metrics.iou, metrics.sensitivity, metrics.specificity, metrics.ppv):
            result[f"pixel_{score.__name__}{HALF_NETWORK}"] = score(sums["pixels"])
    if "weight" in sums:
        result["loss"] = ratio(sums["loss"], sums["weight"])
    return {name: float(value) for name, value in result.items()}


def map_sums(masks, probabilities, weights, threshold: float) -> dict:
    """Return the sums behind TensorBoard's curves and histograms (trainer/display/histograms.py).

    masks and probabilities [B, H, W, 1]; weights [B], 0 leaves an image out. The size of a
    prediction is that at `threshold`; an empty mask has none.
    """
    counts = metrics.pixel_counts(masks, probabilities > threshold)
    hits, truth, prediction, pixels = ops.unstack(counts, 4)  # [B] each
    dice = metrics.dice_of_counts(hits, truth + prediction)
    weights = weights[:, None]  # [B, 1]
    truth_bars = weights * bar_of_size(truth / pixels)  # [B, N]
    prediction_bars = weights * bar_of_size(prediction / pixels)

    hits_at, prediction_at = ops.unstack(pixels_above(masks, probabilities), 2)  # [B, T] each
    dices = metrics.dice_of_counts(hits_at, truth[:, None] + prediction_at)
    positives = weights * ops.cast(truth > 0, "float32")[:, None]
    return {
        "dice_at": ops.sum(weights * dices, axis=0),
        "dice_of_positives_at": ops.sum(positives * dices, axis=0),
        "pixels_at": ops.sum(weights * ops.stack([hits_at, prediction_at]), axis=1),
        "sizes": ops.stack([ops.sum(truth_bars, axis=0), ops.sum(prediction_bars, axis=0)]),
        "dice_by_size": ops.sum(truth_bars * dice[:, None], axis=0),
    }


def pixels_above(masks, probabilities):
    """Return the pixels [2, B, T] above each threshold: those of the masks, and all."""
    num_images, num_bins = probabilities.shape[0], len(THRESHOLDS) + 1
    thresholds = ops.convert_to_tensor(THRESHOLDS, "float32")
    # Each pixel is compared once, whatever T is: a search gives the number of thresholds that it is
    # above, 0 … T, and one segment_sum counts the pixels of each image with each number. The pixels
    # above threshold t are then all of the image less those with a number of t or less.
    thresholds_below = ops.searchsorted(thresholds, ops.reshape(probabilities, (-1,)))  # [B·H·W]
    rows = ops.repeat(ops.arange(num_images, dtype="int32"), math.prod(probabilities.shape[1:]))
    segments = rows * num_bins + ops.cast(thresholds_below, "int32")

    def count_above(weights):
        counts = ops.segment_sum(ops.reshape(weights, (-1,)), segments, num_images * num_bins)
        counts = ops.reshape(counts, (num_images, num_bins))  # [B, T + 1]
        return ops.sum(counts, axis=1, keepdims=True) - ops.cumsum(counts, axis=1)[:, :-1]

    return ops.stack([count_above(masks), count_above(ops.ones_like(masks))])


def bar_of_size(shares):
    """Return the bar of each share of the image [B], on a log scale, one-hot [B, N]; all 0 for an
    empty mask."""
    positions = ops.log10(ops.maximum(shares, 10**SMALLEST)) / -SMALLEST + 1  # [0, 1]
    bars = ops.clip(ops.floor(positions * BARS), 0, BARS - 1)
    return ops.one_hot(ops.cast(bars, "int32"), BARS) * ops.cast(shares > 0, "float32")[:, None]
