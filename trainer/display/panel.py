"""Panels: truth and prediction of several images side by side, or rows of one image's variants.

In: images, masks, captions. Out: RGB pixels, uint8 [H, W, 3].
"""

import functools
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager

from lake import picture
from trainer.scoring import digits

CELL_PX, CAPTION_PX, LETTER_PX, TITLE_PX, GAP_PX = 256, 18, 12, 14, 4
COLOURS = ("black", "white")  # of letters and their background
TRUTH_COLOUR, PREDICTION_COLOUR = "#2ee6a8", "#ff5ec4"


def side_by_side(
    title: str, images, masks, predictions, captions: Sequence[str], pairs_per_row: int = 2
) -> np.ndarray:
    """Return pairs of pictures below a title, left each image with its true mask, right with the
    predicted one.

    images [N, S, S] in [0, 1]; masks, predictions [N, S, S] of 0 and 1, or None where there is
    none. For a classifier both are None for all images; each is then shown once.
    """
    cells, is_pair = [], masks is not None
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        if is_pair:
            cells.append(_cell(image, masks[number], TRUTH_COLOUR, "truth"))
            caption = f"prediction, {caption}"
        mask = predictions[number] if is_pair else None
        cells.append(_cell(image, mask, PREDICTION_COLOUR, caption))
    return _below(title, picture.grid(cells, pairs_per_row * (1 + is_pair), GAP_PX, COLOURS[1]))


def table(title: str, images: np.ndarray, masks: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Return rows of images [R, C, S, S] with the outlines of their masks below a title; a caption
    above each row's first image."""
    cells = [
        _cell(images[place], masks[place], TRUTH_COLOUR, "" if place[1] else captions[place[0]])
        for place in np.ndindex(images.shape[:2])
    ]
    return _below(title, picture.grid(cells, images.shape[1], GAP_PX, COLOURS[1]))


def _below(title: str, rgb: np.ndarray) -> np.ndarray:
    return picture.with_title(rgb, title, TITLE_PX, font_file(), COLOURS)


def captions(
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray],
    names: Sequence[str] = (),
    findings: np.ndarray | None = None,
) -> list[str]:
    """Return the captions of a classifier's pictures, whose labels are [N] and probabilities
    [N, 1], [N, C], or those of the findings of these names [N, F], with the truth [N, F]."""
    if not names:
        return list(map(class_caption, labels, probabilities))
    pairs = zip(findings, probabilities, strict=True)
    return [findings_caption(names, *pair) for pair in pairs]


def class_caption(label: float, probabilities: np.ndarray) -> str:
    """Return the caption of a classifier's picture: the label, the likeliest class and its p.
    `probabilities` [1] of a lesion, or [C] of the classes."""
    likeliest = f"{probabilities.argmax()}: " if len(probabilities) > 1 else ""
    return f"label {label:.0f}, {likeliest}p = {share(probabilities.max())}"


def findings_caption(names: Sequence[str], findings: np.ndarray, probabilities: np.ndarray) -> str:
    """Return the caption of a picture: the findings that it has, and the likeliest one with its p;
    findings [F] are 1, 0 or -1 for unknown, probabilities [F]."""
    present = ", ".join(name for name, value in zip(names, findings, strict=True) if value > 0)
    likeliest = int(probabilities.argmax())
    return f"{present or 'none'}; {names[likeliest]} p = {share(probabilities[likeliest])}"


def share(value: float) -> str:
    """Return an image's dice or p for its caption; what is not quite 0 or 1 does not read so."""
    return digits.share(value, digits.TENS)


def _cell(image: np.ndarray, mask: np.ndarray | None, colour: str, caption: str) -> np.ndarray:
    """Return an image with its mask, below its caption; [CAPTION_PX + CELL_PX, CELL_PX, 3]."""
    grey = picture.to_uint8(np.clip(image, 0, 1))
    rgb = picture.to_rgb(picture.resize(grey, CELL_PX, CELL_PX))
    if mask is not None:
        rgb = picture.mark(rgb, picture.resize_mask(mask, CELL_PX, CELL_PX), colour)
    size = CAPTION_PX, CELL_PX
    return np.concatenate([picture.caption(caption, size, LETTER_PX, font_file(), COLOURS), rgb])


@functools.cache
def font_file() -> str:
    """Return the path of DejaVu Sans, which matplotlib brings and which has every letter needed."""
    return font_manager.findfont("DejaVu Sans")
