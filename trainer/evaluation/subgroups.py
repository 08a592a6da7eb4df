"""Which images belong together: by view, sex, age and size of the lesion.

Predictions go in, {field: {group: places}} come out.
"""

import numpy as np

from trainer.evaluation.predictions import Predictions

UNKNOWN = "unknown"
AGES = (
    (0, 17),
    (18, 39),
    (40, 59),
    (60, 79),
    (80, 90),
)  # years; the lake stores 90 for 90 and over
DECILES, FEWEST = 10, 5  # groups of lesions by size, and lesions in one


def by_field(predictions: Predictions) -> dict[str, dict[str, np.ndarray]]:
    """Return places in the split by field and group, without the fields that are unknown for all
    images."""
    groups_by_field = {
        "view": _by_name(predictions.views),
        "sex": _by_name(predictions.sexes),
        "age": _by_name([_age_band(age) for age in predictions.ages]),
        "lesion size": _by_size(predictions),
    }
    return {field: groups for field, groups in groups_by_field.items() if groups.keys() - {UNKNOWN}}


def _by_name(names) -> dict[str, np.ndarray]:
    """Return the places of equal names, in the order of the names, unknown ones last."""
    names = np.array([name or UNKNOWN for name in names])
    order = sorted(set(names), key=lambda name: (name == UNKNOWN, _sort_key(name)))
    return {str(name): np.flatnonzero(names == name) for name in order}


def _sort_key(name: str) -> tuple:
    """Return the key by which a name is sorted: bands of age by their first year."""
    first_year = name.split("-")[0].rstrip("+")
    return (int(first_year), "") if first_year.isdigit() else (0, name)


def _age_band(age: int) -> str:
    for low, high in AGES:
        if low <= age <= high:
            return f"{low}+" if high == AGES[-1][1] else f"{low}-{high}"
    return UNKNOWN


def _by_size(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return the places of the images with a lesion in deciles of its share of the image, the
    smallest first; in fewer groups where these would have fewer than FEWEST images."""
    counts = predictions.counts
    shares = counts.truth / np.maximum(counts.pixels, 1)
    lesions = np.flatnonzero(counts.truth > 0)
    order = lesions[np.argsort(shares[lesions], kind="stable")]
    num_groups = min(DECILES, max(1, len(order) // FEWEST))
    parts = np.array_split(order, num_groups) if len(order) else []
    return {
        f"{number}. {shares[part[0]]:.2%} - {shares[part[-1]]:.2%}": predictions.mask_places[part]
        for number, part in enumerate(parts, start=1)
    }
