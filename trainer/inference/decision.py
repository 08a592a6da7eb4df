"""Probabilities -> a mask at the size of the source, and the thresholds of this Decision, which
trainer/evaluation/choice.py chooses on validation and metrics.json keeps.

One rule in two forms: `mask_of` decides about pixels, for predict, vote, export and pictures;
Counts.is_kept and dice_at about pixel counts, for choosing, evaluate and the report's sliders. A
mask is emptied where too few pixels have p > top, however many have p > bottom. test_scores.py and
test_decision.py hold both to one slow loop.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from lake import InputError
from lake.terminal import cli
from trainer.config.run import Data
from trainer.data import record
from trainer.inference.calibration import Calibration
from trainer.inference.ensemble import Ensemble
from trainer.scoring import metrics
from trainer.workdir import METRICS, read_json

# The triplets to choose from: keep p > bottom, unless fewer than `area` pixels have p > top.
BOTTOMS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOPS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
AREAS_SHARE = (0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)  # of the image
# Thresholds on p of a lesion by classifiers or an empty_head: a mask is emptied where p is below;
# 0 keeps every mask.
LESIONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
ROUNDING = 1e-6  # the error of float32 in a value that is interpolated between two others


class Triplet(NamedTuple):
    top: float
    area_share: float  # of the image at the size of the source
    bottom: float


class Decision(NamedTuple):
    """The thresholds that turn probabilities into a mask, or an image's p into a label, and the
    calibration of that p."""

    triplet: Triplet | None = None  # None for classifiers alone
    lesion_threshold: float | None = None  # None where there is no p of a lesion beside the map
    calibration: Calibration | None = None  # of p of a lesion; comes before its threshold
    # Where p > it has the highest dice of images with a lesion; for that score, no mask has it.
    positives_bottom: float | None = None

    def to_json(self) -> dict:
        result = {"triplet": self.triplet and self.triplet._asdict()}
        if self.lesion_threshold is not None:
            result["lesion_threshold"] = self.lesion_threshold
        if self.calibration is not None:
            result["calibration"] = self.calibration._asdict()
        if self.positives_bottom is not None:
            result["positives_bottom"] = self.positives_bottom
        return result

    @classmethod
    def from_json(cls, content: dict) -> "Decision":
        """Return the Decision of to_json's content, which may have other entries."""
        triplet, calibration = content["triplet"], content.get("calibration")
        return cls(
            triplet and Triplet(**triplet),
            content.get("lesion_threshold"),
            calibration and Calibration(**calibration),
            content.get("positives_bottom"),
        )

    def __str__(self) -> str:
        """Return the rule in words."""
        return self._rule() + (f"; {self.calibration}" if self.calibration else "")

    def _rule(self) -> str:
        """Return the thresholds in words."""
        if self.triplet is None and self.lesion_threshold is None:
            return "no thresholds"
        if self.triplet is None:
            return f"a lesion where p >= {self.lesion_threshold:.4g}"
        top, area_share, bottom = self.triplet
        rule = f"keep p > {bottom} unless less than {area_share:.2%} of the image has p > {top}"
        if self.lesion_threshold:
            return f"{rule} or the image's own p of a lesion is < {self.lesion_threshold}"
        return rule + ("" if self.lesion_threshold is None else "; the image's own p empties none")


class Sizes(NamedTuple):
    """The size of an image as the lake stores it, and of its source, in pixels; numbers or
    tensors."""

    height: int
    width: int
    original_height: int
    original_width: int

    @classmethod
    def from_fields(cls, fields: dict) -> "Sizes":
        return cls(*(int(fields[name]) for name in cls._fields))


def resize_to_source(probabilities, sizes: Sizes, settings: Data):
    """Return the network's probabilities [S, S, 1] at the size of the source [H, W, 1]: cut out of
    the padding and resized. Those of images of one size, [N, S, S, 1], become [N, H, W, 1]."""
    box = record.box_within(sizes.height, sizes.width, settings.side, settings.fit)
    top, left, height, width = box
    picture_p = probabilities[..., top : top + height, left : left + width, :]
    return tf.image.resize(picture_p, (sizes.original_height, sizes.original_width))


def mask_of(source_p, decision: Decision, lesion=None):
    """Return the mask, bool [H, W], of resize_to_source's probabilities and the image's own p of a
    lesion: p > bottom, emptied where fewer than a share of the pixels have p > top, and where the
    image's p is below the lesion threshold."""
    return masks_of(source_p[None], decision, lesion)[0]


def masks_of(source_p, decision: Decision, lesion=None):
    """Return the masks, bool [N, H, W], of N images of one size: source_p [N, H, W, 1], lesion
    [N]; mask_of says by which rule."""
    top, area_share, bottom = decision.triplet
    num_pixels = tf.cast(tf.reduce_prod(tf.shape(source_p)[1:]), tf.float32)
    area = np.float32(area_share) * num_pixels  # as counts.area_px
    masks = metrics.keep_by_triplet(source_p, top, area, bottom)[..., 0] > 0
    if decision.lesion_threshold is None:
        return masks
    return masks & tf.reshape(lesion >= np.float32(decision.lesion_threshold), [-1, 1, 1])


def source_mask(probabilities, sizes: Sizes, settings: Data, decision: Decision, lesion=None):
    """Return the mask, bool [H, W] at the size of the source, of probabilities [S, S, 1]."""
    return mask_of(resize_to_source(probabilities, sizes, settings), decision, lesion)


def is_plainly_empty(highest, decision: Decision, lesion=None):
    """Return whether the mask must be empty, from the highest p at the network's size; numbers or
    tensors. Resizing interpolates, so it makes no value higher. Most masks are empty, and this
    saves resizing them."""
    top, area_share, bottom = decision.triplet
    is_empty = highest + ROUNDING <= max(bottom, top if area_share > 0 else bottom)
    if decision.lesion_threshold is None:
        return is_empty
    return is_empty | (lesion < np.float32(decision.lesion_threshold))


def describe_masks(ensemble: Ensemble, decision: Decision) -> dict:
    """Return the description, as export.json has it, of what makes an ensemble's masks: its runs,
    weights, views and thresholds."""
    return {
        "runs": [member.workdir.resolve().name for member in ensemble.everyone],
        "evaluated_as": ensemble.label,  # in metrics.json of the first workdir
        "decision": decision.to_json(),
        "tta": list(ensemble.tta),
        "level": ensemble.level,
        "weights_sha256": ensemble.weights_sha256(),
    }


def chosen_label(ensemble: Ensemble, other_label: str | None = None) -> str:
    """Return the label of the entry in metrics.json whose thresholds read_decision takes."""
    entries = read_json(ensemble.members[0].workdir / METRICS)
    is_other = ensemble.label not in entries and other_label in entries
    return other_label if is_other else ensemble.label


def read_decision(ensemble: Ensemble, other_label: str | None = None) -> Decision:
    """Return the thresholds that evaluate chose for this ensemble: those of its own lake, or if
    there are none, those saved under `other_label` for the lake that --lake names. Raises
    InputError where there are none, or they were chosen for other weights."""
    path = ensemble.members[0].workdir / METRICS
    entries, label = read_json(path), chosen_label(ensemble, other_label)
    evaluate = cli.typed_command("trainer.task evaluate")
    advice = f"run {evaluate} with the same members, --tta and --level first"
    if label not in entries:
        labels_on_other_lakes = [name for name in entries if name.startswith(f"{label}_on_")]
        if labels_on_other_lakes:
            advice += f"; or say with --lake that those of {labels_on_other_lakes[0]} are meant"
        names = " and no ".join(dict.fromkeys(filter(None, (label, other_label))))
        raise InputError(f"{path}: no {names}, so no thresholds were chosen; {advice}")
    if entries[label].get("weights_sha256") != ensemble.weights_sha256():
        raise InputError(
            f"{path}: the thresholds of {label} were chosen for other weights; {advice}"
        )
    return Decision.from_json(entries[label])


def read_decision_or_none(ensemble: Ensemble, other_label: str | None = None) -> Decision:
    """Return read_decision's thresholds, or Decision() for networks that score findings: these have
    none, and need no evaluation."""
    return Decision() if ensemble.findings else read_decision(ensemble, other_label)
