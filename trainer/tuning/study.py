"""The trials of a tuning, as Optuna keeps them in a folder that several processes may share. In: a
space. Out: the next trial, one that another process left unfinished, or all of them.

    study.json      what the tuning is: a repeated command must be of the same
    study.journal   Optuna's own log of trials, drawn values and scores
    trials/0007     the run of trial 7, an ordinary workdir
    trials/0007.log what it printed
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lake import InputError, lock
from trainer.tuning.space import Space
from trainer.workdir import LOCK, LOCK_WORDS, read_json, write_json

DESCRIPTION, JOURNAL, TRIALS = "study.json", "study.journal", "trials"
# Networks begin near the empty mask, or near chance: the first epochs say little.
WARMUP_SHARE = 0.25
FIRST_TRIALS = 5  # that are not pruned: there is no median yet


class Study(NamedTuple):
    """A tuning in its folder."""

    folder: Path
    optuna_study: optuna.Study
    space: Space
    seed: int

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, in the order of their numbers."""
        return self.optuna_study.get_trials(deepcopy=False)

    def workdir(self, number: int) -> Path:
        return self.folder / TRIALS / f"{number:04d}"


def open_study(
    folder: Path, description: dict, space: Space, seed: int, prunes: bool, epochs: int
) -> Study:
    """Return the study in a folder, a new one where there is none; raise InputError where the
    folder holds one with another description."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.briefly(folder):
        earlier = read_json(folder / DESCRIPTION)
        names = [name for name in description if earlier.get(name) != description[name]]
        if earlier and names:
            name = names[0]
            raise InputError(
                f"{folder} is a tuning with {name} {earlier.get(name)}, not {description[name]}; "
                f"repeat its command, or give another --workdir"
            )
        if not earlier:
            if any(folder.iterdir()):
                raise InputError(f"{folder} holds files of something else; give a new --workdir")
            write_json(folder / DESCRIPTION, description)
        backend = JournalFileBackend(str(folder / JOURNAL))
        pruner = optuna.pruners.NopPruner()
        if prunes:
            warmup = round(WARMUP_SHARE * epochs)
            pruner = optuna.pruners.MedianPruner(FIRST_TRIALS, n_warmup_steps=warmup)
        optuna_study = optuna.create_study(
            storage=JournalStorage(backend),
            study_name="radlake",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
    return Study(folder, optuna_study, space, seed)


@contextlib.contextmanager
def next_trial(study: Study, count: int) -> Iterator[optuna.Trial | None]:
    """Yield a trial that nobody else works on while the block lasts: first one whose process is
    gone, then a new one while there are fewer than `count`; None where others have them all."""
    with contextlib.ExitStack() as stack:
        for frozen in study.trials():
            if frozen.state == TrialState.RUNNING and _take(study, frozen.number, stack):
                # Another process may have ended it between the look at it and the lock.
                if study.trials()[frozen.number].state == TrialState.RUNNING:
                    # Optuna has no public way back to a trial that runs.
                    yield optuna.Trial(study.optuna_study, frozen._trial_id)
                    return
                stack.close()
        with lock.briefly(study.folder):
            number = len(study.trials())
            if number < count:
                _take(study, number, stack)
                trial = _ask(study, number)
        yield trial if number < count else None


def _take(study: Study, number: int, stack: contextlib.ExitStack) -> bool:
    """Hold a trial for this process; return whether nobody else works on it. A process that was
    killed may have left its run at work."""
    workdir = study.workdir(number)
    words = f"works on trial {number}", "wait"
    try:
        stack.enter_context(lock.hold(workdir.parent, f"{workdir.name}.lock", *words))
    except InputError:
        return False
    if is_trained_now(workdir):
        stack.close()
        return False
    return True


def is_trained_now(workdir: Path) -> bool:
    """Return whether a process trains a run."""
    if not workdir.exists():
        return False
    try:
        with lock.hold(workdir, LOCK, *LOCK_WORDS):
            return False
    except InputError:
        return True


def _ask(study: Study, number: int) -> optuna.Trial:
    """Return a new trial. What is drawn depends on the seed, its number and the scores so far, so a
    repeated command does not draw the first values again."""
    with warnings.catch_warnings():
        # Trials that others work on count as bad ones, or several processes would draw the same.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=study.seed + number, constant_liar=True)
    study.optuna_study.sampler = sampler
    return study.optuna_study.ask(study.space)


def ended(study: Study) -> list[FrozenTrial]:
    """Return the trials that are complete, pruned or failed."""
    return [trial for trial in study.trials() if trial.state.is_finished()]


def importances(study: Study) -> dict[str, float]:
    """Return {section.field: its share of what the scores differ by}, the largest first, by
    PED-ANOVA (Watanabe et al. 2023); empty where the trials are too few, or all score the same."""
    scores = {trial.value for trial in ended(study) if trial.state == TrialState.COMPLETE}
    if len(scores) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return optuna.importance.get_param_importances(study.optuna_study, evaluator=evaluator)
