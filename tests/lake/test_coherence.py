"""Votes of masks about their lines: real ones, drawn ones, and those of other sizes."""

import csv
import gzip
from collections import Counter

import numpy as np
import pytest
from makers.marks import exhaustive
from makers.shapes import ellipse

from lake import Reject
from lake.labels import coherence, rle


@pytest.fixture(scope="module")
def real_texts(real_data) -> list[str]:
    with gzip.open(real_data / "csv" / "siim-pneumothorax-train-rle.csv.gz", "rt") as file:
        values = [row[1].strip() for row in csv.reader(file) if len(row) == 2][1:]
    return [value for value in values if value != "-1"]


def votes(masks, written: str, declared: str) -> tuple[int, int]:
    """Summed evidence of texts that were written in one order and read in another."""
    both = []
    for mask in masks:
        runs = rle.runs(rle.encode(mask, written), *mask.shape, declared)
        both.append(coherence.order_votes(runs, *mask.shape, declared))
    return tuple(np.sum(both, axis=0).tolist())


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 128), (128, 64), (100, 110)])
@pytest.mark.parametrize("written", rle.ORDERS)
def test_columns_and_rows_are_told_apart(shape, written):
    rng = np.random.default_rng(3)
    masks = [ellipse(*shape, *rng.integers(25, 40, 2), *rng.integers(4, 9, 2)) for _ in range(8)]
    for declared in rle.ORDERS:
        sums = votes(masks, written, declared)
        assert sums == ((8, 0) if written == "absolute" else (0, 8))
        conflict = coherence.order_conflict(sums, declared)
        assert (conflict is None) if written == declared else (f"--rle {written}" in conflict)


def test_no_votes_without_evidence():
    square = rle.from_mask(ellipse(80, 80, 40, 40, 9, 5))
    assert coherence.order_votes(square, 80, 80, "absolute") == (0, 0)
    for mask in (
        np.zeros((40, 60)),
        np.ones((40, 60)),
        np.arange(60)[None] * np.ones((40, 1)) == 7,
    ):
        assert coherence.order_votes(rle.from_mask(mask), 40, 60, "absolute") == (0, 0)
    assert coherence.order_votes(np.array([[0, 24]]), 4, 6, "row_major") == (0, 0)
    assert coherence.order_conflict((0, 0), "absolute") is None
    assert coherence.order_conflict((0, 2), "absolute") is None
    assert coherence.order_conflict((9, 3), "absolute") is None
    assert coherence.order_conflict((9, 3), "row_major")


@pytest.mark.parametrize("shape", [(1024, 900), (1024, 1250)])
def test_order_of_real_masks(real_texts, shape):
    masks = []
    for text in real_texts[:1000:50]:
        square = rle.decode(text, 1024, 1024)
        mask = np.zeros(shape, np.uint8)
        width = min(1024, shape[1])
        mask[:, :width] = square[:, :width]
        masks.append(mask)
    for written in rle.ORDERS:
        for declared in rle.ORDERS:
            sums = votes(masks, written, declared)
            assert sum(sums) >= 19 and min(sums) == 0
            assert (coherence.order_conflict(sums, declared) is None) == (written == declared)


# --- how long the lines are ---


def conflict(masks, height: int, width: int, dialect: str = "relative") -> str | None:
    """The message about masks whose texts are read in images [height, width]."""
    votes = Counter()
    for mask in masks:
        text = rle.encode(mask, dialect)
        try:
            runs = rle.runs(text, height, width, dialect)
        except Reject:  # beyond the image
            continue
        if vote := coherence.line_vote(runs, height, width, dialect):
            votes[vote.key] += 1
    return coherence.line_conflict(coherence.line_votes(votes | {"sampled_pixels": 7}))


def lesions(height: int, width: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(height)
    shares = rng.uniform((0.2, 0.1, 0.03, 0.03), (0.8, 0.4, 0.15, 0.1), (count, 4))
    return [ellipse(height, width, *share * (height, width, height, width)) for share in shares]


@pytest.mark.parametrize("dialect", rle.DIALECTS)
@pytest.mark.parametrize("size", [(256, 256), (300, 200), (200, 300)])
def test_masks_of_another_size_are_told_from_those_of_the_image(dialect, size):
    masks, line = lesions(*size, 10), 1 if dialect == "row_major" else 0
    assert conflict(masks, *size, dialect) is None
    for factor in (0.5, 0.7, 1.2, 1.5, 2, 3, 4):
        other = round(size[0] * factor), round(size[1] * factor)
        message = conflict(masks, *other, dialect)
        # Where the image is much smaller, most texts reach beyond it and are rejects.
        is_told = message is not None and f"lines are {size[line]} pixels long" in message
        assert is_told or factor < 1, factor
    a_little_longer = size[0] + 3 * (line == 0), size[1] + 3 * (line == 1)
    assert "about 3 pixels a line fewer" in conflict(masks, *a_little_longer, dialect)


def test_masks_of_a_fixed_size_or_share_in_images_of_many_sizes():
    sides = np.random.default_rng(0).integers(300, 900, 10)
    votes = Counter()
    for mask, side in zip(lesions(256, 256, 10), sides, strict=True):
        votes[coherence.line_vote(rle.from_mask(mask), side, side, "relative")] += 1
    assert "lines are 256 pixels long" in coherence.line_conflict(votes)
    votes.clear()
    for side in sides:
        [mask] = lesions(side, side, 1)
        votes[coherence.line_vote(rle.from_mask(mask), 2 * side, 2 * side, "relative")] += 1
    assert "lines are 50 % of the image long" in coherence.line_conflict(votes)


def test_a_few_masks_of_another_size_among_many():
    votes = Counter()
    for number, mask in enumerate(lesions(256, 256, 60)):
        side = 512 if number < 5 else 256
        votes[coherence.line_vote(rle.from_mask(mask), side, side, "relative")] += 1
    assert "in 5 of 60 images" in coherence.line_conflict(votes)
    one_far = Counter({vote: 1 for vote in votes if vote.kind == "far"})
    assert coherence.line_conflict(one_far) is None  # a single image proves nothing


def strokes(size: int, slope: float, count: int) -> list[np.ndarray]:
    """Thin slanted lines, as of catheters."""
    rng, masks = np.random.default_rng(1), []
    for _ in range(count):
        rows = np.arange(size // 8, size - size // 8)
        lean = rng.normal(0, slope) or 0.1
        columns = (size / 2 + lean * (rows - size / 2)).astype(int).clip(0, size - 4)
        mask = np.zeros((size, size), bool)
        for step in range(3):
            mask[rows, columns + step] = True
        masks.append(mask)
    return masks


def test_slanted_scattered_and_repeated_lesions_are_no_false_alarm():
    rng = np.random.default_rng(2)
    points = [rng.random((256, 256)) < share for share in (0.001, 0.01, 0.3) for _ in range(10)]
    bars = [np.arange(256)[:, None] % 50 * np.ones((1, 256)) < 9 for _ in range(10)]
    squares = []
    for _ in range(10):
        mask = np.zeros((256, 256), bool)
        for row, column in rng.integers(0, 250, (20, 2)):
            mask[row : row + 3, column : column + 3] = True
        squares.append(mask)
    for masks in (points, bars, squares, *(strokes(256, slope, 20) for slope in (0.03, 0.3, 2))):
        assert conflict(masks, 256, 256) is None
    for mask in (np.zeros((40, 60)), np.ones((40, 60)), np.eye(60)[:40] * 0 + (np.arange(60) == 7)):
        assert coherence.line_vote(rle.from_mask(mask), 40, 60, "absolute") is None


def test_real_masks_are_no_false_alarm_and_tell_other_sizes(real_texts):
    runs = [rle.runs(text, 1024 * 1024) for text in real_texts[::8]]

    def message(side: int) -> str | None:
        votes = Counter(coherence.line_vote(one, side, 1 << 20, "relative") for one in runs)
        votes.pop(None, None)
        assert votes.total() > 440
        return coherence.line_conflict(votes)

    assert message(1024) is None
    for side in (256, 500, 700, 1500, 2048):
        assert "lines are 1024 pixels long" in message(side)
    for side in (1020, 1028, 1000):
        assert f"about {abs(1024 - side)} pixels a line" in message(side)


@exhaustive
def test_no_false_alarm_in_any_small_lake_of_real_masks(real_texts):
    votes = [
        coherence.line_vote(rle.runs(text, 1024 * 1024), 1024, 1024, "relative")
        for text in real_texts
    ]
    rng = np.random.default_rng(3)
    for _ in range(3000):
        some = Counter(votes[k] for k in rng.integers(0, len(votes), rng.integers(2, 200)))
        some.pop(None, None)
        assert coherence.line_conflict(some) is None
