"""Workdirs -> scores. Thresholds are chosen on the validation split and then frozen for the test
split.

Probabilities are resized to the source's own size before they are compared with a threshold, and
scored against the union of the label file's rows: this is the challenge's metric, not one at the
network's size.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from lake import InputError, storage
from lake.picture import to_png
from lake.records import manifest
from trainer.data import damage, splits
from trainer.data.batches import Split
from trainer.evaluation import curves, gallery, report, results, subgroups
from trainer.evaluation.outcomes import Outcomes, decide
from trainer.evaluation.predictions import Predictions, join, predict
from trainer.evaluation.remarks import Remark, remarks
from trainer.evaluation.results import Evaluation, SplitScores
from trainer.evaluation.scores import ScoreOptions, score
from trainer.evaluation.table import table
from trainer.inference.decision import Decision, choose, choose_for_classifier
from trainer.inference.ensemble import Ensemble
from trainer.workdir import METRICS, read_json, write_metrics


def evaluate(
    ensemble: Ensemble,
    lake: str | None,
    options: ScoreOptions,
    picture: Path | None = None,
    page: Path | None = None,
) -> str:
    """Score the best weights of runs; write metrics.json, curves and report.html (or `page`) into
    the first workdir; return a table to print."""
    start_time = time.monotonic()
    lake = lake or ensemble.trained_on()
    content = manifest.load(lake)
    workdir = ensemble.members[0].workdir
    page = page or workdir / f"report{ensemble.label.removeprefix('evaluate')}.html"
    for folder in {workdir, page.parent, (picture or page).parent}:
        storage.check_writable(folder)
    parts, test = _open_splits(ensemble, content, lake)

    # --- predict, decide ---
    with damage.locate_errors(ensemble.config, lake):
        # One pass over each fold, or one over the validation split.
        last_parts = [predict(part, split) for part, split in parts]
        validation = join([part.predictions for part in last_parts])
        decision = _choose_thresholds(ensemble, validation)
        outcomes = {" and ".join(split.name for _, split in parts): decide(validation, decision)}
        if test:
            last_parts = [predict(ensemble, test)]
            outcomes["test"] = decide(last_parts[0].predictions, decision)
        # Picture and report show images of the last split.
        *_, last = outcomes.values()
        picture_places = gallery.first_places(last.predictions)
        places = sum(gallery.choose(last).values(), picture_places)
        images = gallery.load(last_parts, places, decision)

    # --- score ---
    split_scores = {name: _score_split(split, options) for name, split in outcomes.items()}
    description = results.describe(ensemble)
    scores = {name: split.scores for name, split in split_scores.items()}
    notes = [*_unfinished(ensemble), *remarks(outcomes, scores, options)]
    origin = results.provenance_of(lake, content, outcomes, time.monotonic() - start_time)
    evaluation = Evaluation(
        *(*description, lake, content, options, decision, split_scores, notes, origin)
    )

    # --- write ---
    write_metrics(workdir, {ensemble.label: results.entry(evaluation)})
    results.draw_curves(workdir / ensemble.label, evaluation)
    if picture:
        pixels = gallery.draw_panel(last, {place: images[place] for place in picture_places})
        storage.make_folder(picture.parent)
        storage.write(picture, to_png(pixels))
    storage.make_folder(page.parent)
    storage.write(page, report.page(evaluation, images).encode())
    return "\n".join([table(evaluation), f"report: {page}"])


def _unfinished(ensemble: Ensemble) -> list[Remark]:
    """Return a remark about each member that has not trained all its epochs."""
    notes = []
    for workdir, config, _ in ensemble.everyone:
        epoch = read_json(workdir / METRICS).get("last", {}).get("epoch")
        if epoch is not None and epoch < config.train.epochs:
            text = f"{workdir}: the best of {epoch} epochs so far, of {config.train.epochs}."
            notes.append(Remark("unfinished", "", text))
    return notes


def _open_splits(
    ensemble: Ensemble, content: dict, lake: str
) -> tuple[list[tuple[Ensemble, Split]], Split | None]:
    """Return the ensembles and the splits that they choose thresholds on, one pair or one for each
    fold that members hold out; and the test split, if it is another one."""
    for member in ensemble.everyone:
        splits.check_classes(content, lake, member.config)
    parts = [
        (part, splits.validation_split(content, lake, part.settings))
        for part in ensemble.fold_ensembles()
    ]
    has_test = content["counts"]["splits"].get("test", {}).get("records")
    if not has_test or parts[0][1].name == "test":
        return parts, None
    test = splits.named_split(content, lake, "test")
    for part, split in parts:
        _check_patients(lake, split, splits.validation_names(part.settings), test)
    return parts, test


def _check_patients(lake: str, split: Split, names: Sequence[str], test: Split) -> None:
    """Raise InputError where a patient of the splits `names` is in the test split, too."""
    both = splits.patients(lake, split, names) & splits.patients(lake, test, ["test"])
    if both:
        raise InputError(
            f"{lake}: {len(both)} patient{'s are' * (len(both) > 1) or ' is'} in {split.name} "
            f"and in test, such as {min(both)}; thresholds would be tested on a patient that they "
            f"were chosen on. Give each patient one split in --split_column and convert again"
        )


def _choose_thresholds(ensemble: Ensemble, validation: Predictions) -> Decision | None:
    """Return the thresholds chosen on the validation split; None for more than two classes."""
    if ensemble.segmenters:
        return choose(validation.counts, validation.lesion_of_masks)
    if validation.lesion is None:  # more than two classes
        return None
    return choose_for_classifier(validation.lesion, validation.labels)


def _score_split(outcomes: Outcomes, options: ScoreOptions) -> SplitScores:
    """Return the scores of a split and of its subgroups, and its curves."""
    subgroup_scores = {
        field: {group: score(outcomes.take(places), options) for group, places in groups.items()}
        for field, groups in subgroups.by_field(outcomes.predictions).items()
    }
    whole = score(outcomes, options)
    return SplitScores(outcomes, whole, subgroup_scores, curves.from_outcomes(outcomes))
