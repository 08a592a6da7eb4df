"""Pictures of images with outlines: truth and prediction side by side, or rows of one image's
draws; and of losses against learning rates. Arrays -> RGB pixels."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CELL, CAPTION, MARGIN, DOTS_PER_INCH = 2.6, 0.3, 0.05, 100  # inches of one image
TRUTH_COLOUR, PREDICTION_COLOUR = "#2ee6a8", "#ff5ec4"


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
    sheet = Sheet(rows, columns)
    for number, image in enumerate(images):
        for part, (name, outlines, colour) in enumerate(parts):
            place = divmod(number * len(parts) + part, columns)
            caption = name if name == "truth" else f"{name} {captions[number]}".strip()
            sheet.draw(
                place, image, None if outlines is None else outlines[number], colour, caption
            )
    return rgb(sheet.figure)


def table(images, masks, captions: list[str]) -> np.ndarray:
    """RGB uint8 [H, W, 3]: rows of images [R, C, S, S] with the outlines of their masks; a caption
    above each row's first."""
    sheet = Sheet(*images.shape[:2])
    for place in np.ndindex(images.shape[:2]):
        caption = captions[place[0]] if place[1] == 0 else ""
        sheet.draw(place, images[place], masks[place], TRUTH_COLOUR, caption)
    return rgb(sheet.figure)


class Sheet:
    """Rows and columns of pictures, captions above them, on one pair of axes: one a picture, and
    a layout that measures them, took most of a second an epoch."""

    def __init__(self, rows: int, columns: int):
        width, height = columns * CELL, rows * (CELL + CAPTION)
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.axes.set_autoscale_on(False)

    def draw(self, place: tuple[int, int], image, outline, colour: str, caption: str) -> None:
        """At (row, column); outline None: there is none."""
        left = place[1] * CELL + MARGIN
        top = place[0] * (CELL + CAPTION) + CAPTION
        side = CELL - 2 * MARGIN
        extent = (left, left + side, top + side, top)
        self.axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
        middle, above = left + side / 2, top - MARGIN
        self.axes.text(middle, above, caption, fontsize=8, ha="center", va="bottom")
        if outline is not None and outline.any():
            centres = (np.arange(len(outline)) + 0.5) * side / len(outline)
            marked = left + centres, top + centres, outline
            self.axes.contourf(*marked, levels=[0.5, 1.5], colors=[colour], alpha=0.25)
            self.axes.contour(*marked, levels=[0.5], colors=[colour], linewidths=1.2)


def rgb(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
