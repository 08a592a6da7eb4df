"""Outcomes -> the sliders of the report, and a split's scores at every combination of their
thresholds, so that a page of any number of images has a table of one size to look them up in.

The axes of all arrays are [G, T, A, K]: thresholds of p of a lesion, top, area, bottom; those that
a system does not have are of length 1.
"""

from typing import NamedTuple

import numpy as np

from trainer.evaluation.outcomes import Outcomes
from trainer.inference.counts import Counts
from trainer.inference.decision import AREAS_SHARE, BOTTOMS, LESIONS, TOPS, Decision

PERCENT = tuple(percent / 100 for percent in range(101))  # a classifier's thresholds
DIGITS = 6  # of the dice in the page


class Slider(NamedTuple):
    label: str
    values: list[float]
    position: int  # of the frozen threshold in `values`


def sliders(decision: Decision) -> dict[str, Slider]:
    """Return the sliders by name, in the order of the axes, each at the threshold of `decision`."""
    described = {}  # {name: (label, thresholds, the chosen one)}
    if (lesion := decision.lesion_threshold) is not None:
        # Beside a triplet few steps: each multiplies the size of the table of all combinations.
        thresholds = sorted({*(LESIONS if decision.triplet else PERCENT), lesion})
        label = "Call an image positive where its own p is at least"
        described["lesion"] = label, thresholds, lesion
    if decision.triplet is not None:
        top, area_share, bottom = decision.triplet
        described["top"] = "Empty the mask unless enough pixels have a p above", TOPS, top
        described["area"] = "Enough is this share of the image", AREAS_SHARE, area_share
        described["bottom"] = "A pixel is lesion where its p exceeds", BOTTOMS, bottom
    # `index` compares exactly: evaluate chooses a triplet from these very grids.
    return {
        name: Slider(label, list(thresholds), list(thresholds).index(chosen))
        for name, (label, thresholds, chosen) in described.items()
    }


def passes(lesion: np.ndarray | None, decision: Decision, num_images: int) -> np.ndarray:
    """Return whether p of a lesion [N] reaches each threshold of its slider, [G, N]; all True where
    there is none."""
    slider = sliders(decision).get("lesion")
    if slider is None:
        return np.ones((1, num_images), bool)
    return lesion >= np.float32(slider.values)[:, None]


def is_kept(counts: Counts) -> np.ndarray:
    """Return whether the triplet keeps each mask, [N, T, A]."""
    return counts.is_kept(TOPS, AREAS_SHARE)


def scores(outcomes: Outcomes) -> dict[str, list]:
    """Return {score: the values of [G, T, A, K] in this order}, over the images whose answer can be
    compared: `hits` and `alarms`, images with and without a lesion that are called positive; with
    masks also `dice_mean` and `dice_positives`, None where there is no positive."""
    predictions, places = outcomes.predictions, outcomes.compared_places
    is_positive = predictions.labels[places] > 0
    lesion = None if predictions.lesion is None else predictions.lesion[places]
    gates = passes(lesion, outcomes.decision, len(places))  # [G, N]
    if outcomes.decision.triplet is None:
        answers = {"hits": gates & is_positive, "alarms": gates & ~is_positive}
        return {name: images.sum(axis=1).tolist() for name, images in answers.items()}
    counts = predictions.counts
    kept, has_pixels = is_kept(counts), counts.above[:, counts.columns(BOTTOMS)] > 0
    answers = {"hits": is_positive, "alarms": ~is_positive}
    result = {
        name: _sums(gates, kept, has_pixels * rows[:, None]) for name, rows in answers.items()
    }
    result = {name: np.rint(sums).astype(int).ravel().tolist() for name, sums in result.items()}
    return result | _mean_dice(counts, gates, kept)


def _mean_dice(counts: Counts, gates: np.ndarray, kept: np.ndarray) -> dict[str, list]:
    """Return the mean dice over all images, `dice_mean`, and over those with a lesion,
    `dice_positives`, each as a list of the values of [G, T, A, K]."""
    emptied, has_lesion = counts.dice_emptied(), counts.truth > 0
    # What a kept mask gains over its empty one.
    gains = counts.dice_at(BOTTOMS) - emptied[:, None]  # [N, K]
    result = {}
    for name, rows in (("dice_mean", np.ones_like(has_lesion)), ("dice_positives", has_lesion)):
        sums = (emptied * rows).sum() + _sums(gates, kept, gains * rows[:, None])
        means = np.round(sums / rows.sum(), DIGITS).ravel().tolist() if rows.any() else None
        result[name] = means or [None] * sums.size
    return result


def _sums(gates: np.ndarray, kept: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sums of values [N, K] over the images that pass and are kept, [G, T, A, K]."""
    kept, values = kept.astype(np.float64), values.astype(np.float64)
    return np.stack([np.tensordot(kept, values * gate[:, None], axes=(0, 0)) for gate in gates])
