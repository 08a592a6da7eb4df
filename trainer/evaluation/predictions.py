"""One pass over a split -> a few numbers per image, whatever its size: thresholds, scores and
curves are computed from these alone.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake.labels import rle
from lake.terminal.progress import Progress
from trainer.data.batches import Split
from trainer.evaluation import surfaces
from trainer.inference import counts, decision
from trainer.inference.calibration import Calibration
from trainer.inference.counts import Counts
from trainer.inference.decision import Sizes
from trainer.inference.ensemble import Ensemble
from trainer.scoring import metrics

# Fields of a record that an evaluation needs beside the network's input.
FIELDS = (
    *("image_id", "patient", "study", "view", "sex", "age", "lesion_px"),
    *("original_rle", "pixel_spacing_mm", *Sizes._fields),
)
CURVE = np.linspace(0, 1, 31)  # the 31 thresholds of a curve
BOTTOMS = np.float32(decision.BOTTOMS)  # at which outlines are compared
THRESHOLDS = np.unique(np.float32([*CURVE, *decision.TOPS, *decision.BOTTOMS]))


class Predictions(NamedTuple):
    """Predictions for the N images of a split; of M of them the mask is known, be it empty."""

    ids: np.ndarray  # [N] str
    groups: np.ndarray  # [N] str: the patient, else the study, else the image itself
    labels: np.ndarray  # [N] float32, -1 unknown
    # [N] float32, logits that rank the images; [N, C] for C classes, [N, F] for F findings
    scores: np.ndarray
    lesion: np.ndarray | None  # [N] float32, p of a lesion
    views: np.ndarray  # [N] str, empty: unknown
    sexes: np.ndarray  # [N] str, empty: unknown
    ages: np.ndarray  # [N] int, -1 unknown
    spacing_mm: np.ndarray  # [N, 2] of rows, columns of the source; 0 where it is not known
    maps: np.ndarray  # [N] surfaces.Map of an image with a true lesion, None of others
    has_mask: np.ndarray  # [N] bool: the mask is known; all False where no network segments
    counts: Counts  # rows of the M images with has_mask
    uncalibrated: np.ndarray | None = None  # [N] float32, p of a lesion before its calibration
    findings: np.ndarray | None = None  # [N, F] float32, 1, 0 or -1 for unknown, of classifiers
    finding_names: tuple[str, ...] = ()  # [F]

    @property
    def mask_places(self) -> np.ndarray:
        """Places in the split of the images whose mask is known, [M]."""
        return np.flatnonzero(self.has_mask)

    @property
    def has_spacing(self) -> np.ndarray:
        """Whether the size of the source's pixels is known, [N] bool."""
        return (self.spacing_mm > 0).all(axis=1)

    @property
    def lesion_of_masks(self) -> np.ndarray | None:
        """p of a lesion of the images whose mask is known, [M]."""
        return None if self.lesion is None else self.lesion[self.mask_places]

    def take(self, places: np.ndarray) -> "Predictions":
        """Return the predictions for the images at these places, in their order."""
        rows = (np.cumsum(self.has_mask) - 1)[places][self.has_mask[places]]
        columns = {
            name: None if column is None else column[places]
            for name, column in self._asdict().items()
            if name not in ("counts", "finding_names")
        }
        # The first field of Counts is `thresholds`.
        counts = Counts(THRESHOLDS, *(column[rows] for column in self.counts[1:]))
        return self._replace(**columns, counts=counts)

    def with_calibration(self, calibration: Calibration | None) -> "Predictions":
        """Return the predictions with calibrated scores and p of a lesion; None changes nothing."""
        if calibration is None:
            return self
        scores = calibration.apply(self.scores)
        p, uncalibrated = (metrics.to_probabilities(logits) for logits in (scores, self.scores))
        return self._replace(scores=scores, lesion=p, uncalibrated=uncalibrated)


class SplitPredictions(NamedTuple):
    """An ensemble's predictions for a split, and the batches that they were computed from."""

    ensemble: Ensemble
    split: Split
    batches: tf.data.Dataset  # for pictures: building them takes longer than a small split
    predictions: Predictions
    num_lesions: int = 0  # true masks that are not empty
    num_lost: int = 0  # those of them that are, at the network's side

    def with_calibration(self, calibration: Calibration | None) -> "SplitPredictions":
        """Return the same with a calibrated ensemble and its predictions."""
        predictions = self.predictions.with_calibration(calibration)
        ensemble = self.ensemble.with_calibration(calibration)
        return self._replace(ensemble=ensemble, predictions=predictions)


def predict(ensemble: Ensemble, split: Split) -> SplitPredictions:
    """Return the ensemble's predictions for a split, computed in one pass over its images."""
    batches = ensemble.batches(split, FIELDS).prefetch(2)
    rows, counts_rows, maps = [], [], []
    progress = Progress(f"evaluating {split.name}", split.num_records)
    for record, probabilities, lesion, score in image_outputs(ensemble, batches):
        has_mask = probabilities is not None and bool(record["has_mask"])
        maps.append(None)
        if has_mask:
            sizes, truth = Sizes.from_fields(record), true_mask(record)
            source_p = decision.resize_to_source(probabilities, sizes, ensemble.settings).numpy()
            counts_rows.append(counts.from_image(source_p[..., 0], truth, THRESHOLDS))
            if truth.any():
                maps[-1] = surfaces.pack(source_p[..., 0], truth, BOTTOMS)
        rows.append((record, score, lesion, has_mask))
        progress.add()
    records, scores, lesion, has_mask = zip(*rows, strict=True)

    def texts(name: str) -> np.ndarray:
        return np.array([record[name].decode() for record in records])

    predictions = Predictions(
        ids=texts("image_id"),
        groups=np.array([_group(record) for record in records]),
        labels=np.array([record["label"] for record in records], np.float32),
        scores=np.array(scores, np.float32),
        lesion=None if lesion[0] is None else np.array(lesion, np.float32),
        views=texts("view"),
        sexes=texts("sex"),
        ages=np.array([record["age"] for record in records]),
        spacing_mm=np.array([_source_spacing_mm(record) for record in records]),
        maps=surfaces.column(maps),
        has_mask=np.array(has_mask),
        counts=counts.stack(counts_rows, THRESHOLDS),
    )
    if ensemble.findings:
        findings = np.array([record["findings"] for record in records], np.float32)
        predictions = predictions._replace(findings=findings, finding_names=ensemble.findings)
    is_left = np.array([record["is_left"] for record in records if record["lesion_px"] > 0], bool)
    return SplitPredictions(
        ensemble, split, batches, predictions, len(is_left), int((~is_left).sum())
    )


def image_outputs(
    ensemble: Ensemble, batches: tf.data.Dataset, places: Iterable[int] | None = None
) -> Iterator[tuple]:
    """Yield (record, probabilities [S, S, 1] or None, p of a lesion or None, score) of each image
    without the padding, or of those at `places` in the split, whose records keep their pixels.

    A record has FIELDS, label, has_mask, for classifiers of findings these, and is_left: its mask
    has a pixel at the network's side.
    """
    wanted_places = None if places is None else set(places)
    names = (*FIELDS, "label", "has_mask") + (() if places is None else ("image", "mask", "window"))
    names += ("findings",) if ensemble.findings else ()
    start = 0
    for batch in batches:
        rows = np.flatnonzero(batch["weight"])  # without the padding
        batch_places = range(start, start := start + len(rows))
        if wanted_places is not None and not wanted_places.intersection(batch_places):
            continue
        outputs = [None if output is None else output.numpy() for output in ensemble(batch)]
        is_left = batch["mask"].numpy().any(axis=(1, 2, 3))
        batch = {name: batch[name].numpy() for name in names} | {"is_left": is_left}
        for row, place in zip(rows, batch_places, strict=True):
            if wanted_places is None or place in wanted_places:
                record = {name: values[row] for name, values in batch.items()}
                yield record, *(None if output is None else output[row] for output in outputs)


def true_mask(record: dict) -> np.ndarray:
    """Return an image's true mask at the source's own size, bool [H, W]: the union of its rows in
    the label CSV; empty where the mask is unknown, so ask `has_mask` first."""
    height, width = int(record["original_height"]), int(record["original_width"])
    runs = rle.runs(record["original_rle"].decode(), height * width)
    return rle.to_mask(runs, height, width) > 0


def _source_spacing_mm(record: dict) -> tuple[float, float]:
    """Return the distance of the rows and of the columns of the source; 0 and 0 where the lake does
    not know both."""
    stored_spacing = np.float64(record["pixel_spacing_mm"])
    if not (np.isfinite(stored_spacing) & (stored_spacing > 0)).all():
        return 0.0, 0.0
    row, column = stored_spacing
    height, width, original_height, original_width = Sizes.from_fields(record)
    return row * height / original_height, column * width / original_width


def _group(record: dict) -> str:
    """Return the patient, study or image, by which the converter also groups images into splits."""
    for name in ("patient", "study", "image_id"):
        if record[name]:
            return f"{name}/{record[name].decode()}"
    return ""


def join(parts: list[Predictions]) -> Predictions:
    """Return the predictions for several splits as one, in the order of the splits; a column that
    one split lacks is None."""
    columns = {
        name: None if any(part is None for part in column) else np.concatenate(column)
        for name, column in zip(Predictions._fields, zip(*parts, strict=True), strict=True)
        if name not in ("counts", "finding_names")
    }
    # The first field of Counts is `thresholds`.
    counts_columns = zip(*(part.counts[1:] for part in parts), strict=True)
    joined_counts = Counts(THRESHOLDS, *map(np.concatenate, counts_columns))
    return parts[0]._replace(**columns, counts=joined_counts)
