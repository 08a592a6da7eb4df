"""What an evaluation leaves: the table, its entry in metrics.json, TensorBoard's files and
pictures."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lake import storage
from lake.picture import to_png
from trainer.display import plots
from trainer.display.board import Board
from trainer.evaluation.outcomes import Outcomes
from trainer.evaluation.scores import ScoreOptions, Scores
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.scoring import metrics
from trainer.workdir import CONFIG


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
    decision: Decision | None  # the thresholds; None for classifiers of more than two classes
    splits: dict[str, SplitScores]  # the last is the one to report


def describe(ensemble: Ensemble) -> tuple[str, dict, list[tuple[Path, str]]]:
    """Return title, facts and configs of an Evaluation; reads the weights for their checksums."""
    workdirs, classifiers = (
        [str(member.workdir) for member in members]
        for members in (ensemble.members, ensemble.classifiers if ensemble.is_cascade else ())
    )
    title = ", ".join(workdirs) + " after " * ensemble.is_cascade + ", ".join(classifiers)
    if ensemble.level is not None:
        parameters = ensemble.members[0].network.count_params()
        title += f", pruned to L{ensemble.level}: {parameters:,} parameters"
    sizes = [name for name in ensemble.tta if name not in ("none", "flip")]
    title += ", with its mirror images" if "flip" in ensemble.tta else ""
    title += f", also at {', '.join(sizes)} of its size" if sizes else ""
    facts = {
        "workdirs": workdirs,
        "classifiers": classifiers,
        "weights_sha256": ensemble.weights_sha256(),
        "tta": " ".join(ensemble.tta),
    }
    configs = [(m.workdir, (m.workdir / CONFIG).read_text()) for m in ensemble.everyone]
    return title, facts, configs


def entry(evaluation: Evaluation) -> dict:
    """Return the entry of metrics.json; decision.read_decision takes the thresholds from it."""
    splits = evaluation.splits.items()
    return {
        "lake": evaluation.lake,
        **evaluation.facts,
        **(evaluation.decision or Decision()).to_json(),
        "options": evaluation.options._asdict(),
        "splits": {name: _without_nan(split.scores.values) for name, split in splits},
        "intervals": {name: _without_nan(split.scores.intervals) for name, split in splits},
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


def _without_nan(values: dict) -> dict:
    """Return the values with None in place of nan, which JSON does not have."""
    return {name: value if np.isfinite(value).all() else None for name, value in values.items()}


def draw_curves(folder: Path, evaluation: Evaluation) -> None:
    """Write the curves of each split as a PNG and for TensorBoard, with its scores."""
    board = Board(folder, 0, tuple(evaluation.splits))
    for name, split in evaluation.splits.items():
        tags = {f"evaluate/{score}": float(value) for score, value in split.scores.values.items()}
        board.scalars(name, 0, tags)
        if not split.curves:  # more than two classes
            continue
        picture = plots.plot_curves(split.curves, f"{evaluation.title}: {name}")
        storage.write(folder / f"curves_{name}.png", to_png(picture))
        board.image(name, 0, "curves", picture)
        predictions = split.outcomes.predictions
        has_label = predictions.labels >= 0
        p = metrics.to_probabilities(predictions.scores[has_label])
        board.pr_curve(name, 0, "images", predictions.labels[has_label] > 0, p)
    board.flush()


def table(evaluation: Evaluation) -> str:
    """Return the title, one line per score, and the thresholds."""
    splits = evaluation.splits
    names = list(next(iter(splits.values())).scores.values)
    width = max(len(name) for name in names) + 2
    lines = [evaluation.title, " " * width + "".join(f"{name:<26}" for name in splits)]
    for name in names:
        cells = "".join(f"{cell(split.scores, name):<26}" for split in splits.values())
        lines.append(f"{name:<{width}}{cells}")
    if evaluation.decision:
        lines.append(f"thresholds chosen on validation: {evaluation.decision}")
    return "\n".join(line.rstrip() for line in lines)


def cell(scores: Scores, name: str) -> str:
    """Return a score with its interval as text; "-" if it is not defined."""
    value, ends = scores.values[name], scores.intervals.get(name)
    if isinstance(value, int):
        return f"{value}"
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" + (f"  [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
