"""Curves and outcomes of a split, and curves of a training -> the report's charts, each with a
sentence that says what to see in it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.display.event_files import Curve, read_events
from trainer.evaluation.charts import Axis, Chart, Point, Series, range_of
from trainer.evaluation.image_table import area_percents
from trainer.evaluation.outcomes import Outcomes
from trainer.workdir import METRICS, read_json

DICE_BINS = 20
FEWEST_FOR_LIMITS = 3  # images, for a standard deviation
TRAINING_CHARTS = 3  # of one run
UNIT = (0.0, 1.0)


def ranking(curves: dict, sensitivity: float, specificity: float, precision: float) -> list[Chart]:
    """Return the charts of ROC, of precision over recall and of calibration that are defined;
    `sensitivity`, `specificity` and `precision` are those at the frozen thresholds."""
    charts = []
    if _is_defined(curves["roc"]["sensitivity"], curves["roc"]["false_positive_rate"]):
        roc = curves["roc"]
        line = Series("", roc["false_positive_rate"], roc["sensitivity"], "line-1")
        text = (
            "How well one score per image ranks images with a lesion above the others: the nearer "
            "to the upper left, the better; the diagonal is chance. The points are the answers "
            "at the thresholds, which may use more than that score and so lie beside the line."
        )
        axes = Axis("1 − specificity", *UNIT), Axis("sensitivity", *UNIT)
        points = _points("roc", 1 - specificity, sensitivity)
        charts.append(Chart("ROC", text, *axes, [_diagonal(), line], points))
    if _is_defined(curves["pr"]["recall"], curves["pr"]["precision"]):
        lines = [Series("images", curves["pr"]["recall"], curves["pr"]["precision"], "line-1")]
        if "pixels" in curves:
            pixels = curves["pixels"]
            lines.append(Series("pixels", pixels["recall"], pixels["precision"], "line-2"))
        text = (
            "How many of the positive answers are right (precision) when a growing share of the "
            "lesions is found (recall): the nearer to the upper right, the better."
        )
        axes = Axis("recall (sensitivity)", *UNIT), Axis("precision (PPV)", *UNIT)
        points = _points("pr", sensitivity, precision)
        charts.append(Chart("Precision and recall", text, *axes, lines, points))
    return [*charts, *_calibration(curves)]


def _calibration(curves: dict) -> list[Chart]:
    """Return the chart of calibration, [] where it is not defined."""
    if "calibration" not in curves or not _is_defined(curves["calibration"]["share"]):
        return []
    calibration = curves["calibration"]
    subject = "images" if "images" in curves else "pixels"
    text = (
        f"Whether p is a probability: of the {subject} with a p of 0.8, 80% should show a lesion "
        f"(the diagonal). Below it p is too high, above it too low. Bins of few {subject} jump."
    )
    xs, ys = calibration["p"], calibration["share"]
    series = [_diagonal(), Series("", xs, ys, "line-1"), Series("", xs, ys, "dots-1")]
    axes = Axis(f"mean p of the {subject} in a bin", *UNIT), Axis("share with a lesion", *UNIT)
    return [Chart("Calibration", text, *axes, series)]


def thresholds(curves: dict) -> list[Chart]:
    """Return the charts of scores at 31 thresholds that are defined."""
    lines, charts, axis = [], [], Axis("threshold on p", *UNIT)
    if "masks" in curves:
        masks = curves["masks"]
        lines = [Series("all images", masks["threshold"], masks["dice_mean"], "line-1")]
        if _is_defined(masks["dice_positives"]):
            series = masks["threshold"], masks["dice_positives"], "line-2"
            lines.append(Series("images with a lesion", *series))
        text = (
            "Mean dice if one threshold on each pixel's p made the mask. A flat top means that the "
            "choice of the threshold matters little."
        )
        charts.append(Chart("Dice by threshold", text, axis, Axis("mean dice", *UNIT), lines))
    if "images" in curves:
        images = curves["images"]
        names = {"recall": "sensitivity", "specificity": "specificity", "precision": "precision"}
        lines = [
            Series(title, images["threshold"], images[name], f"line-{number}")
            for number, (name, title) in enumerate(names.items(), start=1)
            if _is_defined(images[name])
        ]
        text = "The answers for whole images if a threshold on their own p of a lesion made them."
        charts.append(Chart("Answers by threshold", text, axis, Axis("share", *UNIT), lines))
    return [chart for chart in charts if chart.series]


def masks(outcomes: Outcomes) -> list[Chart]:
    """Return the charts of masks at the frozen thresholds: none without a known mask, or where
    nothing segments."""
    if outcomes.decision is None or outcomes.decision.triplet is None:
        return []
    truth, predicted = area_percents(outcomes)
    dice, has_lesion = outcomes.dice[outcomes.predictions.mask_places], truth > 0
    charts = []
    if has_lesion.any():
        charts = [_histogram(dice[has_lesion]), _by_size(truth[has_lesion], dice[has_lesion])]
    is_marked = has_lesion | (predicted > 0)
    return [*charts, *_agreement(truth[is_marked], predicted[is_marked])]


def _histogram(dice: np.ndarray) -> Chart:
    """Return the histogram of the dice of images with a lesion."""
    heights, edges = np.histogram(dice, DICE_BINS, UNIT)
    num_missed = int((dice == 0).sum())
    text = (
        f"The dice of the {len(dice)} images with a lesion; {num_missed} of them have a dice of 0, "
        f"where prediction and lesion do not touch."
    )
    y = Axis("images", 0, max(6, 1.08 * heights.max()))
    bars = Series("", edges.tolist(), heights.tolist(), "bars")
    return Chart("Histogram of dice", text, Axis("dice", *UNIT), y, [bars])


def _by_size(truth: np.ndarray, dice: np.ndarray) -> Chart:
    """Return the chart of the dice of images with a lesion over its size in percent."""
    text = (
        "Each dot is an image with a lesion. Small lesions are harder: one pixel too many or too "
        "few weighs more."
    )
    ends = truth.min() / 1.5, truth.max() * 1.5
    x = Axis("size of the lesion, % of the image", *ends, is_log=True)
    dots = Series("", truth.tolist(), dice.tolist(), "dots-1")
    return Chart("Dice by size of the lesion", text, x, Axis("dice", *UNIT), [dots])


def _agreement(truth: np.ndarray, predicted: np.ndarray) -> list[Chart]:
    """Return the plot of Bland and Altman (Lancet 1986) of the areas of masks."""
    if not len(truth):
        return []
    differences, means = predicted - truth, (predicted + truth) / 2
    x = range_of([0, *means], "mean of both areas, % of the image", low=0.0)
    bias = differences.mean()
    lines = [(f"mean difference {_delta(bias)}", bias, "rule")]
    if len(truth) >= FEWEST_FOR_LIMITS:
        spread = 1.96 * differences.std(ddof=1)
        low, high = bias - spread, bias + spread
        lines.append((f"limits of agreement {_delta(low)} to {_delta(high)}", low, "rule-2"))
        lines.append(("", high, "rule-2"))
    y = range_of([0, *differences, *(line[1] for line in lines)], "prediction − truth, % points")
    series = [Series(name, [x.low, x.high], [level] * 2, look) for name, level, look in lines]
    text = (
        f"Areas of prediction and truth (Bland–Altman) of the {len(truth)} images where either "
        f"marks something. Above 0 the prediction is larger. 95% of the differences are expected "
        f"within the limits of agreement."
    )
    dots = Series("", means.tolist(), differences.tolist(), "dots-1")
    return [Chart("Agreement of areas", text, x, y, [*series, dots])]


# --- training ---


def training(workdir: Path) -> tuple[list[Chart], float]:
    """Return the charts of a run's loss and of up to two scores over its epochs, and the seconds
    that it took; no chart where its event files are not there any more."""
    train, val = (read_events(workdir / name) for name in ("train", "val"))
    content = read_json(workdir / METRICS)
    last, best = content.get("last", {}), content.get("best", {}).get("epoch")
    epoch_steps = last["step"] / last["epoch"] if last.get("epoch") else None
    charts = []
    for tag in _training_tags(val.curves, train.curves)[:TRAINING_CHARTS]:
        curves = {"training": train.curves.get(tag), "validation": val.curves.get(tag)}
        charts.append(_training_chart(tag, curves, epoch_steps, best))
    return charts, max(train.seconds, val.seconds)


def _training_tags(*folders: dict[str, Curve]) -> list[str]:
    """Return the tags of the loss, then of the scores of masks, or else of those of images."""
    tags = list(dict.fromkeys(tag for curves in folders for tag in curves))
    dice = [tag for tag in tags if "dice" in tag and "empty" not in tag and "nothing" not in tag]
    others = [tag for tag in tags if tag in ("auc", "accuracy", "ap")]
    return [*(tag for tag in tags if tag == "loss"), *(dice or others)]


def _training_chart(tag: str, curves: dict, epoch_steps: float | None, best: int | None) -> Chart:
    """Return the chart of one tag's curves, by epochs where the steps of an epoch are known, with
    the epoch that was kept."""
    series = []
    for look, (name, curve) in zip(("line-2", "line-1"), curves.items(), strict=True):
        if curve is not None:
            xs = [step / epoch_steps if epoch_steps else step for step in curve.steps]
            series.append(Series(name, xs, curve.values, look))
    xs = [x for one in series for x in one.xs]
    ys = [y for one in series for y in one.ys]
    unit = "epoch" if epoch_steps else "step"
    x = Axis(unit, 0, max(xs) or 1)
    y = range_of(ys, tag) if tag == "loss" else Axis(tag, *UNIT)
    text = "On the data of each epoch; validation decides which epoch is kept."
    if best and epoch_steps:
        title = f"the epoch that was kept, {best}"
        series.append(Series(title, [best] * 2, [y.low, y.high], "rule"))
    return Chart(tag, text, x, y, series)


# --- parts ---


def _diagonal() -> Series:
    return Series("", UNIT, UNIT, "diagonal")


def _points(name: str, x: float, y: float) -> list[Point]:
    return [Point(f"{name}-frozen", x, y), Point(f"{name}-moved", x, y)]


def _is_defined(*columns: Sequence) -> bool:
    """Return whether each column has a value beyond the 0 that ROC curves begin with."""
    return all(any(v is not None and math.isfinite(v) for v in column[1:]) for column in columns)


def _delta(value: float) -> str:
    """Return a difference in words, with its sign."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
