"""Workdirs -> one predictor: the mean over members and views (TTA), with classifiers before the
segmenters in a cascade.

In: a batch of `Ensemble.batches`. Out: probabilities at the network's size, which
trainer/inference/decision.py compares with thresholds.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from keras import ops

from lake import InputError, storage
from lake.records import manifest
from trainer.config.run import Data
from trainer.data.batches import Split, evaluation_batches
from trainer.inference import views
from trainer.inference.calibration import Calibration
from trainer.inference.views import Member
from trainer.models import window
from trainer.scoring import metrics
from trainer.workdir import BEST, load_network

CLASSIFIER_IMAGE = "classifier_image"  # in a batch, where classifiers have an input of their own


class BatchPrediction(NamedTuple):
    """What an ensemble predicts for a batch, float32."""

    probabilities: tf.Tensor | None  # [B, S, S, 1] of pixels; None from classifiers alone
    # [B], p of a lesion by classifiers or by the empty_head of every segmenter, or by segmenters
    # that are calibrated; None otherwise, and from classifiers of more than two classes or of
    # findings.
    lesion: tf.Tensor | None
    # [B], [B, C] of C classes or [B, F] of F findings, logits, by which the images are ranked
    scores: tf.Tensor


def load(
    workdirs: Sequence[Path],
    classifiers: Sequence[Path] = (),
    tta: Sequence[str] = ("none",),
    level: int | None = None,
) -> "Ensemble":
    """Return the ensemble of segmenters, or of classifiers alone; raise InputError where the
    members do not go together."""
    members = [Member(path, *load_network(path, level)) for path in workdirs]
    classifier_members = [Member(path, *load_network(path)) for path in classifiers]
    for member in classifier_members:
        if not member.config.is_classifier:
            raise InputError(
                f"--classifier={member.workdir} holds a {member.config.model.kind} that segments; "
                f"expected a classifier"
            )
    are_classifiers = {member.config.is_classifier for member in members}
    if len(are_classifiers) > 1 or (classifier_members and are_classifiers == {True}):
        kinds = ", ".join(
            f"{m.workdir}: a {'classifier' if m.config.is_classifier else 'segmenter'}"
            for m in members
        )
        raise InputError(
            f"--workdir: expected segmenters, or classifiers alone; found {kinds}; give "
            f"classifiers that go before segmenters to --classifier"
        )
    groups = ((), members) if are_classifiers == {True} else (members, classifier_members)
    ensemble = Ensemble(*groups, tta, level)
    ensemble.weights_sha256()  # now, as a run that still trains may write better ones
    return ensemble


class Ensemble:
    """Members that predict as one: `ensemble(batch) -> BatchPrediction`, for batches of
    `ensemble.batches`."""

    def __init__(self, segmenters, classifiers, tta: Sequence[str] = ("none",), level=None):
        """Take the Members of the two kinds, of which one may be empty, and prepare their views;
        raise InputError where they do not go together."""
        self.segmenters, self.classifiers = tuple(segmenters), tuple(classifiers)
        self.tta, self.level = tuple(tta), level
        self._weights_sha256 = None
        self.members = self.segmenters or self.classifiers
        self.everyone = (*self.segmenters, *self.classifiers)
        self.config = self.members[0].config  # the config whose batches they take
        _check_alike(self.segmenters)
        _check_alike(self.classifiers)
        self.is_cascade = bool(self.segmenters and self.classifiers)
        if self.is_cascade:
            _check_says_lesion(self.classifiers[0])
        have_head = [getattr(m.config.model, "empty_head", False) for m in self.segmenters]
        self.has_heads = bool(have_head) and all(have_head) and not self.is_cascade
        tta_views = views.parse_tta(self.tta)
        self._segment, self._classify = (
            [views.forward(member, view, has_head) for member in members for view in tta_views]
            for members, has_head in ((self.segmenters, self.has_heads), (self.classifiers, False))
        )
        self.calibration: Calibration | None = None
        self._predict = tf.function(self._uncalibrated_outputs, autograph=False)

    def with_calibration(self, calibration: Calibration | None) -> "Ensemble":
        """Return the same ensemble with its images' logits calibrated."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings that classifiers score, in the order of the scores; () of other networks."""
        return self.config.findings

    @property
    def settings(self) -> Data:
        """The side, fit and size of the batches."""
        return self.config.data

    @property
    def title(self) -> str:
        """The members and their views, in words."""
        parts = [", ".join(str(member.workdir) for member in self.members)]
        if self.is_cascade:
            parts[0] += f" after {', '.join(str(member.workdir) for member in self.classifiers)}"
        if self.level is not None:
            parameters = self.members[0].network.count_params()
            parts.append(f"pruned to L{self.level}: {parameters:,} parameters")
        parts += ["with its mirror images"] * ("flip" in self.tta)
        if sizes := [name for name in self.tta if name not in ("none", "flip")]:
            parts.append(f"also at {', '.join(sizes)} of its size")
        return ", ".join(parts)

    def trained_on(self) -> str:
        """Return the lake that all members were trained on; raise InputError where they differ, or
        where it is not there any more."""
        lakes = {member.config.lake for member in self.everyone}
        if len(lakes) > 1:
            raise InputError(
                f"the members were trained on {', '.join(sorted(map(str, lakes)))}; say with "
                f"--lake which one to use"
            )
        [lake] = lakes
        if not (storage.path_of(lake) / manifest.MANIFEST).exists():
            raise InputError(
                f"{storage.whole_path(lake)}: no lake here, and {self.members[0].workdir} was "
                f"trained on it; say with --lake where it lies now"
            )
        return lake

    @property
    def label(self) -> str:
        """The name of this ensemble's scores and thresholds in metrics.json of its first
        workdir."""
        label = "evaluate"
        label += f"_of_{len(self.members)}" if len(self.members) > 1 else ""
        label += f"_after_{len(self.classifiers)}" if self.is_cascade else ""
        label += f"_l{self.level}" if self.level is not None else ""
        return label + ("" if self.tta == ("none",) else f"_tta_{'_'.join(self.tta)}")

    def check_has_answers(self) -> None:
        """Raise InputError for classifiers alone, but for those of findings."""
        if not (self.segmenters or self.findings):
            raise InputError(
                f"--workdir={self.members[0].workdir} holds a classifier, which draws no masks; "
                f"give a segmenter, and the classifier to --classifier"
            )

    def weights_sha256(self) -> dict[str, list[str]]:
        """Return the checksums of the weights, which identify them whatever their folders are
        called; those of the files at the first call."""
        if self._weights_sha256 is None:
            members = {"segmenters": self.segmenters, "classifiers": self.classifiers}
            self._weights_sha256 = {
                kind: [hashlib.sha256((m.workdir / BEST).read_bytes()).hexdigest() for m in group]
                for kind, group in members.items()
            }
        return self._weights_sha256

    @property
    def classifier_settings(self) -> Data | None:
        """These settings with the side and fit of a cascade's classifiers, where those differ from
        the segmenters'; else None."""
        section = (self.classifiers or self.members)[0].config.data
        settings = self.settings.model_copy(update={"side": section.side, "fit": section.fit})
        return None if settings == self.settings else settings

    def batches(self, split: Split, extra_fields: tuple[str, ...] = ()) -> tf.data.Dataset:
        """Return data.batches.evaluation_batches, with CLASSIFIER_IMAGE where the classifiers take
        images of another side or fit."""
        batches = evaluation_batches(split, self.settings, extra_fields)
        if self.classifier_settings is None:
            return batches
        pairs = tf.data.Dataset.zip(batches, evaluation_batches(split, self.classifier_settings))
        return pairs.map(lambda batch, other: batch | {CLASSIFIER_IMAGE: other["image"]})

    def __call__(self, batch: dict) -> BatchPrediction:
        names = ("image", "window", CLASSIFIER_IMAGE)
        inputs = {name: batch[name] for name in names if name in batch}
        return BatchPrediction(**self._calibrate(self._predict(inputs)))

    def outputs(self, batch: dict) -> dict:
        """Return the fields of a BatchPrediction, in the graph of the caller."""
        return self._calibrate(self._uncalibrated_outputs(batch))

    def _calibrate(self, outputs: dict) -> dict:
        """Return the outputs with the calibration's scores and p of a lesion. It comes behind the
        compiled function, which with and without a calibration is the same."""
        if self.calibration is None:
            return outputs
        scores = self.calibration.apply(outputs["scores"])
        return outputs | {"lesion": ops.sigmoid(scores), "scores": scores}

    def _uncalibrated_outputs(self, batch: dict) -> dict:
        """Return the fields of a BatchPrediction as the networks have them."""
        images = window.to_unit(batch["image"], batch["window"])
        logits, lesion = None, None
        if self._segment:
            logits, *heads = views.mean_of([forward(images) for forward in self._segment])
            lesion = heads[0] if heads else None
        if self._classify:
            if CLASSIFIER_IMAGE in batch:
                images = window.to_unit(batch[CLASSIFIER_IMAGE], batch["window"])
            outputs = [forward(images) for forward in self._classify]
            (lesion,) = views.mean_of(outputs, bool(self.findings))
        scores = metrics.lesion_score(logits) if lesion is None else lesion
        is_one = len(scores.shape) == 2 and scores.shape[-1] == 1 and not self.findings
        scores = scores[:, 0] if is_one else scores  # [B], [B, C] or [B, F]
        return {
            "probabilities": None if logits is None else ops.sigmoid(logits),
            "lesion": ops.sigmoid(scores) if is_one else None,
            "scores": scores,
        }

    def fold_ensembles(self) -> list["Ensemble"]:
        """Return one ensemble per held-out fold, or this one where all members hold out the same:
        thresholds must be chosen on images that no member trained on. Raises InputError where
        segmenters and classifiers hold out different ones."""
        segmenters, classifiers = _by_fold(self.segmenters), _by_fold(self.classifiers)
        if self.is_cascade and segmenters.keys() != classifiers.keys():
            lists = [
                ", ".join(split if fold is None else f"fold {fold}" for fold, split in by_fold)
                for by_fold in (segmenters, classifiers)
            ]
            raise InputError(
                f"segmenters that hold out {lists[0]} after classifiers that hold out {lists[1]}; "
                f"thresholds are chosen on images that neither trained on, so expected the same"
            )
        folds = list(segmenters or classifiers)
        if len(folds) == 1:
            return [self]
        members_by_fold = [(segmenters.get(fold, ()), classifiers.get(fold, ())) for fold in folds]
        return [Ensemble(*members, self.tta, self.level) for members in members_by_fold]


def _check_says_lesion(classifier: Member) -> None:
    """Raise InputError for the classifier of a cascade that does not say whether there is a
    lesion."""
    config = classifier.config
    if config.findings or config.model.classes > 2:
        labels = f"{config.model.classes} classes"
        labels = f"{len(config.findings)} findings" if config.findings else labels
        raise InputError(
            f"--classifier={classifier.workdir} knows {labels}; before a segmenter it says whether "
            f"there is a lesion, so expected a classifier of 2 classes"
        )


def _check_alike(members: Sequence[Member]) -> None:
    """Raise InputError where members differ in side, fit, classes or findings."""
    for member in members[1:]:
        for name in ("data.side", "data.fit", "model.classes", "model.findings"):
            section, field = name.split(".")
            pair = members[0], member
            expected, actual = (getattr(getattr(m.config, section), field, None) for m in pair)
            if expected != actual:
                raise InputError(
                    f"{name}={expected} of {members[0].workdir}, {actual} of {member.workdir}; the "
                    f"members of an ensemble need the same"
                )


def _by_fold(members: Sequence[Member]) -> dict[tuple, list[Member]]:
    """Return {(fold, split of validation): the members that hold it out}."""
    by_fold = {}
    for member in members:
        by_fold.setdefault((member.config.data.fold, member.config.data.val_split), []).append(
            member
        )
    return by_fold
