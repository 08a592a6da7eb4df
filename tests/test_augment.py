import numpy as np
import pytest
import tensorflow as tf

from trainer import augment
from trainer.config import Augment

NOTHING = dict.fromkeys(("flip", "rotate_deg", "scale", "shift", "brightness", "contrast"), 0)
STRONG = {
    "flip": 0.5,
    "rotate_deg": 30,
    "scale": 0.3,
    "shift": 0.2,
    "brightness": 0.3,
    "contrast": 0.5,
}


def compiled(images, masks, uniforms, **strengths):
    function = tf.function(lambda *batch: augment.apply(*batch, **strengths), jit_compile=True)
    return function(images, masks, uniforms)


def batch(batch_size=4, side=32, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((batch_size, side, side, 1), np.float32)
    masks = (rng.random((batch_size, side, side, 1)) < 0.3).astype(np.float32)
    return images, masks, rng.random((batch_size, len(augment.COLUMNS)), np.float32)


def draws(**columns):
    """One row of the table: 0.5, the middle of every range, where nothing else is said."""
    row = np.full((1, len(augment.COLUMNS)), 0.5, np.float32)
    for name, value in columns.items():
        row[0, augment.COLUMNS.index(name)] = value
    return row


@pytest.mark.parametrize("apply", [augment.apply, compiled])
def test_no_strength_gives_back_the_same_bits(apply):
    images, masks, uniforms = batch()
    images[0, 0, 0], images[0, 0, 1] = 0, 1
    after = apply(images, masks, uniforms, **NOTHING)
    np.testing.assert_array_equal(after[0], images)
    np.testing.assert_array_equal(after[1], masks)


@pytest.mark.parametrize("apply", [augment.apply, compiled])
def test_flip_exchanges_left_and_right_exactly(apply):
    images, masks, uniforms = batch()
    uniforms[:, augment.COLUMNS.index("flip")] = [0.1, 0.9, 0.4, 0.6]
    after = apply(images, masks, uniforms, **NOTHING | {"flip": 0.5})
    for b, is_flipped in enumerate([True, False, True, False]):
        for before, now in zip((images, masks), after, strict=True):
            np.testing.assert_array_equal(now[b], before[b, :, ::-1] if is_flipped else before[b])


def test_a_whole_pixel_shift_moves_down_and_right_and_fills_with_zero():
    images, masks, _ = batch(1, side=8)
    # Shift 0.5 of 8 pixels: a draw of 0.75 is +2, of 0.25 is -2, of 0 is -4.
    moved = augment.apply(
        images, masks, draws(shift_rows=0.75, shift_columns=0.25), **NOTHING | {"shift": 0.5}
    )
    for before, now in zip((images, masks), moved, strict=True):
        np.testing.assert_array_equal(now[0, 2:, :-2], before[0, :-2, 2:])
        assert not np.any(now[0, :2]) and not np.any(now[0, :, -2:])


def test_a_quarter_turn_is_a_rotation_about_the_centre():
    images, masks, _ = batch(1, side=8)
    turned, _ = augment.apply(
        images, masks, draws(rotate=np.nextafter(1, 0, dtype="f4")), **NOTHING | {"rotate_deg": 90}
    )
    inside = np.s_[1:-1, 1:-1]  # rounding mixes the border with the zeros outside
    turns = [np.rot90(images[0], k) for k in (1, 3)]
    assert min(np.abs(turned[0][inside] - turn[inside]).max() for turn in turns) < 1e-5


def test_scale_above_one_enlarges_about_the_centre():
    masks = np.zeros((1, 33, 33, 1), np.float32)
    masks[0, 12:21, 12:21] = 1  # 9 x 9
    table = draws(scale_rows=np.nextafter(1, 0, dtype="f4"), scale_columns=0)
    _, after = augment.apply(masks, masks, table, **NOTHING | {"scale": 0.3})
    rows, columns = np.nonzero(after[0, ..., 0])
    assert (rows.min(), rows.max()) == (16 - 5, 16 + 5)  # 4.5 · 1.3 = 5.85
    assert (columns.min(), columns.max()) == (16 - 3, 16 + 3)  # 4.5 · 0.7 = 3.15


def test_a_marked_patch_lands_on_the_same_place_in_image_and_mask():
    rng = np.random.default_rng(5)
    masks = np.zeros((40, 48, 48, 1), np.float32)
    for b, (row, column) in enumerate(rng.integers(16, 30, (40, 2))):
        masks[b, row : row + 3, column : column + 3] = 1
    uniforms = rng.random((40, len(augment.COLUMNS)), np.float32)
    strengths = STRONG | {"brightness": 0, "contrast": 0}
    images, after = augment.apply(masks, masks, uniforms, **strengths)
    np.testing.assert_array_equal(after, images.numpy() > 0.5)
    assert (np.sum(after, axis=(1, 2, 3)) > 0).all()


def test_200_draws_stay_in_range_and_move_the_image():
    images, masks, uniforms = batch(200, side=16)
    after, masks_after = augment.apply(images, masks, uniforms, **STRONG)
    assert (after.shape, after.dtype) == (images.shape, tf.float32)
    assert (masks_after.shape, masks_after.dtype) == (masks.shape, tf.float32)
    assert np.min(after) >= 0 and np.max(after) <= 1
    assert np.unique(masks_after).tolist() == [0, 1]
    assert (np.abs(after - images).mean((1, 2, 3)) > 0.01).all()


def test_brightness_and_contrast_about_the_own_mean():
    images, masks, _ = batch(1)
    images = 0.4 + 0.2 * images
    more = draws(brightness=0.75, contrast=0.75)  # +0.05 and 1.25 times
    after, _ = augment.apply(images, masks, more, **NOTHING | {"brightness": 0.1, "contrast": 0.5})
    np.testing.assert_allclose(
        after, (images - images.mean()) * 1.25 + images.mean() + 0.05, atol=1e-6
    )


def test_compiled_and_eager_give_the_same_numbers():
    images, masks, uniforms = batch(side=64)
    strengths = Augment().model_dump()  # the fields of the config are the arguments
    eager = augment.apply(images, masks, uniforms, **strengths)
    for now, expected in zip(compiled(images, masks, uniforms, **strengths), eager, strict=True):
        np.testing.assert_allclose(now, expected, atol=1e-5)


def test_each_image_depends_on_its_own_row_only():
    images, masks, uniforms = batch()
    together = augment.apply(images, masks, uniforms, **STRONG)
    alone = augment.apply(images[2:3], masks[2:3], uniforms[2:3], **STRONG)
    np.testing.assert_array_equal(together[0][2:3], alone[0])
    np.testing.assert_array_equal(together[1][2:3], alone[1])
