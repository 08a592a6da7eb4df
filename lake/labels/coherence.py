"""Whether masks hang together as their run lengths are read, and signs that they belong to images
of another size, or count along the other lines.

In: runs of masks; out: votes of single images, and a message where those of many say no. A lesion's
neighbouring lines lie one line's length apart, so the right length is the shift that maps most of
its runs onto others of them.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lake.labels import rle

# `order_votes`: an image votes where the two readings differ by this much. With it 2 of 6,600 votes
# were wrong (300 SIIM-ACR masks in images of eleven shapes), both where the sides differed by one
# pixel.
VOTE_MARGIN = 0.05
MIN_VOTES = 3

# `line_vote`. Of the 2,669 images with a lesion of SIIM-ACR all but 41 have their best shift within
# one pixel of the line's length, and none more than 10 from it or a multiple; read as 700 or 1200
# pixels high, all of them are far from it.
MIN_RUNS = 4  # fewer tell no length
MOST_RUNS, NEIGHBOURS = 100, 8  # of a mask are looked at; runs that follow a run
MIN_COHERENCE = 0.5  # of a run's pixels: scattered points fit any length by chance
EXACT_PX = 1.5
MULTIPLE_PX = 3  # a mask of several lines fits multiples of the length as well, if less sharply
NEAR = 0.1  # of the length: thin slanted structures fit it less well than a shift along their slope
FITS_WELL = 0.7  # as well as at its best
MOST_PARTS = 8  # a mask of so small a share of the image's height may fit as well
FAR_SHARE = 0.05  # of all votes, with which masks of another size are refused
SAME_OFFSET_SHARE = 0.6  # of all votes with one offset: slopes differ, sizes do not
LINES = "lines"  # how the names of summed votes begin
EXPECTED = "expected run lengths of the images that are converted"


class LineVote(NamedTuple):
    """Says how far apart the lines of a mask lie."""

    kind: str  # fits | near | far
    length: int  # of a line, as the runs tell it
    offset: int  # of that from the image's

    @property
    def key(self) -> str:
        """Return the name by which the votes of a shard are counted."""
        return f"{LINES} {self.kind} {self.length} {self.offset}"


def line_votes(sums: Mapping[str, int]) -> dict[LineVote, int]:
    """Return the votes among the sums of shards."""
    votes = {}
    for key, number in sums.items():
        name, *fields = key.split(" ")
        if name == LINES:
            kind, length, offset = fields
            votes[LineVote(kind, int(length), int(offset))] = number
    return votes


def line_vote(lesion_runs: np.ndarray, height: int, width: int, dialect: str) -> LineVote | None:
    """Return the vote of one image about the length of its text's lines; None where it has none: a
    mask of few runs, or of points."""
    length = height
    if dialect == "row_major":
        lesion_runs, length = rle.transpose(lesion_runs, height, width), width
    if len(lesion_runs) < MIN_RUNS:
        return None
    first = max(0, (len(lesion_runs) - MOST_RUNS) // 2)
    lesion_runs = lesion_runs[first : first + MOST_RUNS]
    shifts, overlaps = _overlaps(lesion_runs)
    best = int(overlaps.argmax())
    if overlaps[best] < MIN_COHERENCE * rle.area(lesion_runs):
        return None
    is_exact = np.abs(shifts - length) <= EXACT_PX
    here = max(float(np.interp(length, shifts, overlaps)), overlaps[is_exact].max(initial=0.0))
    distance, offset = float(shifts[best]), round(float(shifts[best]) - length)
    lines = round(distance / length)
    is_well = here >= FITS_WELL * overlaps[best]
    is_multiple = lines >= 2 and abs(distance - lines * length) <= MULTIPLE_PX * lines
    if abs(offset) <= EXACT_PX or (is_multiple and is_well):
        kind = "fits"
    elif abs(offset) <= NEAR * length:
        kind = "near"
    else:
        # Two lines of a mask of half the size are one here, and fit: only a far better length
        # counts, or one that goes into the image's a whole number of times.
        parts = length / distance
        is_part = abs(parts - round(parts)) <= EXACT_PX * (parts + 1) / distance
        is_part &= 2 <= round(parts) <= MOST_PARTS
        kind = "far" if is_part or not is_well else "fits"
    return LineVote(kind, round(distance), offset)


def line_conflict(votes: Mapping[LineVote, int]) -> str | None:
    """Return a message where the votes of many images say that their masks were drawn on images of
    another size, else None."""
    total = sum(votes.values())
    # Masks of one size are as long everywhere, or the same share of their images.
    lengths, shares, offsets = Counter(), Counter(), Counter()
    for vote, number in votes.items():
        if vote.kind == "far":
            lengths[vote.length] += number
            shares[round(100 * vote.length / (vote.length - vote.offset))] += number
        elif vote.kind == "near":
            offsets[vote.offset] += number
    for mode, unit in ((_commonest(lengths, 0.01), "pixels"), (_commonest(shares, 0.01), "%")):
        if mode and mode[1] >= max(2, FAR_SHARE * total, shares.total() / 2):
            size = f"{mode[0]} {unit}{' of the image' if unit == '%' else ''}"
            return (
                f"{_number_of(mode[1], total)} with a lesion the run lengths are those of a mask "
                f"of another size, whose lines are {size} long; {EXPECTED}"
            )
    mode = _commonest(offsets, 0)
    if mode and mode[1] >= max(MIN_VOTES, SAME_OFFSET_SHARE * total):
        side = "more" if mode[0] > 0 else "fewer"
        return (
            f"{_number_of(mode[1], total)} with a lesion the run lengths are those of a mask with "
            f"about {abs(mode[0])} pixels a line {side} than the image has; {EXPECTED}"
        )
    return None


def _commonest(numbers: Counter, tolerance: float) -> tuple[int, int] | None:
    """Return (number, how often it or its like was counted) of the commonest; alike are numbers
    that differ by 1, or by a share `tolerance`."""
    sums = {
        number: sum(
            count
            for other, count in numbers.items()
            if abs(other - number) <= max(1, tolerance * abs(number))
        )
        for number in numbers
    }
    return max(sums.items(), key=lambda item: (item[1], numbers[item[0]]), default=None)


def _number_of(number: int, total: int) -> str:
    return f"in {number:,} of {total:,} images"


def _overlaps(lesion_runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (shifts, float [P]; pixels that each maps onto one of the next runs, [P]) of runs
    [N, 2], at all shifts where the number's slope changes."""
    starts, ends = lesion_runs.T
    lags = np.arange(1, min(NEIGHBOURS, len(starts) - 1) + 1)
    first, second = np.nonzero(np.arange(len(starts))[:, None] + lags < len(starts))
    second += first + 1
    # The overlap of two runs grows from the first shift at which they touch, is as long as the
    # shorter one, and shrinks to 0 again.
    to_start, to_end = starts[second] - starts[first], ends[second] - ends[first]
    touch, part = starts[second] - ends[first], ends[second] - starts[first]
    level, fall = np.minimum(to_start, to_end), np.maximum(to_start, to_end)
    # Sorted with the change of slope as their lowest bit: 0 where it grows, 1 where it falls.
    shifts = np.sort(np.concatenate([2 * touch, 2 * part, 2 * level + 1, 2 * fall + 1]))
    slope, shifts = np.cumsum(1 - 2 * (shifts & 1)), shifts >> 1
    return shifts, np.r_[0.0, np.cumsum(slope[:-1] * np.diff(shifts))]


# --- columns or rows ---


def order_votes(lesion_runs: np.ndarray, height: int, width: int, dialect: str) -> tuple[int, int]:
    """Return the vote of one image for (down columns, along rows) as the way its text counts:
    (1, 0), (0, 1) or none, (0, 0). Votes of many images may be summed.

    `lesion_runs` are those that `runs` reads from a text in `dialect`. Read in the right order, a
    lesion's neighbouring lines lie one line's length apart, so a shift by that length maps most of
    it onto itself. An image has no vote when it is square (the wrong reading is then the transposed
    mask, and as coherent), when it is empty, and when both readings are about as coherent: with
    nearly equal sides, or a single line.
    """
    if height == width:
        return 0, 0
    if dialect == "row_major":
        lesion_runs = rle.transpose(lesion_runs, height, width)  # as the text counts
    num_pixels = height * width
    as_columns, as_rows = (_overlap(lesion_runs, shift, num_pixels) for shift in (height, width))
    return int(as_columns - as_rows > VOTE_MARGIN), int(as_rows - as_columns > VOTE_MARGIN)


def order_conflict(votes: tuple[int, int], dialect: str) -> str | None:
    """Return a message where the summed votes of `order_votes` speak against `dialect`, else
    None."""
    columns, rows = (votes[0], "down columns"), (votes[1], "along rows")  # (votes, order)
    order, rival = (rows, columns) if dialect == "row_major" else (columns, rows)
    if rival[0] < MIN_VOTES or rival[0] <= order[0]:
        return None
    advice = {
        "relative": "decode them yourself and write lake.labels.rle.encode of each mask",
        "absolute": "use --rle row_major",
        "row_major": "use --rle absolute",
    }
    return (
        f"the masks are coherent in {rival[0]:,} images if their run lengths count {rival[1]} and "
        f"in {order[0]:,} if they count {order[1]}, as {dialect} does; {advice[dialect]}"
    )


def _overlap(lesion_runs: np.ndarray, shift: int, num_pixels: int) -> float:
    """Return the share of a mask's pixels that a shift by so many pixels maps onto the mask, among
    those that it does not move out of the image."""
    if not len(lesion_runs):
        return 0.0
    lengths = lesion_runs[:, 1] - lesion_runs[:, 0]
    # The mask's pixels before each end of a run; between two ends their number is linear.
    edges, areas = lesion_runs.ravel(), np.r_[0, np.repeat(np.cumsum(lengths), 2)[:-1]]

    def area_before(pixels):
        return np.interp(pixels, edges, areas)

    common = (area_before(lesion_runs[:, 1] - shift) - area_before(lesion_runs[:, 0] - shift)).sum()
    return float(common / max(1, area_before(num_pixels - shift)))
