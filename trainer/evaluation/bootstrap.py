"""95% intervals by patient: patients are drawn with replacement, each with all its images (the
percentile bootstrap, Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

LEVEL = 0.95
FEWEST_PATIENTS = 10  # of fewer, an interval would be far too narrow
BLOCK_NUMBERS = 2**22  # weights that are held at a time


def intervals(
    measure: Callable, groups: Sequence, replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of `measure`: weights of images [R, N] -> {name: [R]}.

    A replicate where a score is not defined, such as one without a positive, is left out; where
    none is left the ends are nan. Of fewer than FEWEST_PATIENTS there are none.
    """
    if len(set(groups)) < FEWEST_PATIENTS:
        return {}
    found: dict[str, list] = {}
    for weights in drawn(groups, replicates, seed):
        for name, values in measure(weights).items():
            found.setdefault(name, []).append(values)
    return {name: _ends(np.concatenate(values)) for name, values in found.items()}


def drawn(groups: Sequence, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, [R, N] a block, R in all `replicates`; `groups`: [N], whose it
    is."""
    names, of_image = np.unique(np.asarray(groups), return_inverse=True)
    generator, patients = np.random.default_rng(seed), len(names)
    rows = max(1, BLOCK_NUMBERS // len(of_image))
    for start in range(0, replicates, rows):
        count = min(rows, replicates - start)
        draws = generator.integers(patients, size=(count, patients))
        draws += patients * np.arange(count)[:, None]
        times = np.bincount(draws.ravel(), minlength=count * patients)  # [count * patients]
        yield times.reshape(count, patients)[:, of_image].astype(np.float64)


def _ends(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
