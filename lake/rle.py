"""The SIIM-ACR run-length code: text <-> runs <-> mask.

A text is pairs of (gap since the end of the previous run, run length), zero-based, counted down the
columns of a mask [height, width]; `-1` is an empty mask. Runs are int64 [N, 2] of (start, end),
sorted, disjoint.
"""

import numpy as np

from lake import Reject

EMPTY = "-1"
NO_RUNS = np.zeros((0, 2), np.int64)


def runs(text: str, num_pixels: int) -> np.ndarray:
    """Runs [N, 2] of one text; raises Reject for a text that no mask of `num_pixels` pixels can
    have."""
    numbers = text.split()
    if numbers in ([], [EMPTY]):
        return NO_RUNS
    try:
        pairs = np.array(numbers, np.int64)
    except (ValueError, OverflowError):
        raise Reject(
            "rle-not-numbers", f"run-length text {text[:40]!r} is not whole numbers"
        ) from None
    if len(pairs) % 2:
        raise Reject(
            "rle-odd-count",
            f"run-length text has {len(pairs)} numbers; pairs of (gap, length) are expected",
        )
    gaps, lengths = pairs.reshape(-1, 2).T
    if (gaps < 0).any() or (lengths < 0).any():
        raise Reject("rle-negative", f"run-length text has the negative number {pairs.min()}")
    if gaps.max() > num_pixels or lengths.max() > num_pixels or (gaps + lengths).sum() > num_pixels:
        raise Reject(
            "rle-out-of-bounds",
            f"run-length text reaches pixel {sum(map(int, numbers))}; the image has {num_pixels}",
        )
    ends = np.cumsum(gaps + lengths)
    return unite([np.stack([ends - lengths, ends], axis=1)])


def unite(parts: list[np.ndarray]) -> np.ndarray:
    """The union of several sets of runs: sorted, and runs that touch or overlap joined."""
    together = np.concatenate([NO_RUNS, *parts])
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
    """The run-length text of runs [N, 2]; `-1` where there are none."""
    if not len(joined):
        return EMPTY
    previous_ends = np.r_[0, joined[:-1, 1]]
    pairs = np.stack([joined[:, 0] - previous_ends, joined[:, 1] - joined[:, 0]], axis=1)
    return " ".join(map(str, pairs.ravel().tolist()))


def to_mask(joined: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask uint8 [height, width], 0 or 255, of runs [N, 2]."""
    edges = np.zeros(height * width + 1, np.int8)
    edges[joined[:, 0]], edges[joined[:, 1]] = 1, -1
    # The code counts down the columns, so fill [width, height] and transpose.
    painted = np.cumsum(edges[:-1], dtype=np.int8).view(np.uint8) * 255
    return np.ascontiguousarray(painted.reshape(width, height).T)


def from_mask(mask: np.ndarray) -> np.ndarray:
    """Runs [N, 2] of a mask [height, width]; any value but 0 is lesion."""
    flat = np.r_[False, mask.T.ravel() != 0, False]
    return np.flatnonzero(flat[1:] != flat[:-1]).reshape(-1, 2)


def decode(text: str, height: int, width: int) -> np.ndarray:
    """Mask uint8 [height, width], 0 or 255, of one run-length text."""
    return to_mask(runs(text, height * width), height, width)


def encode(mask: np.ndarray) -> str:
    """Run-length text of a mask [height, width]; `-1` when it is empty."""
    return to_text(from_mask(mask))
