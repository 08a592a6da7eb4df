"""One pass over a split -> a few numbers an image, whatever its size: all that scores, curves and
thresholds are made of.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from lake.labels import rle
from trainer.data.batches import Split
from trainer.inference import counts, decision
from trainer.inference.counts import Counts
from trainer.inference.decision import Sizes
from trainer.inference.ensemble import Ensemble

# What is needed of a record besides the network's input.
FIELDS = (
    *("image_id", "patient", "study", "view", "sex", "age"),
    *("original_rle", *Sizes._fields),
)
CURVE = np.linspace(0, 1, 31)  # system 0's curves have 31 thresholds
THRESHOLDS = np.unique(np.float32([*CURVE, *decision.TOPS, *decision.BOTTOMS]))


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of the N images of a split; the M with a mask are `masked`."""

    ids: list[str]  # [N]
    groups: list[str]  # [N]: the patient, else the study, else the image itself
    labels: np.ndarray  # [N], -1 unknown
    scores: np.ndarray  # [N], logits that rank the images; [N, C] of C classes
    lesion: np.ndarray | None  # [N], p of a lesion
    views: list[str]  # [N], empty: unknown
    sexes: list[str]
    ages: np.ndarray  # [N], -1 unknown
    masked: np.ndarray  # [M], places of the images with a mask
    counted: Counts  # of M images; of none for classifiers

    @property
    def masked_lesion(self) -> np.ndarray | None:
        return None if self.lesion is None else self.lesion[self.masked]

    def take(self, places: np.ndarray) -> "Predictions":
        """Of the images at these places, in their order."""
        rows = np.full(len(self.ids), -1)
        rows[self.masked] = np.arange(len(self.masked))
        rows = rows[places]  # of counted; -1 without a mask
        counted = Counts(THRESHOLDS, *(column[rows[rows >= 0]] for column in self.counted[1:]))
        chosen = {"counted": counted, "masked": np.flatnonzero(rows >= 0)}
        for name in ("labels", "scores", "ages", "lesion"):
            column = getattr(self, name)
            chosen[name] = None if column is None else column[places]
        for name in ("ids", "groups", "views", "sexes"):
            chosen[name] = [getattr(self, name)[place] for place in places]
        return Predictions(**chosen)


def batches(ensemble: Ensemble, split: Split) -> tf.data.Dataset:
    """What `of` and `items` take: tracing it takes longer than a small split."""
    return ensemble.batches(split, FIELDS).prefetch(2)


def of(ensemble: Ensemble, batches: tf.data.Dataset) -> Predictions:
    rows, masked, counted = [], [], []
    for item, probabilities, lesion, score in items(ensemble, batches):
        if probabilities is not None and item["has_mask"]:
            masked.append(len(rows))
            sizes = Sizes.from_fields(item)
            at_source = decision.resize_to_source(probabilities, sizes, ensemble.settings).numpy()
            counted.append(counts.from_image(at_source[..., 0], truth(item), THRESHOLDS))
        rows.append((item, lesion, score))
    kept = [item for item, *_ in rows]
    return Predictions(
        ids=[item["image_id"].decode() for item in kept],
        groups=[_group(item) for item in kept],
        labels=np.array([item["label"] for item in kept], np.float32),
        scores=np.array([score for *_, score in rows], np.float32),
        lesion=None if rows[0][1] is None else np.array([p for _, p, _ in rows], np.float32),
        views=[item["view"].decode() for item in kept],
        sexes=[item["sex"].decode() for item in kept],
        ages=np.array([item["age"] for item in kept]),
        masked=np.array(masked, np.int64),
        counted=counts.stack(counted, THRESHOLDS),
    )


def items(
    ensemble: Ensemble, batches: tf.data.Dataset, wanted: Iterable[int] | None = None
) -> Iterator[tuple]:
    """(item, probabilities [S, S, 1] or None, p of a lesion or None, score) of each image, or of
    those at the wanted places, without the padding. The item keeps its pixels for the wanted."""
    wanted = None if wanted is None else set(wanted)
    names = (*FIELDS, "label", "has_mask") + (() if wanted is None else ("image", "mask", "window"))
    place = 0
    for batch in batches:
        real = np.flatnonzero(batch["weight"])
        places = range(place, place := place + len(real))
        if wanted is not None and not wanted.intersection(places):
            continue
        predicted = [None if part is None else part.numpy() for part in ensemble(batch)]
        batch = {name: batch[name].numpy() for name in names}
        for number, at in zip(real, places, strict=True):
            if wanted is None or at in wanted:
                item = {name: values[number] for name, values in batch.items()}
                yield item, *(None if part is None else part[number] for part in predicted)


def truth(item: dict) -> np.ndarray:
    """Bool [H, W]: the union of the label file's rows, at the source's own size."""
    height, width = int(item["original_height"]), int(item["original_width"])
    runs = rle.runs(item["original_rle"].decode(), height * width)
    return rle.to_mask(runs, height, width) > 0


def _group(item: dict) -> str:
    """As the converter groups images into splits."""
    for name in ("patient", "study", "image_id"):
        if item[name]:
            return f"{name}/{item[name].decode()}"
    return ""


def joined(parts: list[Predictions]) -> Predictions:
    """Of several splits, one behind the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])

    def column(name: str):
        values = [getattr(part, name) for part in parts]
        if name == "masked":
            values = [value + start for value, start in zip(values, starts, strict=False)]
        if name == "counted":
            rest = [
                np.concatenate(own) for own in zip(*(value[1:] for value in values), strict=True)
            ]
            return Counts(THRESHOLDS, *rest)
        if any(value is None for value in values):
            return None
        return sum(values, []) if isinstance(values[0], list) else np.concatenate(values)

    return Predictions(*(column(field.name) for field in dataclasses.fields(Predictions)))
