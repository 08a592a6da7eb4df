"""95% intervals by patient: patients are drawn with replacement, each with all its images (the
percentile bootstrap, Efron & Tibshirani 1993, chapter 13). Where no patient is known, by study or
image.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

LEVEL = 0.95
FEWEST_PATIENTS = 10  # with fewer, an interval would be far too narrow
BLOCK_NUMBERS = 2**22  # most weights in memory at a time


UNITS = {"patient": "patients", "study": "studies", "image_id": "images"}


def unit(groups: Sequence[str]) -> str:
    """Return the word for the groups that are drawn: patients, or studies or images where no
    patient is known; `groups`: those of predictions, such as patient/1f3a."""
    kinds = {group.partition("/")[0] for group in groups}
    return " and ".join(unit for kind, unit in UNITS.items() if kind in kinds)


def intervals(
    measure: Callable, groups: Sequence, replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return {name: (low, high)} for `measure`, which maps weights of images [R, N] to
    {name: [R]}; `groups`: the patient of each image, [N].

    A replicate where a score is not defined, such as one without a positive, is left out; if none
    is left the ends are nan. With fewer than FEWEST_PATIENTS there are no intervals.
    """
    if len(set(groups)) < FEWEST_PATIENTS:
        return {}
    replicates_by_name: dict[str, list] = {}
    for weights in draws(groups, replicates, seed):
        for name, values in measure(weights).items():
            replicates_by_name.setdefault(name, []).append(values)
    return {name: _ends(np.concatenate(values)) for name, values in replicates_by_name.items()}


def draws(groups: Sequence, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the number of times that each image is drawn, [R, N] per block; the R of all blocks add
    up to `replicates`. `groups`: the patient of each image, [N]."""
    patients, patient_of_image = np.unique(np.asarray(groups), return_inverse=True)
    generator, num_patients = np.random.default_rng(seed), len(patients)
    block_replicates = max(1, BLOCK_NUMBERS // len(patient_of_image))
    for start in range(0, replicates, block_replicates):
        count = min(block_replicates, replicates - start)
        # Each replicate has its own range of numbers, so that one bincount counts all replicates.
        numbers = generator.integers(num_patients, size=(count, num_patients))
        numbers += num_patients * np.arange(count)[:, None]
        times = np.bincount(numbers.ravel(), minlength=count * num_patients)
        yield times.reshape(count, num_patients)[:, patient_of_image].astype(np.float64)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the interval of a score's replicates [R]; nan where none is a number."""
    values = np.sort(values[~np.isnan(values)])
    if not len(values):
        return float("nan"), float("nan")
    if np.isinf(values[-1]):  # between a number and infinity there is nothing to interpolate
        last = len(values) - 1
        low, high = math.floor(last * (1 - LEVEL) / 2), math.ceil(last * (1 + LEVEL) / 2)
        return float(values[low]), float(values[high])
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
