"""Nodule candidates and true nodules -> sensitivity over false positives per scan (FROC) and CPM,
by the rules of LUNA16 (Setio et al. 2017, doi:10.1016/j.media.2017.06.015).

    hit       a candidate that is nearer to a nodule's centre than the nodule's radius
    once      of several hits on one nodule the most probable counts, the others are ignored
    ignored   a candidate on an irrelevant finding is no false positive; nobody has to find those
    CPM       the mean of the sensitivities at RATES false positives per scan

In: spheres and candidates of each scan, in world mm. Out: counts, sensitivities and a curve.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer.evaluation import bootstrap

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per scan
MOST_POINTS = 400  # of the curve that is written


class Spheres(NamedTuple):
    """Findings of one scan."""

    centers_mm: np.ndarray  # [N, 3]
    radii_mm: np.ndarray  # [N]


class Candidates(NamedTuple):
    """Candidates of one scan."""

    centers_mm: np.ndarray  # [C, 3]
    probabilities: np.ndarray  # [C]


class ScanMarks(NamedTuple):
    """What became of the candidates of one scan."""

    hits: np.ndarray  # the probability of each nodule that was found, [hits]
    alarms: np.ndarray  # of each false positive, [alarms]
    num_nodules: int
    num_repeated: int  # further hits on a nodule
    num_irrelevant: int


class Marks(NamedTuple):
    """Hits and false positives of all scans, the most probable first."""

    probabilities: np.ndarray  # [M]
    is_hit: np.ndarray  # [M]
    scans: np.ndarray  # the place of each one's scan, [M]
    nodules: np.ndarray  # their number in each scan, [S]


def match(candidates: Candidates, nodules: Spheres, irrelevant: Spheres) -> ScanMarks:
    """Return the hits and the false positives among a scan's candidates. A candidate on a nodule
    and on an irrelevant finding is a hit, and one on two nodules is a hit on both."""
    is_on_nodule = _is_inside(candidates, nodules)  # [C, N]
    is_hit = is_on_nodule.any(axis=1)
    is_irrelevant = ~is_hit & _is_inside(candidates, irrelevant).any(axis=1)
    p = candidates.probabilities
    hits = [p[on_it].max() for on_it in is_on_nodule.T if on_it.any()]
    return ScanMarks(
        hits=np.array(hits, np.float64),
        alarms=p[~is_hit & ~is_irrelevant],
        num_nodules=len(nodules.radii_mm),
        num_repeated=int(np.maximum(is_on_nodule.sum(axis=0) - 1, 0).sum()),
        num_irrelevant=int(is_irrelevant.sum()),
    )


def _is_inside(candidates: Candidates, spheres: Spheres) -> np.ndarray:
    """Return whether each candidate is inside each sphere, bool [C, N]; its surface is outside."""
    apart_mm = candidates.centers_mm[:, None] - spheres.centers_mm[None]  # [C, N, 3]
    return (apart_mm**2).sum(axis=-1) < spheres.radii_mm**2


def gather(scans: Sequence[ScanMarks]) -> Marks:
    """Return the marks of all scans."""
    probabilities, is_hit, places = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, int)]
    for place, scan in enumerate(scans):
        for values, are_hits in ((scan.hits, True), (scan.alarms, False)):
            probabilities.append(values)
            is_hit.append(np.full(len(values), are_hits))
            places.append(np.full(len(values), place))
    columns = [np.concatenate(parts) for parts in (probabilities, is_hit, places)]
    order = np.argsort(-columns[0], kind="stable")
    nodules = np.array([scan.num_nodules for scan in scans])
    return Marks(*(column[order] for column in columns), nodules)


def curve(marks: Marks, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (false positives per scan, sensitivity) at each threshold, the highest first, from
    (0, 0) on; `weights` [S]: how often each scan counts. Without a nodule sensitivity is nan."""
    weights = np.ones(len(marks.nodules)) if weights is None else weights
    mark_weights = weights[marks.scans]
    # Candidates of one probability are all above a threshold or none is.
    ends = np.flatnonzero(np.diff(marks.probabilities, append=np.nan) != 0)
    hits = (mark_weights * marks.is_hit).cumsum()[ends]
    alarms = (mark_weights * ~marks.is_hit).cumsum()[ends]
    num_nodules = float(weights @ marks.nodules) or np.nan
    return np.r_[0, alarms] / weights.sum(), np.r_[0, hits] / num_nodules


def sensitivities(marks: Marks, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the sensitivity at each of RATES, [7]. Between points of the curve it is linear; where
    several points have the rate it is the highest, and beyond the last point that of the last."""
    return np.interp(RATES, *curve(marks, weights))


def scores(at_rates: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores by name, from the sensitivities at RATES, [..., 7]."""
    by_rate = {f"sensitivity_at_{rate:g}": at_rates[..., k] for k, rate in enumerate(RATES)}
    return {"cpm": at_rates.mean(axis=-1), **by_rate}


def intervals(
    marks: Marks, uids: Sequence[str], replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95% intervals of the scores by drawing scans; none with fewer than ten."""

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return scores(np.stack([sensitivities(marks, drawn) for drawn in weights]))

    return bootstrap.intervals(measure, uids, replicates, seed)


def thin_curve(points: tuple[np.ndarray, np.ndarray]) -> dict[str, list[float]]:
    """Return a curve's points by names, MOST_POINTS of them at most."""
    places = np.arange(len(points[0]))
    if len(places) > MOST_POINTS:
        places = np.linspace(0, len(places) - 1, MOST_POINTS).round().astype(int)
    names = "false_positives_per_scan", "sensitivity"
    return {name: values[places].tolist() for name, values in zip(names, points, strict=True)}
