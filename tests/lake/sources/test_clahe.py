"""Adaptive histogram equalisation, against scikit-image's own."""

import tracemalloc

import numpy as np
import pytest
from skimage import exposure

from lake.sources import clahe


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (8, 8), (9, 30), (100, 37), (257, 129)])
def test_every_level_is_that_of_scikit_image(shape, bits):
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) * 7
    for highest, (low, high) in ((255, (0, 255)), (4095, (900.5, 2700)), (65535, (0, 65535))):
        for pixels in (
            rng.integers(0, highest, shape, endpoint=True),
            (ramp % (highest + 1)).astype(np.uint16),
            np.full(shape, highest // 3),
        ):
            unit = np.clip((pixels - low) / (high - low), 0, 1)
            expected = exposure.equalize_adapthist(unit, clip_limit=0.01) * (2**bits - 1)
            equalised = clahe.equalise(pixels, low, high, bits)
            np.testing.assert_array_equal(equalised, np.rint(expected))
            assert equalised.dtype == (np.uint8 if bits == 8 else np.uint16)


def test_it_takes_few_bytes_a_pixel():
    pixels = (np.arange(2_000_000) % 4096).astype(np.uint16).reshape(1000, 2000)
    clahe.equalise(pixels[:8, :8], 0, 4095, 16)  # its imports
    tracemalloc.start()
    clahe.equalise(pixels, 0, 4095, 16)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 * pixels.size
