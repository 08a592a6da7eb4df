"""Pictures of images with outlines: truth and prediction side by side, or rows of one image's
draws; and of losses against learning rates. Arrays -> RGB pixels."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INCHES, DOTS_PER_INCH = 2.6, 100  # of one image
TRUTH_COLOUR, PREDICTION_COLOUR = "#2ee6a8", "#ff5ec4"
MARK_COLOURS = ("#d1495b", "#e08e2b")


def side_by_side(
    images, masks, predictions, captions: list[str], pairs_a_row: int = 2
) -> np.ndarray:
    """RGB uint8 [H, W, 3]: left each image with its true mask, right with the predicted one;
    captions below.

    images [N, S, S] in [0, 1]; masks, predictions [N, S, S] of 0 and 1, or None for a classifier,
    which shows each image once.
    """
    parts = (
        [("", None, None)]
        if masks is None
        else [
            ("truth", masks, TRUTH_COLOUR),
            ("prediction", predictions, PREDICTION_COLOUR),
        ]
    )
    columns = pairs_a_row * len(parts)
    rows = -(-len(images) // pairs_a_row)
    figure = _figure(rows, columns)
    for number, image in enumerate(images):
        for part, (name, outlines, colour) in enumerate(parts):
            axes = figure.add_subplot(rows, columns, number * len(parts) + part + 1)
            caption = name if name == "truth" else f"{name} {captions[number]}".strip()
            _draw(axes, image, None if outlines is None else outlines[number], colour, caption)
    return rgb(figure)


def table(images, masks, captions: list[str]) -> np.ndarray:
    """RGB uint8 [H, W, 3]: rows of images [R, C, S, S] with the outlines of their masks; a caption
    above each row's first."""
    rows, columns = images.shape[:2]
    figure = _figure(rows, columns)
    for place in np.ndindex(rows, columns):
        axes = figure.add_subplot(rows, columns, place[0] * columns + place[1] + 1)
        caption = captions[place[0]] if place[1] == 0 else ""
        _draw(axes, images[place], masks[place], TRUTH_COLOUR, caption)
    return rgb(figure)


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
    return rgb(figure)


def _figure(rows: int, columns: int) -> Figure:
    return Figure(
        figsize=(columns * INCHES, rows * (INCHES + 0.35)), dpi=DOTS_PER_INCH, layout="tight"
    )


def _draw(axes, image, outline, colour: str, caption: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(caption, fontsize=8)
    if outline is not None and outline.any():
        axes.contourf(outline, levels=[0.5, 1.5], colors=[colour], alpha=0.25)
        axes.contour(outline, levels=[0.5], colors=[colour], linewidths=1.2)


def rgb(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
