"""The stages of a run, one after the other, each from the weights of the one before."""

import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import tensorflow as tf

from lake import InputError, lock, storage
from lake.terminal import console
from trainer import provenance
from trainer.config import required
from trainer.config.run import Config
from trainer.data import damage
from trainer.devices import workers
from trainer.devices.workers import DYING_SECONDS, POLL_SECONDS, Worker
from trainer.display.tracker import FAILED, FINISHED, STOPPED, Tracker
from trainer.training import ownership
from trainer.training.interruption import Interrupted, Watch
from trainer.training.loop import train_stage
from trainer.workdir import BEST, CONFIG, LOCK, LOCK_WORDS, METRICS, copy_results

# What a collective operation raises when a worker is gone (tried: killed, connection reset).
WORKER_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def train(config: Config, workdir: Path, model_folder: Path | None = None) -> None:
    """Train a run from its newest checkpoint to its end: stage after stage, the last one in the
    workdir, the others in folders inside it. Raises Interrupted where it was asked to stop before.

    `model_folder`: where the trained network is copied to, too.
    """
    required.check_tracker(config)
    worker, weights = workers.from_environment(), None
    stages = [_with_streams(stage, worker) for stage in config.as_stages()]
    watch = Watch()
    with _workdir_of_one_run(worker, workdir, stages, model_folder):
        folders = ownership.stage_folders(workdir, len(stages))
        for number, (folder, stage) in enumerate(zip(folders, stages, strict=True), 1):
            if len(stages) > 1 and worker.is_chief:
                console.note(f"stage {number} of {len(stages)}, in {folder}")
            if weights is not None:
                keras.backend.clear_session()  # of the stage before
                model = stage.model.model_copy(update={"weights": str(weights)})
                stage = stage.model_copy(update={"model": model})
            with (
                _alone_in(worker, folder, workdir),
                _tracked(worker, folder, stage) as tracker,
                interrupt_if_one_is_lost(worker, folder),
                damage.locate_errors(stage, stage.lake),
                worker_folder(worker, folder) as worker_workdir,
            ):
                later_stages = stages[1:] if number == 1 else ()
                train_stage(stage, folder, worker_workdir, watch, later_stages, tracker)
            weights = folder / BEST
        if worker.is_chief and model_folder:
            copy_results(workdir, model_folder)
            print(f"best weights, config and scores: {model_folder}")


@contextlib.contextmanager
def _workdir_of_one_run(
    worker: Worker, workdir: Path, stages: list[Config], model_folder: Path | None
) -> Iterator[None]:
    """Hold the workdir for this run, as its chief; raise InputError, before a file changes, where
    another process trains there, or where it or `model_folder` is not of this run or cannot be
    written."""
    if not worker.is_chief:
        yield
        return
    for folder in filter(None, (workdir, model_folder)):
        storage.check_writable(folder)
    with lock.hold(workdir, LOCK, *LOCK_WORDS):
        ownership.check(workdir, stages, model_folder)
        yield


def _alone_in(worker: Worker, folder: Path, workdir: Path) -> contextlib.AbstractContextManager:
    """Return a context that holds the folder of a stage before the last, which could be given as
    a workdir, too."""
    if folder == workdir or not worker.is_chief:
        return contextlib.nullcontext()
    return lock.hold(folder, LOCK, *LOCK_WORDS)


def _with_streams(config: Config, worker: Worker) -> Config:
    """Return the config with data.streams as this number of workers sets it, so that config.yaml
    has it: a run that goes on must keep the order of its streams. Raises InputError where the
    workers cannot share them equally."""
    num_streams = config.data.streams or worker.count
    if num_streams % worker.count:
        raise InputError(
            f"data.streams={num_streams}: the {worker.count} workers cannot share them; give a "
            f"multiple of {worker.count}, or this number of workers"
        )
    if num_streams == 1:
        return config
    data = config.data.model_copy(update={"streams": num_streams})
    return config.model_copy(update={"data": data})


@contextlib.contextmanager
def worker_folder(worker: Worker, workdir: Path) -> Iterator[Path]:
    """Yield the folder in which a worker writes: the workdir for the chief. The others print a line
    for the log that each may have, and their files are deleted."""
    if worker.is_chief:
        yield workdir
        return
    print(f"one of {worker.count} workers, at {worker.address}; worker 0 says how far they are")
    silence = contextlib.redirect_stdout(io.StringIO())
    with storage.temporary_folder() as folder, silence:
        yield Path(folder)


@contextlib.contextmanager
def _tracked(worker: Worker, folder: Path, config: Config) -> Iterator[Tracker | None]:
    """Yield the tracker that train.tracker names, for the chief alone; it is told how the block
    ends."""
    if config.train.tracker is None or not worker.is_chief:
        yield None
        return
    tracker = Tracker(folder, config)
    try:
        yield tracker
    except BaseException as error:
        tracker.end(STOPPED if isinstance(error, Interrupted) else FAILED)
        raise
    tracker.end(FINISHED, [folder / name for name in (CONFIG, METRICS, provenance.RUN, BEST)])


@contextlib.contextmanager
def interrupt_if_one_is_lost(worker: Worker, workdir: Path) -> Iterator[None]:
    """Raise Interrupted where another worker is lost meanwhile: the same command goes on."""
    try:
        yield
    except WORKER_LOST as error:
        if worker.count == 1:
            raise
        lost_workers = "; ".join(_lost_workers(worker)) or "all ports answer again"
        raise Interrupted(
            f"worker {worker.number}: another of the {worker.count} workers is gone "
            f"({lost_workers}); start all workers again with the same command, which goes on from "
            f"the newest checkpoint in {workdir}"
        ) from error


def _lost_workers(worker: Worker) -> list[str]:
    """Return the workers that do not answer, once there is one: a dying process may answer yet."""
    deadline = time.monotonic() + DYING_SECONDS
    while not (silent := workers.silent_workers(worker)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return silent
