"""Predictions and frozen thresholds -> what they decide for each image: whether it is called
positive, whether its mask is kept, and with what dice. Decided once per split, for scores, curves,
gallery and report.
"""

from typing import NamedTuple

import numpy as np

from trainer.evaluation.predictions import Predictions
from trainer.inference.decision import Decision


class Outcomes(NamedTuple):
    """The outcome of each of the N images of a split."""

    decision: Decision | None  # None for classifiers of more than two classes: nothing is decided
    predictions: Predictions
    passes: np.ndarray  # [N] bool: p of a lesion reaches its threshold, or there is none
    is_kept: np.ndarray  # [N] bool: the thresholds do not empty it; False where has_mask is False
    is_called: np.ndarray  # [N] bool: the answer is "a lesion"
    # [N] bool: the truth to compare the answer with is known, a mask or, for classifiers, a label.
    is_compared: np.ndarray
    dice: np.ndarray  # [N] float64 at the source's own size, nan where has_mask is False

    @property
    def compared_places(self) -> np.ndarray:
        """Places in the split of the images whose answer can be compared with the truth, [K]."""
        return np.flatnonzero(self.is_compared)

    def take(self, places: np.ndarray) -> "Outcomes":
        """Return the outcomes of the images at these places, in their order."""
        columns = (column[places] for column in self[2:])
        return Outcomes(self.decision, self.predictions.take(places), *columns)


def decide(predictions: Predictions, decision: Decision | None) -> Outcomes:
    """Return the outcomes of a split at these thresholds."""
    num_images = len(predictions.ids)
    passes = np.ones(num_images, bool)
    if decision is not None and decision.lesion_threshold is not None:
        passes = predictions.lesion >= np.float32(decision.lesion_threshold)
    is_kept, dice = np.zeros(num_images, bool), np.full(num_images, np.nan)
    if decision is None or decision.triplet is None:
        return Outcomes(
            decision, predictions, passes, is_kept, passes, predictions.labels >= 0, dice
        )
    top, area_share, bottom = decision.triplet
    counts, places = predictions.counts, predictions.mask_places
    is_kept[places] = counts.is_kept([top], [area_share])[:, 0, 0] & passes[places]
    dice[places] = np.where(is_kept[places], counts.dice_at([bottom])[:, 0], counts.dice_emptied())
    is_called = is_kept.copy()
    is_called[places] &= counts.above[:, counts.columns([bottom])[0]] > 0
    has_mask = predictions.has_mask
    return Outcomes(decision, predictions, passes, is_kept, is_called, has_mask, dice)
