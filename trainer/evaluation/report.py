"""An evaluation -> report.html: one page that needs no network, for a reader without this program.

report.html is its template, report.js moves the sliders; per-image numbers go into the page, so
that it scores what the sliders say as scores.py does.
"""

import base64
import datetime
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, ImageColor

from trainer.display import panel
from trainer.evaluation import bootstrap, gallery, results, scores
from trainer.evaluation.gallery import Shown
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.results import Scored
from trainer.inference import decision
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.workdir import CONFIG

FILE = "report.html"
FILL_ALPHA, LINE_ALPHA = 60, 255  # of 255
JPEG_QUALITY = 88
PERCENT = tuple(number / 100 for number in range(101))
# Score -> what a reader calls it, and what it means.
NAMES = {
    "images": ("images", ""),
    "positives": ("with a lesion", ""),
    "without_mask": ("without a mask", "left out of the scores of masks"),
    "accuracy": ("accuracy", "share of images whose class is right"),
    "dice_mean": (
        "mean dice",
        "the challenge's score: the mean over all images; 1 where truth and prediction are empty",
    ),
    "dice_all_empty": ("all-empty score", "what the mean dice is if nothing is ever predicted"),
    "dice_positives": ("dice on positives", "the mean over images with a lesion"),
    "dice_positives_at_half": ("the same at p > 0.5", "without the chosen thresholds"),
    "iou_mean": ("mean IoU", "overlap / union; 1 where both are empty"),
    "iou_positives": ("IoU on positives", "the mean over images with a lesion"),
    "auc": ("AUC", "area under the ROC curve of one score an image"),
    "ap": ("average precision", "by chance: the share of images with a lesion"),
    "sensitivity": ("sensitivity", "share of images with a lesion that are called so"),
    "specificity": ("specificity", "share of images without one that are called so"),
    "ppv": ("PPV", "share with a lesion among the images called so, at the stated prevalence"),
    "npv": ("NPV", "share without one among the others, at the stated prevalence"),
    "ece": (
        "calibration error",
        "of p of a lesion: ECE in 15 bins of equal width (Guo et al. 2017)",
    ),
    "brier": ("Brier score", "mean of (p - truth)² of p of a lesion (Brier 1950)"),
    "pixel_ece": ("calibration error of pixels", "ECE in 15 bins, of p of a pixel"),
    "pixel_brier": ("Brier score of pixels", "mean of (p - truth)² of p of a pixel"),
}
HEADLINE = ("dice_mean", "dice_positives", "accuracy", "auc", "sensitivity", "specificity")
OF_GROUPS = (
    "images",
    "positives",
    "dice_mean",
    "dice_positives",
    "auc",
    "sensitivity",
    "specificity",
)


def page(
    system: Ensemble,
    content: dict,
    folder: str,
    chosen: Decision | None,
    options,
    scored: dict[str, Scored],
    shown: dict[int, Shown],
) -> str:
    """HTML of the last split's scores beside the others'. `content`: the lake's manifest; `shown`:
    the images of `places`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    split, last = list(scored.items())[-1]
    return environment.get_template(FILE).render(
        title=results.title(system),
        split=split,
        scored=scored,
        names=NAMES,
        headline=[name for name in HEADLINE if name in last.scores.values],
        of_groups=[name for name in OF_GROUPS if name in last.scores.values],
        chosen=chosen,
        options=options,
        fewest_patients=bootstrap.FEWEST_PATIENTS,
        lake={
            "folder": folder,
            **{name: content[name] for name in ("dataset", "version", "created")},
        },
        counts=content["counts"]["splits"],
        members=[(m.workdir, _config(m.workdir)) for m in system.everyone],
        rows=_rows(last.predictions, chosen, shown) if chosen else [],
        numbers=numbers(last.predictions, chosen, options.prevalence) if chosen else None,
        curves=last.curves,
        sliders=_sliders(chosen) if chosen else {},
        cell=results.cell,
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _config(workdir: Path) -> str:
    return (workdir / CONFIG).read_text()


def _sliders(chosen: Decision) -> dict[str, dict]:
    """{name: what it is called, the values it takes, where the chosen one lies}."""
    found = {}
    if chosen.lesion_threshold is not None:
        grid = PERCENT if chosen.triplet is None else decision.LESIONS
        values = sorted({*grid, chosen.lesion_threshold})
        found["lesion"] = (
            "a lesion where the image's p is at least",
            values,
            chosen.lesion_threshold,
        )
    if chosen.triplet is not None:
        top, area_share, bottom = chosen.triplet
        found |= {
            "bottom": ("a pixel is lesion where p exceeds", decision.BOTTOMS, bottom),
            "area": ("empty, unless this share of the image", decision.AREAS_SHARE, area_share),
            "top": ("has a p above", decision.TOPS, top),
        }
    return {
        name: {"said": said, "values": list(values), "at": list(values).index(value)}
        for name, (said, values, value) in found.items()
    }


def numbers(predicted: Predictions, chosen: Decision, prevalence: float | None) -> dict:
    """What report.js scores from, of the images whose answer can be compared."""
    places, _ = scores.calls(predicted, chosen)
    found = {
        "positive": (predicted.labels[places] > 0).astype(int).tolist(),
        "lesion": None if predicted.lesion is None else predicted.lesion[places].tolist(),
        "prevalence": prevalence,
        "masks": None,
    }
    if chosen.triplet is not None:
        counted = predicted.counted
        tops, bottoms = counted.columns(decision.TOPS), counted.columns(decision.BOTTOMS)
        found["masks"] = {
            "pixels": counted.pixels.tolist(),
            "truth": counted.truth.tolist(),
            "sure": counted.above[:, tops].T.tolist(),  # [T, M]
            "size": counted.above[:, bottoms].T.tolist(),  # [K, M]
            "hits": counted.hits[:, bottoms].T.tolist(),
        }
    return found


def _rows(predicted: Predictions, chosen: Decision, shown: dict[int, Shown]) -> list[dict]:
    """[{title, figures}] of the galleries."""
    dices = scores.dices_by_place(predicted, chosen)
    return [
        {
            "title": title,
            "figures": [
                _figure(predicted, place, shown[place], dices.get(place)) for place in places
            ],
        }
        for title, places in gallery.choose(predicted, chosen).items()
        if places
    ]


def _figure(predicted: Predictions, place: int, shown: Shown, dice: float | None) -> dict:
    said = [] if dice is None else [f"dice {dice:.3f}"]
    if predicted.lesion is not None:
        said.append(f"p of a lesion {predicted.lesion[place]:.3f}")
    for name in ("truth", "predicted"):
        if (mask := getattr(shown, name)) is not None:
            said.append(f"{name} {mask.mean():.2%}")
    age = predicted.ages[place]
    known = [predicted.views[place], predicted.sexes[place], f"{age} years" if age >= 0 else ""]
    return {
        "id": predicted.ids[place],
        "said": ", ".join(said),
        "known": ", ".join(filter(None, known)),
        "image": _jpeg(shown.image),
        "truth": _overlay(shown.truth, panel.TRUTH_COLOUR),
        "predicted": _overlay(shown.predicted, panel.PREDICTION_COLOUR),
    }


def _jpeg(image: np.ndarray) -> str:
    pixels = Image.fromarray(np.uint8(np.round(image * 255)))
    return _embedded(pixels, "jpeg", quality=JPEG_QUALITY)


def _overlay(mask: np.ndarray | None, colour: str) -> str | None:
    """A transparent picture of a mask: its outline over a thin fill."""
    if mask is None or not mask.any():
        return None
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    alpha = np.where(mask, np.where(inner, FILL_ALPHA, LINE_ALPHA), 0)
    rgba = np.empty((*mask.shape, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = ImageColor.getrgb(colour), alpha
    return _embedded(Image.fromarray(rgba), "png", optimize=True)


def _embedded(picture: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
