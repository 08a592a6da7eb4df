"""Trackers beside TensorBoard: a run in MLflow or in Weights & Biases, with the numbers that its
event files have. In: a workdir after each checkpoint. Out: the tool's run; tracker.json, which says
which one it is and up to which step it has everything.

Only what a checkpoint holds is sent, and nothing twice: a run that was killed goes back to its
checkpoint, and so do TensorBoard's files, but what a server has stays there.
"""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, storage
from lake.terminal import console
from trainer.config import files
from trainer.config.run import Config
from trainer.display.event_files import Row, read_rows
from trainer.display.mlflow_run import MlflowRun, without_keys
from trainer.display.wandb_run import WandbRun
from trainer.workdir import METRICS, read_json, write_json

FILE = "tracker.json"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
RUNS = {"mlflow": MlflowRun, "wandb": WandbRun}
# In tracker.json, per tool: up to which step its run has everything, whether it may have a part of
# more, and whether it has the end, too.
STEP, IS_SENDING, IS_ENDED = "step", "is_sending", "is_ended"
SPLITS = ("train", "val")
LATER = "the next checkpoint, or the same command later, sends them"


class Tracker:
    """The run of a workdir in the tool that train.tracker names. A tool that does not answer ends
    no training: what it lacks is sent with the next checkpoint, or by the same command later."""

    def __init__(self, workdir: Path, config: Config):
        self.workdir, self.config, self.tool = workdir, config, config.train.tracker
        self.entry = {STEP: 0, IS_SENDING: False, IS_ENDED: False}
        self.entry |= read_json(workdir / FILE).get(self.tool, {})
        self.run, self.saved_step = None, 0
        self.rows: list[Row] = []  # what the tool lacks

    def start(self, step: int, is_trained: bool) -> None:
        """Begin the tool's run, or go on with it, and send what it lacks up to a step. Raises
        InputError where the tool does not answer. `is_trained`: nothing is left to train."""
        if is_trained and self.entry[IS_ENDED]:
            return
        self._open(is_training=True)
        steps = {STEP: self.run.step} if self.run.step is not None else {}
        self._note(**self.run.identity, **steps, **{IS_ENDED: False})
        console.note(f"tracker: {self.run.place}", flush=True)
        self.send(step)

    def send(self, step: int) -> None:
        """Send the numbers up to a step, which a checkpoint has; print where that fails."""
        if self.run is None:
            return
        after = self.rows[-1].step if self.rows else self.entry[STEP]
        # At once, as metrics.json has the last epoch alone.
        self.rows += self._with_all_digits(read_rows(self.workdir, after, step))
        self.saved_step = step
        if not self.rows or not self.run.is_live:
            return
        try:
            self._log()
        except self.run.errors as error:
            self._warn(f"{self._steps} are not there yet; {LATER}", error)
            return
        self.rows = []
        self._note(**{IS_SENDING: False, STEP: step})

    def end(self, status: str, paths: Iterable[Path] = ()) -> None:
        """Send what is left and these files, and say how the run ended; print where that fails."""
        if self.run is None:
            return
        try:
            if self.rows:
                self._log()
            self.run.add_files(paths)
            self.run.end(status)
        except self.run.errors as error:
            parts = f"{self._steps}, " if self.rows else ""
            self._warn(f"{parts}files and end are not there; the same command sends them", error)
            return
        is_ended = status == FINISHED
        self._note(**{IS_SENDING: False, STEP: self.saved_step, IS_ENDED: is_ended})
        if not self.run.is_live:
            console.note(f"tracker: {self.run.place}", flush=True)

    @property
    def _steps(self) -> str:
        return f"steps {self.rows[0].step:,} to {self.rows[-1].step:,}"

    def _log(self) -> None:
        # A call that failed, or was killed, may have sent some.
        is_doubtful = self.entry[IS_SENDING]
        self._note(**{IS_SENDING: True})
        self.run.log(self.rows, is_doubtful)

    def add_evaluation(self, label: str, splits: dict[str, dict[str, float]], page: Path) -> None:
        """Add the scores of each split, and the report, to a run that has ended; print where that
        fails."""
        if not self.entry[IS_ENDED]:
            console.note(f"tracker: {self.tool} has no run of {self.workdir} that has ended")
            return
        scores = {
            f"{label}/{split}/{name}": float(value)
            for split, values in splits.items()
            for name, value in values.items()
            if math.isfinite(value)
        }
        advice = "scores and report are not there; evaluate again sends them"
        try:
            self._open(is_training=False)
        except (InputError, ImportError) as error:  # the package may be where the run was trained
            self._warn(advice, error)
            return
        try:
            self.run.add_scores(scores)
            self.run.add_files([page, self.workdir / METRICS])
            self.run.end(None)
        except self.run.errors as error:
            self._warn(advice, error)
            return
        console.note(f"tracker: scores and report are in {self.run.place}", flush=True)

    def _open(self, is_training: bool) -> None:
        name = "/".join(storage.whole_path(str(self.workdir)).split("/")[-2:])
        values = files.hyperparameters(self.config)
        self.run = RUNS[self.tool](self.workdir, self.entry, name, values, is_training)

    def _with_all_digits(self, rows: list[Row]) -> list[Row]:
        """Return the rows with the last epoch's scores as metrics.json has them: those of event
        files are float32."""
        metrics = read_json(self.workdir / METRICS)
        if not rows or metrics.get("last", {}).get("step") != rows[-1].step:
            return rows
        last = metrics["last"]
        scores = {f"{curve}/{tag}": v for curve in SPLITS for tag, v in last[curve].items()}
        if metrics["best"]["epoch"] == last["epoch"]:
            scores |= {f"best/{tag}": value for tag, value in last["val"].items()}
        values = {name: scores.get(name, value) for name, value in rows[-1].values.items()}
        return [*rows[:-1], rows[-1]._replace(values=values)]

    def _note(self, **values) -> None:
        """Write values into tracker.json."""
        self.entry |= values
        path = self.workdir / FILE
        write_json(path, read_json(path) | {self.tool: self.entry})

    def _warn(self, text: str, error: Exception) -> None:
        cause = " ".join(without_keys(str(error)).split())
        print(f"warning: train.tracker={self.tool}: {text} ({cause})", file=sys.stderr, flush=True)
