"""Workdirs -> scores. Thresholds are chosen on the validation split and then frozen for the test
split.

Probabilities are resized to the source's own size before they are compared with a threshold, and
scored against the union of the label file's rows: this is the challenge's metric, not one at the
network's size.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lake import InputError, lock, signals, storage
from lake.picture import to_png
from trainer.config.run import Evaluate
from trainer.data import damage
from trainer.display.tracker import Tracker
from trainer.evaluation import choice, curves, gallery, report, results, scored_splits, subgroups
from trainer.evaluation.outcomes import Outcomes, decide, with_outlines
from trainer.evaluation.predictions import Predictions, SplitPredictions, join, predict
from trainer.evaluation.remarks import Remark, remarks
from trainer.evaluation.results import Evaluation, SplitScores
from trainer.evaluation.scored_splits import ScoredSplits
from trainer.evaluation.scores import ScoreOptions, score
from trainer.evaluation.table import table
from trainer.inference import calibration, kinship
from trainer.inference.calibration import Calibration
from trainer.inference.decision import Decision, read_decision
from trainer.inference.ensemble import Ensemble
from trainer.inference.kinship import LakeInUse
from trainer.workdir import AVERAGE, METRICS, read_json, write_metrics


def evaluate(
    ensemble: Ensemble,
    lake: str | None,
    options: ScoreOptions,
    picture: Path | None = None,
    page: Path | None = None,
) -> str:
    """Score the best weights of runs; write metrics.json, curves and report.html (or `page`) into
    the first workdir; return a table to print.

    `lake` may be another than that of the runs: then the thresholds are those of the runs' own
    lake, which is evaluated first if it was not before.
    """
    in_use = kinship.lake_in_use(ensemble, lake)
    choices = _with_choices_of_config(ensemble, options)
    if in_use.is_own:
        return _evaluate(ensemble, in_use, choices, picture, page)
    own_table, frozen = _own_thresholds(ensemble, choices)
    if frozen is not None:
        choices = _with_choices_of_thresholds(ensemble, options)
    with _printed_anyway(own_table):
        return own_table + _evaluate(ensemble, in_use, choices, picture, page, frozen)


def _with_choices_of_config(ensemble: Ensemble, options: ScoreOptions) -> ScoreOptions:
    """Return the options, with the values of the first run's config where they have none; raise
    InputError for a calibration of more than two classes or of findings."""
    settings, classes = ensemble.config.evaluate, getattr(ensemble.config.model, "classes", None)
    choices = options._replace(
        choose=options.choose or settings.choose, calibrate=options.calibrate or settings.calibrate
    )
    if choices.calibrate != calibration.NONE and ((classes or 2) > 2 or ensemble.findings):
        labels = f"{len(ensemble.findings)} findings" if ensemble.findings else f"{classes} classes"
        raise InputError(
            f"--calibrate {choices.calibrate}: fits p of a lesion, and {ensemble.title} knows "
            f"{labels}"
        )
    return choices


def _with_choices_of_thresholds(ensemble: Ensemble, options: ScoreOptions) -> ScoreOptions:
    """Return the options with those by which the runs' thresholds were chosen; raise InputError
    where the options say others."""
    path = ensemble.members[0].workdir / METRICS
    earlier_options, choices = read_json(path)[ensemble.label].get("options", {}), {}
    for name, field in Evaluate.model_fields.items():
        # An entry of an earlier radlake lacks it.
        choices[name] = earlier_options.get(name) or field.default
        if (value := getattr(options, name)) not in (None, choices[name]):
            raise InputError(
                f"--{name} {value}: the thresholds of {path} were chosen with {choices[name]} on "
                f"the run's own lake; evaluate that one first, with this option and without --lake"
            )
    return options._replace(**choices)


def _own_thresholds(ensemble: Ensemble, options: ScoreOptions) -> tuple[str, Decision | None]:
    """Return (the table of the runs on their own lake, "" where they were evaluated before; the
    thresholds that were chosen on it, None where it is gone)."""
    try:
        return "", read_decision(ensemble)
    except InputError:  # the ensemble was not evaluated yet
        pass
    try:
        own_lake = kinship.lake_in_use(ensemble, lake=None)
    except InputError:  # the runs' lake is gone, or there are several
        return "", None
    print(f"first on the run's own lake, which the thresholds are chosen on: {own_lake.folder}")
    table = _evaluate(ensemble, own_lake, options)
    return f"{table}\n\n", read_decision(ensemble)


def _evaluate(
    ensemble: Ensemble,
    lake: LakeInUse,
    options: ScoreOptions,
    picture: Path | None = None,
    page: Path | None = None,
    frozen: Decision | None = None,
) -> str:
    """Return the table of an evaluation on one lake, and write its files; `frozen`: thresholds that
    were chosen on another lake."""
    start_time = time.monotonic()
    workdir, label = ensemble.members[0].workdir, lake.label(ensemble)
    page = page or workdir / f"report{label.removeprefix('evaluate')}.html"
    for folder in {workdir, page.parent, (picture or page).parent}:
        storage.check_writable(folder)
    with damage.locate_errors(ensemble.config, lake.folder):
        scored = scored_splits.open_splits(ensemble, lake, frozen is not None)
        outcomes, last_parts = _predict_splits(ensemble, scored, frozen, options)
        tolerances = options.tolerance_mm, options.tolerance_px
        outcomes = {name: with_outlines(split, *tolerances) for name, split in outcomes.items()}
        # Picture and report show images of the last split.
        *_, last = outcomes.values()
        picture_places = gallery.first_places(last.predictions)
        places = sum(gallery.choose(last).values(), picture_places)
        images = gallery.load(last_parts, places, last.decision)

    # --- score ---
    split_scores = {name: _score_split(split, options) for name, split in outcomes.items()}
    scores = {name: split.scores for name, split in split_scores.items()}
    chosen_on = next(iter(outcomes)) if frozen is None else results.OWN_VALIDATION
    notes = [
        *(Remark("lake", "", text) for text in lake.notes),
        *(Remark("images", "", text) for text in scored.notes),
        *_borrowed_thresholds(lake, frozen, chosen_on),
        *_lost_lesions(last_parts),
        *_unfinished_runs(ensemble),
        *remarks(outcomes, scores, options, chosen_on),
    ]
    origin = results.provenance_of(lake, outcomes, chosen_on, time.monotonic() - start_time)
    evaluation = Evaluation(  # in the order of its fields
        *(*results.describe(ensemble), lake.folder, lake.manifest, options, last.decision),
        *(split_scores, notes, origin, chosen_on),
    )

    # --- write ---
    text = table(evaluation)
    signals.set_repeat(signals.PARTLY_WRITTEN)
    with _printed_anyway(text), _alone_in(workdir / label):
        write_metrics(workdir, {label: results.entry(evaluation)})
        results.write_splits(workdir / label, evaluation)
        if picture:
            title = results.picture_title(evaluation, [*outcomes][-1])
            _write_panel(picture, title, last, {place: images[place] for place in picture_places})
        storage.make_folder(page.parent)
        storage.write(page, report.page(evaluation, images).encode())
    if ensemble.config.train.tracker and len([*ensemble.everyone]) == 1:
        values = {name: split.values for name, split in scores.items()}
        Tracker(workdir, ensemble.config).add_evaluation(label, values, page)
    return "\n".join([text, f"report: {page}"])


def _write_panel(path: Path, title: str, outcomes: Outcomes, images: dict) -> None:
    storage.make_folder(path.parent)
    storage.write(path, to_png(gallery.draw_panel(title, outcomes, images)))


@contextlib.contextmanager
def _printed_anyway(text: str) -> Iterator[None]:
    """Print a table where the block fails: a full disk takes the files, not the scores."""
    try:
        yield
    except BaseException:
        if text:
            print(text, flush=True)
        raise


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make the same evaluation by another process wait until this one's files are written."""
    storage.make_folder(folder)
    with lock.briefly(folder):
        yield


def _predict_splits(
    ensemble: Ensemble, scored: ScoredSplits, frozen: Decision | None, options: ScoreOptions
) -> tuple[dict[str, Outcomes], list[SplitPredictions]]:
    """Return (the outcomes of each split, by its name, the predictions behind the last of them)."""
    outcomes, parts = {}, []
    decision = None if frozen == Decision() else frozen  # of more than two classes, or findings
    scale = decision and decision.calibration
    if frozen is None:
        # One pass over each fold, or one over the validation split.
        parts = [predict(part, split) for part, split in scored.validation]
        validation = join([part.predictions for part in parts])
        if options.calibrate != calibration.NONE:
            scale = calibration.fit(options.calibrate, validation.scores, validation.labels)
        validation = validation.with_calibration(scale)
        parts = [part.with_calibration(scale) for part in parts]
        decision = _choose_thresholds(ensemble, validation, options.choose, scale)
        name = " and ".join(split.name for _, split in scored.validation)
        outcomes[name] = decide(validation, decision)
    if scored.test:
        parts = [predict(ensemble, scored.test).with_calibration(scale)]
        outcomes[scored.test.name] = decide(parts[0].predictions, decision)
    return outcomes, parts


def _borrowed_thresholds(lake: LakeInUse, frozen: Decision | None, chosen_on: str) -> list[Remark]:
    """Return a remark about thresholds that were chosen on a lake which is not that of the runs."""
    if lake.is_own or frozen is not None:
        return []
    text = (
        f"The thresholds were chosen on {chosen_on} of this lake, because that of the runs is not "
        f"where it was: they are no thresholds of the runs, and predict and export take them only "
        f"with the same --lake."
    )
    return [Remark("borrowed_thresholds", chosen_on, text)]


def _lost_lesions(parts: Sequence[SplitPredictions]) -> list[Remark]:
    """Return a remark about lesions of the reported split that no network could see."""
    if not (lost := sum(part.num_lost for part in parts)):
        return []
    name = " and ".join(part.split.name for part in parts)
    text = (
        f"{lost:,} of {sum(part.num_lesions for part in parts):,} masks of {name} with a lesion "
        f"are empty at {parts[0].ensemble.settings.side} px (data.side): the network does not see "
        f"these lesions, and misses them unless by chance."
    )
    return [Remark("lost_lesions", name, text)]


def _unfinished_runs(ensemble: Ensemble) -> list[Remark]:
    """Return a remark about each member that has not trained all its epochs, or is a mean."""
    notes = []
    for workdir, config, _ in ensemble.everyone:
        metrics = read_json(workdir / METRICS)
        if AVERAGE in metrics:
            notes.append(Remark("average", "", f"{workdir} is {metrics[AVERAGE]['text']}"))
        epoch = metrics.get("last", {}).get("epoch")
        if epoch is not None and epoch < config.train.epochs:
            text = f"{workdir}: the best of {epoch} epochs so far, of {config.train.epochs}."
            notes.append(Remark("unfinished", "", text))
    return notes


def _choose_thresholds(
    ensemble: Ensemble, validation: Predictions, rule: str, scale: Calibration | None
) -> Decision | None:
    """Return the thresholds chosen on the validation split, of p that this calibration has made;
    None for more than two classes and for findings."""
    if ensemble.segmenters:
        groups = validation.groups[validation.mask_places]
        decision = choice.choose(validation.counts, validation.lesion_of_masks, rule, groups)
    elif validation.lesion is None:  # more than two classes, or findings
        return None
    else:
        decision = choice.choose_for_classifier(validation.lesion, validation.labels)
    return decision._replace(calibration=scale)


def _score_split(outcomes: Outcomes, options: ScoreOptions) -> SplitScores:
    """Return the scores of a split and of its subgroups, and its curves."""
    subgroup_scores = {
        field: {group: score(outcomes.take(places), options) for group, places in groups.items()}
        for field, groups in subgroups.by_field(outcomes.predictions).items()
    }
    whole = score(outcomes, options)
    return SplitScores(outcomes, whole, subgroup_scores, curves.from_outcomes(outcomes))
