"""What an evaluation leaves: the table, its entry in metrics.json, TensorBoard, pictures."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lake import storage
from lake.picture import to_png
from trainer.display import plots
from trainer.display.board import Board
from trainer.evaluation.predictions import Predictions
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.scoring import metrics


class Scores(NamedTuple):
    """Of some images."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # 95%, of those scores that have one


class Scored(NamedTuple):
    """Of a split."""

    predictions: Predictions
    scores: Scores
    subgroups: dict[str, dict[str, Scores]]  # by field, by group
    curves: dict[str, dict[str, list]]  # trainer/evaluation/curves.py


def entry(system: Ensemble, folder: str, chosen: Decision | None, options, scored: dict) -> dict:
    """Of metrics.json; decision.read takes the thresholds from it."""
    return {
        "lake": folder,
        "workdirs": [str(member.workdir) for member in system.members],
        "classifiers": [str(m.workdir) for m in system.classifiers] if system.is_cascade else [],
        "weights_sha256": system.weights_sha256(),
        "tta": " ".join(system.tta),
        **(chosen or Decision()).to_json(),
        "options": options._asdict(),
        "splits": {name: _known(part.scores.values) for name, part in scored.items()},
        "intervals": {name: _known(part.scores.intervals) for name, part in scored.items()},
        "subgroups": {name: _of_groups(part.subgroups) for name, part in scored.items()},
        "curves": {name: part.curves for name, part in scored.items()},
    }


def _of_groups(subgroups: dict) -> dict:
    return {
        field: {
            group: {**_known(found.values), "intervals": _known(found.intervals)}
            for group, found in groups.items()
        }
        for field, groups in subgroups.items()
    }


def _known(values: dict) -> dict:
    """JSON has no nan."""
    return {name: value if np.isfinite(value).all() else None for name, value in values.items()}


def draw(folder: Path, title: str, scored: dict[str, Scored]) -> None:
    """The curves of each split, as a PNG and for TensorBoard, with its scores."""
    board = Board(folder, 0, tuple(scored))
    for split, part in scored.items():
        tags = {f"evaluate/{name}": float(value) for name, value in part.scores.values.items()}
        board.scalars(split, 0, tags)
        if not part.curves:  # more than two classes
            continue
        picture = plots.plot_curves(part.curves, f"{title}: {split}")
        storage.write(folder / f"curves_{split}.png", to_png(picture))
        board.image(split, 0, "curves", picture)
        known = part.predictions.labels >= 0
        p = metrics.to_probabilities(part.predictions.scores[known])
        board.pr_curve(split, 0, "images", part.predictions.labels[known] > 0, p)
    board.flush()


def title(system: Ensemble) -> str:
    said = ", ".join(str(member.workdir) for member in system.members)
    if system.is_cascade:
        said += " after " + ", ".join(str(member.workdir) for member in system.classifiers)
    if system.level is not None:
        parameters = system.members[0].network.count_params()
        said += f", pruned to L{system.level}: {parameters:,} parameters"
    sizes = [name for name in system.tta if name not in ("none", "flip")]
    said += ", with its mirror images" if "flip" in system.tta else ""
    return said + (f", also at {', '.join(sizes)} of its size" if sizes else "")


def table(title: str, scored: dict[str, Scored], chosen: Decision | None) -> str:
    """The title, one line a score, and the thresholds."""
    names = list(next(iter(scored.values())).scores.values)
    width = max(len(name) for name in names) + 2
    lines = [title, " " * width + "".join(f"{split:<26}" for split in scored)]
    for name in names:
        cells = (cell(part.scores, name) for part in scored.values())
        lines.append(f"{name:<{width}}" + "".join(f"{said:<26}" for said in cells))
    if chosen:
        lines.append(f"thresholds chosen on validation: {chosen}")
    return "\n".join(line.rstrip() for line in lines)


def cell(scores: Scores, name: str) -> str:
    value, ends = scores.values[name], scores.intervals.get(name)
    if isinstance(value, int):
        return f"{value}"
    if math.isnan(value):
        return "-"
    return f"{value:.4f}" + (f"  [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
