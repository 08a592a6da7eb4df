"""What a reader of scores has to know before believing them, a plain sentence or two each.

Outcomes and scores of the splits go in, Remarks come out: for the table, metrics.json and report.

A remark is made from outcomes alone, so that tests need no training.
"""

from collections.abc import Mapping

import numpy as np

from trainer.config.score_names import AUC_OF, EVALUATED
from trainer.evaluation import bootstrap
from trainer.evaluation.bootstrap import FEWEST_PATIENTS
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.scores import ScoreOptions, Scores, outline_places
from trainer.evaluation.threshold_remarks import Remark, about_thresholds
from trainer.scoring import digits

FEW, VERY_FEW = 30, 10  # images of a kind: below, one image more or less changes its scores visibly
CALIBRATION_ERROR = 0.1  # from here on p is no probability
# A score -> what it needs: it has no value in a split without a lesion, or of lesions alone.
NEED_POSITIVES = ("dice_positives", "sensitivity", "auc", "ap")
NEED_NEGATIVES = ("specificity", "auc")


def remarks(
    outcomes: Mapping[str, Outcomes],
    scores: Mapping[str, Scores],
    options: ScoreOptions,
    chosen_on: str | None = None,
) -> list[Remark]:
    """Return the remarks about the splits, the most important first; `outcomes` and `scores` by
    split, the thresholds' own first; `chosen_on`: words for images of another lake, where the
    thresholds are of that one and frozen."""
    chosen_on = chosen_on or next(iter(outcomes))
    result = list(about_thresholds(outcomes, scores, options, chosen_on))
    is_emptied = {one.split for one in result if one.about == "thresholds_empty_all"}
    for name, split in reversed(list(outcomes.items())):  # the one to report, first
        texts = {} if any(name in names for names in is_emptied) else _gain(split, scores[name])
        texts |= _ranking(scores[name]) | _numbers(split, scores[name], options)
        texts |= _calibration(scores[name]) | _outlines(split, scores[name])
        # Once: what holds for the split to report is not repeated for the other.
        is_new = texts.keys() - {remark.about for remark in result}
        result += [Remark(a, name, texts[a].format(split=name)) for a in texts if a in is_new]
    return result


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
    if any(name.startswith(AUC_OF) for name in scores.values):
        kinds = "images with and without a finding"
    text = f"How the network ranks {kinds} of {{split}} is {claim}: AUC "
    return {"ranks_like_chance": f"{text}{digits.share(auc, number)}{interval}, chance is 0.5."}


def _numbers(split: Outcomes, scores: Scores, options: ScoreOptions) -> dict[str, str]:
    """Return remarks about how many images and patients there are."""
    predictions, texts = split.predictions, {}
    if options.replicates and not scores.intervals:
        units, number = bootstrap.unit(predictions.groups), len(set(predictions.groups))
        texts["no_intervals"] = (
            f"{{split}} has fewer than {FEWEST_PATIENTS} {units} ({number}), so there are no 95% "
            f"intervals: the scores may be luck."
        )
    if predictions.findings is not None:
        return texts | _findings(split)
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


def _findings(split: Outcomes) -> dict[str, str]:
    """Return remarks about findings that have no AUC, and about those with few images of a kind."""
    predictions, texts, lacking, few = split.predictions, {}, [], []
    for name, column in zip(predictions.finding_names, predictions.findings.T, strict=True):
        name = name.replace("{", "{{").replace("}", "}}")
        num_with, num_without = int((column > 0).sum()), int((column == 0).sum())
        if not num_with or not num_without:
            lacking.append(f"{name} ({num_with} with it, {num_without} without)")
        elif min(num_with, num_without) < FEW:
            kind = "with it" if num_with < num_without else "without it"
            few.append(f"{name} ({min(num_with, num_without)} {kind})")
    if lacking:
        texts["findings_without_auc"] = (
            f"No AUC on {{split}}, for which images with a finding and images without it have to "
            f"be known: {', '.join(lacking)}. The mean AUC is that of the other findings."
        )
    if few:
        texts["few_of_findings"] = (
            f"Few images of {{split}} decide about the AUC of {', '.join(few)}: it may be luck."
        )
    return texts


def _calibration(scores: Scores) -> dict[str, str]:
    """Return a remark where p of a lesion is no probability."""
    error = scores.values.get("ece", np.nan)
    low = scores.intervals.get("ece", (error, error))[0]
    if not low > CALIBRATION_ERROR:
        return {}
    text = digits.share(error, scores.samples["ece"])
    is_calibrated = "ece_uncalibrated" in scores.values
    advice = "" if is_calibrated else " --calibrate fits it on the validation split."
    return {
        "no_probability": f"Do not read an image's p of a lesion as a probability: on {{split}} it "
        f"is off by {text} on average." + advice
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
