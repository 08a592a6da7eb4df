"""The stages of a run, one after the other, each from the weights of the one before."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from lake import InputError, storage
from trainer.config.run import Config
from trainer.data import damage
from trainer.devices import workers
from trainer.devices.workers import DYING_SECONDS, POLL_SECONDS, Worker
from trainer.training import interruption
from trainer.training.run import train_stage
from trainer.workdir import BEST, copy_trained


def train(run: Config, workdir: Path, model_folder: Path | None = None) -> None:
    """The run, or each of its stages in a folder of its own but the last; each to its last epoch
    from where the newest checkpoint stands; raises Interrupted when it was asked to stop. The
    trained network also goes into `model_folder`."""
    is_chief = workers.from_environment().is_chief
    if is_chief and model_folder:
        storage.check_writable(model_folder)
    with interruption.Watch() as watch:
        train_stages(run, workdir, watch)
    if is_chief and model_folder:
        copy_trained(workdir, model_folder)
        print(f"best weights, config and scores: {model_folder}")


def train_stages(run: Config, workdir: Path, watch: interruption.Watch) -> None:
    worker, stages, weights = workers.from_environment(), run.as_stages(), None
    if worker.is_chief:
        storage.check_writable(workdir)
    for number, stage in enumerate(stages, 1):
        stage = _dealt(stage, worker)
        folder = workdir if number == len(stages) else workdir / f"stage_{number}"
        if len(stages) > 1 and worker.is_chief:
            print(f"stage {number} of {len(stages)}, in {folder}")
        if weights is not None:
            keras.backend.clear_session()  # of the stage before
            model = stage.model.model_copy(update={"weights": str(weights)})
            stage = stage.model_copy(update={"model": model})
        with (
            interrupt_if_one_is_lost(worker, folder),
            damage.locate_errors(stage, stage.lake),
            worker_folder(worker, folder) as own,
        ):
            train_stage(stage, folder, own, watch)
        weights = folder / BEST


def _dealt(run: Config, worker: workers.Worker) -> Config:
    """The run with the number of streams that its order has with so many workers, which a run that
    goes on must keep."""
    streams = run.data.streams or worker.count
    if streams % worker.count:
        raise InputError(
            f"data.streams={streams}: the {worker.count} workers cannot share them; give a "
            f"multiple of {worker.count}, or this number of workers"
        )
    if streams == 1:
        return run
    return run.model_copy(update={"data": run.data.model_copy(update={"streams": streams})})


# What a collective operation raises when a worker is gone (tried: killed, connection reset).
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


@contextlib.contextmanager
def worker_folder(worker: Worker, workdir: Path) -> Iterator[Path]:
    """Where a worker writes: the chief into the workdir; others are quiet and leave nothing."""
    if worker.is_chief:
        yield workdir
        return
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory(prefix="radlake-worker-") as folder, quiet:
        yield Path(folder)


@contextlib.contextmanager
def interrupt_if_one_is_lost(worker: Worker, workdir: Path) -> Iterator[None]:
    """In it, the loss of another worker is an Interrupted: the same command goes on."""
    try:
        yield
    except LOST as error:
        if worker.count == 1:
            raise
        raise interruption.Interrupted(
            f"worker {worker.number}: another of the {worker.count} workers is gone "
            f"({'; '.join(_gone(worker)) or 'all ports answer again'}); start all workers again "
            f"with the same command, which goes on from the newest checkpoint in {workdir}"
        ) from error


def _gone(worker: Worker) -> list[str]:
    """The workers that are silent, as soon as one is: a process that dies may answer yet."""
    deadline = time.monotonic() + DYING_SECONDS
    while not (missing := workers.silent(worker)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return missing
