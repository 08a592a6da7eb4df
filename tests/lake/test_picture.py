"""Pictures: outlines, tints and captions where they belong, grids in order."""

import datetime
import io

import numpy as np
from PIL import Image

from lake import picture

SQUARE = np.zeros((6, 6), bool)
SQUARE[1:5, 2:5] = True


def test_an_outline_is_the_edge_of_the_mask():
    assert picture.outline(SQUARE).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 0, 1, 0],
        [0, 0, 1, 0, 1, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    # The border of an image is an edge of what reaches it.
    assert picture.outline(np.ones((3, 3), bool)).sum() == 8


def test_an_outline_around_surrounds_the_lesion():
    mask = np.zeros((6, 6), bool)
    mask[2, 2:4] = True
    assert picture.outline(mask, is_around=True).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert not picture.outline(np.ones((3, 3), bool), is_around=True).any()


def test_a_mask_of_another_size_covers_the_same_field():
    for height, width in ((12, 18), (3, 3), (6, 6)):
        rows, columns = height // 3, width // 3
        mask = np.zeros((6, 6), np.uint8)
        mask[2:4, 4:] = 255
        expected = np.zeros((height, width), bool)
        expected[rows : 2 * rows, 2 * columns :] = True
        assert np.array_equal(picture.resize_mask(mask, height, width), expected)
    # One pixel of a large image is still there where any share is enough.
    speck = np.zeros((1000, 1000), np.uint8)
    speck[500, 500] = 255
    assert not picture.resize_mask(speck, 100, 100).any()
    assert picture.resize_mask(speck, 100, 100, share=1e-6).sum() == 1


def test_a_mark_tints_the_inside_and_leaves_the_rest():
    grey = np.full((6, 6), 100, np.uint8)
    marked = picture.mark(picture.to_rgb(grey), SQUARE, "#00ff00")
    assert (marked[~SQUARE] == 100).all()
    assert (marked[picture.outline(SQUARE)] == (0, 255, 0)).all()
    assert (marked[2, 3] == (75, 138, 75)).all()


def test_a_caption_becomes_smaller_then_loses_its_middle():
    image_id = "1.2.276.0.7230010.3.1.4." + "8323329." * 12 + "820"
    shorter = picture.shorten(image_id, 300, 10)
    assert picture.text_px(shorter, 10) <= 300
    assert shorter.startswith("1.2.276") and shorter.endswith("820") and "…" in shorter
    assert picture.shorten("short", 300, 10) == "short"
    strip = picture.caption(image_id, (20, 312), 15)
    is_ink = (strip > 0).any(axis=(0, 2))
    assert strip.shape == (20, 312, 3) and is_ink.any()
    assert not is_ink[: picture.INDENT_PX].any() and not is_ink[-picture.INDENT_PX :].any()


def test_a_grid_is_filled_row_by_row():
    cells = [np.full((2, 3, 3), number, np.uint8) for number in (1, 2, 3)]
    assert picture.grid(cells, num_columns=2, gap_px=1)[..., 0].tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 2, 2, 2, 0],
        [0, 1, 1, 1, 0, 2, 2, 2, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 3, 3, 3, 0, 0, 0, 0, 0],
        [0, 3, 3, 3, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_a_png_holds_the_pixels():
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for image in (pixels, picture.to_rgb(pixels)):
        with Image.open(io.BytesIO(picture.to_png(image))) as image_file:
            assert np.array_equal(np.asarray(image_file), image)


def test_a_title_has_the_lines_that_it_needs_above_the_whole_picture():
    rgb = np.random.default_rng(0).integers(0, 256, (50, 300, 3)).astype(np.uint8)
    text = picture.title("runs/unetpp", "test (siim 1.0.0)", "", "keep p > 0.3", "step 7")
    *parts, date = text.split(picture.BETWEEN)
    assert parts == ["runs/unetpp", "test (siim 1.0.0)", "keep p > 0.3", "step 7"]
    assert datetime.date.fromisoformat(date) <= datetime.datetime.now(datetime.UTC).date()
    for width, num_lines in ((300, 2), (120, 4), (1200, 1)):
        wide = np.resize(rgb, (50, width, 3))
        pictured = picture.with_title(wide, text, 12)
        assert pictured.shape == (50 + num_lines * 18, width, 3)
        assert (pictured[num_lines * 18 :] == wide).all()
        assert all(pictured[18 * line : 18 * line + 18].any() for line in range(num_lines))
