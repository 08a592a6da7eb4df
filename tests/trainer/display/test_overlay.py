"""Overlays: each mark lies where its mask does, in its own panel."""

import numpy as np
from PIL import ImageColor

from trainer.display import overlay
from trainer.display.panel import PREDICTION_COLOUR, TRUTH_COLOUR


def marked(panel: np.ndarray, colour: str) -> set:
    is_mark = (panel[overlay.CAPTION_PX :] == ImageColor.getrgb(colour)).all(axis=2)
    return set(zip(*(axis.tolist() for axis in np.nonzero(is_mark)), strict=True))


def block(side: int, top: int, left: int, size: int) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def test_truth_and_prediction_are_outlined_in_their_panels():
    image = np.full((60, 60), 0.5)
    sheet = overlay.side_by_side(image, block(60, 10, 20, 3), block(60, 40, 5, 3), "p = 0.9")
    assert sheet.shape == (60 + overlay.CAPTION_PX, 180, 3)
    plain, truth, prediction = np.split(sheet, 3, axis=1)
    ring = {(r, c) for r in range(3) for c in range(3)} - {(1, 1)}
    assert marked(truth, TRUTH_COLOUR) == {(10 + r, 20 + c) for r, c in ring}
    assert marked(prediction, PREDICTION_COLOUR) == {(40 + r, 5 + c) for r, c in ring}
    assert (plain[overlay.CAPTION_PX :] == 128).all()
    assert (sheet[: overlay.CAPTION_PX, 120:] > 0).any()  # the caption
    assert overlay.side_by_side(image, None, block(60, 1, 1, 3), "").shape[1] == 120


def test_a_mask_of_another_size_covers_the_same_field():
    """Large images are drawn smaller; a mask can be larger or smaller than its image."""
    image = np.zeros((1280, 1280))
    sheet = overlay.side_by_side(image, block(2560, 400, 800, 400), block(320, 50, 100, 50), "")
    assert sheet.shape == (640 + overlay.CAPTION_PX, 3 * 640, 3)
    _, truth, prediction = np.split(sheet, 3, axis=1)
    square = block(640, 100, 200, 100) ^ block(640, 101, 201, 98)
    expected = set(zip(*(axis.tolist() for axis in np.nonzero(square)), strict=True))
    assert marked(truth, TRUTH_COLOUR) == expected == marked(prediction, PREDICTION_COLOUR)


def test_empty_masks_leave_the_image_alone():
    sheet = overlay.side_by_side(np.ones((40, 30)), np.zeros((40, 30)), np.zeros((40, 30)), "")
    assert (sheet[overlay.CAPTION_PX :] == 255).all()
