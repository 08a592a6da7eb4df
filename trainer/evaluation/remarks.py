"""What a reader of scores has to know before believing them, a plain sentence or two each.

Outcomes and scores of the splits go in, Remarks come out: for the table, metrics.json and report.

A remark is made from outcomes alone, so that tests need no training.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from trainer.config.score_names import EVALUATED
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import FEWEST_PATIENTS
from trainer.evaluation.outcomes import Outcomes, decide
from trainer.evaluation.scores import ScoreOptions, Scores, outline_places
from trainer.inference.decision import AREAS_SHARE, BOTTOMS, LESIONS, TOPS, Decision, choose
from trainer.scoring import digits

FEW, VERY_FEW = 30, 10  # images of a kind: below, one image more or less changes its scores visibly
CALIBRATION_ERROR = 0.1  # from here on p is no probability
GAIN = 0.05  # of mean dice by other thresholds, from which on they are worth a sentence
NOTICEABLE = 0.001  # of mean dice: less than this is no reason to prefer a threshold
# A score -> what it needs: it has no value in a split without a lesion, or of lesions alone.
NEED_POSITIVES = ("dice_positives", "sensitivity", "auc", "ap")
NEED_NEGATIVES = ("specificity", "auc")


class Remark(NamedTuple):
    about: str  # a name that does not change, for programs
    split: str  # of which it speaks; several are joined by " and "
    text: str  # one or two sentences


def remarks(
    outcomes: Mapping[str, Outcomes],
    scores: Mapping[str, Scores],
    options: ScoreOptions,
    chosen_on: str | None = None,
) -> list[Remark]:
    """Return what is to be said of the splits, what matters most first; `outcomes` and `scores` by
    split, the thresholds' own first; `chosen_on`: words for images of another lake, where the
    thresholds are of that one and frozen."""
    chosen_on = chosen_on or next(iter(outcomes))
    result = list(_about_thresholds(outcomes, scores, options, chosen_on))
    is_emptied = {one.split for one in result if one.about == "thresholds_empty_all"}
    for name, split in reversed(list(outcomes.items())):  # the one to report, first
        texts = {} if any(name in names for names in is_emptied) else _gain(split, scores[name])
        texts |= _ranking(scores[name]) | _numbers(split, scores[name], options)
        texts |= _calibration(scores[name]) | _outlines(split, scores[name])
        # Once: what holds for the split to report is not repeated for the other.
        is_new = texts.keys() - {remark.about for remark in result}
        result += [Remark(a, name, texts[a].format(split=name)) for a in texts if a in is_new]
    return result


# --- thresholds ---


def _about_thresholds(
    outcomes: Mapping[str, Outcomes],
    scores: Mapping[str, Scores],
    options: ScoreOptions,
    chosen_on: str,
) -> Iterator[Remark]:
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
        yield Remark("thresholds_empty_all", names, text)
    elif chosen_on in outcomes:
        yield from _borders(chosen_on, first)
    for name, split in others.items():
        if split.is_compared.any() and len(first.predictions.counts.truth):
            yield from _hindsight(chosen_on, name, split, options)


def _borders(chosen_on: str, outcomes: Outcomes) -> Iterator[Remark]:
    """Yield a remark where a threshold is the last of those that were tried, and better than the
    one before it: a still better one may lie beyond."""
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


# --- scores ---


def _gain(split: Outcomes, scores: Scores) -> dict[str, str]:
    """Return a remark where the network is not shown to be better than one that marks nothing."""
    gain = scores.values.get("dice_above_all_empty")
    if gain is None or np.isnan(gain):
        return {}
    number = scores.samples["dice_mean"]
    ends = scores.intervals.get("dice_above_all_empty")
    low, high = ends or (gain, gain)
    if low > 0:
        return {}
    dice, empty = (
        digits.share(scores.values[name], number) for name in ("dice_mean", "dice_all_empty")
    )
    claim = "worse than" if high < 0 else "no better than" if gain <= 0 else "not shown better than"
    text = f"On {{split}} the network is {claim} one that never marks anything: mean dice {dice}"
    text += f" against {empty}"
    if ends:
        interval = ", ".join(digits.end(end, number) for end in ends)
        text += f", and the 95% interval of the difference is [{interval}]"
    return {"not_better_than_empty": f"{text}."}


def _ranking(scores: Scores) -> dict[str, str]:
    """Return a remark where the AUC may be that of chance."""
    auc = scores.values.get("auc", np.nan)
    ends = scores.intervals.get("auc")
    low, high = ends or (auc, auc)
    if np.isnan([auc, low]).any() or low > 0.5:
        return {}
    number = scores.samples["auc"]
    interval = f" [{', '.join(digits.end(end, number) for end in ends)}]" if ends else ""
    claim = "not shown to be better than by chance" if high >= 0.5 else "worse than by chance"
    claim = claim if ends else "no better than by chance"
    kinds = "the classes" if "accuracy" in scores.values else "images with and without a lesion"
    text = f"How the network ranks {kinds} of {{split}} is {claim}: AUC "
    return {"ranks_like_chance": f"{text}{digits.share(auc, number)}{interval}, chance is 0.5."}


def _numbers(split: Outcomes, scores: Scores, options: ScoreOptions) -> dict[str, str]:
    """Return remarks about how many images and patients there are."""
    predictions, texts = split.predictions, {}
    if options.replicates and not scores.intervals:
        units = bootstrap.unit(predictions.groups)
        texts["no_intervals"] = (
            f"{{split}} has {len(set(predictions.groups))} {units}, fewer than {FEWEST_PATIENTS}, "
            f"so there are no 95% intervals: the scores may be luck."
        )
    if split.decision is None:
        labels = predictions.labels[predictions.labels >= 0].astype(int)
        classes, numbers = np.unique(labels, return_counts=True)
        if len(classes) and numbers.min() < FEW:
            number, smallest = int(numbers.min()), classes[numbers.argmin()]
            text = f"Only {_images(number)} of {{split}} {_is_are(number)} of class {smallest}"
            texts["few_of_class"] = text + _widths(scores, ("accuracy", "auc"), number)
        return texts
    if not split.is_compared.any():
        texts["no_masks"] = (
            "No image of {split} has a known mask, so no score of masks has a value."
        )
        return texts
    is_positive = predictions.labels[split.compared_places] > 0
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if positives == 0:
        texts["no_positives"] = (
            f"No image of {{split}} shows a lesion, so it cannot say whether lesions are found: "
            f"{_words(scores, NEED_POSITIVES)} have no value."
        )
    elif positives < FEW:
        names = [name for name in ("dice_positives", "sensitivity") if name in scores.values]
        text = f"Only {_images(positives)} of {{split}} {_shows(positives)} a lesion"
        texts["few_positives"] = text + _widths(scores, names, positives)
    if negatives == 0:
        texts["no_negatives"] = (
            f"Every image of {{split}} shows a lesion, so it cannot say how often images without "
            f"one are called positive: {_words(scores, NEED_NEGATIVES)} have no value."
        )
    elif negatives < FEW:
        text = f"Only {_images(negatives)} of {{split}} {_shows(negatives)} no lesion"
        texts["few_negatives"] = text + _widths(scores, ["specificity"], negatives)
    return texts


def _calibration(scores: Scores) -> dict[str, str]:
    """Return a remark where p of a lesion is no probability."""
    error = scores.values.get("ece", np.nan)
    low = scores.intervals.get("ece", (error, error))[0]
    if not low > CALIBRATION_ERROR:
        return {}
    text = digits.share(error, scores.samples["ece"])
    return {
        "no_probability": f"Do not read an image's p of a lesion as a probability: on {{split}} it "
        f"is off by {text} on average."
    }


def _outlines(split: Outcomes, scores: Scores) -> dict[str, str]:
    """Return remarks about HD95: that it is infinite, or in two units."""
    places, texts = outline_places(split), {}
    is_infinite = any(np.isinf(scores.values.get(f"hd95_{unit}", 0)) for unit in places)
    if is_infinite and split.is_called.any():  # else the thresholds' remark has it
        texts["most_lesions_missed"] = (
            "Half of the lesions of {split} or more are missed altogether: no pixel is marked in "
            "their images, so the median of HD95 is infinite."
        )
    if len(places) > 1:
        number, total = len(places["px"]), sum(map(len, places.values()))
        texts["pixel_size_unknown"] = (
            f"{number} of the {total} images of {{split}} with a lesion do not say how large a "
            f"pixel is: their HD95 and surface dice are in pixels, in lines of their own."
        )
    return texts


# --- words ---


def _widths(scores: Scores, names, number: int) -> str:
    """Return the end of a sentence about few images: how wide the intervals of these scores are."""
    ends = {name: scores.intervals.get(name, (np.nan, np.nan)) for name in names}
    widths = [
        f"that of {EVALUATED[name].words} is {high - low:.2f} wide"
        for name, (low, high) in ends.items()
        if np.isfinite([low, high]).all()
    ]
    if not widths:
        return f": {_words(scores, names)} may be luck."
    end = " Of so few, these intervals are too narrow." if number < VERY_FEW else ""
    return f", and each of them counts much; of the 95% intervals, {' and '.join(widths)}.{end}"


def _words(scores: Scores, names) -> str:
    words = [EVALUATED[name].words for name in names if name in scores.values]
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1]


def _images(number: int) -> str:
    return f"{number} image" + "s" * (number != 1)


def _shows(number: int) -> str:
    return "shows" if number == 1 else "show"


def _is_are(number: int) -> str:
    return "is" if number == 1 else "are"
