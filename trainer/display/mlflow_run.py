"""A run in MLflow. In: rows of numbers, scores, files. Out: a run on the server that
MLFLOW_TRACKING_URI names, or in a database on this machine.

MLflow's client is given all that it sends: no name of a user or a machine, no git, no console.
"""

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, storage
from trainer.display.event_files import Row

EXPERIMENT = "radlake"  # where MLFLOW_EXPERIMENT_NAME names no other
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# MLflow's own choices, where the environment makes none: a training does not wait for the minutes
# that seven tries of a request take, and nothing is reported to MLflow's makers.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
# MLflow's limits of one request, and of names and values.
METRICS_AT_ONCE, PARAMS_AT_ONCE, NAME_LENGTH, VALUE_LENGTH = 1000, 100, 250, 6000


class MlflowRun:
    """A run, begun or gone on with. Its methods raise one of `errors` where MLflow refuses or does
    not answer."""

    is_live = True  # it takes rows while the run trains
    step = None  # up to which MLflow has all rows: tracker.json has it

    def __init__(self, workdir: Path, entry: dict, name: str, values: dict, is_training: bool):
        """`entry`: what tracker.json has of the run, empty before its first start; `values`: its
        config. Raises InputError."""
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        import mlflow
        from mlflow.exceptions import MlflowException

        # An OSError is one of the network, or of a disk.
        self.mlflow, self.errors = mlflow, (MlflowException, OSError)
        # Before it is named: without a variable, mlflow.db in the folder of the first start.
        default_address = entry.get("address") or mlflow.get_tracking_uri()
        address = os.environ.get("MLFLOW_TRACKING_URI") or default_address
        self.identity = {"id": entry.get("id"), "address": without_keys(address)}
        try:
            self.client = mlflow.MlflowClient(tracking_uri=address)
            self.identity["id"] = entry.get("id") or self._create(name)
            if is_training:
                self.client.update_run(self.id, status="RUNNING")
                self._add_values(values)
        except self.errors as error:
            cause = " ".join(without_keys(str(error)).split())
            old_id = entry.get("id")
            whose = f"; tracker.json in {workdir} names the run {old_id}" if old_id else ""
            raise InputError(
                f"train.tracker=mlflow: {self.identity['address']} does not take the run{whose} "
                f"({cause}); start that server, name another in MLFLOW_TRACKING_URI, or leave "
                f"train.tracker out"
            ) from None

    @property
    def id(self) -> str:
        return self.identity["id"]

    @property
    def place(self) -> str:
        """The place of the run in words."""
        return f"MLflow's run {self.id} at {self.identity['address']}"

    def _create(self, name: str) -> str:
        """Return the id of a new run in the experiment, which is made where it is not there."""
        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment_id:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
            experiment = self.client.get_experiment_by_name(title)
            experiment_id = (
                experiment.experiment_id if experiment else self.client.create_experiment(title)
            )
        return self.client.create_run(experiment_id, run_name=name).info.run_id

    def _add_values(self, values: dict) -> None:
        """Add the config's values that the run does not have; MLflow changes none."""
        old_names = self.client.get_run(self.id).data.params
        params = [
            self.mlflow.entities.Param(name, str(value)[:VALUE_LENGTH])
            for name, value in named(values).items()
            if name not in old_names
        ]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(self.id, params=params[first : first + PARAMS_AT_ONCE])

    def log(self, rows: list[Row], is_doubtful: bool) -> None:
        """Log rows; `is_doubtful`: the run may have some of their numbers already."""
        old_points = self._points() if is_doubtful else set()
        self._add_metrics(
            (name, value, row.time, row.step)
            for row in rows
            for name, value in named(row.values).items()
            if (name, row.step) not in old_points
        )

    def _points(self) -> set[tuple[str, int]]:
        """Return (name, step) of all numbers that the run has."""
        names = self.client.get_run(self.id).data.metrics
        histories = (self.client.get_metric_history(self.id, name) for name in names)
        return {(metric.key, metric.step) for history in histories for metric in history}

    def _add_metrics(self, points: Iterable[tuple[str, float, float, int]]) -> None:
        metrics = [
            self.mlflow.entities.Metric(name, value, int(1000 * seconds), step)
            for name, value, seconds, step in points
        ]
        for first in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[first : first + METRICS_AT_ONCE])

    def add_scores(self, values: dict[str, float]) -> None:
        """Add scores of the whole run; those that it has already stay."""
        old_values = self.client.get_run(self.id).data.metrics
        self._add_metrics(
            (name, value, time.time(), 0)
            for name, value in named(values).items()
            if old_values.get(name) != value
        )

    def add_files(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with storage.local(path) as file:
                self.client.log_artifact(self.id, str(file))

    def end(self, status: str | None) -> None:
        """Say how the run ended; None: it stays as it was."""
        if status:
            self.client.set_terminated(self.id, STATUS[status])


def named(values: dict) -> dict:
    """Return the values by names that MLflow takes: some characters become _."""
    return {
        "/".join(
            re.sub(r"[^\w\-. :]", "_", part) if part.strip(".") else "_" for part in name.split("/")
        )[:NAME_LENGTH]: value
        for name, value in values.items()
    }


def without_keys(text: str) -> str:
    """Return a text without the users and passwords of the addresses in it."""
    return re.sub(r"://[^/@\s]+@", "://", text)
