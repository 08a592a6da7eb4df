"""A few images of a split as they are shown: truth and prediction over the image itself, both from
masks at the source's own size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from trainer.config import run
from trainer.data import record
from trainer.data.batches import Split, evaluation_batches
from trainer.display import panel
from trainer.evaluation import predictions, scores
from trainer.evaluation.predictions import Predictions
from trainer.inference import decision
from trainer.inference.decision import Decision, Sizes
from trainer.inference.ensemble import Ensemble
from trainer.models import window
from trainer.scoring import metrics

SIDE = 384  # the longer side of an image, in pixels
A_ROW = 4
PICTURED_POSITIVES, PICTURED_OTHERS = 6, 2


class Shown(NamedTuple):
    image: np.ndarray  # [h, w] in [0, 1]
    truth: np.ndarray | None  # [h, w] bool; None where no mask is known, and of classifiers
    predicted: np.ndarray | None


def of(
    system: Ensemble,
    split: Split,
    batches: tf.data.Dataset,
    places: Sequence[int],
    chosen: Decision | None,
) -> dict[int, Shown]:
    """{place: what it looks like} of the images at these places of the split; `batches`: its own,
    by trainer/evaluation/predictions.py."""
    images = _images(split, places, system.settings.batch_size)
    found = {}
    told = predictions.items(system, batches, places)
    for place, (item, probabilities, lesion, _) in zip(sorted(set(places)), told, strict=True):
        image, truth, predicted = images[place], None, None
        if probabilities is not None:
            sizes = Sizes.from_fields(item)
            mask = decision.source_mask(probabilities, sizes, system.settings, chosen, lesion)
            predicted = _fitted(np.asarray(mask), image.shape)
            truth = _fitted(predictions.truth(item), image.shape) if item["has_mask"] else None
        found[place] = Shown(image, truth, predicted)
    return found


def _images(split: Split, places: Sequence[int], batch_size: int) -> dict[int, np.ndarray]:
    """[h, w] in [0, 1], through each record's window, without padding."""
    settings = run.Data(side=SIDE, batch_size=batch_size)
    batches = evaluation_batches(split, settings, ("height", "width"))
    found = {}
    for number, batch in enumerate(batches):
        for place in {place for place in places if place // batch_size == number}:
            row = slice(place % batch_size, place % batch_size + 1)
            image = np.asarray(window.to_unit(batch["image"][row], batch["window"][row]))[0, ..., 0]
            size = (int(batch[name][row][0]) for name in ("height", "width"))
            top, left, height, width = record.box_within(*size, SIDE, "pad")
            found[place] = image[top : top + height, left : left + width]
    return found


def _fitted(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask at another size: what is more than half of it."""
    shares = Image.fromarray(mask.astype(np.float32))
    return np.asarray(shares.resize(shape[::-1], Image.Resampling.BOX)) > 0.5


def first_few(predicted: Predictions) -> list[int]:
    """Places of the first few images with a lesion and of the first few others."""
    is_positive = predicted.labels > 0
    chosen = [
        np.flatnonzero(is_positive)[:PICTURED_POSITIVES],
        np.flatnonzero(~is_positive)[:PICTURED_OTHERS],
    ]
    return np.concatenate(chosen).tolist()


def choose(predicted: Predictions, chosen: Decision) -> dict[str, list[int]]:
    """{what they are: places in the split}, none or a few of each."""
    places, is_called = scores.calls(predicted, chosen)
    is_positive = predicted.labels[places] > 0
    if chosen.triplet is None:
        value, named = predicted.lesion[places], "p of a lesion"
        certainty = value
    else:
        value, named = scores.dices(predicted, chosen), "dice"
        bottom = predicted.counted.columns([chosen.triplet.bottom])[0]
        certainty = predicted.counted.above[:, bottom] / predicted.counted.pixels
    lesions = np.flatnonzero(is_positive)
    order = lesions[np.argsort(-value[lesions], kind="stable")]
    alarms = np.flatnonzero(~is_positive & is_called)
    middle = max(0, len(order) // 2 - A_ROW // 2)
    found = {
        f"With a lesion, highest {named}": order[:A_ROW],
        f"With a lesion, median {named}": order[middle : middle + A_ROW],
        f"With a lesion, lowest {named}": order[::-1][:A_ROW],
        "Without a lesion, called so": alarms[np.argsort(-certainty[alarms], kind="stable")][
            :A_ROW
        ],
    }
    return {title: places[row].tolist() for title, row in found.items()}


def picture(predicted: Predictions, shown: dict[int, Shown], dices: dict[int, float]) -> np.ndarray:
    """RGB uint8 [H, W, 3]: truth and prediction side by side; of a classifier label and p.

    dices: of the places with a mask, at the source's own size.
    """
    images = [one.image for one in shown.values()]
    if all(one.predicted is None for one in shown.values()):
        said = [_said(predicted.labels[place], predicted.scores[place]) for place in shown]
        return panel.side_by_side(images, None, None, said, pairs_a_row=4)
    truths, masks = ([_drawn(one[part]) for one in shown.values()] for part in (1, 2))
    captions = [f"dice {dices[p]:.2f}" if p in dices else "truth unknown" for p in shown]
    return panel.side_by_side(images, truths, masks, captions)


def _drawn(mask: np.ndarray | None) -> np.ndarray | None:
    return None if mask is None else mask.astype(np.float32)


def _said(label: float, scores: np.ndarray) -> str:
    p = metrics.to_probabilities(np.atleast_1d(scores)[None])[0]
    said = f"{p.argmax()}: " if len(p) > 1 else ""
    return f"label {label:.0f}, {said}p = {p.max():.2f}"
