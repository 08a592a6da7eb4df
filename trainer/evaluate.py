"""Workdirs -> scores. Thresholds are chosen on the validation split and then frozen for the test
split.

Probabilities are resized to the source's own size before thresholding, and scored against the union
of the label file's rows: the challenge's metric, not one at the network's size.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lake import InputError
from trainer import (
    bootstrap,
    checkpoint,
    damage,
    data,
    decision,
    gallery,
    predictions,
    scores,
)
from trainer.decision import Decision
from trainer.ensemble import Ensemble
from trainer.predictions import Predictions


class Options(NamedTuple):
    """How scores are told."""

    prevalence: float | None = None  # of lesions, for PPV and NPV; None: as in the images
    replicates: int = 1000  # of the bootstrap; 0: no intervals
    seed: int = 0


class Told(NamedTuple):
    """What an ensemble says of a split."""

    system: Ensemble
    split: data.Split
    predictions: Predictions


class Scored(NamedTuple):
    predictions: Predictions
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]


def evaluate(
    system: Ensemble, lake: str | None, options: Options, picture: Path | None = None
) -> str:
    """Scores the best weights of runs, writes metrics.json into the first workdir; returns a table
    to print."""
    folder = _lake_of(system, lake)
    content = data.open_lake(folder)
    parts, test = _splits(system, content, folder)
    with damage.explained(system.run, folder):
        told = [_told(part, split) for part, split in parts]
        validation = predictions.joined([part.predictions for part in told])
        chosen = _choose(system, validation)
        found = {" and ".join(split.name for _, split in parts): validation}
        if test:
            told.append(_told(system, test))
            found["test"] = told[-1].predictions
        if picture:
            _draw(picture, told[-1], chosen)
    scored = {name: _scored(predicted, chosen, options) for name, predicted in found.items()}
    entry = _entry(system, folder, chosen, options, scored)
    checkpoint.write_metrics(system.members[0].workdir, {system.label: entry})
    return table(_title(system), scored, chosen)


def _lake_of(system: Ensemble, lake: str | None) -> str:
    lakes = {member.run.lake for member in system.everyone}
    if lake is None and len(lakes) > 1:
        raise InputError(
            f"the members were trained on {', '.join(sorted(map(str, lakes)))}; say with --lake "
            f"which one to score on"
        )
    return lake or lakes.pop()


def _splits(system: Ensemble, content: dict, folder: str) -> tuple[list, data.Split | None]:
    """[(who is asked, what thresholds are chosen on)], and the test split if it is another one."""
    for member in system.everyone:
        data.check_classes(content, folder, member.run)
    parts = [
        (part, data.validation_split(content, folder, part.settings)) for part in system.held_out()
    ]
    is_tested = content["counts"]["splits"].get("test", {}).get("records")
    if not is_tested or parts[0][1].name == "test":
        return parts, None
    test = data.split_of(content, folder, "test")
    for part, split in parts:
        _check_patients(folder, split, data.validation_names(part.settings), test)
    return parts, test


def _check_patients(folder: str, split: data.Split, names: Sequence[str], test: data.Split) -> None:
    both = data.patients(folder, split, names) & data.patients(folder, test, ["test"])
    if both:
        raise InputError(
            f"{folder}: {len(both)} patient{'s are' * (len(both) > 1) or ' is'} in {split.name} "
            f"and in test, such as {min(both)}; thresholds would be tested on a patient that they "
            f"were chosen on. Give each patient one split in --split_column and convert again"
        )


def _told(system: Ensemble, split: data.Split) -> Told:
    return Told(system, split, predictions.of(system, split))


def _choose(system: Ensemble, validation: Predictions) -> Decision | None:
    if system.segmenters:
        return decision.choose(validation.counted, validation.masked_lesion)
    if validation.lesion is None:  # more than two classes
        return None
    return decision.choose_of_classifier(validation.lesion, validation.labels)


def _scored(predicted: Predictions, chosen: Decision | None, options: Options) -> Scored:
    values = scores.of(predicted, chosen, options.prevalence)
    measure = scores.measures(predicted, chosen, options.prevalence)
    drawn = options.replicates, options.seed
    return Scored(predicted, values, bootstrap.intervals(measure, predicted.groups, *drawn))


def _draw(path: Path, told: Told, chosen: Decision | None) -> None:
    places = gallery.first_few(told.predictions)
    shown = gallery.of(told.system, told.split, places, chosen)
    dices = scores.dices_by_place(told.predictions, chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(gallery.picture(told.predictions, shown, dices)).save(path)


def _entry(system: Ensemble, folder: str, chosen, options: Options, scored: dict) -> dict:
    """Of metrics.json; decision.read takes the thresholds from it."""
    return {
        "lake": folder,
        "workdirs": [str(member.workdir) for member in system.members],
        "classifiers": [str(m.workdir) for m in system.classifiers] if system.is_cascade else [],
        "weights_sha256": system.weights_sha256(),
        "tta": " ".join(system.tta),
        **(chosen or Decision()).to_json(),
        "options": options._asdict(),
        "splits": {name: _known(part.scores) for name, part in scored.items()},
        "intervals": {name: _known(part.intervals) for name, part in scored.items()},
    }


def _known(values: dict) -> dict:
    """JSON has no nan."""
    return {name: value if np.isfinite(value).all() else None for name, value in values.items()}


def _title(system: Ensemble) -> str:
    title = ", ".join(str(member.workdir) for member in system.members)
    if system.is_cascade:
        title += " after " + ", ".join(str(member.workdir) for member in system.classifiers)
    if system.prune is not None:
        parameters = system.members[0].network.count_params()
        title += f", pruned to L{system.prune}: {parameters:,} parameters"
    sizes = [name for name in system.tta if name not in ("none", "flip")]
    title += ", with its mirror images" if "flip" in system.tta else ""
    return title + (f", also at {', '.join(sizes)} of its size" if sizes else "")


def table(title: str, scored: dict[str, Scored], chosen: Decision | None) -> str:
    """The title, one line a score, and the thresholds."""
    names = list(next(iter(scored.values())).scores)
    width = max(len(name) for name in names) + 2
    lines = [title, " " * width + "".join(f"{split:<26}" for split in scored)]
    for name in names:
        cells = [_cell(part.scores[name], part.intervals.get(name)) for part in scored.values()]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:<26}" for cell in cells))
    if chosen:
        lines.append(f"thresholds chosen on validation: {chosen}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: float, ends: tuple[float, float] | None) -> str:
    if isinstance(value, int) or math.isnan(value):
        return "-" if isinstance(value, float) else f"{value}"
    return f"{value:.4f}" + (f"  [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
