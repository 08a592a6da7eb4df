"""One image, its truth where that is known, and what was predicted, side by side with outlines.
Arrays -> RGB pixels, drawn with Pillow: a figure of matplotlib takes ten times as long."""

import functools

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

from lake.sources import pixels
from trainer.display.panel import PREDICTION_COLOUR, TRUTH_COLOUR

PANEL_PX = 640  # longest side of a panel; an image of fewer pixels is drawn as it is
CAPTION_PX, FONT_PX = 24, 15
TINT = 0.25


def side_by_side(
    image: np.ndarray, truth: np.ndarray | None, prediction: np.ndarray, caption: str
) -> np.ndarray:
    """RGB uint8 [h + caption, 2 or 3 · w, 3] of an image [H, W] in [0, 1] and masks [H', W'].

    Masks may have another size than the image; they cover the same field.
    """
    height, width = pixels.shrunk_size(*image.shape, PANEL_PX)
    grey = pixels.shrink((image * 255).round().astype(np.uint8), height, width)
    panels = [("image", None, None), (caption, prediction, PREDICTION_COLOUR)]
    if truth is not None:
        panels.insert(1, ("truth", truth, TRUTH_COLOUR))
    return np.concatenate([_panel(grey, *panel) for panel in panels], axis=1)


def _panel(grey: np.ndarray, caption: str, mask: np.ndarray | None, colour: str | None):
    drawn = np.repeat(grey[..., None], 3, axis=2)  # [h, w, 3]
    if mask is not None:
        inside, outline = _outlined(mask, grey.shape)
        rgb = np.array(ImageColor.getrgb(colour))
        drawn[inside] = ((1 - TINT) * drawn[inside] + TINT * rgb).astype(np.uint8)
        drawn[outline] = rgb
    strip = Image.new("RGB", (grey.shape[1], CAPTION_PX))
    ImageDraw.Draw(strip).text((6, 3), caption, font=_font())
    return np.concatenate([np.asarray(strip), drawn])


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """matplotlib brings one that has all signs; Pillow's own knows no ²."""
    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), FONT_PX)


def _outlined(mask: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(inside, outline), bool [h, w], of a mask at this size."""
    if mask.shape[0] >= shape[0]:  # as the converter stores a mask
        inside = pixels.shrink((mask > 0).astype(np.uint8) * 255, *shape) >= 128
    else:
        larger = Image.fromarray(mask > 0).resize(shape[::-1], Image.Resampling.NEAREST)
        inside = np.asarray(larger)
    return inside, inside ^ ndimage.binary_erosion(inside)
