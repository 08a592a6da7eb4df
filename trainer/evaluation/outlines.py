"""Masks and probability maps -> what a browser draws over an image.

Masks become SVG paths. Probability maps become text, in 8 bits a pixel, from which
page/outlines.js draws the outline at any threshold of the sliders.
"""

import base64
import zlib

import numpy as np
from PIL import Image
from skimage import measure

from lake import picture

# Codes count steps of 1 / STEPS that p exceeds. Every threshold of a slider is such a step, so that
# code > threshold * STEPS is exactly p > threshold (test_report.py holds the lists to it).
STEPS = 200
MAP_SIDE = 256  # the longer side of a map in the page, in pixels
TOLERANCE_PX = 0.4  # by which an outline may differ from the border of the mask
# Pairs of neighbours of which one is in the mask: a longer border, that of a mask of speckles, is
# drawn at half its size. A path has at most one point for each.
LONGEST_BORDER = 4_000


def path(mask: np.ndarray) -> str:
    """Return the border of a bool mask [H, W] as an SVG path in its pixels, "" where it is
    empty."""
    scale, coarse = 1, mask
    while _border_length(coarse) > LONGEST_BORDER:
        scale *= 2
        height, width = (max(side // scale, 1) for side in mask.shape)
        coarse = picture.resize_mask(mask, height, width)
    return _path(coarse, scale)


def _border_length(mask: np.ndarray) -> int:
    """Return the number of pairs of neighbouring pixels of which one is in the mask."""
    padded = np.pad(mask, 1)
    return sum(np.count_nonzero(np.diff(padded, axis=axis)) for axis in (0, 1))


def _path(mask: np.ndarray, scale: int) -> str:
    """Return the path of a mask of which a pixel stands for `scale` x `scale`."""
    parts = []
    # One more pixel around, so that an outline at the border of the image is closed.
    for contour in measure.find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        corners = measure.approximate_polygon(contour, TOLERANCE_PX)
        if len(corners) < 4:  # a speckle: all its corners
            corners = contour
        # The centre of pixel [0, 0] is at (0.5, 0.5) of the picture.
        points = (f"{(x - 0.5) * scale:.1f} {(y - 0.5) * scale:.1f}" for y, x in corners[:-1])
        parts.append(f"M{'L'.join(points)}Z")
    return "".join(parts)


def encode(probabilities: np.ndarray) -> dict:
    """Return a map [H, W] of p as {width, height, codes}: codes are each pixel's difference to the
    one before it, modulo 256, in a zlib stream in base64."""
    steps = np.float32(np.arange(STEPS) / STEPS)
    codes = np.searchsorted(steps, probabilities.astype(np.float32)).astype(np.uint8)
    differences = np.diff(codes.ravel(), prepend=np.uint8(0))
    height, width = codes.shape
    text = base64.b64encode(zlib.compress(differences.tobytes(), 9)).decode()
    return {"width": width, "height": height, "codes": text}


def shrink(probabilities: np.ndarray) -> np.ndarray:
    """Return a map [H, W] of float32 with at most MAP_SIDE pixels a side, each the mean of those
    that it stands for."""
    scale = min(1, MAP_SIDE / max(probabilities.shape))
    height, width = (max(1, round(side * scale)) for side in probabilities.shape)
    pixels = Image.fromarray(np.ascontiguousarray(probabilities, np.float32))
    return np.asarray(pixels.resize((width, height), Image.BOX))
