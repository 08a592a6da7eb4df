"""Which images belong together: by view, sex, age and size of the lesion.

Predictions go in, {field: {group: places}} come out.
"""

import numpy as np

from trainer.evaluation.predictions import Predictions

UNKNOWN = "unknown"
AGES = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 90))  # years; the lake's highest is 90 and over
DECILES = 10


def of(predicted: Predictions) -> dict[str, dict[str, np.ndarray]]:
    """Places in the split; a field that is known of no image is left out."""
    found = {
        "view": _named(predicted.views),
        "sex": _named(predicted.sexes),
        "age": _named([_age(age) for age in predicted.ages]),
        "lesion size": _by_size(predicted),
    }
    return {field: groups for field, groups in found.items() if groups.keys() - {UNKNOWN}}


def _named(names: list[str]) -> dict[str, np.ndarray]:
    """Groups of equal names in their order, the unknown last."""
    of_images = np.array([name or UNKNOWN for name in names])
    known = sorted(set(of_images) - {UNKNOWN}, key=_order)
    return {
        str(name): np.flatnonzero(of_images == name)
        for name in (*known, UNKNOWN)
        if name in of_images
    }


def _order(name: str) -> tuple:
    """Bands of age by their first year."""
    first = name.split("-")[0].rstrip("+")
    return (int(first), "") if first.isdigit() else (0, name)


def _age(age: int) -> str:
    for low, high in AGES:
        if low <= age <= high:
            return f"{low}+" if high == AGES[-1][1] else f"{low}-{high}"
    return UNKNOWN


def _by_size(predicted: Predictions) -> dict[str, np.ndarray]:
    """Deciles of the images with a lesion by its share of the image, the smallest first; fewer
    groups where there are fewer images."""
    counted = predicted.counted
    share = counted.truth / np.maximum(counted.pixels, 1)
    lesions = np.flatnonzero(counted.truth > 0)
    order = lesions[np.argsort(share[lesions], kind="stable")]
    parts = [part for part in np.array_split(order, DECILES) if len(part)]
    return {
        f"{number}. {share[part[0]]:.2%} - {share[part[-1]]:.2%}": predicted.masked[part]
        for number, part in enumerate(parts, start=1)
    }
