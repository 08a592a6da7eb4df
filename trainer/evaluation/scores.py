"""Outcomes of a split -> its scores, with their intervals, in float64 from whole numbers of pixels.

Every score is a function of how often each image counts, weights [R, N] -> [R]: all ones give the
split's score, the draws of a bootstrap its spread. A score that is not defined (no positives, for
example) is nan. To add a score, compute it here, say in `samples` what it rests on, and describe
it in trainer/config/score_names.py.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trainer.config.score_names import auc_of
from trainer.evaluation import bootstrap
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.predictions import CURVE, Predictions
from trainer.evaluation.ranks import auc, average_precision
from trainer.inference.counts import Counts
from trainer.scoring.ratios import mean_of_defined, ratio

HALF = 0.5  # "at half": the network without chosen thresholds
# Bins of calibration: 15 of equal width, as in Guo et al. 2017 (arXiv:1706.04599).
EDGES = CURVE[::2]


class ScoreOptions(NamedTuple):
    """How scores are computed."""

    prevalence: float | None = None  # of lesions, for PPV and NPV; None: as in the images
    replicates: int = 1000  # of the bootstrap; 0: no intervals
    seed: int = 0
    tolerance_mm: float = 2.0  # of surface dice, where the size of pixels is known
    tolerance_px: float = 4.0  # elsewhere: 2 mm of a chest X-ray are about 4 of 1024 px
    choose: str | None = None  # a rule of trainer/evaluation/choice.py; None: that of the config
    calibrate: str | None = None  # a kind of trainer/inference/calibration.py; None: the config's


class Scores(NamedTuple):
    """Scores of a split, or of a group of its images, by name."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95%, of the scores that have one
    samples: dict[str, int]  # how many images each score rests on, for trainer/scoring/digits.py


def score(outcomes: Outcomes, options: ScoreOptions) -> Scores:
    """Return all scores of the images, with their intervals."""
    groups, draws = outcomes.predictions.groups, (options.replicates, options.seed)
    measure = measures(outcomes, options.prevalence)
    intervals = bootstrap.intervals(measure, groups, *draws)
    return Scores(score_values(outcomes, options.prevalence), intervals, samples(outcomes))


def score_values(outcomes: Outcomes, prevalence: float | None) -> dict[str, float]:
    """Return all scores without intervals, behind the numbers of images."""
    decision, predictions = outcomes.decision, outcomes.predictions
    values = {"images": len(predictions.ids)}
    if decision is not None:
        values["positives"] = int((predictions.labels > 0).sum())
    if decision is not None and decision.triplet is not None:
        values["without_mask"] = int((~predictions.has_mask).sum())
    ones = np.ones((1, len(predictions.ids)))
    scores = measures(outcomes, prevalence)(ones)
    return values | {name: float(score[0]) for name, score in scores.items()}


def samples(outcomes: Outcomes) -> dict[str, int]:
    """Return the number of images that each score rests on; where it compares two kinds, that of
    the rarer kind."""
    predictions, places = outcomes.predictions, outcomes.compared_places
    labels = predictions.labels[predictions.labels >= 0]
    if predictions.findings is not None:
        return _finding_samples(predictions)
    if outcomes.decision is None:
        return {"accuracy": len(labels), "auc": len(labels)}
    is_positive, is_called = predictions.labels[places] > 0, outcomes.is_called[places]
    positives, labelled_positives = int(is_positive.sum()), int((labels > 0).sum())
    numbers = {
        "auc": min(labelled_positives, len(labels) - labelled_positives),
        "ap": labelled_positives,
        "sensitivity": positives,
        "specificity": len(places) - positives,
        "ppv": int(is_called.sum()),
        "npv": int((~is_called).sum()),
    }
    if predictions.lesion is not None:
        numbers |= dict.fromkeys(("ece", "brier"), len(labels))
    if predictions.uncalibrated is not None:
        numbers |= dict.fromkeys(("ece_uncalibrated", "brier_uncalibrated"), len(labels))
    if outcomes.decision.triplet is None:
        return numbers
    num_lesions = int((predictions.counts.truth > 0).sum())
    of_lesions = ("dice_positives", "dice_positives_at_half", "iou_positives")
    if outcomes.decision.positives_bottom is not None:
        of_lesions += ("dice_positives_at_own",)
    of_all = ("dice_mean", "dice_all_empty", "dice_above_all_empty", "iou_mean")
    of_all += ("pixel_ece", "pixel_brier")
    for unit, of_unit in outline_places(outcomes).items():
        numbers |= dict.fromkeys((f"hd95_{unit}", f"surface_dice_{unit}"), len(of_unit))
    return numbers | dict.fromkeys(of_lesions, num_lesions) | dict.fromkeys(of_all, len(places))


def measures(outcomes: Outcomes, prevalence: float | None) -> Callable:
    """Return a function of weights [R, N] -> {name: [R]}. `prevalence`: of lesions, for PPV and
    NPV; None: as in the images."""
    if outcomes.predictions.findings is not None:
        return _finding_measures(outcomes.predictions)
    if outcomes.decision is None:
        return _class_measures(outcomes.predictions)
    image_measures = _image_measures(outcomes, prevalence)
    if outcomes.decision.triplet is None:
        return image_measures
    mask_measures, outline_measures = _mask_measures(outcomes), _outline_measures(outcomes)
    return lambda weights: (
        mask_measures(weights) | outline_measures(weights) | image_measures(weights)
    )


def _mask_measures(outcomes: Outcomes) -> Callable:
    """Return a function of weights [R, N] -> {score of masks: [R]}, over the M images whose mask is
    known.

    Nothing here looks at pixels: for each image, counts hold the pixels of its true mask (truth)
    and, for each threshold, those with a higher p (above) and how many of these lie in the true
    mask (hits). The predicted mask is p > bottom, so its size is `above` and its overlap `hits` at
    that one threshold, both 0 where the triplet or the image's own p empties it.
    """
    places, counts = outcomes.predictions.mask_places, outcomes.predictions.counts
    is_kept, dice = outcomes.is_kept[places], outcomes.dice[places]
    threshold = counts.columns([outcomes.decision.triplet.bottom])[0]
    sizes, hits = outcomes.predicted_pixels(), counts.hits[:, threshold] * is_kept
    union = counts.truth + sizes - hits
    iou = np.where(union > 0, hits / np.maximum(union, 1), 1.0)
    # Masks of the network's own p, none of them emptied, by the name of their score.
    bottoms = {"at_half": HALF, "at_own": outcomes.decision.positives_bottom}
    plain_dice = {
        name: counts.dice_at([bottom])[:, 0]
        for name, bottom in bottoms.items()
        if bottom is not None
    }
    is_positive = counts.truth > 0
    _, p_sums, true_pixels = pixel_bins(counts)
    gaps = p_sums - true_pixels  # [M, 15]

    def measure_masks(weights: np.ndarray) -> dict:
        """Return the scores of masks, [R] each, by name; weights [R, N]."""
        weights = weights[:, places]
        total, positives = weights.sum(axis=1), weights @ is_positive
        pixels = weights @ counts.pixels
        return {
            "dice_mean": ratio(weights @ dice, total),
            "dice_all_empty": ratio(weights @ ~is_positive, total),
            "dice_above_all_empty": ratio(weights @ (dice - ~is_positive), total),
            "dice_positives": ratio(weights @ (dice * is_positive), positives),
            **{
                f"dice_positives_{name}": ratio(weights @ (values * is_positive), positives)
                for name, values in plain_dice.items()
            },
            "iou_mean": ratio(weights @ iou, total),
            "iou_positives": ratio(weights @ (iou * is_positive), positives),
            "pixel_ece": ratio(np.abs(weights @ gaps).sum(axis=1), pixels),
            "pixel_brier": ratio(weights @ counts.squares, pixels),
        }

    return measure_masks


def _outline_measures(outcomes: Outcomes) -> Callable:
    """Return a function of weights [R, N] -> {score of outlines: [R]}: medians over the images with
    a lesion, in mm over those whose pixels have a known size and in px over the others."""
    columns = {}
    for unit, places in outline_places(outcomes).items():
        for name, values in zip(("hd95", "surface_dice"), outcomes.outlines[places].T, strict=True):
            columns[f"{name}_{unit}"] = places, values
    return lambda weights: {
        name: median(values, weights[:, places]) for name, (places, values) in columns.items()
    }


def outline_places(outcomes: Outcomes) -> dict[str, np.ndarray]:
    """Return the places of the images whose outlines were compared, by their unit, mm or px; a unit
    without an image is left out."""
    has_outlines = ~np.isnan(outcomes.outlines).any(axis=1)
    has_spacing = outcomes.predictions.has_spacing
    places = {"mm": has_outlines & has_spacing, "px": has_outlines & ~has_spacing}
    return {unit: np.flatnonzero(is_in) for unit, is_in in places.items() if is_in.any()}


def median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the median of values [K], each repeated as often as its weight says, a whole number,
    [R]; weights [R, K]; nan where all are 0. Values may be infinite."""
    order = np.argsort(values, kind="stable")
    values, ends = values[order], weights[:, order].cumsum(axis=1)
    total = ends[:, -1:]
    # The two in the middle, one and the same where their number is odd, counted from 0.
    middles = [
        values[(ends > position).argmax(axis=1)]
        for position in (np.floor((total - 1) / 2), np.floor(total / 2))
    ]
    return np.where(total[:, 0] > 0, np.mean(middles, axis=0), np.nan)


def _image_measures(outcomes: Outcomes, prevalence: float | None) -> Callable:
    """Return a function of weights [R, N] -> {score of whole images: [R]}: of the answers "a
    lesion", over the images whose answer can be compared; of ranks and of p of a lesion, over those
    with a label."""
    predictions, places = outcomes.predictions, outcomes.compared_places
    is_positive, is_called = predictions.labels[places] > 0, outcomes.is_called[places]
    has_label = predictions.labels >= 0
    labels, scores = predictions.labels[has_label] > 0, predictions.scores[has_label]
    columns = {"": predictions.lesion, "_uncalibrated": predictions.uncalibrated}
    probabilities = {
        end: p[has_label].astype(np.float64) for end, p in columns.items() if p is not None
    }

    def measure_images(weights: np.ndarray) -> dict:
        """Return the scores of whole images, [R] each, by name; weights [R, N]."""
        compared_weights, weights = weights[:, places], weights[:, has_label]
        positives, negatives = compared_weights @ is_positive, compared_weights @ ~is_positive
        sensitivity = ratio(compared_weights @ (is_positive & is_called), positives)
        specificity = ratio(compared_weights @ (~is_positive & ~is_called), negatives)
        share = ratio(positives, positives + negatives) if prevalence is None else prevalence
        # Shares of all images, at this prevalence; PPV and NPV by Bayes' rule.
        hits, misses = share * sensitivity, share * (1 - sensitivity)
        alarms, true_negatives = (1 - share) * (1 - specificity), (1 - share) * specificity
        result = {
            "auc": auc(scores, labels, weights),
            "ap": average_precision(scores, labels, weights),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": ratio(hits, hits + alarms),
            "npv": ratio(true_negatives, true_negatives + misses),
        }
        for end, p in probabilities.items():
            gaps = weights @ (in_bins(p) * (p - labels)[:, None])  # [R, 15]
            total = weights.sum(axis=1)
            result[f"ece{end}"] = ratio(np.abs(gaps).sum(axis=1), total)
            result[f"brier{end}"] = ratio(weights @ (p - labels) ** 2, total)
        return result

    return measure_images


def _class_measures(predictions: Predictions) -> Callable:
    """Return a function of weights [R, N] -> {score of C classes: [R]}: accuracy, and the mean of
    the AUCs of each class against all others."""
    has_label = predictions.labels >= 0
    logits, labels = predictions.scores[has_label].astype(np.float64), predictions.labels[has_label]
    is_right = logits.argmax(axis=1) == labels
    classes = range(logits.shape[1])

    def measure_classes(weights: np.ndarray) -> dict:
        weights = weights[:, has_label]
        aucs = [auc(log_odds(logits, c), labels == c, weights) for c in classes]
        accuracy = ratio(weights @ is_right, weights.sum(axis=1))
        return {"accuracy": accuracy, "auc": np.mean(aucs, axis=0)}

    return measure_classes


def _finding_measures(predictions: Predictions) -> Callable:
    """Return a function of weights [R, N] -> {score of F findings: [R]}: the AUC of each over the
    images in which it is known, and the mean of those that are defined."""
    findings, logits = predictions.findings, predictions.scores.astype(np.float64)
    names = [auc_of(name) for name in predictions.finding_names]
    columns = []  # (images in which the finding is known, their logits, whether they have it)
    for finding, scores in zip(findings.T, logits.T, strict=True):
        places = np.flatnonzero(finding >= 0)
        columns.append((places, scores[places], finding[places] > 0))

    def measure_findings(weights: np.ndarray) -> dict:
        aucs = [auc(scores, truth, weights[:, places]) for places, scores, truth in columns]
        return {"auc": mean_of_defined(np.array(aucs)), **dict(zip(names, aucs, strict=True))}

    return measure_findings


def _finding_samples(predictions: Predictions) -> dict[str, int]:
    """Return the number of images that the AUC of each finding rests on, of the rarer kind; their
    mean rests on all of these."""
    rarer = np.minimum(*((predictions.findings == kind).sum(axis=0) for kind in (0, 1)))
    names = map(auc_of, predictions.finding_names)
    return {"auc": int(rarer.sum()), **dict(zip(names, rarer.tolist(), strict=True))}


def log_odds(logits: np.ndarray, number: int) -> np.ndarray:
    """Return log p / (1 − p) of the class of that number, [N], from logits [N, C]."""
    return logits[:, number] - np.logaddexp.reduce(np.delete(logits, number, axis=1), axis=1)


def in_bins(p: np.ndarray) -> np.ndarray:
    """Return the bin that each p lies in, one-hot [N, 15]; 0 lies in the first."""
    bins = np.clip(np.searchsorted(EDGES, p) - 1, 0, len(EDGES) - 2)
    return np.eye(len(EDGES) - 1)[bins]


def pixel_bins(counts: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each image and bin, [M, 15] each: the pixels, the sum of their p, and how many of
    them lie in the mask."""
    edges = counts.columns(EDGES[1:])
    # Pixels at or below an edge are all pixels minus those above it; p = 0 is in the first bin.
    pixels = counts.pixels[:, None] - counts.above[:, edges]
    lesion_pixels = counts.truth[:, None] - counts.hits[:, edges]
    p_sums = counts.p_sums.cumsum(axis=1)[:, edges]
    return tuple(np.diff(column, axis=1, prepend=0) for column in (pixels, p_sums, lesion_pixels))
