"""The curves of a split as one picture: lists of numbers (trainer/curves.py) -> RGB pixels."""

import numpy as np
from matplotlib.figure import Figure

from trainer import panel

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
