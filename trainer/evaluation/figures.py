"""Gallery images -> what the report holds of each: the picture as a JPEG, outlines, and what
page/outlines.js needs to draw the prediction at other thresholds."""

import base64
import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from lake import picture
from trainer.evaluation import gallery, image_table, outlines, threshold_grid
from trainer.evaluation.gallery import GalleryImage
from trainer.evaluation.outcomes import Outcomes
from trainer.scoring import digits

JPEG_QUALITY = 88
SHORT_ID = 26  # letters of an id in the gallery
DICE_DIGITS, SHARE_DIGITS = 7, 5  # a pixel of a large lesion counts


class Figure(NamedTuple):
    """An image of the gallery, for the template."""

    id: str
    url: str
    width: int
    height: int
    truth: str | None  # SVG paths, "" where nothing is marked; None where there is no mask
    predicted: str | None
    short_id: str
    mask_facts: str  # at the frozen thresholds; "" where there is no mask
    p_fact: str  # the image's own p of a lesion, or ""
    patient: str  # view, sex, age
    redraw: dict | None  # for outlines.js


def rows(outcomes: Outcomes, images: dict[int, GalleryImage]) -> dict[str, list[Figure]]:
    """Return {title of a row: its figures}, rows without figures left out."""
    return {
        title: [_figure(outcomes, place, images[place]) for place in places]
        for title, places in gallery.choose(outcomes).items()
        if places
    }


def _figure(outcomes: Outcomes, place: int, image: GalleryImage) -> Figure:
    """Return the figure of the image at a place in the split."""
    predictions = outcomes.predictions
    height, width = image.image.shape
    paths = [
        None if mask is None else outlines.path(mask) for mask in (image.truth, image.prediction)
    ]
    p_fact = ""
    if predictions.lesion is not None:
        p_fact = f"p of a lesion {digits.share(predictions.lesion[place], digits.THOUSANDS)}"
    age = predictions.ages[place]
    years = f"{age} years" if age >= 0 else ""
    patient = filter(None, [predictions.views[place], predictions.sexes[place], years])
    url = _jpeg_url(picture.to_uint8(np.clip(image.image, 0, 1)))
    image_id, mask_facts, redraw = str(predictions.ids[place]), "", None
    if image.probabilities is not None:
        mask_facts, redraw = _mask_facts(outcomes, place), _redraw(outcomes, place, image)
    texts = _shorten(image_id), mask_facts, p_fact, ", ".join(patient)
    # `paths` are truth and predicted, `texts` from short_id to patient.
    return Figure(image_id, url, width, height, *paths, *texts, redraw)


def _shorten(image_id: str) -> str:
    """Return an id with its middle left out: those of DICOM begin alike."""
    if len(image_id) <= SHORT_ID:
        return image_id
    return f"{image_id[: SHORT_ID // 3]}…{image_id[-SHORT_ID // 2 :]}"


def _mask_facts(outcomes: Outcomes, place: int) -> str:
    """Return dice and areas as outlines.js writes them."""
    truth, predicted = image_table.area_percents(outcomes.take(np.array([place])))
    areas = f"truth {truth[0]:.2f}%, prediction {predicted[0]:.2f}% of the image"
    return f"dice {digits.share(outcomes.dice[place], digits.THOUSANDS)}, {areas}"


def _redraw(outcomes: Outcomes, place: int, image: GalleryImage) -> dict:
    """Return the data from which outlines.js draws at other thresholds: the map of p; `kept` by top
    and area and `passes` by p of a lesion, a digit for each threshold; by bottom the `dice` and
    `shares` of the image of a mask that is kept. All but the map are of the source's own size."""
    one = outcomes.take(np.array([place])).predictions
    bottoms = threshold_grid.BOTTOMS
    dice, above = one.counts.dice_at(bottoms), one.counts.above[:, one.counts.columns(bottoms)]
    gates = threshold_grid.passes(one.lesion, outcomes.decision, 1)
    return {
        "map": outlines.encode(image.probabilities),
        "kept": _digits(threshold_grid.is_kept(one.counts)),
        "passes": _digits(gates),
        "dice": np.round(dice[0], DICE_DIGITS).tolist(),
        "dice_emptied": float(one.counts.dice_emptied()[0]),
        "truth": round(float(one.counts.truth[0] / one.counts.pixels[0]), SHARE_DIGITS),
        "shares": np.round(above[0] / one.counts.pixels[0], SHARE_DIGITS).tolist(),
    }


def _digits(claims: np.ndarray) -> str:
    return "".join("01"[int(claim)] for claim in claims.ravel())


def _jpeg_url(grey: np.ndarray) -> str:
    """Return uint8 pixels [H, W] as a JPEG within a URL."""
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "jpeg", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
