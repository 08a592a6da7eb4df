"""Scores against thresholds -> lists of numbers, for metrics.json, the plots and the report; None
where a score is not defined.
"""

import numpy as np

from trainer.evaluation import scores
from trainer.evaluation.predictions import CURVE, Predictions
from trainer.inference.decision import Decision

MOST_POINTS = 400  # of a curve with a point at each score


def of(predicted: Predictions, decision: Decision) -> dict[str, dict[str, list]]:
    """By name: `roc` and `pr` of the images' scores, at each score; `images` (of p of a lesion),
    `masks` and `pixels` at system 0's 31 thresholds; `calibration` in 15 bins."""
    known = predicted.labels >= 0
    is_positive = predicted.labels[known] > 0
    found = _of_scores(predicted.scores[known], is_positive)
    if predicted.lesion is not None:
        found["images"] = _of_lesion(predicted.lesion[known], is_positive)
        found["calibration"] = _calibration(predicted.lesion[known], is_positive)
    if decision.triplet is not None:
        found |= {"masks": _of_masks(predicted, decision), "pixels": _of_pixels(predicted)}
        found.setdefault("calibration", _pixel_calibration(predicted))
    return {
        name: {part: _listed(values) for part, values in curve.items()}
        for name, curve in found.items()
    }


def _of_scores(values: np.ndarray, is_positive: np.ndarray) -> dict:
    """From the highest score down: who is called positive at or above it."""
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order], append=np.nan) != 0)  # the last of equal scores
    if len(ends) > MOST_POINTS:
        ends = ends[np.linspace(0, len(ends) - 1, MOST_POINTS).round().astype(int)]
    hits = is_positive[order].cumsum()[ends]
    alarms = ends + 1 - hits
    recall = scores.ratio(hits, is_positive.sum())
    fall_out = scores.ratio(alarms, (~is_positive).sum())
    return {
        "roc": {"false_positive_rate": [0, *fall_out], "sensitivity": [0, *recall]},
        "pr": {"recall": recall, "precision": scores.ratio(hits, hits + alarms)},
    }


def _of_lesion(lesion: np.ndarray, is_positive: np.ndarray) -> dict:
    called = lesion >= np.float32(CURVE)[:, None]  # [31, N]
    hits, alarms = (called & is_positive).sum(axis=1), (called & ~is_positive).sum(axis=1)
    return {
        "threshold": CURVE,
        "precision": scores.ratio(hits, hits + alarms),
        "recall": scores.ratio(hits, is_positive.sum()),
        "specificity": 1 - scores.ratio(alarms, (~is_positive).sum()),
    }


def _of_masks(predicted: Predictions, decision: Decision) -> dict:
    """Mean dice of the masks p > threshold, in the images that the frozen threshold on p of a
    lesion leaves; no area is asked for."""
    counted = predicted.counted
    passes = scores.passes(predicted.masked_lesion, decision)
    kept = np.broadcast_to(passes, counted.truth.shape)[:, None]
    dice = np.where(kept, counted.dice_at(CURVE), counted.dice_emptied()[:, None])  # [M, 31]
    is_positive = counted.truth > 0
    return {
        "threshold": CURVE,
        "dice_mean": dice.mean(axis=0),
        "dice_positives": dice[is_positive].mean(axis=0)
        if is_positive.any()
        else [None] * len(CURVE),
    }


def _of_pixels(predicted: Predictions) -> dict:
    """Of all pixels of the split together."""
    counted, places = predicted.counted, predicted.counted.columns(CURVE)
    hits, above = (part[:, places].sum(axis=0) for part in (counted.hits, counted.above))
    return {
        "threshold": CURVE,
        "precision": scores.ratio(hits, above),
        "recall": scores.ratio(hits, counted.truth.sum()),
    }


def _calibration(lesion: np.ndarray, is_positive: np.ndarray) -> dict:
    bins = scores.in_bins(lesion.astype(np.float64))  # [N, 15]
    number = bins.sum(axis=0)
    return {
        "p": scores.ratio(lesion @ bins, number),
        "share": scores.ratio(is_positive @ bins, number),
        "number": number,
    }


def _pixel_calibration(predicted: Predictions) -> dict:
    number, p_sum, hits = (part.sum(axis=0) for part in scores.pixel_bins(predicted.counted))
    return {"p": scores.ratio(p_sum, number), "share": scores.ratio(hits, number), "number": number}


def _listed(values) -> list:
    return [None if value is None or not np.isfinite(value) else float(value) for value in values]
