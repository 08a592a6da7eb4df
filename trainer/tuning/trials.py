"""One trial: a run of `train` in a process of its own, whose scores are read while it goes on.
In: a trial and its command. Out: the trial's score, or why it has none.

A run of its own process gives all memory back, goes on where a kill cut it short, and is the same
as one that a user starts.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import optuna
from optuna.trial import TrialState

from lake import signals
from trainer.config.run import Config
from trainer.tuning import study
from trainer.workdir import METRICS, read_json

TRAIN = [sys.executable, "-m", "trainer.task", "train"]
POLL_SECONDS = 1.0
LINES_OF_LOG = 3  # of a failed run, in its message


class Outcome(NamedTuple):
    """How a trial's run ended; `state` is None where it was interrupted, and goes on later, and
    RUNNING where another process trains it."""

    state: TrialState | None
    score: float | None = None
    message: str = ""


def run(trial: optuna.Trial, config: Config, words: list[str], workdir: Path) -> Outcome:
    """Train a trial's run to its end, or until its scores are below those of most others."""
    log = workdir.with_suffix(".log")
    with log.open("ab") as file, signals.raising():
        # Ctrl-C in a terminal reaches its whole process group; a run that gets two signals ends
        # without saving.
        process = subprocess.Popen(
            [*TRAIN, *words, f"--workdir={workdir}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            is_pruned = _watch(trial, config, process, workdir)
        except BaseException:
            _stop(process)
            raise
    _report(trial, config, workdir)
    if is_pruned:
        return Outcome(TrialState.PRUNED, last_score(config, workdir)[1])
    if process.returncode == signals.GOES_ON:
        return Outcome(None, message=f"the run of trial {trial.number} was interrupted")
    if process.returncode and study.is_trained_now(workdir):
        # By the run that a killed process left behind while it was still starting.
        return Outcome(TrialState.RUNNING)
    if process.returncode:
        return Outcome(TrialState.FAIL, message=_end_of(log, process.returncode))
    return Outcome(TrialState.COMPLETE, final_score(config, workdir))


def _watch(trial: optuna.Trial, config: Config, process: subprocess.Popen, workdir: Path) -> bool:
    """Wait until the run has ended; return whether it was stopped because of its scores."""
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        if _report(trial, config, workdir) and trial.should_prune():
            _stop(process)
            return True
    return False


def _stop(process: subprocess.Popen) -> None:
    """Let the run save and end."""
    process.send_signal(signal.SIGTERM)
    process.wait()


def _report(trial: optuna.Trial, config: Config, workdir: Path) -> bool:
    """Report the newest epoch's score to Optuna; return whether it is new."""
    epoch, score = last_score(config, workdir)
    frozen = trial.study.get_trials(deepcopy=False)[trial.number]
    if score is None or epoch in frozen.intermediate_values:
        return False
    trial.report(score, epoch)
    return True


def last_score(config: Config, workdir: Path) -> tuple[int, float | None]:
    """Return (epoch, validation score) of the newest epoch, (0, None) before the first."""
    last = read_json(workdir / METRICS).get("last")
    if not last:
        return 0, None
    return last["epoch"], last["val"][config.compared_score]


def final_score(config: Config, workdir: Path) -> float:
    """Return the validation score of the epoch whose weights the run keeps."""
    if config.score == "last":
        return last_score(config, workdir)[1]
    return read_json(workdir / METRICS)["best"]["value"]


def _end_of(log: Path, code: int) -> str:
    """Return the last lines of a run that failed."""
    lines = log.read_text(errors="replace").strip().splitlines()[-LINES_OF_LOG:]
    return "\n    ".join([f"exit code {code}; the end of {log}:", *lines])
