"""CLAHE is what a loop over tiles and pixels makes, and near to scikit-image's."""

import numpy as np
import pytest
import scipy.ndimage
import skimage.exposure
import tensorflow as tf

from trainer.augmentation import augment, clahe
from trainer.config.augmentation import TRANSFORMS, Augment


def settings_with(**clahe_options) -> Augment:
    off = {name: {"probability": 0} for name in TRANSFORMS}
    return Augment.model_validate({**off, "clahe": {"probability": 0.5, **clahe_options}})


def pictures(count: int, side: int) -> np.ndarray:
    """Return images [count, side, side] from 0 to 1, dark on one side, with fine structure."""
    generator = np.random.default_rng(3)
    noise = scipy.ndimage.gaussian_filter(generator.random((count, side, side)), (0, 3, 3))
    images = noise / noise.std() * 0.03 + np.linspace(0, 0.4, side)
    low, high = (f(images, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return np.float32((images - low) / (high - low))


def slow(image: np.ndarray, clip: float, tiles: int) -> np.ndarray:
    """Return one image, equalised tile by tile and pixel by pixel."""
    side, size = len(image), len(image) // tiles
    maps = {}
    for row in range(tiles):
        for column in range(tiles):
            histogram = np.zeros(256)
            tile = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
            for level in (tile.astype(np.float64) * 255).ravel():
                lower = min(int(level), 254)
                histogram[lower] += 1 - (level - lower)
                histogram[lower + 1] += level - lower
            limit = max(clip * size**2, 1)
            excess = sum(max(0, number - limit) for number in histogram)
            cut = [min(number, limit) + excess / 256 for number in histogram]
            maps[row, column] = np.cumsum(cut) / size**2
    result = np.zeros((side, side))
    for y in range(side):
        for x in range(side):
            level, total = image[y, x].astype(np.float64) * 255, 0.0
            for row in range(-1, tiles + 1):
                for column in range(-1, tiles + 1):
                    # Weights fall in a line to 0 at the next tile's centre.
                    down = 1 - abs(y + 0.5 - (row + 0.5) * size) / size
                    right = 1 - abs(x + 0.5 - (column + 0.5) * size) / size
                    if down > 0 and right > 0:
                        inside = [min(max(place, 0), tiles - 1) for place in (row, column)]
                        value = np.interp(level, range(256), maps[tuple(inside)])
                        total += down * right * value
            result[y, x] = total
    return result


def compiled(*arguments):
    return tf.function(clahe.equalise, jit_compile=True)(*arguments)


@pytest.mark.parametrize("equalise", [clahe.equalise, compiled])
def test_every_pixel_is_what_the_loop_makes_of_it(equalise):
    images, clips = pictures(3, 32), np.float32([0.02, 0.0, 0.5])[:, None, None]
    actual = np.asarray(equalise(images, clips, 4))
    np.testing.assert_array_equal(actual[1], images[1])  # off
    for number in (0, 2):
        expected = slow(images[number], float(clips[number, 0, 0]), 4)
        np.testing.assert_allclose(actual[number], expected, atol=2e-3)  # parts of 1/256 pixel
    assert np.abs(actual[2] - images[2]).max() > 0.2


def test_it_is_near_to_scikit_images():
    """That one has whole bins, stretches its result, and shares what is above the limit out in
    whole pixels, of which a tile has few: the lower the limit, the more they differ."""
    [image] = pictures(1, 256)
    for clip, difference in ((1, 0.01), (0.03, 0.015), (0.01, 0.035)):
        [actual] = np.asarray(clahe.equalise(image[None], np.float32([[[clip]]]), 8))
        expected = skimage.exposure.equalize_adapthist(image, kernel_size=32, clip_limit=clip)
        assert np.abs(actual - expected).mean() < difference < np.abs(actual - image).mean() / 3
        assert np.corrcoef(actual.ravel(), expected.ravel())[0, 1] > 1 - difference


def test_contrast_grows_with_the_limit_and_values_stay_in_range():
    images = pictures(4, 64)
    clips = np.float32([0.004, 0.01, 0.05, 1])[:, None, None]
    results = np.asarray(clahe.equalise(np.repeat(images[:1], 4, axis=0), clips, 8))
    assert results.min() >= 0 and results.max() <= 1 + 1e-6
    fine = [(one - scipy.ndimage.gaussian_filter(one, 4)).std() for one in results]
    assert fine == sorted(fine) and fine[3] > 1.5 * fine[0]
    # A mirror image's is the mirror image.
    mirrored = np.asarray(clahe.equalise(images[:, :, ::-1], clips, 8))[:, :, ::-1]
    np.testing.assert_allclose(mirrored, clahe.equalise(images, clips, 8), atol=1e-5)


def test_it_happens_as_often_as_the_config_says_and_leaves_the_mask():
    settings, images = settings_with(), pictures(4, 32)[..., None]
    masks = np.float32(images > 0.5)
    table = np.zeros((4, augment.num_draws(settings, 32)), np.float32)
    table[:, 0] = 0.1, 0.6, 0.4, 0.9  # the draw that decides
    after, same = augment.apply(images, masks, table, settings)
    np.testing.assert_array_equal(same, masks)
    changed = [bool((one != two).any()) for one, two in zip(np.asarray(after), images, strict=True)]
    assert changed == [True, False, True, False]
