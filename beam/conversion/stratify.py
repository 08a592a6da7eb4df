"""Deals groups (patients) to parts so that each part gets its share of every finding.

In: which findings each group has, and the parts' shares. Out: the part of each group.
"""

import math
from fractions import Fraction

import numpy as np

from beam.conversion import quotas


def deal(has: np.ndarray, shares: list[Fraction], earlier: np.ndarray | None = None) -> np.ndarray:
    """Return the number of the part of each group, uint8 [G]; `has` bool [G, F] says which findings
    each has, in the order in which groups are dealt.

    Iterative stratification (Sechidis et al. 2011): the finding with fewest groups that are not yet
    dealt comes first, and each of its groups goes to the part that lacks most of that finding; of
    equals, to the one that lacks most groups, then to the first. What a part lacks is measured by
    the groups dealt so far, and not by all: else the largest part would get the first ones, which
    are patients with few images. Groups without a finding come last, so that each part has its
    share of all groups. `earlier` int [parts, 1 + F] counts the groups that each part already has,
    and those with each finding: they count as dealt before.
    """
    unit = math.lcm(*(share.denominator for share in shares))  # a group, so that all are whole
    weights = np.array([int(share * unit) for share in shares])
    num_open = has.sum(axis=0)  # [F]
    if earlier is None:
        earlier = np.zeros((len(shares), 1 + has.shape[1]), np.int64)
    lacks_groups, *lacks = earlier.sum(axis=0)[:, None] * weights - unit * earlier.T  # [parts] each
    lacks, part_of = np.array(lacks).reshape(-1, len(shares)), np.full(len(has), -1, np.int16)
    while num_open.any():
        rarest = np.argmin(np.where(num_open, num_open, len(has) + 1))
        groups = np.flatnonzero(has[:, rarest] & (part_of < 0))
        for group, findings in zip(groups.tolist(), has[groups], strict=True):
            part = np.lexsort((-lacks_groups, -(lacks[rarest] + weights)))[0]
            part_of[group] = part
            gains = weights.copy()
            gains[part] -= unit
            lacks_groups += gains
            lacks[findings] += gains
        num_open = has[part_of < 0].sum(axis=0)
    rest = np.flatnonzero(part_of < 0)
    part_of[rest] = quotas.deal(len(rest), _shares_of_rest(lacks_groups + len(rest) * weights))
    return part_of.astype(np.uint8)


def _shares_of_rest(lacks_groups: np.ndarray) -> quotas.Splits:
    """Return the shares in which the rest goes to parts that lack so much each."""
    lacks = np.maximum(lacks_groups, 0).tolist()
    total = sum(lacks) or 1
    return tuple((str(number), Fraction(lack, total)) for number, lack in enumerate(lacks))
