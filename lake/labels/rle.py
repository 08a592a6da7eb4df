"""Run-length codes of masks: text <-> runs <-> mask, and signs that a text is in another dialect.

A text is pairs of numbers, one pair a run of lesion pixels; `-1` is an empty mask. Its dialect says
what they count. Runs are int64 [N, 2] of (start, end), sorted, disjoint, zero-based, down the
columns of a mask [height, width], whatever the dialect was.

relative    gap since the end of the previous run, length; zero-based, down columns (SIIM-ACR)
absolute    start counted from 1, length; down columns (most Kaggle challenges)
row_major   start counted from 1, length; along rows (Carvana)
"""

import re
from collections.abc import Iterable

import numpy as np

from lake import Reject

DIALECTS = ("relative", "absolute", "row_major")
ORDERS = ("absolute", "row_major")  # dialects whose texts look alike; the mask alone tells them
EMPTY = "-1"
NUMBERS = re.compile(r"\s*[+-]?\d+(?:\s+[+-]?\d+)*\s*", re.ASCII)
NO_RUNS = np.zeros((0, 2), np.int64)

# Of the 3,576 texts of SIIM-ACR, 3 % of consecutive runs are in the order that absolute starts must
# be in, and 46 % of the worst text; of an absolute text all are.
IN_ORDER = 0.9
MIN_STEPS = 10  # such pairs before a verdict: five texts of three runs, or one of eleven
# Of 300 SIIM-ACR masks in images of eleven shapes, 2 in 6,600 were wrong by more, both where the
# sides differed by one pixel.
VOTE_MARGIN = 0.05
MIN_VOTES = 3


def runs(text: str, height: int, width: int = 1, dialect: str = "relative") -> np.ndarray:
    """Runs [N, 2] of one text; raises Reject for a text that no mask [height, width] can have.

    Down columns only the number of pixels counts, so a mask may be told as one column of them all.
    """
    pairs = _pairs(text)
    if not len(pairs):
        return NO_RUNS
    if (pairs < 0).any():
        raise Reject("rle-negative", f"run-length text has the negative number {pairs.min()}")
    num_pixels = height * width
    if dialect == "relative":
        found = _from_gaps(pairs, num_pixels)
    else:
        found = _from_starts(pairs, num_pixels)
    found = unite([found])
    return _turned(found, width, height) if dialect == "row_major" else found


def _pairs(text: str) -> np.ndarray:
    """The numbers of a text as int64 [N, 2]; raises Reject."""
    if text.strip() in ("", EMPTY):
        return NO_RUNS
    if not NUMBERS.fullmatch(text):
        raise Reject("rle-not-numbers", f"run-length text {text[:40]!r} is not whole numbers")
    # Numbers beyond int64 stay beyond every image. int() of each would take ten times as long.
    pairs = np.fromstring(text, np.int64, sep=" ")
    if len(pairs) % 2:
        raise Reject(
            "rle-odd-count", f"run-length text has {len(pairs)} numbers; pairs are expected"
        )
    return pairs.reshape(-1, 2)


def _from_gaps(pairs: np.ndarray, num_pixels: int) -> np.ndarray:
    gaps, lengths = pairs.T
    if pairs.max() > num_pixels or pairs.sum() > num_pixels:
        raise Reject(
            "rle-out-of-bounds",
            f"run-length text reaches pixel {sum(pairs.ravel().tolist())}; the image has "
            f"{num_pixels}. Are its numbers starts (--rle absolute or row_major)?",
        )
    ends = np.cumsum(gaps + lengths)
    return np.stack([ends - lengths, ends], axis=1)


def _from_starts(pairs: np.ndarray, num_pixels: int) -> np.ndarray:
    pairs = pairs[pairs[:, 1] > 0]  # `1 0` and `0 0` are spellings of an empty mask
    starts, lengths = pairs.T
    if (starts < 1).any():
        raise Reject("rle-out-of-bounds", "run-length text starts at 0; absolute starts from 1")
    if (pairs > num_pixels).any() or (starts + lengths - 1 > num_pixels).any():
        raise Reject(
            "rle-out-of-bounds",
            f"run-length text reaches pixel {max(map(sum, pairs.tolist())) - 1}; the image has "
            f"{num_pixels}",
        )
    if not _is_step(pairs).all():
        raise Reject(
            "rle-not-increasing",
            f"run {1 + int(np.argmin(_is_step(pairs)))} of a run-length text ends after the next "
            f"starts; absolute starts increase. Is it relative (--rle relative)?",
        )
    return np.stack([starts - 1, starts - 1 + lengths], axis=1)


def _is_step(pairs: np.ndarray) -> np.ndarray:
    """Whether each run [N, 2], read as (start, length), ends before the next starts; [N - 1]."""
    # Without adding: numbers that were not checked yet may be as large as int64.
    return pairs[1:, 0] - pairs[:-1, 0] >= pairs[:-1, 1]


def unite(parts: list[np.ndarray]) -> np.ndarray:
    """The union of several sets of runs: sorted, and runs that touch or overlap joined."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_RUNS
    together = np.concatenate(parts)
    together = together[together[:, 1] > together[:, 0]]
    together = together[np.argsort(together[:, 0], kind="stable")]
    starts, ends = together[:, 0], np.maximum.accumulate(together[:, 1])
    opens = np.r_[True, starts[1:] > ends[:-1]][: len(starts)]
    closes = np.r_[opens[1:], True][: len(starts)]
    return np.stack([starts[opens], ends[closes]], axis=1)


def area(joined: np.ndarray) -> int:
    """Number of pixels in runs that `runs` or `unite` returned."""
    return int((joined[:, 1] - joined[:, 0]).sum())


def to_text(joined: np.ndarray) -> str:
    """The relative text of runs [N, 2]; `-1` where there are none."""
    previous_ends = np.r_[0, joined[:, 1]][: len(joined)]
    return _text(joined[:, 0] - previous_ends, joined)


def _text(firsts: np.ndarray, joined: np.ndarray) -> str:
    if not len(joined):
        return EMPTY
    pairs = np.stack([firsts, joined[:, 1] - joined[:, 0]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def to_mask(joined: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask uint8 [height, width], 0 or 255, of runs [N, 2]."""
    mask = np.zeros((height, width), np.uint8)
    if len(joined):
        # The code counts down the columns: fill [columns, height] and transpose, but only the
        # columns that a run touches, a third of a radiograph's.
        first, last = int(joined[0, 0]) // height, -(-int(joined[-1, 1]) // height)
        painted = np.zeros((last - first) * height, np.uint8)
        for start, end in (joined - first * height).tolist():
            painted[start:end] = 255
        mask[:, first:last] = painted.reshape(last - first, height).T
    return mask


def from_mask(mask: np.ndarray) -> np.ndarray:
    """Runs [N, 2] of a mask [height, width]; any value but 0 is lesion."""
    flat = np.r_[False, mask.T.ravel() != 0, False]
    return np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)


def decode(text: str, height: int, width: int, dialect: str = "relative") -> np.ndarray:
    """Mask uint8 [height, width], 0 or 255, of one run-length text."""
    return to_mask(runs(text, height, width, dialect), height, width)


def encode(mask: np.ndarray, dialect: str = "relative") -> str:
    """Run-length text of a mask [height, width]; `-1` when it is empty."""
    if dialect == "relative":
        return to_text(from_mask(mask))
    joined = from_mask(mask.T if dialect == "row_major" else mask)
    return _text(joined[:, 0] + 1, joined)


def dialect_conflict(texts: Iterable[str], dialect: str) -> str | None:
    """What speaks against `dialect` in a sample of a CSV's texts, None where nothing does.

    Told are only gaps from starts; `order_evidence` tells columns from rows. Texts that are no
    numbers or have fewer than three runs say nothing.
    """
    steps = told = 0
    for text in texts:
        try:
            pairs = _pairs(text)
        except Reject:
            continue
        if len(pairs) >= 3 and pairs.min() >= 0:
            steps, told = steps + int(_is_step(pairs).sum()), told + len(pairs) - 1
    looks_absolute = steps >= IN_ORDER * told
    if told < MIN_STEPS or looks_absolute == (dialect != "relative"):
        return None
    other = "absolute, or row_major if it counts along rows" if looks_absolute else "relative"
    return (
        f"the run-length texts do not look {dialect}: in {steps:,} of {told:,} places the first "
        f"number of a run lies beyond the run before it, as it always does in absolute starts and "
        f"seldom in relative gaps; expected --rle {other}"
    )


def order_evidence(joined: np.ndarray, height: int, width: int, dialect: str) -> tuple[int, int]:
    """Votes of one image for (down columns, along rows) as the way its text really counted.

    `joined` are the runs that were read from the text as `dialect`; votes of many images may be
    summed. In the true order the lesion's neighbouring lines lie one line's length apart, so most
    of it meets itself again when shifted by that. An image has no vote, (0, 0), when it is square
    (the wrong reading is the transposed mask then, and as coherent), empty, or about as coherent
    both ways: of nearly equal sides, or a single line.
    """
    if height == width:
        return 0, 0
    if dialect == "row_major":
        joined = _turned(joined, height, width)  # as the text counted
    as_columns, as_rows = (_met_again(joined, step, height * width) for step in (height, width))
    return int(as_columns - as_rows > VOTE_MARGIN), int(as_rows - as_columns > VOTE_MARGIN)


def order_conflict(votes: tuple[int, int], dialect: str) -> str | None:
    """What the summed votes of `order_evidence` say against `dialect`, None where nothing."""
    columns, rows = votes
    right, wrong = (rows, columns) if dialect == "row_major" else (columns, rows)
    if wrong < MIN_VOTES or wrong <= right:
        return None
    if dialect == "relative":
        todo = "decode them yourself and write lake.rle.encode of each mask"
    else:
        todo = f"use --rle {'absolute' if dialect == 'row_major' else 'row_major'}"
    read, seems = ("along rows", "down columns")[:: 1 if dialect == "row_major" else -1]
    return (
        f"the masks hold together in {wrong:,} images if their run lengths count {seems} and in "
        f"{right:,} if they count {read}, as {dialect} does; {todo}"
    )


def _turned(joined: np.ndarray, height: int, width: int) -> np.ndarray:
    """Runs down the columns of a mask [height, width] -> runs along its rows."""
    return from_mask(to_mask(joined, height, width).T)


def _met_again(joined: np.ndarray, shift: int, num_pixels: int) -> float:
    """Share of a mask's pixels that meet it again `shift` pixels on, of those with room to."""
    if not len(joined):
        return 0.0
    lengths = joined[:, 1] - joined[:, 0]
    edges, below = joined.ravel(), np.r_[0, np.repeat(np.cumsum(lengths), 2)[:-1]]

    def area_below(pixels):
        return np.interp(pixels, edges, below)

    met = (area_below(joined[:, 1] - shift) - area_below(joined[:, 0] - shift)).sum()
    return float(met / max(1, area_below(num_pixels - shift)))
