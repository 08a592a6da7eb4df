"""The curves of a split as one picture: lists of numbers (trainer/evaluation/curves.py) -> RGB
pixels."""

import numpy as np
from matplotlib.figure import Figure

from trainer.display import panel
from trainer.display.panel import DOTS_PER_INCH

WIDTH, HEIGHT = 10.0, 8.0  # inches
BLUE, ORANGE = "#1f4e9c", "#e08e2b"


def curves(found: dict[str, dict], title: str) -> np.ndarray:
    """RGB uint8 [H, W, 3]."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=panel.DOTS_PER_INCH, layout="tight")
    figure.suptitle(title, fontsize=9, wrap=True)
    roc, pr = found["roc"], found["pr"]
    axes = _axes(figure, 1, "1 - specificity", "sensitivity", "ROC of the images")
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    axes.plot(roc["false_positive_rate"], roc["sensitivity"], color=BLUE)
    axes = _axes(figure, 2, "recall", "precision", "precision and recall")
    axes.plot(pr["recall"], pr["precision"], color=BLUE, label="images")
    if "pixels" in found:
        _line(axes, found["pixels"], "recall", "precision", ORANGE, "pixels, 31 thresholds")
    axes.legend(fontsize=8)
    _against_threshold(_axes(figure, 3, "threshold on p", "", "31 thresholds"), found)
    if "calibration" in found:
        whose = "pixels" if "images" not in found else "images"
        axes = _axes(figure, 4, "p", "share with a lesion", f"calibration of {whose}")
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        _line(axes, found["calibration"], "p", "share", BLUE, None, "o-")
    return panel.rgb(figure)


def _against_threshold(axes, found: dict) -> None:
    if "masks" in found:
        _line(axes, found["masks"], "threshold", "dice_mean", BLUE, "mean dice")
        _line(axes, found["masks"], "threshold", "dice_positives", ORANGE, "dice on positives")
    if "images" in found:
        colours = {"recall": "#2a9d5c", "specificity": "#8a4fbf", "precision": "0.5"}
        for name, colour in colours.items():
            _line(axes, found["images"], "threshold", name, colour, f"{name} of the images", "--")
    axes.legend(fontsize=8)


def _axes(figure: Figure, place: int, across: str, up: str, title: str):
    axes = figure.add_subplot(2, 2, place)
    axes.set(xlabel=across, ylabel=up, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.92")
    return axes


def _line(axes, curve: dict, across: str, up: str, colour: str, label, style: str = "-") -> None:
    """A point that is not defined is a gap."""
    values = (np.array(curve[name], np.float64) for name in (across, up))
    axes.plot(*values, style, color=colour, markersize=4, label=label)


MARK_COLOURS = ("#d1495b", "#e08e2b")


def losses_by_rate(rates, losses, averages, marks: dict[str, float]) -> np.ndarray:
    """RGB uint8 [H, W, 3]: each step's loss and the average against the rate on a log axis; a line
    at each marked rate, by its name."""
    figure = Figure(figsize=(7.2, 4.4), dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color="0.7", markersize=4, label="each batch")
    axes.plot(rates, averages, color="#1f4e9c", linewidth=2, label="average")
    for (name, rate), colour in zip(marks.items(), MARK_COLOURS, strict=False):
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.1e}")
    low, high = min(losses), max(averages)  # the last batches may lie far above
    margin = 0.05 * (high - low) or 1.0
    axes.set(xscale="log", ylim=(low - margin, high + margin), xlim=(rates[0], rates[-1]))
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.grid(color="0.92")
    axes.legend(loc="best", fontsize=8)
    return panel.rgb(figure)
