"""Workdirs -> one predictor: the mean over members and views (TTA), after classifiers where it is a
cascade.

A batch of `Ensemble.batches` goes in, probabilities at the network's size come out; thresholds are
trainer/inference/decision.py's.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from keras import ops

from lake import InputError
from trainer.config import run
from trainer.data.batches import Split, evaluation_batches
from trainer.inference import views
from trainer.inference.views import Member
from trainer.models import window
from trainer.scoring import metrics
from trainer.workdir import BEST, load_network

CLASSIFIER_IMAGE = "classifier_image"  # in a batch, where classifiers have an input of their own


class BatchPrediction(NamedTuple):
    """What is said of a batch, float32."""

    probabilities: tf.Tensor | None  # [B, S, S, 1] of pixels; None of classifiers alone
    # [B], p of a lesion by classifiers or by the empty_head of every segmenter; None without them,
    # and of classifiers of more than two classes.
    lesion: tf.Tensor | None
    scores: tf.Tensor  # [B] or [B, C], logits: how the images are ranked


def load(
    workdirs: Sequence[Path],
    classifiers: Sequence[Path] = (),
    tta: Sequence[str] = ("none",),
    level: int | None = None,
) -> "Ensemble":
    """Segmenters, or classifiers alone; raises InputError where the members do not go together."""
    members = [_member(workdir, level) for workdir in workdirs]
    before = [_member(workdir, None) for workdir in classifiers]
    for member in before:
        if not member.run.is_classifier:
            raise InputError(
                f"--classifier={member.workdir} holds a {member.run.model.kind} that segments; "
                f"expected a classifier"
            )
    are_classifiers = {member.run.is_classifier for member in members}
    if len(are_classifiers) > 1 or (before and are_classifiers == {True}):
        named = ", ".join(f"{m.workdir}: {_kind(m)}" for m in members)
        raise InputError(
            f"--workdir: expected segmenters, or classifiers alone; found {named}; give "
            f"classifiers that go before segmenters to --classifier"
        )
    return Ensemble(*((), members) if are_classifiers == {True} else (members, before), tta, level)


class Ensemble:
    """`ensemble(batch) -> Predicted`, for batches of `ensemble.batches`."""

    def __init__(self, segmenters, classifiers, tta: Sequence[str] = ("none",), level=None):
        self.segmenters, self.classifiers = tuple(segmenters), tuple(classifiers)
        self.tta, self.level = tuple(tta), level
        self.members = self.segmenters or self.classifiers
        self.everyone = (*self.segmenters, *self.classifiers)
        self.run = self.members[0].run  # the config whose batches they take
        for alike in (self.segmenters, self.classifiers):
            _check_alike(alike)
        self.is_cascade = bool(self.segmenters and self.classifiers)
        if self.is_cascade and self.classifiers[0].run.model.classes > 2:
            raise InputError(
                f"--classifier={self.classifiers[0].workdir} knows "
                f"{self.classifiers[0].run.model.classes} classes; before a segmenter it says "
                f"whether there is a lesion, so expected 2"
            )
        heads = [getattr(member.run.model, "empty_head", False) for member in self.segmenters]
        self.has_heads = bool(heads) and all(heads) and not self.is_cascade
        shown = views.parse_tta(self.tta)
        self._segment = [
            views.forward(m, v, self.has_heads) for m in self.segmenters for v in shown
        ]
        self._classify = [views.forward(m, v, False) for m in self.classifiers for v in shown]
        self._predict = tf.function(self.outputs, autograph=False)

    @property
    def settings(self) -> run.Data:
        """Side, fit and size of the batches."""
        return self.run.data

    @property
    def label(self) -> str:
        """What the scores and thresholds of this ensemble are called in its first workdir."""
        label = "evaluate"
        label += f"_of_{len(self.members)}" if len(self.members) > 1 else ""
        label += f"_after_{len(self.classifiers)}" if self.is_cascade else ""
        label += f"_l{self.level}" if self.level is not None else ""
        return label + ("" if self.tta == ("none",) else f"_tta_{'_'.join(self.tta)}")

    def check_draws_masks(self) -> None:
        """Raises InputError for classifiers alone."""
        if not self.segmenters:
            raise InputError(
                f"--workdir={self.members[0].workdir} holds a classifier, which draws no masks; "
                f"give a segmenter, and the classifier to --classifier"
            )

    def weights_sha256(self) -> dict[str, list[str]]:
        """Which weights these are, whatever their folders are called."""
        return {
            "segmenters": [_sha256(member.workdir) for member in self.segmenters],
            "classifiers": [_sha256(member.workdir) for member in self.classifiers],
        }

    @property
    def classifier_settings(self) -> run.Data | None:
        """The side and fit of a cascade's classifiers, where they are not the segmenters'."""
        first = self.classifiers[0].run.data if self.is_cascade else self.settings
        return None if _input(first) == _input(self.settings) else first

    def batches(self, split: Split, extra_fields: tuple[str, ...] = ()) -> tf.data.Dataset:
        """data.evaluation_batches, with the classifiers' own images where they need some."""
        batches = evaluation_batches(split, self.settings, extra_fields)
        if (own := self.classifier_settings) is None:
            return batches
        own = self.settings.model_copy(update={"side": own.side, "fit": own.fit})
        others = evaluation_batches(split, own)
        return tf.data.Dataset.zip(batches, others).map(
            lambda batch, other: batch | {CLASSIFIER_IMAGE: other["image"]}
        )

    def __call__(self, batch: dict) -> BatchPrediction:
        names = ("image", "window", CLASSIFIER_IMAGE)
        return BatchPrediction(
            **self._predict({name: batch[name] for name in names if name in batch})
        )

    def outputs(self, batch: dict) -> dict:
        """Predicted, by name, in the graph of the caller."""
        images = window.to_unit(batch["image"], batch["window"])
        logits, lesion = None, None
        if self._segment:
            logits, *heads = views.mean_of([forward(images) for forward in self._segment])
            lesion = heads[0] if heads else None
        if self._classify:
            if CLASSIFIER_IMAGE in batch:
                images = window.to_unit(batch[CLASSIFIER_IMAGE], batch["window"])
            (lesion,) = views.mean_of([forward(images) for forward in self._classify])
        scores = metrics.lesion_score(logits) if lesion is None else lesion
        is_one = len(scores.shape) == 2 and scores.shape[-1] == 1
        scores = scores[:, 0] if is_one else scores  # [B], or [B, C] of C classes
        return {
            "probabilities": None if logits is None else ops.sigmoid(logits),
            "lesion": ops.sigmoid(scores) if is_one else None,
            "scores": scores,
        }

    def fold_ensembles(self) -> list["Ensemble"]:
        """The ensemble itself; where members hold out different folds, those of each fold: what is
        chosen on a fold must not know it from training."""
        segmenters, classifiers = (_by_fold(kind) for kind in (self.segmenters, self.classifiers))
        if self.is_cascade and segmenters.keys() != classifiers.keys():
            raise InputError(
                f"segmenters that hold out {_said(segmenters)} after classifiers that hold out "
                f"{_said(classifiers)}; thresholds are chosen on images that neither trained on, "
                f"so expected the same"
            )
        keys = list(segmenters or classifiers)
        if len(keys) == 1:
            return [self]
        parts = [(segmenters.get(key, ()), classifiers.get(key, ())) for key in keys]
        return [Ensemble(*part, self.tta, self.level) for part in parts]


def _member(workdir: Path, level: int | None) -> Member:
    return Member(workdir, *load_network(workdir, level))


def _check_alike(members: Sequence[Member]) -> None:
    for member in members[1:]:
        for name in ("data.side", "data.fit", "model.classes"):
            section, _, field = name.partition(".")
            ours, theirs = (
                getattr(getattr(one.run, section), field, None) for one in (members[0], member)
            )
            if ours != theirs:
                raise InputError(
                    f"{name}={ours} of {members[0].workdir}, {theirs} of {member.workdir}; the "
                    f"members of an ensemble need the same"
                )


def _input(settings: run.Data) -> tuple[int, str]:
    return settings.side, settings.fit


def _by_fold(members: Sequence[Member]) -> dict[tuple, list[Member]]:
    found = {}
    for member in members:
        found.setdefault((member.run.data.fold, member.run.data.val_split), []).append(member)
    return found


def _said(folds: dict) -> str:
    return ", ".join(split if fold is None else f"fold {fold}" for fold, split in folds)


def _kind(member: Member) -> str:
    return "a classifier" if member.run.is_classifier else "a segmenter"


def _sha256(workdir: Path) -> str:
    return hashlib.sha256((workdir / BEST).read_bytes()).hexdigest()
