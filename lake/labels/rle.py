"""Run-length codes of masks: text <-> runs <-> mask, and signs that a text is in another dialect
(`coherence` has those that only the mask shows).

A text is pairs of numbers, one pair per run of lesion pixels; `-1` is an empty mask. Its dialect
says what they count. Runs are int64 [N, 2] of (start, end), sorted, disjoint, zero-based, down the
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
ORDERS = ("absolute", "row_major")  # dialects whose texts look alike; only the mask can tell
EMPTY = "-1"
NUMBERS = re.compile(r"\s*[+-]?\d+(?:\s+[+-]?\d+)*\s*", re.ASCII)
NO_RUNS = np.zeros((0, 2), np.int64)

# `dialect_conflict`: where this share of consecutive runs increase, as absolute starts must, a text
# is absolute. In the 3,576 relative texts of SIIM-ACR 3% of them do, in the worst text 46%.
IN_ORDER = 0.9
MIN_PAIRS = 10  # of consecutive runs before a verdict: five texts of three runs, or one of eleven


def runs(text: str, height: int, width: int = 1, dialect: str = "relative") -> np.ndarray:
    """Return the runs [N, 2] of one text; raise Reject for a text that no mask [height, width] can
    have.

    Down columns only the number of pixels matters, so `height` may be all pixels of the mask.
    """
    pairs = _pairs(text)
    if not len(pairs):
        return NO_RUNS
    if (pairs < 0).any():
        raise Reject("rle-negative", f"run-length text has the negative number {pairs.min()}")
    parse = _from_gaps if dialect == "relative" else _from_starts
    all_runs = unite([parse(pairs, height * width)])
    return transpose(all_runs, width, height) if dialect == "row_major" else all_runs


def _pairs(text: str) -> np.ndarray:
    """Return the numbers of a text as int64 [N, 2]; raise Reject where they are not pairs."""
    if text.strip() in ("", EMPTY):
        return NO_RUNS
    # The usual text, of digits and spaces, is known without the pattern, which takes longest here.
    if not (text.isascii() and text.replace(" ", "").isdigit()) and not NUMBERS.fullmatch(text):
        raise Reject("rle-not-numbers", f"run-length text {text[:40]!r} is not whole numbers")
    # Numbers beyond int64 become the largest, still beyond every image. Python's int() would take
    # ten times as long.
    pairs = np.fromstring(text, np.int64, sep=" ")
    if len(pairs) % 2:
        raise Reject("rle-odd-count", f"run lengths have {len(pairs)} numbers; pairs are expected")
    return pairs.reshape(-1, 2)


def _from_gaps(pairs: np.ndarray, num_pixels: int) -> np.ndarray:
    """Return the runs [N, 2] of (gap, length) pairs [N, 2]; raise Reject where they reach beyond
    the image."""
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
    """Return the runs [N, 2] of (start from 1, length) pairs [N, 2]; raise Reject where they reach
    beyond the image, overlap or are not in order."""
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
    if not _increases(pairs).all():
        raise Reject(
            "rle-not-increasing",
            f"run {1 + int(np.argmin(_increases(pairs)))} of a run-length text ends after the next "
            f"starts; absolute starts increase. Is it relative (--rle relative)?",
        )
    return np.stack([starts - 1, starts - 1 + lengths], axis=1)


def _increases(pairs: np.ndarray) -> np.ndarray:
    """Return whether each run [N, 2], read as (start, length), ends before the next starts, bool
    [N - 1]."""
    # Without a sum: numbers that were not checked yet may be as large as int64.
    return pairs[1:, 0] - pairs[:-1, 0] >= pairs[:-1, 1]


def unite(parts: list[np.ndarray]) -> np.ndarray:
    """Return the union of several sets of runs: sorted, and runs that touch or overlap joined."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_RUNS
    all_runs = np.concatenate(parts)
    starts, ends = all_runs.T
    if len(parts) == 1 and (starts < ends).all() and (ends[:-1] < starts[1:]).all():
        return all_runs  # as it is nearly always
    all_runs = all_runs[starts < ends]
    all_runs = all_runs[np.argsort(all_runs[:, 0], kind="stable")]
    starts, ends = all_runs[:, 0], np.maximum.accumulate(all_runs[:, 1])
    opens = np.r_[True, starts[1:] > ends[:-1]][: len(starts)]
    closes = np.r_[opens[1:], True][: len(starts)]
    return np.stack([starts[opens], ends[closes]], axis=1)


def area(lesion_runs: np.ndarray) -> int:
    """Return the number of pixels in runs that `runs` or `unite` returned."""
    return int((lesion_runs[:, 1] - lesion_runs[:, 0]).sum())


def to_text(lesion_runs: np.ndarray) -> str:
    """Return the relative text of runs [N, 2]; `-1` where there are none."""
    previous_ends = np.r_[0, lesion_runs[:, 1]][: len(lesion_runs)]
    return _text(lesion_runs[:, 0] - previous_ends, lesion_runs)


def is_canonical(text: str) -> bool:
    """Return whether a relative text with at least one run is exactly what `to_text` would
    write."""
    is_plain = text.isascii() and text[-1:].isdigit() and text.replace(" ", "").isdigit()
    # " 0" begins an empty run, a run that touches the one before, or a leading zero. Only the first
    # gap may be 0.
    has_no_zeros = "  " not in text and " 0" not in text
    first_gap = text.partition(" ")[0]
    return is_plain and has_no_zeros and (first_gap == "0" or first_gap[:1] > "0")


def _text(firsts: np.ndarray, lesion_runs: np.ndarray) -> str:
    """Return the text of runs [N, 2]: in front of each length its number from `firsts` [N], a gap
    or a start."""
    if not len(lesion_runs):
        return EMPTY
    pairs = np.stack([firsts, lesion_runs[:, 1] - lesion_runs[:, 0]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def to_mask(lesion_runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mask uint8 [height, width], 0 or 255, of runs [N, 2]."""
    mask = np.zeros((height, width), np.uint8)
    if not len(lesion_runs):
        return mask
    # Runs count down the columns: fill [columns, height] and transpose, but only the columns and
    # rows that a run touches, a sixth of a radiograph's. One that goes on into the next column
    # touches all rows.
    starts, ends = lesion_runs.T
    tops, bottoms = starts % height, (ends - 1) % height + 1
    is_whole = bool((ends - starts > bottoms - tops).any())
    top, bottom = (0, height) if is_whole else (int(tops.min()), int(bottoms.max()))
    left, right = int(starts[0]) // height, -(-int(ends[-1]) // height)
    pixels = np.zeros((right - left) * height, np.uint8)
    for start, end in (lesion_runs - left * height).tolist():
        pixels[start:end] = 255
    mask[top:bottom, left:right] = pixels.reshape(right - left, height)[:, top:bottom].T
    return mask


def from_mask(mask: np.ndarray) -> np.ndarray:
    """Return the runs [N, 2] of a mask [height, width]; any value but 0 is lesion."""
    flat = np.r_[False, mask.T.ravel() != 0, False]
    return np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)


def decode(text: str, height: int, width: int, dialect: str = "relative") -> np.ndarray:
    """Return the mask uint8 [height, width], 0 or 255, of one run-length text."""
    return to_mask(runs(text, height, width, dialect), height, width)


def encode(mask: np.ndarray, dialect: str = "relative") -> str:
    """Return the run-length text of a mask [height, width]; `-1` when it is empty."""
    if dialect == "relative":
        return to_text(from_mask(mask))
    lesion_runs = from_mask(mask.T if dialect == "row_major" else mask)
    return _text(lesion_runs[:, 0] + 1, lesion_runs)


def dialect_conflict(texts: Iterable[str], dialect: str) -> str | None:
    """Return a message where a sample of a CSV's texts is not in `dialect`, None where it may be.

    Only relative and absolute texts can be told apart here; `coherence` tells columns from rows.
    Texts that are not numbers or have fewer than three runs are ignored.
    """
    num_pairs = num_increasing = 0
    for text in texts:
        try:
            pairs = _pairs(text)
        except Reject:
            continue
        if len(pairs) >= 3 and pairs.min() >= 0:
            num_pairs += len(pairs) - 1
            num_increasing += int(_increases(pairs).sum())
    looks_absolute = num_increasing >= IN_ORDER * num_pairs
    if num_pairs < MIN_PAIRS or looks_absolute == (dialect != "relative"):
        return None
    advice = "absolute, or row_major if it counts along rows" if looks_absolute else "relative"
    return (
        f"the run-length texts do not look {dialect}: {num_increasing:,} of {num_pairs:,} runs "
        f"begin, read as absolute starts, after the end of the run before, as all of absolute and "
        f"few of relative texts do; expected --rle {advice}"
    )


def transpose(lesion_runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the runs along the rows of a mask [height, width] from those down its columns."""
    return from_mask(to_mask(lesion_runs, height, width).T)
