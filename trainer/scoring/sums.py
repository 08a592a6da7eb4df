"""What the scores are made of: sums that add up over batches and replicas, and the scores of such
sums."""

import math

import numpy as np
from keras import ops

from trainer.scoring import metrics

THRESHOLD = 0.5  # of the curves; evaluate chooses its own on the validation split
BARS = 30  # of a histogram in TensorBoard: it divides any other number anew, and heights with it
THRESHOLDS = np.linspace(0, 1, BARS + 1)  # TensorBoard's PR curves take them to be even
SMALLEST = -5.0  # log10 of a lesion's share of the image: 10 pixels of 1024 x 1024


def example_sums(is_classifier: bool, masks, logits, batch: dict, weights, lesion=None) -> dict:
    """What the scores are made of, as sums that add up over steps and replicas; `weights` None:
    every example. A segmenter's score of an image is what its empty_head says, `lesion` [B, 1];
    None: the lesion score of its map."""
    weights = ops.ones_like(batch["label"]) if weights is None else weights
    if is_classifier and logits.shape[-1] > 1:
        return class_sums(logits, batch["label"], weights)
    if is_classifier:
        return {"histogram": metrics.score_histogram(logits, batch["label"], weights)}
    logits = ops.cast(logits[..., -1:], "float32")  # the deepest head
    known = weights * batch["has_mask"]  # [B]
    counts = metrics.pixel_counts(masks, ops.sigmoid(logits) > THRESHOLD)  # [4, B]
    hits, truth, predicted, _ = ops.unstack(counts, 4)
    dices = metrics.dice_of_counts(hits, truth + predicted)
    positive = known * ops.cast(truth > 0, "float32")
    ranks = metrics.lesion_score(logits) if lesion is None else lesion
    return {
        "images": ops.sum(known),
        "dice": ops.sum(known * dices),
        "positives": ops.sum(positive),
        "dice_of_positives": ops.sum(positive * dices),
        "pixels": ops.sum(known * counts, axis=1),  # [4]
        "histogram": metrics.score_histogram(ranks, batch["label"], weights),
    }


def class_sums(logits, labels, weights) -> dict:
    """Of a classifier of more than two classes, logits [B, C]."""
    known = weights * ops.cast(labels >= 0, "float32")
    return {
        "images": ops.sum(known),
        "correct": ops.sum(known * metrics.correct(logits, labels)),
        "histograms": metrics.class_histograms(logits, labels, weights),  # [C, 2, bins]
    }


def class_scores(sums: dict) -> dict[str, float]:
    """`auc` is the mean over the classes, each against all others."""
    return {
        "accuracy": ratio(sums["correct"], sums["images"]),
        "auc": metrics.macro_auc(sums["histograms"]),
    }


def scores(sums: dict) -> dict[str, float]:
    """Readable scores of summed example_sums."""
    if "histograms" in sums:
        result = class_scores(sums)
    else:
        result = {
            "auc": metrics.auc(sums["histogram"]),
            "ap": metrics.average_precision(sums["histogram"]),
        }
    if "dice" in sums:
        result["dice_mean"] = ratio(sums["dice"], sums["images"])
        result["dice_positives"] = ratio(sums["dice_of_positives"], sums["positives"])
        result["dice_all_empty"] = ratio(sums["images"] - sums["positives"], sums["images"])
        # Of all the split's pixels together, so that an image without a lesion is no special case.
        result["iou"] = float(metrics.iou(sums["pixels"]))
        result["sensitivity"] = float(metrics.sensitivity(sums["pixels"]))
        result["specificity"] = float(metrics.specificity(sums["pixels"]))
        result["ppv"] = float(metrics.ppv(sums["pixels"]))
    if "weight" in sums:
        result["loss"] = ratio(sums["loss"], sums["weight"])
    return result


def map_sums(masks, probabilities, known, threshold: float) -> dict:
    """masks and probabilities [B, H, W, 1], known [B], 0: leave this image out; sizes are of the
    prediction at one threshold, and an empty mask has none."""
    now = metrics.pixel_counts(masks, probabilities > threshold)
    hits, truth, predicted, pixels = ops.unstack(now, 4)  # [B] each
    dice = metrics.dice_of_counts(hits, truth + predicted)
    of_truth = known[:, None] * bar_of_size(truth / pixels)  # [B, N]
    of_prediction = known[:, None] * bar_of_size(predicted / pixels)

    hits_at, predicted_at = ops.unstack(pixels_above(masks, probabilities), 2)  # [B, T] each
    dices = metrics.dice_of_counts(hits_at, truth[:, None] + predicted_at)
    positive = known * ops.cast(truth > 0, "float32")
    return {
        "dice_at": ops.sum(known[:, None] * dices, axis=0),
        "dice_of_positives_at": ops.sum(positive[:, None] * dices, axis=0),
        "pixels_at": ops.sum(known[:, None] * ops.stack([hits_at, predicted_at]), axis=1),
        "sizes": ops.stack([ops.sum(of_truth, axis=0), ops.sum(of_prediction, axis=0)]),
        "dice_by_size": ops.sum(of_truth * dice[:, None], axis=0),
    }


def pixels_above(masks, probabilities):
    """Pixels [2, B, T] above each threshold, of the masks and of all; each pixel is looked at once,
    whatever the number of thresholds."""
    images, steps = probabilities.shape[0], len(THRESHOLDS) + 1
    thresholds = ops.convert_to_tensor(THRESHOLDS, "float32")
    # How many thresholds a pixel is above: counted up, and the rest of its image is what remains.
    passed = ops.searchsorted(thresholds, ops.reshape(probabilities, (-1,)))
    row = ops.repeat(ops.arange(images, dtype="int32"), math.prod(probabilities.shape[1:]))
    place = row * steps + ops.cast(passed, "int32")

    def above(weights):
        counts = ops.segment_sum(ops.reshape(weights, (-1,)), place, images * steps)
        counts = ops.reshape(counts, (images, steps))
        return ops.sum(counts, axis=1, keepdims=True) - ops.cumsum(counts, axis=1)[:, :-1]

    return ops.stack([above(masks), above(ops.ones_like(masks))])


def bar_of_size(shares):
    """One-hot [B, N] of shares of the image [B], on a log scale; all 0 for an empty mask."""
    tiny = 10**SMALLEST
    place = ops.log10(ops.maximum(shares, tiny)) / -SMALLEST + 1  # [0, 1]
    bar = ops.clip(ops.floor(place * BARS), 0, BARS - 1)
    return ops.one_hot(ops.cast(bar, "int32"), BARS) * ops.cast(shares > 0, "float32")[:, None]


def ratio(a, b) -> float:
    return float(a) / float(b) if b else math.nan
