"""The run-length code against hand-made answers, the challenge's golden row, and random masks."""

import numpy as np
import pytest

from lake import Reject, rle

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
        united = rle.unite([rle.from_mask(first), rle.from_mask(second)])
        assert (rle.to_mask(united, height, width) == np.maximum(first, second)).all()
        assert rle.area(united) == np.count_nonzero(first | second)


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
        ("0 1 99999999999999999999 1", "rle-not-numbers"),
        ("9223372036854775807 9223372036854775807", "rle-out-of-bounds"),
        ("a b", "rle-not-numbers"),
        ("1.5 2", "rle-not-numbers"),
    ],
)
def test_impossible_texts_are_rejected_with_a_reason(text, reason):
    with pytest.raises(Reject) as caught:
        rle.runs(text, 16)
    assert caught.value.reason == reason
