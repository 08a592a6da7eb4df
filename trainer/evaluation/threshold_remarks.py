"""What a reader has to know about the thresholds: where they empty every mask, lie at the border of
what was tried, or suit one split alone. Outcomes of the splits go in, Remarks come out."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from trainer.evaluation import bootstrap
from trainer.evaluation.choice import choose
from trainer.evaluation.outcomes import Outcomes, decide
from trainer.evaluation.scores import ScoreOptions, Scores
from trainer.inference.decision import AREAS_SHARE, BOTTOMS, LESIONS, TOPS, Decision
from trainer.scoring import digits

GAIN = 0.05  # of mean dice by other thresholds, from which on they are worth a sentence
NOTICEABLE = 0.001  # of mean dice: less than this is no reason to prefer a threshold


class Remark(NamedTuple):
    about: str  # a name that does not change, for programs
    split: str  # of which it speaks; several are joined by " and "
    text: str  # one or two sentences


def about_thresholds(
    outcomes: Mapping[str, Outcomes],
    scores: Mapping[str, Scores],
    options: ScoreOptions,
    chosen_on: str,
) -> Iterator[Remark]:
    """Yield the remarks about the thresholds; arguments as those of remarks.remarks."""
    first = next(iter(outcomes.values()))
    if first.decision is None:
        return
    others = {name: split for name, split in outcomes.items() if name != chosen_on}
    if not others:
        text = (
            f"The thresholds were chosen on the images that are scored here, those of {chosen_on}: "
            f"expect lower scores on new images. A test split would say how much lower."
        )
        yield Remark("no_test_split", chosen_on, text)
    if first.decision.triplet is None:
        return
    with_masks = {name: split for name, split in outcomes.items() if split.is_compared.any()}
    emptied = [name for name, split in with_masks.items() if not split.is_called.any()]
    if emptied:
        names = " and ".join(emptied)
        text = (
            f"The chosen thresholds empty every mask of {names}: nothing is marked in any image, "
            f"so the network is no better than one that never marks anything."
        )
        if options.choose != "one_se" and chosen_on in outcomes:
            text += " --choose has a rule that keeps more where it costs little."
        yield Remark("thresholds_empty_all", names, text)
    elif chosen_on in outcomes:
        yield from _borders(chosen_on, first)
    for name, split in others.items():
        if split.is_compared.any() and len(first.predictions.counts.truth):
            yield from _hindsight(chosen_on, name, split, options)


def _borders(chosen_on: str, outcomes: Outcomes) -> Iterator[Remark]:
    """Yield a remark where a threshold is at an end of its grid, and better than its neighbour: a
    still better one may lie beyond."""
    decision = outcomes.decision
    top, area_share, bottom = decision.triplet
    dice = np.nanmean(outcomes.dice)
    texts = []

    def add(words: str, grid: tuple, value: float, decision_with) -> None:
        """Add the words where `value` is at an end of the grid, and the value beside it is worse;
        `decision_with`: a value -> the decision with it."""
        position = grid.index(value)
        if position not in (0, len(grid) - 1):
            return
        neighbour = decision_with(grid[1 if position == 0 else -2])
        if dice - np.nanmean(decide(outcomes.predictions, neighbour).dice) > NOTICEABLE:
            texts.append(f"{words} {value:g}, the {'highest' if position else 'lowest'} tried")

    def with_triplet(**changes) -> Decision:
        return decision._replace(triplet=decision.triplet._replace(**changes))

    add("the bottom threshold is", BOTTOMS, bottom, lambda value: with_triplet(bottom=value))
    if area_share > 0:  # else top decides nothing, and 0 is no border: there is no smaller area
        add("the top threshold is", TOPS, top, lambda value: with_triplet(top=value))
        add(
            "the minimum share of the image is",
            AREAS_SHARE,
            area_share,
            lambda value: with_triplet(area_share=value),
        )
    if decision.lesion_threshold:
        add(
            "the threshold on an image's own p is",
            LESIONS,
            decision.lesion_threshold,
            lambda value: decision._replace(lesion_threshold=value),
        )
    if texts:
        text = (
            f"The thresholds chosen on {chosen_on} lie at the border of those that were tried "
            f"({'; '.join(texts)}): better ones may lie beyond, and these may not suit other "
            f"images."
        )
        yield Remark("thresholds_at_border", chosen_on, text)


def _hindsight(
    chosen_on: str, name: str, split: Outcomes, options: ScoreOptions
) -> Iterator[Remark]:
    """Yield a remark where thresholds chosen on the split itself would be much better than the
    frozen ones: the two splits do not share good thresholds."""
    best = choose(split.predictions.counts, split.predictions.lesion_of_masks)
    other = decide(split.predictions, best)
    places = split.predictions.mask_places
    gains = (other.dice - split.dice)[places]
    if gains.mean() < GAIN:
        return

    def measure(weights: np.ndarray) -> dict:
        weights = weights[:, places]
        return {"gain": weights @ gains / np.maximum(weights.sum(axis=1), 1)}

    groups = split.predictions.groups
    ends = bootstrap.intervals(measure, groups, options.replicates, options.seed).get("gain")
    if ends and not ends[0] > 0:
        return
    before, after = (
        digits.share(float(np.nanmean(dice)), len(places)) for dice in (split.dice, other.dice)
    )
    text = (
        f"The thresholds of {chosen_on} do not suit {name}: the best for {name} would score a mean "
        f"dice of {after} instead of {before}. The images of the two splits may differ in kind, or "
        f"{chosen_on} has too few."
    )
    yield Remark("thresholds_do_not_transfer", name, text)
