"""Augmentation: each transform against an independent answer, and all of them together."""

from pathlib import Path

import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import skimage.transform
import tensorflow as tf
from makers.marks import exhaustive
from PIL import Image

from trainer import task
from trainer.augmentation import augment, grey, warp
from trainer.config.augmentation import TRANSFORMS, Augment
from trainer.display import panel
from trainer.training import step

ROOT = Path(__file__).parents[3]
GEOMETRIC = ("flip", "affine", "crop", "optical", "grid", "elastic")
EVERYTHING = {name: {"probability": 0.5} for name in TRANSFORMS} | {
    "affine": {"probability": 0.5, "rotate_deg": 30, "shift": 0.1, "shear_deg": 10, "zoom": 0.2},
    "elastic": {"probability": 0.5, "alpha_px": 20, "sigma_px": 4},
    "cutout": {"probability": 0.5, "holes": 2},
}


def settings_of(**sections) -> Augment:
    """These transforms and no other."""
    off = {name: {"probability": 0} for name in TRANSFORMS}
    return Augment.model_validate({**off, **sections})


def always(name: str, **ranges) -> Augment:
    return settings_of(**{name: {"probability": 1, **ranges}})


def batch(batch_size=4, side=32, seed=0):
    """Smooth images, so that a rounding of a position changes them little, and masks of squares."""
    rng = np.random.default_rng(seed)
    images = scipy.ndimage.gaussian_filter(rng.random((batch_size, side, side, 1)), (0, 2, 2, 0))
    images = (images - images.min()) / np.ptp(images)
    masks = np.zeros((batch_size, side, side, 1), np.float32)
    masks[:, side // 4 : side // 2, side // 3 : side // 2] = 1
    return images.astype(np.float32), masks


def uniforms(settings: Augment, batch_size=4, side=32, seed=0, **columns):
    """A table of draws; columns by name, with __ for the dot."""
    table = np.random.default_rng(seed + 99).random(
        (batch_size, augment.num_draws(settings, side)), np.float32
    )
    names = [column.name for column in augment.table_columns(settings, side)]
    for name, value in columns.items():
        table[:, names.index(name.replace("__", "."))] = value
    return table


def applied(settings: Augment, images, masks, seed=0, **columns):
    table = uniforms(settings, len(images), images.shape[1], seed, **columns)
    return [np.asarray(part) for part in augment.apply(images, masks, table, settings)]


def compiled(images, masks, table, settings: Augment):
    function = tf.function(
        lambda *parts: augment.apply(*parts, settings), jit_compile=True, autograph=False
    )
    return function(images, masks, table)


@pytest.mark.parametrize(
    "apply", [augment.apply, pytest.param(compiled, marks=exhaustive)], ids=["apply", "compiled"]
)
def test_what_does_not_happen_leaves_the_same_bits(apply):
    settings, (images, masks) = settings_of(**EVERYTHING), batch()
    table = uniforms(settings)
    table[:, : len(TRANSFORMS)] = 0.5  # each draw decides, and 0.5 is not below 0.5
    images[0, 0, :2, 0] = 0, 1
    for same, before in zip(apply(images, masks, table, settings), (images, masks), strict=True):
        np.testing.assert_array_equal(same, before)
    window = np.float32([[3, 4000]] * 4)
    np.testing.assert_array_equal(augment.jitter_window(window, table, settings, 32), window)


def test_nothing_at_all_still_has_a_table_that_a_batch_can_hold():
    settings, (images, masks) = settings_of(), batch()
    assert augment.num_draws(settings, 32) == 1
    np.testing.assert_array_equal(applied(settings, images, masks)[0], images)


def test_strength_0_leaves_the_same_bits():
    settings = settings_of(
        affine={"probability": 1, "rotate_deg": 0, "scale": 0, "shift": 0},
        elastic={"probability": 1, "alpha_px": 0},
        grid={"probability": 1, "limit": 0},
        optical={"probability": 1, "limit": 0},
        crop={"probability": 1, "share": [1, 1]},
        contrast={"probability": 1, "factor": 0},
        gamma={"probability": 1, "exponent": 0},
        noise={"probability": 1, "sigma": 0},
    )
    images, masks = batch()
    for same, before in zip(applied(settings, images, masks), (images, masks), strict=True):
        np.testing.assert_array_equal(same, before)


@pytest.mark.parametrize("apply", [augment.apply, compiled])
def test_flip_exchanges_left_and_right_exactly(apply):
    settings, (images, masks) = settings_of(flip={"probability": 0.5}), batch()
    table = uniforms(settings, flip=[0.1, 0.9, 0.4, 0.6])
    after = apply(images, masks, table, settings)
    for b, is_flipped in enumerate([True, False, True, False]):
        for before, now in zip((images, masks), after, strict=True):
            np.testing.assert_array_equal(now[b], before[b, :, ::-1] if is_flipped else before[b])


@pytest.mark.parametrize(("fill", "mode"), [("constant", "grid-constant"), ("nearest", "nearest")])
def test_affine_is_scaling_shear_rotation_and_shift_about_the_centre(fill, mode):
    sections = {
        "rotate_deg": [25, 25],
        "shear_deg": [10, 10],
        "zoom": [1.1, 1.1],
        "shift": [0.1, 0.1],
        "scale": [0.8, 1.3],
    }
    settings = settings_of(affine={"probability": 1, **sections}, fill=fill)
    images, masks = batch(1)
    after, masks_after = applied(
        settings, images, masks, affine__scale_rows=0, affine__scale_columns=1
    )
    cos, sin = np.cos(np.radians(25)), np.sin(np.radians(25))
    scale = np.diag([0.8, 1.3]) * 1.1
    shear = np.array([[1, 0], [np.tan(np.radians(10)), 1]])  # lower rows go to the right
    turn = np.array([[cos, -sin], [sin, cos]])  # counter-clockwise, of (row, column)
    back = np.linalg.inv(turn @ shear @ scale)
    offset = 15.5 - back @ (15.5 + 0.1 * 32 * np.ones(2))  # and then down and right
    for before, now, closeness in ((images, after, 1e-5), (masks, masks_after, 0)):
        expected = scipy.ndimage.affine_transform(
            before[0, ..., 0].astype(np.float64), back, offset, order=1, mode=mode
        )
        expected = expected if closeness else expected > 0.5
        np.testing.assert_allclose(now[0, ..., 0], expected, atol=closeness)


def test_a_crop_of_a_half_is_the_quarter_enlarged():
    images, masks = batch(1)
    after, _ = applied(
        always("crop", share=[0.5, 0.5]), images, masks, crop__top=0, crop__left=1 - 2**-24
    )
    quarter = images[0, :16, 16:, 0]
    expected = skimage.transform.resize(quarter, (32, 32), order=1, mode="edge")
    np.testing.assert_allclose(after[0, 1:-1, 1:-1, 0], expected[1:-1, 1:-1], atol=1e-5)


def displacements(settings: Augment, side: int, batch_size=1, **columns) -> np.ndarray:
    """Return the displacements of rows and columns, [B, 2, S, S]."""
    table = uniforms(settings, batch_size, side, **columns)
    positions = warp.source_positions(side, augment.parameters(table, settings, side))
    positions = [np.broadcast_to(part, (batch_size, side, side)) for part in positions]
    return np.stack(positions, axis=1) - np.mgrid[:side, :side]


def test_elastic_moves_as_far_and_as_smoothly_as_a_filtered_noise():
    field = displacements(always("elastic", alpha_px=120, sigma_px=6), 256, batch_size=4)
    noise = np.random.default_rng(1).uniform(-1, 1, (8, 256, 256))
    smooth_noise = 120 * scipy.ndimage.gaussian_filter(noise, (0, 6, 6))
    assert field.std() == pytest.approx(smooth_noise.std(), rel=0.06)
    for lag in (6, 12, 24):
        along_columns, along_rows, of_noise = (
            np.mean(part[..., lag:] * part[..., :-lag]) / part.var()
            for part in (field, field.swapaxes(-1, -2), smooth_noise)
        )
        assert along_columns == pytest.approx(of_noise, abs=0.06)
        assert along_rows == pytest.approx(of_noise, abs=0.06)
    assert np.abs(field).max() <= 0.59 * 120 / 6


@pytest.mark.parametrize("name", ["elastic", "grid", "optical"])
def test_a_distortion_at_its_defaults_tears_no_body(name):
    """Neighbouring pixels stay neighbours, in their order, and no part becomes half or twice as
    large; albumentations' elastic folds 1% of the pixels over."""
    field = displacements(always(name), 256, batch_size=8)
    (rows_by_row, rows_by_column), (columns_by_row, columns_by_column) = (
        np.gradient(part, axis=(1, 2)) for part in np.moveaxis(field, 1, 0)
    )
    area = (1 + rows_by_row) * (1 + columns_by_column) - rows_by_column * columns_by_row
    assert area.min() > 0.5 and area.max() < 2 and field.std() > 0.5


# One band of rows, three, thirteen of 16 rows, four.
@pytest.mark.parametrize("side", [32, 96, 208, 256])
def test_elastic_is_the_cubic_spline_of_its_control_points(side):
    settings = always("elastic", sigma_px=4)
    values = augment.parameters(uniforms(settings, 2, side), settings, side)
    control = values["elastic.control_px"].numpy().astype(np.float64)  # [2, 2, K, K]
    knots = control.shape[-1]
    centres = (np.arange(side) + 0.5) / side * (knots - 3)

    def along(points, axis: int):
        spline = scipy.interpolate.BSpline(np.arange(-3, knots + 1), points, 3, axis=axis)
        return spline(centres)

    actual = displacements(settings, side, batch_size=2)
    np.testing.assert_allclose(actual, along(along(control, 2), 3), atol=1e-4)


def test_grid_makes_steps_wider_and_keeps_the_border():
    settings = always("grid", steps=4, limit=0.5)
    values = augment.parameters(uniforms(settings, 1, 32), settings, 32)
    for axis, wider in enumerate(values["grid.wider"].numpy()[0].astype(np.float64)):
        edges = np.concatenate([[0], np.cumsum(1 + wider)])
        edges *= 32 / edges[-1]
        expected = np.interp(np.arange(32) + 0.5, np.arange(5) * 8, edges) - 0.5 - np.arange(32)
        field = displacements(settings, 32)[0, axis]
        np.testing.assert_allclose(field[:, 0] if axis == 0 else field[0], expected, atol=1e-4)


def test_optical_reads_further_out_by_k_r_squared_and_never_folds():
    rows, columns = (np.mgrid[:32, :32] - 15.5) / 32
    squared = rows**2 + columns**2
    settings = always("optical", limit=[2, 2], centre_px=0)
    expected = 32 * np.stack([rows, columns]) * (2 * squared + 2 * squared**2)
    np.testing.assert_allclose(displacements(settings, 32)[0], expected, atol=1e-4)
    settings = always("optical", limit=[-2, -2], centre_px=0)
    positions = displacements(settings, 32)[0] + np.mgrid[:32, :32]
    assert (np.diff(positions[0], axis=0) > 0).all() and (np.diff(positions[1], axis=1) > 0).all()


def test_brightness_and_contrast_about_the_own_mean():
    images, masks = batch(1)
    images = 0.4 + 0.2 * images
    settings = settings_of(
        brightness={"probability": 1, "add": [0.05, 0.05]},
        contrast={"probability": 1, "factor": [1.25, 1.25]},
    )
    expected = (images - images.mean()) * 1.25 + images.mean() + 0.05
    np.testing.assert_allclose(applied(settings, images, masks)[0], expected, atol=1e-6)


@pytest.mark.parametrize("apply", [augment.apply, compiled])
def test_gamma_and_invert(apply):
    images, masks = batch()
    images[0, 0, :2, 0] = 0, 1
    settings = always("gamma", exponent=[0.7, 1.3])
    table = uniforms(settings, gamma__exponent=np.float32([0, 1, 0.5, 0]))
    expected = images ** np.float32([0.7, 1.3, 1, 0.7])[:, None, None, None]
    np.testing.assert_allclose(apply(images, masks, table, settings)[0], expected, atol=1e-5)
    settings = settings_of(invert={"probability": 0.5})
    now = apply(images, masks, uniforms(settings, invert=[0, 0.7, 0, 1]), settings)[0]
    np.testing.assert_allclose(now, np.where([[[[1]]], [[[0]]]] * 2, 1 - images, images), atol=1e-7)


def test_blur_is_a_gaussian_of_each_images_own_sigma():
    images, masks = np.random.default_rng(0).random((2, 3, 32, 32, 1), np.float32)
    settings = always("blur", sigma_px=[0.5, 1.5])
    after, _ = applied(settings, images, masks, blur__sigma_px=np.float32([0, 0.5, 1]))
    for now, before, sigma in zip(after, images, (0.5, 1, 1.5), strict=True):
        expected = scipy.ndimage.gaussian_filter(before[..., 0], sigma, radius=5, mode="reflect")
        np.testing.assert_allclose(now[..., 0], expected, atol=1e-5)
    wide, _ = applied(always("blur", sigma_px=[1, 20]), images, masks, blur__sigma_px=np.ones(3))
    np.testing.assert_allclose(wide.mean((1, 2)), images.mean((1, 2)), atol=1e-2)
    assert wide.std() < images.std() / 20


def test_noise_is_normal_independent_and_the_hash_of_its_seed():
    seeds = np.float32([0, 1, 123456])[:, None, None]
    noise = np.asarray(grey.noise(256, seeds), np.float64)
    assert np.abs(noise.mean((1, 2))).max() < 0.01 and np.abs(noise.std((1, 2)) - 1).max() < 0.01
    shares = [np.mean(np.abs(noise) < sigmas) for sigmas in (1, 2, 3)]
    assert shares == pytest.approx([0.683, 0.954, 0.997], abs=0.015)
    for other in (noise[:, 1:, :], noise[:, :, 1:], np.roll(noise, 1, axis=0)):
        rows, columns = other.shape[1:]
        assert abs(np.mean(noise[:, :rows, :columns] * other)) < 0.01

    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    for pixel in (0, 1, 65535):
        total = sum(mix(pixel ^ mix(123456)).to_bytes(4))
        expected = (total - 510) / np.sqrt((256**2 - 1) / 3)
        assert noise[2].ravel()[pixel] == pytest.approx(expected, abs=1e-5)


def test_cutout_blackens_squares_of_the_image_alone():
    images, masks = np.ones((2, 1, 32, 32, 1), np.float32)
    settings = always("cutout", holes=2, share=[0.25, 0.25])
    table = uniforms(settings, 1)
    names = [column.name for column in augment.table_columns(settings, 32)]
    table[0, names.index("cutout.row") :] = np.float32([8, 20, 8, 24]) / 32  # rows, then columns
    after, masks_after = augment.apply(images, masks, table, settings)
    expected = np.ones((32, 32))
    expected[4:12, 4:12] = expected[16:24, 20:28] = 0
    np.testing.assert_array_equal(after[0, ..., 0], expected)
    np.testing.assert_array_equal(masks_after, masks)


def test_the_window_moves_before_grey_values_become_0_to_1():
    settings = always("window", shift=[0.1, 0.1], width=[1.5, 1.5])
    pixels = np.arange(0, 64 * 1024, 64, np.uint16).reshape(1, 32, 32, 1)
    window = np.float32([[10_000, 30_000]])
    batch = {"image": pixels, "mask": pixels * 0, "window": window, "uniforms": uniforms(settings)}
    low, high = 22_000 - 15_000, 22_000 + 15_000
    expected = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    batch["uniforms"] = batch["uniforms"][:1]
    np.testing.assert_allclose(step.prepare_batch(batch, settings)[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_marked_patch_lands_on_the_same_place_in_image_and_mask(name):
    rng = np.random.default_rng(5)
    masks = np.zeros((20, 48, 48, 1), np.float32)
    for b, (row, column) in enumerate(rng.integers(10, 30, (20, 2))):
        masks[b, row : row + 5, column : column + 5] = 1
    settings = settings_of(**EVERYTHING).only(name)
    images, after = applied(settings, masks, masks)
    if name in GEOMETRIC:
        np.testing.assert_array_equal(after, images > 0.5)
        assert (after.sum(axis=(1, 2, 3)) > 0).mean() > 0.5 and (after != masks).any()
    else:
        np.testing.assert_array_equal(after, masks)


@pytest.mark.parametrize("fill", ["constant", "nearest"])
def test_1000_draws_stay_in_range_and_change_the_image(fill):
    settings = settings_of(**EVERYTHING, fill=fill)
    images, masks = (np.repeat(part, 250, 0) for part in batch(4, side=16))
    after, masks_after = applied(settings, images, masks)
    assert (after.shape, after.dtype) == (images.shape, np.float32)
    assert (masks_after.shape, masks_after.dtype) == (masks.shape, np.float32)
    assert after.min() >= 0 and after.max() <= 1 and np.isfinite(after).all()
    assert np.unique(masks_after).tolist() == [0, 1]
    assert (np.abs(after - images).mean((1, 2, 3)) > 0.01).mean() > 0.97


def test_compiled_and_eager_give_the_same_numbers():
    settings, (images, masks) = settings_of(**EVERYTHING), batch(8, side=64)
    table = uniforms(settings, 8, 64)
    eager = augment.apply(images, masks, table, settings)
    now = compiled(images, masks, table, settings)
    np.testing.assert_allclose(now[0], eager[0], atol=1e-3)
    assert np.mean(np.asarray(now[1]) != eager[1]) < 1e-3  # a mask's edge at 0.5, up to rounding


def test_each_image_depends_on_its_own_row_only():
    settings, (images, masks) = settings_of(**EVERYTHING), batch()
    table = uniforms(settings)
    together = augment.apply(images, masks, table, settings)
    alone = augment.apply(images[2:3], masks[2:3], table[2:3], settings)
    np.testing.assert_allclose(together[0][2:3], alone[0], atol=1e-6)
    np.testing.assert_array_equal(together[1][2:3], alone[1])


def test_a_group_picks_at_most_one_each_as_often():
    group = {"transforms": ["contrast", "gamma", "brightness"], "probability": 0.3}
    settings = settings_of(contrast={"probability": 1}, one_of=[group])
    values = augment.parameters(uniforms(settings, 20_000), settings, 32)
    is_active = np.stack(
        [
            np.ravel(values[name]) != neutral
            for name, neutral in (
                ("contrast.factor", 1),
                ("gamma.exponent", 1),
                ("brightness.add", 0),
            )
        ]
    )
    assert is_active.sum(axis=0).max() == 1
    assert is_active.mean(axis=1) == pytest.approx([0.1] * 3, abs=0.01)
    never = settings_of(contrast={"probability": 1}, one_of=[{**group, "probability": 0}])
    assert never.possible_transforms() == {}  # through its group alone


def test_the_sheet_shows_each_example_and_each_transform(lake, tmp_path, capsys):
    config_path = ROOT / "configs" / "demo_unetpp.yaml"
    common = ["augment", "--lake", str(lake), "--config", str(config_path), "--data.side=32"]
    path, each_path = tmp_path / "deep" / "sheet.png", tmp_path / "each.png"
    assert task.main([*common, f"--output={path}", "--examples=2"]) == 0
    options = ["--each", "--augment.gamma.probability=1"]
    assert task.main([*common, f"--output={each_path}", *options]) == 0
    assert "2 images" in (output := capsys.readouterr().out) and "5 transforms" in output
    (width, two), (_, five) = (Image.open(name).size for name in (path, each_path))
    row_px = panel.CELL_PX + panel.CAPTION_PX + panel.GAP_PX
    assert width > 1000 and five - two == 3 * row_px
    assert 0 < two - 2 * row_px - panel.GAP_PX < 3 * panel.TITLE_PX  # the title, on one line or two
    off = [f"--augment.{name}.probability=0" for name in TRANSFORMS]
    assert task.main([*common, *off]) == 2
    assert "nothing to see" in capsys.readouterr().err
