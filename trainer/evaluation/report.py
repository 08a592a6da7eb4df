"""An evaluation -> report.html: one page that needs no network, for a reader without this program.

report.html is its template. Numbers of each image go into the page, from which report.js computes
the scores at the sliders' thresholds as scores.py would.
"""

import base64
import datetime
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, ImageColor

from lake import picture
from trainer.config.score_names import EVALUATED
from trainer.display import panel
from trainer.evaluation import bootstrap, gallery
from trainer.evaluation.bootstrap import FEWEST_PATIENTS
from trainer.evaluation.gallery import GalleryImage
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.results import Evaluation
from trainer.evaluation.table import cell
from trainer.inference.decision import AREAS_SHARE, BOTTOMS, LESIONS, TOPS, Decision

FILE = "report.html"
FILL_ALPHA, LINE_ALPHA = 60, 255  # of 255
JPEG_QUALITY = 88
PERCENT = tuple(percent / 100 for percent in range(101))  # a classifier's thresholds


def page(evaluation: Evaluation, images: dict[int, GalleryImage]) -> str:
    """Return the HTML of the last split's scores beside the others'; `images`: those of its
    galleries, by place in the split."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    split, last = list(evaluation.splits.items())[-1]
    decision = evaluation.decision
    return environment.get_template(FILE).render(
        evaluation=evaluation,
        split=split,
        last=last,
        fewest_patients=FEWEST_PATIENTS,
        drawn=bootstrap.unit(last.outcomes.predictions.groups),
        rows=_gallery_rows(last.outcomes, images),
        numbers=numbers(last.outcomes, evaluation.options.prevalence) if decision else None,
        sliders=_sliders(decision) if decision else {},
        cell=cell,
        descriptions=EVALUATED,
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _sliders(decision: Decision) -> dict[str, dict]:
    """Return {name: its label, the values that it takes, the position of the chosen one}."""
    sliders = {}

    def add_slider(name: str, label: str, values: Sequence[float], start: float) -> None:
        position = list(values).index(start)
        sliders[name] = {"label": label, "values": list(values), "position": position}

    if (lesion := decision.lesion_threshold) is not None:
        values = sorted({*(LESIONS if decision.triplet else PERCENT), lesion})
        add_slider("lesion", "a lesion where the image's p is at least", values, lesion)
    if decision.triplet is not None:
        top, area_share, bottom = decision.triplet
        add_slider("bottom", "a pixel is lesion where p exceeds", BOTTOMS, bottom)
        add_slider("area", "empty, unless this share of the image", AREAS_SHARE, area_share)
        add_slider("top", "has a p above", TOPS, top)
    return sliders


def numbers(outcomes: Outcomes, prevalence: float | None) -> dict:
    """Return what report.js computes scores from, for the images whose answer can be compared."""
    predictions, places, masks = outcomes.predictions, outcomes.compared_places, None
    if outcomes.decision.triplet is not None:
        counts = predictions.counts
        tops, bottoms = counts.columns(TOPS), counts.columns(BOTTOMS)
        masks = {
            "pixels": counts.pixels.tolist(),
            "truth": counts.truth.tolist(),
            "above_top": counts.above[:, tops].T.tolist(),  # [T, M]
            "size": counts.above[:, bottoms].T.tolist(),  # [K, M]
            "hits": counts.hits[:, bottoms].T.tolist(),
        }
    return {
        "positive": (predictions.labels[places] > 0).astype(int).tolist(),
        "lesion": None if predictions.lesion is None else predictions.lesion[places].tolist(),
        "prevalence": prevalence,
        "masks": masks,
    }


def _gallery_rows(outcomes: Outcomes, images: dict[int, GalleryImage]) -> list[dict]:
    """Return [{title, figures}] of the galleries."""
    return [
        {"title": title, "figures": [_figure(outcomes, place, images[place]) for place in places]}
        for title, places in gallery.choose(outcomes).items()
        if places
    ]


def _figure(outcomes: Outcomes, place: int, image: GalleryImage) -> dict:
    """Return what the template shows of one image: its pictures as URLs, and texts."""
    predictions, dice = outcomes.predictions, outcomes.dice[place]
    texts = [] if np.isnan(dice) else [f"dice {dice:.3f}"]
    if predictions.lesion is not None:
        texts.append(f"p of a lesion {predictions.lesion[place]:.3f}")
    for name, mask in (("truth", image.truth), ("predicted", image.prediction)):
        if mask is not None:
            texts.append(f"{name} {mask.mean():.2%}")
    age = predictions.ages[place]
    patient = [
        predictions.views[place],
        predictions.sexes[place],
        f"{age} years" if age >= 0 else "",
    ]
    return {
        "id": predictions.ids[place],
        "facts": ", ".join(texts),
        "patient": ", ".join(filter(None, patient)),
        "image": _data_url(picture.to_uint8(image.image), "jpeg", quality=JPEG_QUALITY),
        "truth": _overlay(image.truth, panel.TRUTH_COLOUR),
        "predicted": _overlay(image.prediction, panel.PREDICTION_COLOUR),
    }


def _overlay(mask: np.ndarray | None, colour: str) -> str | None:
    """Return a transparent picture of a mask, its outline and a thin fill, as a URL; None where
    there is nothing to draw."""
    if mask is None or not mask.any():
        return None
    alpha = np.where(picture.outline(mask), LINE_ALPHA, np.where(mask, FILL_ALPHA, 0))
    rgba = np.empty((*mask.shape, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = ImageColor.getrgb(colour), alpha
    return _data_url(rgba, "png", optimize=True)


def _data_url(pixels: np.ndarray, kind: str, **options) -> str:
    """Return uint8 pixels as an image file within a URL; `options` are Pillow's for its kind."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
