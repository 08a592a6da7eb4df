"""Workdirs -> scores. Thresholds are chosen on the validation split and then frozen for the test
split.

Probabilities are resized to the source's own size before thresholding, and scored against the union
of the label file's rows: the challenge's metric, not one at the network's size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

from lake import InputError, storage
from lake.picture import to_png
from trainer.data import damage, splits
from trainer.data.batches import Split
from trainer.evaluation import (
    bootstrap,
    curves,
    gallery,
    predictions,
    report,
    results,
    scores,
    subgroups,
)
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.results import Scored, Scores
from trainer.inference import decision
from trainer.inference.decision import Decision
from trainer.inference.ensemble import Ensemble
from trainer.workdir import METRICS, read_json, write_metrics


class Options(NamedTuple):
    """How scores are told."""

    prevalence: float | None = None  # of lesions, for PPV and NPV; None: as in the images
    replicates: int = 1000  # of the bootstrap; 0: no intervals
    seed: int = 0


class Told(NamedTuple):
    """What an ensemble says of a split."""

    system: Ensemble
    split: Split
    batches: tf.data.Dataset
    predictions: Predictions


def evaluate(
    system: Ensemble,
    lake: str | None,
    options: Options,
    picture: Path | None = None,
    page: Path | None = None,
) -> str:
    """Scores the best weights of runs; metrics.json, curves and report.html (or `page`) go into the
    first workdir. Returns a table to print."""
    folder = _lake_of(system, lake)
    content = splits.open_lake(folder)
    workdir, title = system.members[0].workdir, results.title(system)
    page = page or workdir / f"report{system.label.removeprefix('evaluate')}.html"
    for written in {workdir, page.parent, (picture or page).parent}:
        storage.check_writable(written)
    parts, test = _splits(system, content, folder)
    with damage.locate_errors(system.run, folder):
        told = [_told(part, split) for part, split in parts]
        validation = predictions.joined([part.predictions for part in told])
        chosen = _choose(system, validation)
        found = {" and ".join(split.name for _, split in parts): validation}
        if test:
            told.append(_told(system, test))
            found["test"] = told[-1].predictions
        shown = _shown(told[-1], chosen)
    scored = {name: _scored(predicted, chosen, options) for name, predicted in found.items()}
    entry = results.entry(system, folder, chosen, options, scored)
    write_metrics(workdir, {system.label: entry})
    results.draw(workdir / system.label, title, scored)
    if picture:
        _draw(picture, told[-1].predictions, shown, chosen)
    storage.make_folder(page.parent)
    text = report.page(system, content, folder, chosen, options, scored, shown)
    storage.write(page, text.encode())
    lines = [results.table(title, scored, chosen), *_half_trained(system), f"report: {page}"]
    return "\n".join(lines)


def _half_trained(system: Ensemble) -> list[str]:
    """A line for each member whose training has not come to its end."""
    lines = []
    for workdir, run, _ in system.everyone:
        epoch = read_json(workdir / METRICS).get("last", {}).get("epoch")
        if epoch is not None and epoch < run.train.epochs:
            lines.append(f"{workdir}: the best of {epoch} epochs so far, of {run.train.epochs}")
    return lines


def _lake_of(system: Ensemble, lake: str | None) -> str:
    lakes = {member.run.lake for member in system.everyone}
    if lake is None and len(lakes) > 1:
        raise InputError(
            f"the members were trained on {', '.join(sorted(map(str, lakes)))}; say with --lake "
            f"which one to score on"
        )
    return lake or lakes.pop()


def _splits(system: Ensemble, content: dict, folder: str) -> tuple[list, Split | None]:
    """[(who is asked, what thresholds are chosen on)], and the test split if it is another one."""
    for member in system.everyone:
        splits.check_classes(content, folder, member.run)
    parts = [
        (part, splits.validation_split(content, folder, part.settings))
        for part in system.fold_ensembles()
    ]
    is_tested = content["counts"]["splits"].get("test", {}).get("records")
    if not is_tested or parts[0][1].name == "test":
        return parts, None
    test = splits.named_split(content, folder, "test")
    for part, split in parts:
        _check_patients(folder, split, splits.validation_names(part.settings), test)
    return parts, test


def _check_patients(folder: str, split: Split, names: Sequence[str], test: Split) -> None:
    both = splits.patients(folder, split, names) & splits.patients(folder, test, ["test"])
    if both:
        raise InputError(
            f"{folder}: {len(both)} patient{'s are' * (len(both) > 1) or ' is'} in {split.name} "
            f"and in test, such as {min(both)}; thresholds would be tested on a patient that they "
            f"were chosen on. Give each patient one split in --split_column and convert again"
        )


def _told(system: Ensemble, split: Split) -> Told:
    batches = predictions.batches(system, split)
    return Told(system, split, batches, predictions.of(system, batches))


def _choose(system: Ensemble, validation: Predictions) -> Decision | None:
    if system.segmenters:
        return decision.choose(validation.counted, validation.masked_lesion)
    if validation.lesion is None:  # more than two classes
        return None
    return decision.choose_for_classifier(validation.lesion, validation.labels)


def _scored(predicted: Predictions, chosen: Decision | None, options: Options) -> Scored:
    of_groups = {
        field: {
            group: _scores(predicted.take(places), chosen, options)
            for group, places in groups.items()
        }
        for field, groups in subgroups.of(predicted).items()
    }
    found = curves.of(predicted, chosen) if chosen else {}
    return Scored(predicted, _scores(predicted, chosen, options), of_groups, found)


def _scores(predicted: Predictions, chosen: Decision | None, options: Options) -> Scores:
    measure = scores.measures(predicted, chosen, options.prevalence)
    drawn = options.replicates, options.seed
    ends = bootstrap.intervals(measure, predicted.groups, *drawn)
    return Scores(scores.of(predicted, chosen, options.prevalence), ends)


def _shown(told: Told, chosen: Decision | None) -> dict[int, gallery.Shown]:
    """What the picture and the report show."""
    places = gallery.first_few(told.predictions)
    for row in gallery.choose(told.predictions, chosen).values() if chosen else []:
        places += row
    return gallery.of(told.system, told.split, told.batches, places, chosen)


def _draw(path: Path, predicted: Predictions, shown: dict, chosen: Decision | None) -> None:
    first = {place: shown[place] for place in gallery.first_few(predicted)}
    dices = scores.dices_by_place(predicted, chosen)
    storage.make_folder(path.parent)
    storage.write(path, to_png(gallery.picture(predicted, first, dices)))
