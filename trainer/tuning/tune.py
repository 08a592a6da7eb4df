"""radlake tune: trial after trial until there are enough, and what came out of them."""

import csv
import io
import os
import time
from collections import Counter
from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from lake import InputError, Stopped, picture, signals, storage
from lake.terminal import console
from trainer.config import files
from trainer.config.run import Config
from trainer.devices import slurm
from trainer.display import plots
from trainer.tuning import space as spaces
from trainer.tuning import study as studies
from trainer.tuning import trials
from trainer.tuning.study import Study
from trainer.tuning.trials import Outcome

TABLE, PICTURE, BEST = "trials.csv", "importance.png", "best.yaml"
ROWS = 10  # of the printed table
WAIT_SECONDS = 5.0
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def tune(
    config: Config,
    config_path: str,
    overrides: list[str],
    space_path: Path,
    folder: Path,
    count: int,
    seed: int,
    prunes: bool,
) -> str | int:
    """Run trials until `count` have ended, and return the table and the best one's values; the exit
    code 42 where a run was interrupted. Raises InputError for a user's mistakes, Stopped where all
    trials failed."""
    _check_alone()
    if config.stages:
        raise InputError("tune compares epochs of one run; give a config without stages")
    space = spaces.read(space_path)
    spaces.check(space, config, config_path, overrides)
    description = {
        "config": config.model_dump(mode="json"),
        "space": yaml.safe_load(space_path.read_text()),
        "seed": seed,
        "prune": prunes,
    }
    study = studies.open_study(folder, description, space, seed, prunes, config.train.epochs)
    signals.set_repeat("the same command goes on")
    is_waiting = False
    while True:
        with studies.next_trial(study, count) as trial:
            if trial:
                outcome = _run(study, trial, config_path, config.lake, overrides)
                if outcome.state is None:
                    print(f"{outcome.message}; the same command goes on")
                    return signals.GOES_ON
                if outcome.state != TrialState.RUNNING:
                    # Optuna gives a pruned trial the score of its last epoch.
                    score = outcome.score if outcome.state == TrialState.COMPLETE else None
                    study.optuna_study.tell(trial.number, score, outcome.state)
                    print(_line(study, trial.number, outcome.message), flush=True)
                    continue
        num_open = count - len(studies.ended(study))
        if num_open <= 0:
            return _summary(study, config_path, overrides)
        if not is_waiting:
            text = f"other processes work on the last {num_open} of {count} trials; waiting"
            console.note(text, flush=True)
            is_waiting = True
        time.sleep(WAIT_SECONDS)


def _check_alone() -> None:
    """Raise InputError where several workers were started together, which train one network."""
    if os.environ.get("TF_CONFIG", "").strip() or slurm.read_step(os.environ):
        raise InputError(
            "tune runs one trial after the other, and TF_CONFIG or srun says that this is one of "
            "several workers; start it by itself, and once more for each trial at the same time"
        )


def _run(
    study: Study, trial: optuna.Trial, config_path: str, lake: str, overrides: list[str]
) -> Outcome:
    """Run a trial; one whose values clash has failed, and one with the values of an earlier one has
    its score: the same run gives the same. What failed is tried again."""
    for earlier in studies.ended(study):
        if earlier.params == trial.params and earlier.state != TrialState.FAIL:
            is_complete = earlier.state == TrialState.COMPLETE
            message = f"the values of trial {earlier.number} again, so it was not run"
            return Outcome(earlier.state, earlier.value if is_complete else None, message)
    overrides = [*overrides, *spaces.overrides(trial.params, study.space)]
    try:
        config = files.load(config_path, overrides)
    except InputError as error:
        return Outcome(TrialState.FAIL, message=str(error))
    words = [f"--config={config_path}", f"--lake={lake}", *overrides]
    return trials.run(trial, config, words, study.workdir(trial.number))


def _line(study: Study, number: int, message: str) -> str:
    """Return what is printed when a trial has ended."""
    trial = study.trials()[number]
    words = f"trial {number}, {WORDS[trial.state]}{_score(trial.value)}: {_values(study, trial)}"
    if message:
        return f"{words}\n    {message}"
    best = _by_score(study)[:1]
    return f"{words}; best so far: trial {best[0].number}{_score(best[0].value)}" if best else words


def _score(score: float | None) -> str:
    return "" if score is None else f" {score:.4f}"


def _values(study: Study, trial: FrozenTrial) -> str:
    """Return what a trial has drawn, as YAML in short."""
    return ", ".join(
        f"{name.rpartition('.')[2]} {spaces.value_text(name, _rounded(value), study.space)}"
        for name, value in trial.params.items()
    )


def _rounded(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _by_score(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the best first."""
    complete = [t for t in studies.ended(study) if t.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def _summary(study: Study, config_path: str, overrides: list[str]) -> str:
    """Write the table, the picture and the best config, and return what a user reads."""
    ended, best = studies.ended(study), _by_score(study)
    storage.write(study.folder / TABLE, _csv(study, ended).encode())
    if not best:
        message = f"no trial is complete; see {study.folder / studies.TRIALS} for what each printed"
        raise Stopped(message)
    best_overrides = [*overrides, *spaces.overrides(best[0].params, study.space)]
    with storage.whole_file(study.folder / BEST) as path:
        files.save(files.load(config_path, best_overrides), path)
    counts = Counter(WORDS[trial.state] for trial in ended)
    lines = [f"{len(ended)} trials: {', '.join(f'{n} {word}' for word, n in counts.items())}"]
    lines += ["", f"{'trial':>5}  {'score':>7}  values"]
    for trial in best[:ROWS]:
        lines.append(f"{trial.number:>5}  {trial.value:>7.4f}  {_values(study, trial)}")
    lines += ["", *_importance_lines(study, len(best))]
    lines.append(f"best config: {study.folder / BEST}; its run: {study.workdir(best[0].number)}")
    lines.append(f"all trials: {study.folder / TABLE}")
    return "\n".join(lines)


def _csv(study: Study, ended: list[FrozenTrial]) -> str:
    """Return a table of all trials that have ended, one per line."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("trial", "state", "score", "epochs", "seconds", *study.space))
    for trial in ended:
        values = [spaces.value_text(name, trial.params[name], study.space) for name in study.space]
        epochs = max(trial.intermediate_values, default=0)
        seconds = round(trial.duration.total_seconds(), 1)
        score = "" if trial.value is None else trial.value
        writer.writerow((trial.number, WORDS[trial.state], score, epochs, seconds, *values))
    return text.getvalue()


def _importance_lines(study: Study, num_complete: int) -> list[str]:
    """Draw how much of the scores' differences each field explains, and return it as lines."""
    shares = studies.importances(study)
    path = study.folder / PICTURE
    if not shares:
        return ["importance: too few complete trials, or all of one score"]
    title = picture.title(str(study.folder), f"{num_complete} complete trials")
    storage.write(path, picture.to_png(plots.importances(title, shares)))
    lines = [f"importance (PED-ANOVA; {path}):"]
    return [*lines, *(f"{share:>7.0%}  {name}" for name, share in shares.items()), ""]
