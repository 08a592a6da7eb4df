"""Which submissions the strict reader takes and refuses; votes are compared with a loop over
pixels."""

import numpy as np
import pytest

from lake import InputError
from lake.labels import rle
from lake.predictions import submission


def write_lines(path, *lines: str):
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_what_is_written_is_read(tmp_path):
    rows = {"a": "-1", "b": "0 1 14 1", "c,d": "0 16", 'e"f': "3 2"}
    path = tmp_path / "submission.csv"
    path.write_text(
        "ImageId,EncodedPixels\n"
        + b"".join(submission.csv_line(row) for row in rows.items()).decode()
    )
    assert submission.read(path, num_pixels=16) == rows
    assert "a,-1\n" in path.read_text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "expected the header"),
        (["ImageId,EncodedPixels"], "a row per image"),
        (["ImageId, EncodedPixels", "a,-1"], "row 1"),  # the label file's header
        (["\ufeffImageId,EncodedPixels", "a,-1"], "row 1"),
        (["a,-1"], "row 1"),
        (["ImageId,EncodedPixels", "a,-1", "b"], "row 3: 1 fields"),
        (["ImageId,EncodedPixels", "a,-1,"], "row 2: 3 fields"),
        (["ImageId,EncodedPixels", "a,-1", "a,-1"], "row 3: the id a a second time"),
        (["ImageId,EncodedPixels", " a,-1"], "row 2: the id ' a'"),
        (["ImageId,EncodedPixels", ",-1"], "row 2: the id ''"),
        (["ImageId,EncodedPixels", "a,"], "expected '-1'"),
        (["ImageId,EncodedPixels", "a, -1"], "expected '-1'"),
        (["ImageId,EncodedPixels", "a,1 2 0 3"], "expected '1 5'"),  # runs that touch
        (["ImageId,EncodedPixels", "a,1 2 3"], "3 numbers"),
        (["ImageId,EncodedPixels", "a,1 2 3 x"], "not whole numbers"),
        (["ImageId,EncodedPixels", "a,10 7"], "reaches pixel 17"),
        (["ImageId,EncodedPixels", 'a,"-1'], "not a submission"),
    ],
)
def test_a_submission_with_a_mistake_is_refused(tmp_path, lines, message):
    with pytest.raises(InputError) as caught:
        submission.read(write_lines(tmp_path / "s.csv", *lines), num_pixels=16)
    assert message in str(caught.value) and "s.csv" in str(caught.value)


def test_each_image_has_its_own_size(tmp_path):
    path = write_lines(tmp_path / "s.csv", "ImageId,EncodedPixels", "small,0 5", "large,0 5")
    with pytest.raises(InputError, match="row 2: small"):
        submission.read(path, {"small": 4, "large": 16})


def test_other_ids_are_refused(tmp_path):
    submission.check_ids(tmp_path, ["a", "b"], ["b", "a"], "x.csv")
    with pytest.raises(InputError, match="lacks 1 ids of x.csv: c;"):
        submission.check_ids(tmp_path, ["a"], ["a", "c"], "x.csv")
    with pytest.raises(InputError, match="has 1 not in x.csv: b;"):
        submission.check_ids(tmp_path, ["a", "b"], ["a"], "x.csv")


def test_a_vote_is_that_of_every_pixel():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, voters = rng.integers(1, 9, size=3)
        masks = rng.random((voters, height, width)) < rng.random((voters, 1, 1))
        votes = int(rng.integers(1, voters + 1))
        voted = submission.majority([rle.encode(mask) for mask in masks], votes)
        assert voted == rle.encode(masks.sum(axis=0) >= votes)


def test_3000_random_masks_survive_the_round_trip():
    """Sides 1 to 40, from empty to full; the last pixel set in half of them."""
    rng = np.random.default_rng(1)
    kinds = {"empty": 0, "full": 0, "last pixel": 0}
    for number in range(3000):
        height, width = rng.integers(1, 41, size=2)
        share = (0.0, 1.0, rng.random())[min(number % 10, 2)]
        mask = rng.random((height, width)) < share
        if share:
            mask[-1, -1] = number % 2 == 0 or share == 1
        text = rle.encode(mask)
        assert (rle.decode(text, height, width) > 0).tolist() == mask.tolist()
        assert [int(number) for number in text.split()] == slow_encode(mask)
        kinds["empty"] += not mask.any()
        kinds["full"] += bool(mask.all())
        kinds["last pixel"] += bool(mask[-1, -1])
    assert min(kinds.values()) > 250


def slow_encode(mask) -> list[int]:
    """Return the challenge's numbers, computed one pixel at a time."""
    numbers, gap, length = [], 0, 0
    for pixel in [*mask.T.ravel().tolist(), False]:
        if pixel:
            length += 1
        elif length:
            numbers, gap, length = [*numbers, gap, length], 1, 0
        else:
            gap += 1
    return numbers or [-1]
