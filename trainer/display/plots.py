"""Plots: the curves of a split (trainer/evaluation/curves.py), losses against learning rates.
Lists of numbers go in, RGB pixels come out."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lake import picture
from trainer.display import panel

WIDTH, HEIGHT, DOTS_PER_INCH = 10.0, 8.0, 100  # inches, pixels per inch
# Of the four curves, as shares of the picture and of a plot; to find them by the texts, which have
# one size, would take as long as drawing.
MARGINS = {"left": 0.065, "right": 0.985, "bottom": 0.07, "top": 0.96, "wspace": 0.2, "hspace": 0.3}
BLUE, ORANGE = "#1f4e9c", "#b35900"
MARKS = (("#d1495b", "--"), (ORANGE, ":"))  # colour and style


def plot_curves(curves: dict[str, dict], title: str) -> np.ndarray:
    """Return a picture of a split's curves, RGB uint8 [H, W, 3]: ROC, precision and recall, scores
    over thresholds, calibration."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DOTS_PER_INCH)
    figure.subplots_adjust(**MARGINS)
    roc, pr = curves["roc"], curves["pr"]
    axes = _axes(figure, 1, "1 - specificity", "sensitivity", "ROC of the images")
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", label="by chance")
    axes.plot(roc["false_positive_rate"], roc["sensitivity"], color=BLUE, label="images")
    axes.legend(fontsize=8)
    axes = _axes(figure, 2, "recall", "precision", "precision and recall")
    axes.plot(pr["recall"], pr["precision"], color=BLUE, label="images")
    if "pixels" in curves:
        _line(axes, curves["pixels"], "recall", "precision", ORANGE, "pixels, 31 thresholds", "--")
    axes.legend(fontsize=8)
    _plot_over_thresholds(_axes(figure, 3, "threshold on p", "", "scores at 31 thresholds"), curves)
    if "calibration" in curves:
        subject = "images" if "images" in curves else "pixels"
        axes = _axes(figure, 4, "p", "share with a lesion", f"calibration of {subject}")
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", label="if calibrated")
        _line(axes, curves["calibration"], "p", "share", BLUE, subject, "o-")
        axes.legend(fontsize=8)
    return _below(title, figure)


def _plot_over_thresholds(axes, curves: dict) -> None:
    """Draw the dice of masks and the scores of images, those that `curves` has, over thresholds."""
    if "masks" in curves:
        _line(axes, curves["masks"], "threshold", "dice_mean", BLUE, "mean dice")
        positives = "dice on positives"
        _line(axes, curves["masks"], "threshold", "dice_positives", ORANGE, positives, "--")
    if "images" in curves:
        looks = {
            "recall": ("#2a9d5c", "-."),
            "specificity": ("#8a4fbf", ":"),
            "precision": ("0.4", "x-"),
        }
        for name, (colour, style) in looks.items():
            label = f"{name} of the images"
            _line(axes, curves["images"], "threshold", name, colour, label, style)
    axes.legend(fontsize=8)


def _axes(figure: Figure, position: int, x_label: str, y_label: str, title: str):
    axes = figure.add_subplot(2, 2, position)
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.92")
    return axes


def _line(axes, curve: dict, x_name: str, y_name: str, colour: str, label, style="-") -> None:
    """Draw two of a curve's lists against each other; a point that is not defined is a gap."""
    x, y = (np.array(curve[name], np.float64) for name in (x_name, y_name))
    axes.plot(x, y, style, color=colour, markersize=4, label=label)


def losses_by_rate(title: str, rates, losses, averages, marks: dict[str, float]) -> np.ndarray:
    """Return a picture of each step's loss and their average against the rate on a log axis, with a
    line at each marked rate, RGB uint8 [H, W, 3]; `marks`: {name: rate}."""
    figure = Figure(figsize=(7.2, 4.4), dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    axes.plot(rates, losses, ".", color="0.7", markersize=4, label="each batch")
    axes.plot(rates, averages, color=BLUE, linewidth=2, label="average")
    for (name, rate), (colour, style) in zip(marks.items(), MARKS, strict=False):
        axes.axvline(rate, color=colour, linestyle=style, label=f"{name}: {rate:.1e}")
    low, high = min(losses), max(averages)  # single losses may lie far above
    margin = 0.05 * (high - low) or 1.0
    axes.set(xscale="log", ylim=(low - margin, high + margin), xlim=(rates[0], rates[-1]))
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.grid(color="0.92")
    axes.legend(loc="best", fontsize=8)
    return _below(title, figure)


def importances(title: str, shares: dict[str, float]) -> np.ndarray:
    """Return a picture with a bar for each share of {name: share}, the first at the top, RGB uint8
    [H, W, 3]."""
    figure = Figure(figsize=(7.2, 1.2 + 0.35 * len(shares)), dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    bars = axes.barh(list(shares), list(shares.values()), color=BLUE)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares.values()], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.1))
    return _below(title, figure)


def froc(curve: dict[str, list], points: dict[float, float], title: str) -> np.ndarray:
    """Return a picture of sensitivity over false positives per scan on a log axis, RGB uint8
    [H, W, 3]; `points`: {false positives per scan: sensitivity}, which are marked."""
    figure = Figure(figsize=(7.2, 4.4), dpi=DOTS_PER_INCH, layout="tight")
    axes = figure.add_subplot()
    rates = list(points)
    left, right = rates[0] / 1.5, rates[-1] * 1.5
    xs, ys = (np.array(values) for values in curve.values())
    is_inside = xs > left  # a log axis has no 0
    start = np.interp(left, xs, ys)
    xs, ys = np.r_[left, xs[is_inside], max(right, xs[-1])], np.r_[start, ys[is_inside], ys[-1]]
    axes.plot(xs, ys, color=BLUE)
    axes.plot(rates, list(points.values()), "o", color=BLUE, markersize=5)
    axes.set(xscale="log", xlim=(left, right), ylim=(-0.02, 1.02))
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set(xlabel="false positives per scan", ylabel="sensitivity")
    axes.grid(color="0.92")
    return _below(title, figure)


def _below(title: str, figure: Figure) -> np.ndarray:
    """Return the pixels of a figure below a title, which has as many lines as it needs."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3]
    return picture.with_title(rgb, title, panel.TITLE_PX, panel.font_file(), panel.COLOURS)
