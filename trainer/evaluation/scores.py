"""Every score as a function of how often each image counts, weights [R, N] -> [R]: all ones give
the split's score, a bootstrap's draws its spread.

All in float64 from whole numbers of pixels. A score that is not defined (no positives, say) is nan.
"""

from collections.abc import Callable

import numpy as np

from trainer.evaluation.predictions import CURVE, Predictions
from trainer.inference.counts import Counts
from trainer.inference.decision import Decision

HALF = 0.5  # "at half": the network without chosen thresholds
# Bins of calibration: 15 of equal width, as Guo et al. 2017 take them.
EDGES = CURVE[::2]


def of(predictions: Predictions, decision: Decision | None, prevalence: float | None) -> dict:
    """Plain scores of a split, with how many images there are."""
    ones = np.ones((1, len(predictions.ids)))
    counted = {"images": len(predictions.ids)}
    if decision is not None:
        counted["positives"] = int((predictions.labels > 0).sum())
    if decision is not None and decision.triplet is not None:
        counted["without_mask"] = len(predictions.ids) - len(predictions.masked)
    values = measures(predictions, decision, prevalence)(ones)
    return counted | {name: float(value[0]) for name, value in values.items()}


def measures(
    predictions: Predictions, decision: Decision | None, prevalence: float | None
) -> Callable:
    """weights [R, N] -> {name: [R]}. `decision` None: of a classifier of more than two classes;
    `prevalence`: of lesions, for PPV and NPV; None: as in the images."""
    if decision is None:
        return _of_classes(predictions)
    of_images = _of_images(predictions, decision, prevalence)
    if decision.triplet is None:
        return of_images
    of_masks = _of_masks(predictions, decision)
    masked = predictions.masked

    def measure(weights: np.ndarray) -> dict:
        return of_masks(weights[:, masked]) | of_images(weights)

    return measure


def dices(predictions: Predictions, decision: Decision) -> np.ndarray:
    """[M] of the images with a mask."""
    counted = predictions.counted
    kept = counted.dice_at([decision.triplet.bottom])[:, 0]
    return np.where(is_kept(predictions, decision), kept, counted.dice_emptied())


def dices_by_place(predictions: Predictions, decision: Decision | None) -> dict[int, float]:
    """{place in the split: dice} of the images with a mask."""
    if decision is None or decision.triplet is None:
        return {}
    found = dices(predictions, decision).tolist()
    return dict(zip(predictions.masked.tolist(), found, strict=True))


def is_kept(predictions: Predictions, decision: Decision) -> np.ndarray:
    """[M]: whether the thresholds leave the mask, be it empty or not."""
    top, area_share, _ = decision.triplet
    kept = predictions.counted.is_kept([top], [area_share])[:, 0, 0]
    return kept & passes(predictions.masked_lesion, decision)


def calls(predictions: Predictions, decision: Decision) -> tuple[np.ndarray, np.ndarray]:
    """(places, whether the answer is "a lesion") of the images that it can be compared for: those
    with a mask; of classifiers those with a label."""
    if decision.triplet is None:
        places = np.flatnonzero(predictions.labels >= 0)
        return places, passes(predictions.lesion[places], decision)
    counted = predictions.counted
    is_painted = counted.above[:, counted.columns([decision.triplet.bottom])[0]] > 0
    return predictions.masked, is_kept(predictions, decision) & is_painted


def passes(lesion: np.ndarray | None, decision: Decision):
    if decision.lesion_threshold is None:
        return True
    return lesion >= np.float32(decision.lesion_threshold)


def _of_masks(predictions: Predictions, decision: Decision) -> Callable:
    counted = predictions.counted
    place = counted.columns([decision.triplet.bottom])[0]
    kept, truth = is_kept(predictions, decision), counted.truth
    sizes, hits = counted.above[:, place] * kept, counted.hits[:, place] * kept
    union = truth + sizes - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), 1.0)
    dice, half = dices(predictions, decision), counted.dice_at([HALF])[:, 0]
    is_positive = truth > 0
    _, p_sums, in_mask = pixel_bins(counted)
    gaps = p_sums - in_mask  # [M, 15]

    def measure(weights: np.ndarray) -> dict:
        total, positives = weights.sum(axis=1), weights @ is_positive
        return {
            "dice_mean": ratio(weights @ dice, total),
            "dice_all_empty": ratio(weights @ ~is_positive, total),
            "dice_positives": ratio(weights @ (dice * is_positive), positives),
            "dice_positives_at_half": ratio(weights @ (half * is_positive), positives),
            "iou_mean": ratio(weights @ iou, total),
            "iou_positives": ratio(weights @ (iou * is_positive), positives),
            "pixel_ece": ratio(np.abs(weights @ gaps).sum(axis=1), weights @ counted.pixels),
            "pixel_brier": ratio(weights @ counted.squares, weights @ counted.pixels),
        }

    return measure


def _of_images(predictions: Predictions, decision: Decision, prevalence: float | None) -> Callable:
    places, called = calls(predictions, decision)
    is_positive = predictions.labels[places] > 0
    known = np.flatnonzero(predictions.labels >= 0)
    labels, scores = predictions.labels[known] > 0, predictions.scores[known]
    lesion = None if predictions.lesion is None else predictions.lesion[known].astype(np.float64)

    def measure(weights: np.ndarray) -> dict:
        own = weights[:, places]
        positives, negatives = own @ is_positive, own @ ~is_positive
        sensitivity = ratio(own @ (is_positive & called), positives)
        specificity = ratio(own @ (~is_positive & ~called), negatives)
        share = ratio(positives, positives + negatives) if prevalence is None else prevalence
        rest, cleared = (1 - share) * (1 - specificity), (1 - share) * specificity
        found, missed = share * sensitivity, share * (1 - sensitivity)
        result = {
            "auc": auc(scores, labels, weights[:, known]),
            "ap": average_precision(scores, labels, weights[:, known]),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": ratio(found, found + rest),  # Bayes' rule
            "npv": ratio(cleared, cleared + missed),
        }
        if lesion is not None:
            gaps = weights[:, known] @ (in_bins(lesion) * (lesion - labels)[:, None])  # [R, 15]
            total = weights[:, known].sum(axis=1)
            result["ece"] = ratio(np.abs(gaps).sum(axis=1), total)
            result["brier"] = ratio(weights[:, known] @ (lesion - labels) ** 2, total)
        return result

    return measure


def _of_classes(predictions: Predictions) -> Callable:
    """Of C classes: accuracy, and the mean of the AUCs of each against all others."""
    known = np.flatnonzero(predictions.labels >= 0)
    logits, labels = predictions.scores[known].astype(np.float64), predictions.labels[known]
    is_right = logits.argmax(axis=1) == labels
    classes = range(logits.shape[1])

    def measure(weights: np.ndarray) -> dict:
        weights = weights[:, known]
        aucs = [auc(log_odds(logits, c), labels == c, weights) for c in classes]
        accuracy = ratio(weights @ is_right, weights.sum(axis=1))
        return {"accuracy": accuracy, "auc": np.mean(aucs, axis=0)}

    return measure


def log_odds(logits: np.ndarray, chosen: int) -> np.ndarray:
    """log p / (1 − p) of a class, [N], of logits [N, C]."""
    return logits[:, chosen] - np.logaddexp.reduce(np.delete(logits, chosen, axis=1), axis=1)


def auc(scores: np.ndarray, is_positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, [R]: ties count half; weights [R, N]."""
    positives, negatives = _by_score(scores, is_positive, weights)
    below = negatives.cumsum(axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return ratio((positives * (below + negatives / 2)).sum(axis=1), pairs)


def average_precision(scores, is_positive, weights) -> np.ndarray:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ from the highest score down, [R], as scikit-learn defines it."""
    positives, negatives = (part[:, ::-1] for part in _by_score(scores, is_positive, weights))
    hits, alarms = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    precision = hits / np.maximum(hits + alarms, np.finfo(float).tiny)
    return ratio((positives * precision).sum(axis=1), positives.sum(axis=1))


def _by_score(scores, is_positive, weights) -> tuple[np.ndarray, np.ndarray]:
    """Weights of positives and of negatives at each score there is, ascending, [R, U] each."""
    if not len(scores):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    order = np.argsort(scores, kind="stable")
    starts = np.unique(scores[order], return_index=True)[1]
    weights, is_positive = weights[:, order], is_positive[order]
    return tuple(
        np.add.reduceat(weights * kind, starts, axis=1) for kind in (is_positive, ~is_positive)
    )


def in_bins(p: np.ndarray) -> np.ndarray:
    """[N, 15] of 0 and 1: the bin that each p lies in; 0 lies in the first."""
    places = np.clip(np.searchsorted(EDGES, p) - 1, 0, len(EDGES) - 2)
    return np.eye(len(EDGES) - 1)[places]


def pixel_bins(counted: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image and bin, [M, 15]: pixels, the sum of their p, those of the mask."""
    places = counted.columns(EDGES[1:])
    # Up to an edge: what there is less what lies above; p = 0 lies in the first bin.
    below = counted.pixels[:, None] - counted.above[:, places]
    hits = counted.truth[:, None] - counted.hits[:, places]
    p_sums = counted.p_sums.cumsum(axis=1)[:, places]
    return tuple(np.diff(part, axis=1, prepend=0) for part in (below, p_sums, hits))


def ratio(a, b) -> np.ndarray:
    """a / b in float64, nan where b is 0."""
    a, b = np.broadcast_arrays(np.float64(a), np.float64(b))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
