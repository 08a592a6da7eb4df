"""Parses `--splits`, and deals groups, which stand in a line, to the splits by their quotas."""

from fractions import Fraction

import numpy as np

from lake import InputError
from lake.labels.tables import MAX_SPLIT_NAME

Splits = tuple[tuple[str, Fraction], ...]


def parse(text: str) -> Splits:
    """Return ((name, share), …) of a text such as `train=0.8,val=0.1,test=0.1`, or raise
    InputError."""
    try:
        splits = tuple(
            (name.strip(), Fraction(share))
            for name, share in (part.split("=") for part in text.split(","))
        )
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"--splits={text}: expected NAME=SHARE,…, such as train=0.8,val=0.1,test=0.1"
        ) from None
    names = [name for name, _ in splits]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise InputError(f"--splits={text}: split names must differ and be plain words")
    if max(map(len, names)) > MAX_SPLIT_NAME or not text.isascii():
        raise InputError(f"--splits={text}: split names have at most {MAX_SPLIT_NAME} letters")
    if any(share < 0 for _, share in splits) or sum(share for _, share in splits) != 1:
        raise InputError(
            f"--splits={text}: the shares add up to {float(sum(s for _, s in splits)):g}, "
            f"expected 1"
        )
    return splits


def deal(count: int, splits: Splits) -> np.ndarray:
    """Return the number of the split that each of `count` positions gets, uint8 [count]; any n
    positions in a row have share·n of each split, within 2.

    The last split takes its share of all positions, the one before it of those that remain, and so
    on; the first split gets the rest.
    """
    split_numbers = np.zeros(count, np.uint8)
    open_positions, remaining = np.arange(count, dtype=np.int32), Fraction(1)
    for number, (_, share) in reversed(list(enumerate(splits[1:], start=1))):
        # Systematic sampling: a position is taken where quota·position passes n + 1/2 for some n.
        quota = share / remaining if remaining else Fraction(0)
        quota = quota.limit_denominator(10_000)  # so that the products below fit 64 bits
        totals = np.arange(len(open_positions) + 1)  # changed in place: there may be ten million
        totals *= 2 * quota.numerator
        totals += quota.denominator
        totals //= 2 * quota.denominator
        is_in_split = np.diff(totals) > 0
        split_numbers[open_positions[is_in_split]] = number
        open_positions, remaining = open_positions[~is_in_split], remaining - share
    return split_numbers
