"""Predictions and frozen thresholds -> what they decide for each image: whether it is called
positive, whether its mask is kept, and with what dice. Decided once per split, for scores, curves,
gallery and report.
"""

from typing import NamedTuple

import numpy as np

from trainer.evaluation import surfaces
from trainer.evaluation.predictions import BOTTOMS, Predictions
from trainer.inference.decision import Decision


class Outcomes(NamedTuple):
    """The outcome of each of the N images of a split."""

    # None for classifiers of more than two classes or of findings: nothing is decided.
    decision: Decision | None
    predictions: Predictions
    reaches_threshold: np.ndarray  # [N] bool: p of a lesion reaches its threshold, or there is none
    is_kept: np.ndarray  # [N] bool: the thresholds do not empty it; False where has_mask is False
    is_called: np.ndarray  # [N] bool: the answer is "a lesion"
    # [N] bool: the truth to compare the answer with is known, a mask or, for classifiers, a label.
    is_compared: np.ndarray
    dice: np.ndarray  # [N] float64 at the source's own size, nan where has_mask is False
    # [N, 2] HD95 and surface dice (surfaces.py) in mm, or px where predictions.has_spacing is
    # False; nan without a true lesion, and everywhere before `with_outlines`.
    outlines: np.ndarray

    @property
    def compared_places(self) -> np.ndarray:
        """Places in the split of the images whose answer can be compared with the truth, [K]."""
        return np.flatnonzero(self.is_compared)

    def predicted_pixels(self) -> np.ndarray:
        """Return the pixels of each predicted mask at the chosen thresholds, [M]: of the images at
        predictions.mask_places."""
        counts = self.predictions.counts
        [column] = counts.columns([self.decision.triplet.bottom])
        return counts.above[:, column] * self.is_kept[self.predictions.mask_places]

    def take(self, places: np.ndarray) -> "Outcomes":
        """Return the outcomes of the images at these places, in their order."""
        columns = (column[places] for column in self[2:])  # the fields behind `predictions`
        return Outcomes(self.decision, self.predictions.take(places), *columns)


def decide(predictions: Predictions, decision: Decision | None) -> Outcomes:
    """Return the outcomes of a split at these thresholds."""
    num_images = len(predictions.ids)
    outlines = np.full((num_images, 2), np.nan)
    reaches_threshold = np.ones(num_images, bool)
    if decision is not None and decision.lesion_threshold is not None:
        reaches_threshold = predictions.lesion >= np.float32(decision.lesion_threshold)
    is_kept, dice = np.zeros(num_images, bool), np.full(num_images, np.nan)
    if decision is None or decision.triplet is None:
        is_called, is_compared = reaches_threshold, predictions.labels >= 0
    else:
        top, area_share, bottom = decision.triplet
        counts, places = predictions.counts, predictions.mask_places
        is_kept[places] = counts.is_kept([top], [area_share])[:, 0, 0] & reaches_threshold[places]
        kept_dice = counts.dice_at([bottom])[:, 0]
        dice[places] = np.where(is_kept[places], kept_dice, counts.dice_emptied())
        is_called, is_compared = is_kept.copy(), predictions.has_mask
        is_called[places] &= counts.above[:, counts.columns([bottom])[0]] > 0
    answers = reaches_threshold, is_kept, is_called
    return Outcomes(decision, predictions, *answers, is_compared, dice, outlines)


def with_outlines(outcomes: Outcomes, tolerance_mm: float, tolerance_px: float) -> Outcomes:
    """Return the outcomes with their outlines compared, which takes 15 to 500 ms for an image of
    1024 px with a lesion; the others are left out."""
    predictions, outlines = outcomes.predictions, outcomes.outlines.copy()
    for place, packed in enumerate(predictions.maps):
        if packed is None:
            continue
        truth, mask = surfaces.unpack(packed, BOTTOMS.tolist().index(_bottom(outcomes)))
        if not outcomes.is_kept[place]:
            mask = np.zeros_like(mask)
        is_mm = predictions.has_spacing[place]
        spacing = tuple(predictions.spacing_mm[place]) if is_mm else (1.0, 1.0)
        tolerance = tolerance_mm if is_mm else tolerance_px
        outlines[place] = surfaces.compare(truth, mask, spacing, tolerance)
    return outcomes._replace(outlines=outlines)


def _bottom(outcomes: Outcomes) -> float:
    return float(np.float32(outcomes.decision.triplet.bottom))
