"""Curves of a split as lists of numbers, for metrics.json, plots and the report; None where a score
is not defined.
"""

import numpy as np

from trainer.evaluation import scores
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.predictions import CURVE
from trainer.inference.counts import Counts
from trainer.scoring.ratios import ratio

MOST_POINTS = 400  # of a curve with a point for each score


def from_outcomes(outcomes: Outcomes) -> dict[str, dict[str, list]]:
    """Return curves by name: `roc` and `pr` of the images' scores, with a point for each score;
    `images` (of p of a lesion), `masks` and `pixels` at the 31 thresholds of CURVE; `calibration`
    in 15 bins. Classifiers of more than two classes or of findings have no curves, {}."""
    if outcomes.decision is None:
        return {}
    predictions = outcomes.predictions
    has_label = predictions.labels >= 0
    is_positive = predictions.labels[has_label] > 0
    curves = _ranking_curves(predictions.scores[has_label], is_positive)
    if predictions.lesion is not None:
        lesion = predictions.lesion[has_label]
        curves["images"] = _lesion_curve(lesion, is_positive)
        bins = scores.in_bins(lesion.astype(np.float64))  # [N, 15]
        curves["calibration"] = _calibration(bins.sum(axis=0), lesion @ bins, is_positive @ bins)
    if outcomes.decision.triplet is not None:
        reaches_threshold = outcomes.reaches_threshold[predictions.mask_places]
        curves["masks"] = _mask_curve(predictions.counts, reaches_threshold)
        curves["pixels"] = _pixel_curve(predictions.counts)
        bins = [part.sum(axis=0) for part in scores.pixel_bins(predictions.counts)]
        curves.setdefault("calibration", _calibration(*bins))
    return {
        name: {part: _to_list(values) for part, values in curve.items()}
        for name, curve in curves.items()
    }


def _ranking_curves(values: np.ndarray, is_positive: np.ndarray) -> dict:
    """Return ROC and PR curves, from the highest score down: at each score, all images with that
    score or a higher one are called positive."""
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=np.nan) != 0)  # the last of equal scores
    if len(ends) > MOST_POINTS:
        ends = ends[np.linspace(0, len(ends) - 1, MOST_POINTS).round().astype(int)]
    hits = is_positive[order].cumsum()[ends]
    alarms = ends + 1 - hits
    recall = ratio(hits, is_positive.sum())
    false_positive_rate = ratio(alarms, (~is_positive).sum())
    return {
        "roc": {"false_positive_rate": [0, *false_positive_rate], "sensitivity": [0, *recall]},
        "pr": {"recall": recall, "precision": ratio(hits, hits + alarms)},
    }


def _lesion_curve(lesion: np.ndarray, is_positive: np.ndarray) -> dict:
    """Return scores of the answer p >= threshold, p of a lesion."""
    is_called = lesion >= np.float32(CURVE)[:, None]  # [31, N]
    hits, alarms = (is_called & is_positive).sum(axis=1), (is_called & ~is_positive).sum(axis=1)
    return {
        "threshold": CURVE,
        "precision": ratio(hits, hits + alarms),
        "recall": ratio(hits, is_positive.sum()),
        "specificity": 1 - ratio(alarms, (~is_positive).sum()),
    }


def _mask_curve(counts: Counts, reaches_threshold: np.ndarray) -> dict:
    """Return the mean dice of the masks p > threshold for each threshold of CURVE: over all M
    images, and over those with a lesion.

    A mask is emptied where its image's p of a lesion is too low, `reaches_threshold` [M] bool;
    the area thresholds are not applied here.
    """
    dice_emptied = counts.dice_emptied()[:, None]
    dice = np.where(reaches_threshold[:, None], counts.dice_at(CURVE), dice_emptied)  # [M, 31]
    is_positive = counts.truth > 0
    dice_positives = dice[is_positive].mean(axis=0) if is_positive.any() else [None] * len(CURVE)
    return {"threshold": CURVE, "dice_mean": dice.mean(axis=0), "dice_positives": dice_positives}


def _pixel_curve(counts: Counts) -> dict:
    """Return precision and recall over all pixels of the split together."""
    thresholds = counts.columns(CURVE)
    hits, above = (part[:, thresholds].sum(axis=0) for part in (counts.hits, counts.above))
    recall = ratio(hits, counts.truth.sum())
    return {"threshold": CURVE, "precision": ratio(hits, above), "recall": recall}


def _calibration(number, p_sum, positives) -> dict:
    """Return mean p and share of positives per bin, from numbers and sums per bin, [15] each."""
    return {"p": ratio(p_sum, number), "share": ratio(positives, number), "number": number}


def _to_list(values) -> list:
    return [None if value is None or not np.isfinite(value) else float(value) for value in values]
