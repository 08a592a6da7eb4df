"""What an evaluation leaves: its entry in metrics.json, TensorBoard's files and pictures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from lake import clock, picture, storage
from lake.records import manifest
from lake.records.identity import identity
from trainer import provenance
from trainer.display import plots
from trainer.display.board import Board
from trainer.evaluation import bootstrap, image_table
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.remarks import Remark
from trainer.evaluation.scores import ScoreOptions, Scores
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.inference.kinship import LakeInUse
from trainer.scoring import metrics
from trainer.workdir import CONFIG

OWN_VALIDATION = "validation of the run's own lake"  # of thresholds that are frozen
MANIFEST_FACTS = ("dataset", "version", "created")


class SplitScores(NamedTuple):
    """The outcomes of a split, and all that is computed from them."""

    outcomes: Outcomes
    scores: Scores
    subgroups: dict[str, dict[str, Scores]]  # by field, by group
    curves: dict[str, dict[str, list]]  # trainer/evaluation/curves.py


class Evaluation(NamedTuple):
    """One evaluation of an ensemble on a lake."""

    title: str  # the ensemble in words
    facts: dict  # the ensemble in metrics.json: workdirs, checksums of the weights
    configs: list[tuple[Path, str]]  # (workdir, its config.yaml) of each member
    lake: str  # its folder
    manifest: dict
    options: ScoreOptions
    # The thresholds; None for classifiers of more than two classes or of findings.
    decision: Decision | None
    splits: dict[str, SplitScores]  # the last is the one to report
    remarks: list[Remark] = []  # what to keep in mind, what matters most first
    provenance: dict = {}  # from what the scores were computed, and their limits
    chosen_on: str = "val"  # the images that the thresholds were chosen on

    @property
    def choice(self) -> str:
        """The images that the thresholds were chosen on, and the rule where it is not the best."""
        if self.decision.triplet is None or self.options.choose != "one_se":
            return self.chosen_on
        return f"{self.chosen_on}, of those within one standard error of the best"


def describe(ensemble: Ensemble) -> tuple[str, dict, list[tuple[Path, str]]]:
    """Return title, facts and configs of an Evaluation; reads the weights for their checksums."""
    workdirs, classifiers = (
        [str(member.workdir) for member in members]
        for members in (ensemble.members, ensemble.classifiers if ensemble.is_cascade else ())
    )
    facts = {
        "workdirs": workdirs,
        "classifiers": classifiers,
        "weights_sha256": ensemble.weights_sha256(),
        "tta": " ".join(ensemble.tta),
    }
    configs = [(m.workdir, (m.workdir / CONFIG).read_text()) for m in ensemble.everyone]
    return ensemble.title, facts, configs


def provenance_of(
    lake: LakeInUse, outcomes: dict[str, Outcomes], chosen_on: str, seconds: float
) -> dict:
    """Return when, how and from what the scores were computed, and their limits in words;
    `chosen_on`: the images that the thresholds were chosen on, a split or of another lake."""
    content = lake.manifest
    return {
        "time": clock.now(),
        "seconds": round(seconds, 1),  # of predicting and scoring
        "command": provenance.command(),
        "packages": provenance.packages(),
        "commit": provenance.commit(),
        "lake": {
            "path": lake.folder,
            **{name: content[name] for name in MANIFEST_FACTS},
            "shards": identity(content)["shards"],
            "is_external": not lake.is_own,
        },
        "thresholds_chosen_on": chosen_on,
        "limits": limits(content, outcomes, chosen_on),
    }


def limits(content: dict, outcomes: dict[str, Outcomes], chosen_on: str) -> list[str]:
    """Return the limits of the scores, a sentence each."""
    *_, last = outcomes.values()
    texts = [
        "Not a medical device: for research alone.",
        f"The images are those of {content['dataset']} {content['version']}; other scanners, "
        f"hospitals and patients may give other scores.",
        "The truth is that of the label file: a lesion that it lacks counts as a false alarm.",
        f"A 95% interval says how much a score depends on which "
        f"{bootstrap.unit(last.predictions.groups)} happened to be in the split; another training "
        f"of the same network adds to that.",
    ]
    other_splits = [name for name in outcomes if name != chosen_on]
    if last.decision and other_splits:
        effect = ", whose scores are therefore too high" if chosen_on in outcomes else ""
        texts.append(
            f"The thresholds were chosen on {chosen_on}{effect}; {' and '.join(other_splits)} had "
            f"no part in the choice."
        )
    return texts


def entry(evaluation: Evaluation) -> dict:
    """Return the entry of metrics.json; decision.read_decision takes the thresholds from it."""
    splits = evaluation.splits.items()
    return {
        "remarks": [remark._asdict() for remark in evaluation.remarks],
        "provenance": evaluation.provenance,
        "lake": evaluation.lake,
        **evaluation.facts,
        **(evaluation.decision or Decision()).to_json(),
        "options": evaluation.options._asdict(),
        "splits": {name: _without_nan(split.scores.values) for name, split in splits},
        "intervals": {name: _without_nan(split.scores.intervals) for name, split in splits},
        "samples": {name: split.scores.samples for name, split in splits},
        "drawn": {name: _drawn_units(split.outcomes) for name, split in splits},
        "subgroups": {
            name: {
                field: {
                    group: _without_nan(scores.values)
                    | {"intervals": _without_nan(scores.intervals)}
                    for group, scores in groups.items()
                }
                for field, groups in split.subgroups.items()
            }
            for name, split in splits
        },
        "curves": {name: split.curves for name, split in splits},
    }


def _drawn_units(outcomes: Outcomes) -> dict:
    """Return the unit that the bootstrap draws, such as patients, and the number of them."""
    groups = outcomes.predictions.groups
    return {"unit": bootstrap.unit(groups), "number": len(set(groups))}


def _without_nan(values: dict) -> dict:
    """Return the values with None in place of nan and of infinity, which JSON does not have."""

    def plain(value):
        if isinstance(value, tuple) and not np.isnan(value).any():
            return [plain(end) for end in value]
        return value if np.isfinite(value).all() else None

    return {name: plain(value) for name, value in values.items()}


def picture_title(evaluation: Evaluation, split: str) -> str:
    """Return the title of a picture of a split: the ensemble, the images, the thresholds."""
    images = manifest.split_title(split, evaluation.manifest)
    return picture.title(evaluation.title, images, str(evaluation.decision or ""))


def write_splits(folder: Path, evaluation: Evaluation) -> None:
    """Write each split's images as a CSV, and its curves as a PNG and for TensorBoard, with its
    scores."""
    board = Board(folder, 0, tuple(evaluation.splits))
    for name, split in evaluation.splits.items():
        storage.write(folder / f"images_{name}.csv", image_table.csv_text(split.outcomes).encode())
        tags = {f"evaluate/{score}": float(value) for score, value in split.scores.values.items()}
        board.scalars(name, 0, tags)
        if not split.curves:  # more than two classes, or findings
            continue
        plot = plots.plot_curves(split.curves, picture_title(evaluation, name))
        storage.write(folder / f"curves_{name}.png", picture.to_png(plot))
        board.image(name, 0, "curves", plot)
        predictions = split.outcomes.predictions
        has_label = predictions.labels >= 0
        p = metrics.to_probabilities(predictions.scores[has_label])
        board.pr_curve(name, 0, "images", predictions.labels[has_label] > 0, p)
    board.flush()
