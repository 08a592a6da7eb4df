"""The run-length code against hand-made answers, the challenge's golden row, and random masks."""

import csv
import gzip
import random

import numpy as np
import pytest
from makers.shapes import ellipse

from lake import Reject
from lake.labels import rle

GOLDEN = "387620 23 996 33 986 43 977 51 968 58 962 65 956 70 952 74 949 76 946 79"


def test_runs_count_down_columns():
    assert rle.decode("1 2", height=2, width=2).tolist() == [
        [0, 255],  # skip 1, paint 2,
        [255, 0],  # down each column
    ]


def test_golden_row_of_the_challenge():
    mask = rle.decode(GOLDEN, 1024, 1024)
    rows, columns = np.nonzero(mask)
    assert len(rows) == 572 == rle.area(rle.runs(GOLDEN, 1024 * 1024))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (517, 595, 378, 387)
    assert mask[548, 378] and not mask[547, 378]
    assert rle.encode(mask) == GOLDEN


def test_a_run_that_reaches_the_last_pixel_is_kept():
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0] = mask[3, 3] = 255
    assert rle.encode(mask) == "0 1 14 1"
    assert rle.encode(np.zeros((4, 4))) == "-1"
    assert rle.encode(np.ones((1024, 1024))) == "0 1048576"


def test_round_trip_and_union_of_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 12, size=2)
        first, second = (rng.random((2, height, width)) < rng.random((2, 1, 1))).astype(
            np.uint8
        ) * 255
        assert (rle.decode(rle.encode(first), height, width) == first).all()
        union = rle.unite([rle.from_mask(first), rle.from_mask(second)])
        assert (rle.to_mask(union, height, width) == np.maximum(first, second)).all()
        assert rle.area(union) == np.count_nonzero(first | second)


@pytest.mark.parametrize(
    ("text", "is_canonical"),
    [
        *(("5 3", True), ("0 3 1 10", True), ("100 20 3 40", True)),
        *((" 5 3", False), ("5 3 ", False), ("5  3", False), ("5\t3", False), ("05 3", False)),
        *(("00 3", False), ("5 03", False), ("+5 3", False), ("5 3 0 2", False)),
        *(("5 0", False), ("5 3 2 0", False), ("\u0665 3", False)),
    ],
)
def test_a_text_is_canonical_where_it_is_written_so(text, is_canonical):
    assert rle.is_canonical(text) == is_canonical
    if text.isascii():
        assert (rle.to_text(rle.runs(text, 1000)) == text) == is_canonical


@pytest.mark.parametrize("text", ["", "-1", " -1 ", "0 0", "3 0 2 0"])
def test_empty_masks(text):
    assert not rle.decode(text, 4, 4).any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 2 3", "rle-odd-count"),
        ("1 -2", "rle-negative"),
        ("-3 2", "rle-negative"),
        ("15 2", "rle-out-of-bounds"),
        ("0 1 99999999999999999999 1", "rle-out-of-bounds"),
        ("9223372036854775807 9223372036854775807", "rle-out-of-bounds"),
        ("a b", "rle-not-numbers"),
        ("1.5 2", "rle-not-numbers"),
        ("nan", "rle-not-numbers"),
    ],
)
def test_impossible_texts_are_rejected_with_a_reason(text, reason):
    with pytest.raises(Reject) as caught:
        rle.runs(text, 16)
    assert caught.value.reason == reason


@pytest.fixture(scope="module")
def real_texts(real_data) -> list[str]:
    with gzip.open(real_data / "csv" / "siim-pneumothorax-train-rle.csv.gz", "rt") as file:
        values = [row[1].strip() for row in csv.reader(file) if len(row) == 2][1:]
    return [value for value in values if value != "-1"]


def absolute(text: str) -> str:
    """Kaggle's usual spelling of an SIIM text, one number at a time."""
    end, pairs = 0, []
    numbers = [int(number) for number in text.split()]
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        pairs.append(f"{end + gap + 1} {length}")
        end += gap + length
    return " ".join(pairs)


def test_dialects_of_one_mask():
    mask = np.array([[0, 255, 255], [255, 0, 255]], np.uint8)
    texts = {"relative": "1 2 1 2", "absolute": "2 2 5 2", "row_major": "2 3 6 1"}
    assert {dialect: rle.encode(mask, dialect) for dialect in rle.DIALECTS} == texts
    for dialect, text in texts.items():
        assert rle.decode(text, 2, 3, dialect).tolist() == mask.tolist()
    assert rle.encode(np.zeros((2, 3)), "row_major") == "-1"


def test_dialects_round_trip_and_agree_on_random_masks():
    rng = np.random.default_rng(1)
    for _ in range(200):
        height, width = rng.integers(1, 12, size=2)
        mask = (rng.random((height, width)) < rng.random()).astype(np.uint8) * 255
        for dialect in rle.DIALECTS:
            runs = rle.runs(rle.encode(mask, dialect), height, width, dialect)
            assert runs.tolist() == rle.from_mask(mask).tolist()


@pytest.mark.parametrize("text", ["", "-1", "0 0", "1 0", "7 0 2 0"])
@pytest.mark.parametrize("dialect", rle.ORDERS)
def test_empty_masks_of_starts(text, dialect):
    assert not rle.decode(text, 4, 4, dialect).any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 2", "rle-out-of-bounds"),
        ("16 2", "rle-out-of-bounds"),
        ("17 1", "rle-out-of-bounds"),
        ("1 9223372036854775807", "rle-out-of-bounds"),
        ("9 2 3 2", "rle-not-increasing"),
        ("3 4 5 2", "rle-not-increasing"),
        ("3 -4", "rle-negative"),
        ("3", "rle-odd-count"),
    ],
)
def test_impossible_texts_of_starts(text, reason):
    assert rle.decode("3 2 5 2 16 1", 4, 4, "absolute").sum() == 5 * 255  # these may touch
    for dialect in rle.ORDERS:
        with pytest.raises(Reject) as caught:
            rle.runs(text, 4, 4, dialect)
        assert caught.value.reason == reason


def test_gaps_and_starts_are_told_apart():
    rng = np.random.default_rng(2)
    masks = [ellipse(90, 70, *rng.integers(25, 45, 2), *rng.integers(3, 20, 2)) for _ in range(5)]
    for written in rle.DIALECTS:
        texts = ["-1", "", "no number", *(rle.encode(mask, written) for mask in masks)]
        for declared in rle.DIALECTS:
            conflict = rle.dialect_conflict(texts, declared)
            assert (conflict is not None) == ((written == "relative") != (declared == "relative"))
        assert rle.dialect_conflict(texts[:3], "absolute") is None
    gaps, starts = "8 2 8 2", "8 2 18 2"  # too short to say
    assert rle.dialect_conflict([gaps] * 50, "absolute") is None
    assert rle.dialect_conflict([starts] * 50, "relative") is None
    assert rle.dialect_conflict(["8 2 18 2 28 2"] * 4, "relative") is None
    assert rle.dialect_conflict(["8 2 18 2 28 2"] * 5, "relative")
    # Points strewn over an image: their gaps are in any order.
    points = [np.sort(rng.choice(10_000, 3, replace=False)) for _ in range(200)]
    texts = [rle.to_text(np.stack([point, point + 1], 1)) for point in points]
    assert rle.dialect_conflict(texts, "relative") is None


def test_real_texts_are_told_from_absolute_ones_five_by_five(real_texts):
    assert len(real_texts) > 3500
    pick = random.Random(0)
    for few in [*(pick.sample(real_texts, 5) for _ in range(200)), real_texts[:400]]:
        starts = [absolute(text) for text in few]
        assert rle.dialect_conflict(few, "relative") is None
        assert rle.dialect_conflict(few, "absolute")
        assert rle.dialect_conflict(starts, "absolute") is None
        assert rle.dialect_conflict(starts, "relative")
