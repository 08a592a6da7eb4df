"""A few images of a split for a human eye: truth and prediction over the image itself, both from
masks at the source's own size.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lake import picture
from trainer.config.run import Data
from trainer.data import record
from trainer.data.batches import Split, evaluation_batches
from trainer.display import panel
from trainer.evaluation import outlines
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.predictions import Predictions, SplitPredictions, image_outputs, true_mask
from trainer.inference.decision import Decision, Sizes, mask_of, resize_to_source
from trainer.models import window
from trainer.scoring import metrics

SIDE = 512  # the longer side of an image, in pixels
ROW_IMAGES = 4
FALSE_ALARMS = "Without a lesion, called positive"  # the title of a row
PICTURED_POSITIVES, PICTURED_OTHERS = 6, 2


class GalleryImage(NamedTuple):
    image: np.ndarray  # [h, w] in [0, 1]
    truth: np.ndarray | None  # [h, w] bool; None where no mask is known, and for classifiers
    prediction: np.ndarray | None  # [h, w] bool; None for classifiers
    probabilities: np.ndarray | None = None  # [h', w'] float32, smaller; None for classifiers


def load(
    parts: Sequence[SplitPredictions], places: Sequence[int], decision: Decision | None
) -> dict[int, GalleryImage]:
    """Return the images at these places, by place; places are numbered through all the parts."""
    gallery, start = {}, 0
    for part in parts:
        end = start + len(part.predictions.ids)
        part_places = sorted({place - start for place in places if start <= place < end})
        images = _load_part(part, part_places, decision) if part_places else []
        gallery |= {start + place: image for place, image in zip(part_places, images, strict=True)}
        start = end
    return gallery


def _load_part(
    part: SplitPredictions, places: Sequence[int], decision: Decision | None
) -> Iterator[GalleryImage]:
    """Yield the images at these places of one split, in their order, with truth and prediction at
    the size of the picture."""
    settings = part.ensemble.settings
    images = _load_pixels(part.split, places, settings.batch_size)
    outputs = image_outputs(part.ensemble, part.batches, places)
    for place, (fields, probabilities, lesion, _) in zip(places, outputs, strict=True):
        image, truth, prediction, p_map = images[place], None, None, None
        if probabilities is not None:
            source_p = resize_to_source(probabilities, Sizes.from_fields(fields), settings)
            mask = np.asarray(mask_of(source_p, decision, lesion))
            prediction = picture.resize_mask(mask, *image.shape)
            p_map = outlines.shrink(np.asarray(source_p)[..., 0])
            if fields["has_mask"]:
                truth = picture.resize_mask(true_mask(fields), *image.shape)
        yield GalleryImage(image, truth, prediction, p_map)


def _load_pixels(split: Split, places: Sequence[int], batch_size: int) -> dict[int, np.ndarray]:
    """Return images [h, w] in [0, 1] by place, through each record's window, without padding."""
    settings = Data(side=SIDE, batch_size=batch_size)
    images = {}
    for number, batch in enumerate(evaluation_batches(split, settings, ("height", "width"))):
        for place in {place for place in places if place // batch_size == number}:
            row = slice(place % batch_size, place % batch_size + 1)
            image = np.asarray(window.to_unit(batch["image"][row], batch["window"][row]))[0, ..., 0]
            size = (int(batch[name][row][0]) for name in ("height", "width"))
            top, left, height, width = record.box_within(*size, SIDE, "pad")
            images[place] = image[top : top + height, left : left + width]
    return images


def first_places(predictions: Predictions) -> list[int]:
    """Return the places of the first few images with a lesion and of the first few others."""
    is_positive = predictions.labels > 0
    positives = np.flatnonzero(is_positive)[:PICTURED_POSITIVES]
    negatives = np.flatnonzero(~is_positive)[:PICTURED_OTHERS]
    return [*positives.tolist(), *negatives.tolist()]


def choose(outcomes: Outcomes) -> dict[str, list[int]]:
    """Return {title of a gallery: the places in the split that it shows}; a gallery can be empty,
    and without a decision there is none."""
    if outcomes.decision is None:
        return {}
    predictions, places = outcomes.predictions, outcomes.compared_places
    is_positive = predictions.labels[places] > 0
    # Lesions are ranked by how good their prediction is, false alarms by how bad they are: with
    # masks by dice and by the share of the image that is called lesion, else both by p. Rows of
    # `counts`, the images with a mask, are then the compared places.
    if outcomes.decision.triplet is None:
        quality, quality_name = predictions.lesion[places], "p of a lesion"
        severity = quality
    else:
        quality, quality_name = outcomes.dice[places], "dice"
        counts = predictions.counts
        bottom = counts.columns([outcomes.decision.triplet.bottom])[0]
        severity = counts.above[:, bottom] / counts.pixels
    lesions = np.flatnonzero(is_positive)
    lesions = lesions[np.argsort(quality[lesions], kind="stable")]
    false_alarms = np.flatnonzero(~is_positive & outcomes.is_called[places])
    false_alarms = false_alarms[np.argsort(-severity[false_alarms], kind="stable")]
    rows = _rank(lesions, quality_name) | {FALSE_ALARMS: false_alarms[:ROW_IMAGES]}
    return {title: places[row].tolist() for title, row in rows.items()}


def _rank(lesions: np.ndarray, quality_name: str) -> dict[str, np.ndarray]:
    """Return {title: its lesions} of lesions that are sorted by quality, the lowest first. No
    lesion is in two rows: where they are few, one row has them all."""
    if len(lesions) <= 3 * ROW_IMAGES:
        return {f"With a lesion: all, from the lowest {quality_name} to the highest": lesions}
    middle = len(lesions) // 2 - ROW_IMAGES // 2
    return {
        f"With a lesion, lowest {quality_name}": lesions[:ROW_IMAGES],
        f"With a lesion, median {quality_name}": lesions[middle : middle + ROW_IMAGES],
        f"With a lesion, highest {quality_name}": lesions[::-1][:ROW_IMAGES],
    }


def draw_panel(title: str, outcomes: Outcomes, gallery: dict[int, GalleryImage]) -> np.ndarray:
    """Return truth and prediction side by side below a title, RGB uint8 [H, W, 3]; for a classifier
    each image with its label and p."""
    predictions, dice = outcomes.predictions, outcomes.dice
    images, truths, masks, _ = zip(*gallery.values(), strict=True)  # the fields, in their order
    if all(mask is None for mask in masks):
        findings, places = predictions.findings, list(gallery)
        scores = predictions.scores[places].reshape(len(places), -1)
        probabilities = metrics.to_probabilities(scores, are_findings=findings is not None)
        captions = panel.captions(
            predictions.labels[places],
            probabilities,
            predictions.finding_names,
            None if findings is None else findings[places],
        )
        return panel.side_by_side(
            title, images, masks=None, predictions=None, captions=captions, pairs_per_row=4
        )
    captions = [
        "truth unknown" if np.isnan(dice[p]) else f"dice {panel.share(dice[p])}" for p in gallery
    ]
    return panel.side_by_side(title, images, truths, masks, captions)
