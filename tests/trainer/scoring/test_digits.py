"""A score has as many digits as the images behind it support."""

import math

import pytest

from trainer.scoring import digits


@pytest.mark.parametrize(
    ("value", "images", "text"),
    [
        (0.77846, 1377, "0.778"),
        (0.77846, 1000, "0.778"),
        (0.77846, 999, "0.78"),
        (0.77846, 10, "0.78"),
        (0.77846, 9, "0.8"),
        (0.77846, 0, "0.8"),
        (1.0, 40, "1.00"),
        (0.965, 8, ">0.9"),
        (0.9996, 40, ">0.99"),
        (0.0, 40, "0.00"),
        (0.0004, 40, "<0.01"),
        (0.0004, 4000, "<0.001"),
        (-0.0004, 40, ">-0.01"),
        (-0.314, 40, "-0.31"),
        (math.nan, 40, "-"),
    ],
)
def test_shares(value, images, text):
    assert digits.share(value, images) == text


def test_an_end_of_an_interval_that_is_nearly_1_is_1():
    assert [digits.end(value, 40) for value in (0.9996, 0.0004, 0.5)] == ["1.00", "<0.01", "0.50"]


@pytest.mark.parametrize(
    ("value", "images", "text"),
    [
        (12.345, 40, "12"),
        (12.345, 4000, "12.3"),
        (3.456, 40, "3.5"),
        (0.1234, 40, "0.12"),
        (345.6, 4, "346"),
        (9.96, 40, "10.0"),
        (0.0, 40, "0"),
        (math.inf, 40, "inf"),
        (math.nan, 40, "-"),
    ],
)
def test_lengths(value, images, text):
    assert digits.length(value, images) == text


def test_digits_are_within_the_uncertainty_of_a_share():
    """One step of the last digit is smaller than a standard error at the most, and not a hundredth
    of it."""
    for images in (1, 9, 10, 99, 400, 999, 1000, 2000, 9999):
        step, error = 10.0 ** -digits.decimals(images), 0.5 / math.sqrt(images)
        assert error / 20 < step < error or (images, step) == (1, 0.1)
