"""A record's image lies on its mask, whatever libjpeg reduces it by."""

import io

import numpy as np
import pytest
import tensorflow as tf
from makers.marks import exhaustive
from PIL import Image

from trainer.data.record import box_within, fit_image

RADIUS = 40  # px of the source


def square_image(height: int, width: int, row: int, column: int) -> np.ndarray:
    """Black [H, W] with a white square around (row, column)."""
    pixels = np.zeros((height, width), np.uint8)
    rows, columns = (slice(place - RADIUS, place + RADIUS + 1) for place in (row, column))
    pixels[rows, columns] = 255
    return pixels


def centre_of_mass(image: np.ndarray) -> np.ndarray:
    """(row, column) of the white of an image [S, S], counted from the centre of the first pixel."""
    weights = image.astype(float)
    return (
        np.array([(weights.sum(axis) @ np.arange(len(image))) for axis in (1, 0)]) / weights.sum()
    )


def fitted(pixels: np.ndarray, side: int, fit: str, is_jpeg: bool) -> np.ndarray:
    """The image [S, S] that a network is given of pixels [H, W], through a JPEG or not."""
    coded = io.BytesIO()
    Image.fromarray(pixels).save(coded, "JPEG", quality=95)
    decoded = tf.io.decode_jpeg(coded.getvalue(), dct_method="INTEGER_ACCURATE")
    box = box_within(*(tf.constant(size) for size in pixels.shape), side, fit)
    arguments = tf.constant(is_jpeg), tf.constant(coded.getvalue()), lambda: decoded
    # As a graph: there `size` is known only when it runs.
    graph = tf.function(lambda size: fit_image(*arguments, (size[0], size[1]), "uint8", side, box))
    return graph(tf.constant(pixels.shape)).numpy()[..., 0]


SIZES = [(1017, 1017), (700, 1017), (1024, 1024), (905, 905), (1023, 1023), (1030, 517)]
FITS = [(112, "pad"), (64, "stretch"), (112, "stretch"), (64, "pad"), (250, "pad")]


@pytest.mark.parametrize(
    ("height", "width"),
    [*SIZES[:2], *(pytest.param(*size, marks=exhaustive) for size in SIZES[2:])],
)
@pytest.mark.parametrize(
    ("side", "fit"), [*FITS[:2], *(pytest.param(*fit, marks=exhaustive) for fit in FITS[2:])]
)
def test_a_reduced_jpeg_lies_where_its_mask_lies(height, width, side, fit):
    row, column = height - 60, width - 60
    pixels = square_image(height, width, row, column)
    top, left, box_height, box_width = box_within(height, width, side, fit)
    expected = [
        top + (row + 0.5) * box_height / height - 0.5,
        left + (column + 0.5) * box_width / width - 0.5,
    ]
    centres = [centre_of_mass(fitted(pixels, side, fit, is_jpeg)) for is_jpeg in (True, False)]
    assert np.abs(np.array(centres) - expected).max() < 0.1
