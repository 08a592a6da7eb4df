"""The first part of a report: the main scores, each beside the number to compare it with, and the
counts of images by truth and answer."""

from typing import NamedTuple

import numpy as np

from trainer.config.score_names import EVALUATED
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.scores import Scores
from trainer.scoring import digits

HEADLINE = ("dice_mean", "dice_positives", "accuracy", "auc", "sensitivity", "specificity")
NOTHING_MARKED, CHANCE = "dice_all_empty", 0.5


class Tile(NamedTuple):
    """A score of the headline."""

    name: str
    words: str
    text: str
    value: float
    ends: tuple[float, float] | None
    ends_text: str
    reference: float | None
    reference_text: str


def tiles(scores: Scores) -> list[Tile]:
    """Return the scores that answer how good the network is, those that have a value."""
    result = []
    for name in HEADLINE:
        value = scores.values.get(name, np.nan)
        if np.isnan(value):
            continue

        def text(number: float, name: str = name) -> str:
            return digits.share(number, scores.samples[name])

        ends = scores.intervals.get(name)
        ends = ends if ends and np.isfinite(ends).all() else None
        reference, reference_text = None, ""
        if name == "dice_mean":
            reference = scores.values[NOTHING_MARKED]
            reference_text = f"if nothing is marked: {text(reference)}"
        elif name == "auc":
            reference, reference_text = CHANCE, f"chance: {text(CHANCE)}"
        ends_text = " to ".join(digits.end(end, scores.samples[name]) for end in ends or ())
        words, numbers = EVALUATED[name].words, (value, ends, ends_text)
        result.append(Tile(name, words, text(value), *numbers, reference, reference_text))
    return result


def confusion(outcomes: Outcomes) -> dict | None:
    """Return the numbers of images by truth and answer; None where no answer can be compared."""
    predictions = outcomes.predictions
    if predictions.findings is not None:
        return None
    if outcomes.decision is None:
        return _class_confusion(predictions)
    places = outcomes.compared_places
    if not len(places):
        return None
    truth, is_called = predictions.labels[places] > 0, outcomes.is_called[places]
    numbers = [
        [int((rows & columns).sum()) for columns in (is_called, ~is_called)]
        for rows in (truth, ~truth)
    ]
    return {
        "truths": ["lesion", "no lesion"],
        "answers": ["called positive", "called negative"],
        "numbers": numbers,
    }


def findings(outcomes: Outcomes) -> list[tuple[str, int, int, int]]:
    """Return (finding, images with it, without it, in which it is not known) of each finding; none
    of other networks."""
    predictions = outcomes.predictions
    if predictions.findings is None:
        return []
    numbers = [(predictions.findings == state).sum(axis=0).tolist() for state in (1, 0, -1)]
    return list(zip(predictions.finding_names, *numbers, strict=True))


def _class_confusion(predictions: Predictions) -> dict:
    """Return the numbers of images by class and likeliest class."""
    has_label = predictions.labels >= 0
    num_classes = predictions.scores.shape[1]
    labels = predictions.labels[has_label].astype(int)
    numbers = np.zeros((num_classes, num_classes), int)
    np.add.at(numbers, (labels, predictions.scores[has_label].argmax(axis=1)), 1)
    names = [f"class {number}" for number in range(num_classes)]
    return {"truths": names, "answers": names, "numbers": numbers.tolist()}
