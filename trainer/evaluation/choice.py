"""Predictions for the validation split -> the thresholds of a Decision.

In: pixel counts and p of a lesion of each image. Out: of all triplets of the grid the best one, or
by the rule of one standard error the one that keeps most of those that are as good as the best.
"""

from collections.abc import Sequence

import numpy as np

from lake import InputError
from trainer.evaluation import bootstrap
from trainer.inference.counts import Counts
from trainer.inference.decision import AREAS_SHARE, BOTTOMS, LESIONS, TOPS, Decision, Triplet

REPLICATES, SEED = 500, 0  # of the standard errors; 500 draws tell each within 4%


def choose(
    counts: Counts, lesion: np.ndarray | None, rule: str = "best", groups: Sequence[str] = ()
) -> Decision:
    """Return the triplet with the highest mean dice, and with the images' own p of a lesion [N] a
    threshold on it. The first of equals wins: low tops, small areas, low bottoms.

    The rule one_se (Breiman et al. 1984, section 3.4.3) takes another one of those whose mean dice
    is within one standard error of the best: that with the highest dice of images with a lesion,
    to which emptied masks add nothing. `groups`: the patient of each image, [N]. Raises
    InputError where no image has a mask.
    """
    if not len(counts.truth):
        raise InputError("the validation split has no image with a mask to choose thresholds on")
    gates = [None] if lesion is None else LESIONS
    mean_gains = _means(counts, lesion, gates)  # [G, T, A, K]
    best = np.unravel_index(mean_gains.argmax(), mean_gains.shape)
    if rule == "one_se" and (counts.truth > 0).any():
        best = _best_on_lesions(counts, lesion, gates, groups, mean_gains, best)
    gate, top, area, bottom = best
    triplet = Triplet(TOPS[top], AREAS_SHARE[area], BOTTOMS[bottom])
    return Decision(triplet, gates[gate], positives_bottom=_best_for_positives(counts))


def _best_for_positives(counts: Counts) -> float | None:
    """Return the threshold on p with the highest dice of images with a lesion, none of which is
    emptied; None where there is none. The lowest of equals wins."""
    has_lesion = counts.truth > 0
    if not has_lesion.any():
        return None
    means = counts.dice_at(BOTTOMS)[has_lesion].mean(axis=0)
    return BOTTOMS[int(np.round(means, 12).argmax())]


def _gains(counts: Counts, lesion: np.ndarray | None, gate: float | None) -> tuple:
    """Return (whether a mask is kept [N, T, A], what its dice gains over an empty one at each
    bottom [N, K], 0 where the image's p of a lesion is below the gate).

    A mask is either emptied or kept, so the mean dice is that of all masks emptied, which is the
    same for all triplets, plus the mean of what each kept mask gains.
    """
    gains = counts.dice_at(BOTTOMS) - counts.dice_emptied()[:, None]
    if gate is not None:
        gains = gains * (lesion >= np.float32(gate))[:, None]
    return counts.is_kept(TOPS, AREAS_SHARE), gains


def _means(counts: Counts, lesion: np.ndarray | None, gates: Sequence, weights=None) -> np.ndarray:
    """Return the mean gain of each combination, [G, T, A, K]; `weights` [N]: of the images. Means
    that differ by rounding alone are equal."""
    weights = np.ones(len(counts.truth)) if weights is None else weights
    means = []
    for gate in gates:
        is_kept, gains = _gains(counts, lesion, gate)
        weighted_gains = gains * weights[:, None] / weights.sum()
        means.append(np.tensordot(is_kept, weighted_gains, axes=(0, 0)))  # [T, A, K]
    return np.round(np.stack(means), 12)


def _best_on_lesions(
    counts: Counts,
    lesion: np.ndarray | None,
    gates: Sequence,
    groups: Sequence[str],
    mean_gains: np.ndarray,
    best: tuple,
) -> tuple:
    """Return the place in the grid that the rule of one standard error takes, [G, T, A, K]."""
    behind = mean_gains[best] - mean_gains  # >= 0
    # The error is that of the difference: two triplets are compared on the same images, most of
    # which they treat alike. That of the best one's own mean would let in far worse ones.
    is_as_good = behind <= _standard_errors(counts, lesion, gates, groups, best) + 1e-12
    of_lesions = _means(counts, lesion, gates, (counts.truth > 0).astype(np.float64))
    # Of equals on lesions, the one with the fewest false alarms: the highest mean dice.
    highest = of_lesions == of_lesions[is_as_good].max()
    means = np.where(is_as_good & highest, mean_gains, -np.inf)
    return np.unravel_index(means.argmax(), means.shape)


def _standard_errors(
    counts: Counts, lesion: np.ndarray | None, gates: Sequence, groups: Sequence[str], best: tuple
) -> np.ndarray:
    """Return the bootstrap's standard error, over patients, of the difference between the best mean
    dice and that of each combination, [G, T, A, K]."""
    groups = groups if len(groups) else np.arange(len(counts.truth))
    draws = np.concatenate([*bootstrap.draws(groups, REPLICATES, SEED)])  # [R, N]
    draws /= draws.sum(axis=1, keepdims=True)
    best_gate, top, area, bottom = best
    is_kept, gains = _gains(counts, lesion, gates[best_gate])
    best_gains = is_kept[:, top, area] * gains[:, bottom]  # [N]
    errors = []
    for gate in gates:
        is_kept, gains = _gains(counts, lesion, gate)
        rows = []  # a top at a time: all at once would be 500 numbers per image and gate
        for number in range(len(TOPS)):
            values = is_kept[:, number, :, None] * gains[:, None, :]  # [N, A, K]
            below = best_gains[:, None, None] - values
            means = np.tensordot(draws, below, axes=(1, 0))  # [R, A, K]
            rows.append(means.std(axis=0))
        errors.append(np.stack(rows))
    return np.stack(errors)


def choose_for_classifier(lesion: np.ndarray, labels: np.ndarray) -> Decision:
    """Return the threshold on p of a lesion, one of the images' own p [N], with the highest
    sensitivity + specificity (Youden 1950); labels [N] are -1 where unknown. Raises InputError
    where all labels are alike."""
    is_labelled = labels >= 0
    lesion, is_positive = lesion[is_labelled], labels[is_labelled] > 0
    if is_positive.all() or not is_positive.any():
        raise InputError("the validation split has images of one class alone; thresholds need both")
    thresholds = np.unique(lesion)  # [T], ascending
    below = [
        np.searchsorted(np.sort(lesion[rows]), thresholds) for rows in (is_positive, ~is_positive)
    ]
    missed_share, cleared_share = below[0] / is_positive.sum(), below[1] / (~is_positive).sum()
    return Decision(
        lesion_threshold=float(thresholds[np.round(cleared_share - missed_share, 12).argmax()])
    )
