"""What a run keeps in its folder: the names of its files, metrics.json, and the trained network
that is loaded from it. Whose folder it is: trainer/training/ownership.py."""

import contextlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lake import InputError, lock, storage
from lake.records import run_files
from lake.records.identity import ancestry
from lake.terminal import console
from trainer.config import files
from trainer.config.run import Config

if TYPE_CHECKING:  # Keras takes seconds to import, and the names below are read without it
    import keras

CONFIG, METRICS, BEST = "config.yaml", "metrics.json", "best.weights.h5"
CHECKPOINTS, LAKE, FURTHER = "checkpoints", run_files.LAKE, "best"
AVERAGE = "average"  # in metrics.json: of which weights these are the mean
LOCK = "run.lock"  # while a process trains here
LOCK_WORDS = "trains", "give another --workdir"  # in the message of lake/lock.py
SEEN = run_files.SEEN  # which images the run saw: trainer/data/seen.py
# Vertex AI names folders in the environment of a custom job with a baseOutputDirectory: BASE/logs,
# BASE/checkpoints and BASE/model on gs://. A run is one folder, so the first of WORKDIRS that is
# set is the workdir where none is given; what evaluate, predict and export need is copied into
# BASE/model at the end.
WORKDIRS = "AIP_TENSORBOARD_LOG_DIR", "AIP_CHECKPOINT_DIR"
MODEL = "AIP_MODEL_DIR"


# --- which folder ---


def workdir_of_job(argument: str | None) -> Path:
    """Return the workdir: --workdir, or the folder that the job's environment names; raise
    InputError where neither is given."""
    if argument is not None:
        return storage.path_of(argument)
    for name in WORKDIRS:
        if text := os.environ.get(name):
            console.note(f"no --workdir: {name} is {text}", flush=True)
            return storage.path_of(text)
    raise InputError(
        f"--workdir is required: the folder of the run. Only a job of Vertex AI with a "
        f"baseOutputDirectory has it in its environment ({WORKDIRS[0]})"
    )


def model_of_job() -> Path | None:
    """Return the folder that the trained network is copied to, too; None where the job has none."""
    text = os.environ.get(MODEL)
    return storage.path_of(text) if text else None


# --- what a run has there ---


def describe_lake(content: dict) -> dict:
    """Return the description that a run keeps of a lake, from its manifest: the lake's identity,
    those of the versions that it continues, and counts of what its images show (None where the
    manifest has none)."""
    lake, *earlier_lakes = ancestry(content)
    return lake | {"earlier_lakes": earlier_lakes, "exams": content["counts"].get("exams")}


def checkpoint_steps(workdir: Path) -> list[int]:
    """Return the steps of the checkpoints in the folder, the newest first, also where TensorFlow's
    list of them is damaged.

    Where there is no list, a checkpoint counts by its index alone: data without an index are a
    first save that a kill cut short.
    """
    folder = workdir / CHECKPOINTS
    parts = "index|data" if (folder / "checkpoint").exists() else "index"
    matches = [re.match(rf"ckpt-(\d+)\.({parts})", path.name) for path in folder.glob("ckpt-*")]
    return sorted({int(match[1]) for match in matches if match}, reverse=True)


# --- its files ---


def read_config(workdir: Path) -> Config:
    """Return the run's config.yaml. Raises InputError where it does not end with its stages: cut
    off, it would be read as another run's."""
    config = files.load(workdir / CONFIG, [])
    if "\nstages:" not in (workdir / CONFIG).read_text():
        raise InputError(f"{workdir / CONFIG}: cut off: no stages: at its end; put back a copy")
    return config


def read_json(path: Path) -> dict:
    """Return the object in a file, empty where there is no such file; raise InputError for a file
    that is not JSON."""
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:  # of JSON or of UTF-8
        advice = "put back a copy of it"
        if path.name == METRICS:
            advice += ", or delete it: it holds scores and no weights"
        raise InputError(f"{path}: not JSON ({error}); {advice}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, not {content!r}")
    return content


def write_json(path: Path, content: dict) -> None:
    storage.write(path, json.dumps(content, indent=1).encode() + b"\n")


def write_metrics(workdir: Path, metrics: dict) -> None:
    """Write entries into metrics.json; others that it has stay."""
    path = workdir / METRICS
    with lock.briefly(workdir):  # evaluate may write while a run trains
        write_json(path, read_json(path) | metrics)


def check_weights(path: Path) -> None:
    """Raise InputError where a file of weights cannot be read; they cannot be computed again."""
    import h5py

    try:
        with storage.local(path) as file:
            h5py.File(file).close()
    except OSError as error:
        raise InputError(
            f"{path}: the best epoch's weights cannot be read ({error}); put back a copy, or start "
            f"again in a new --workdir"
        ) from None


def alone_in_new(folder: Path, name: str, verb: str) -> contextlib.AbstractContextManager:
    """Return a context that holds the lock `name` of a folder which appears at the end, as a whole:
    until then a local one's lock lies beside it. Raises InputError where another process holds it;
    `verb` is a word of that message."""
    advice = "give another --output"
    if storage.is_remote(folder):
        return lock.hold(folder, name, verb, advice)
    folder = folder.resolve()
    return lock.hold(folder.parent, f"{folder.name}.{name}", f"{verb} {folder.name}", advice)


def copy_results(workdir: Path, folder: Path) -> None:
    """Copy what evaluate, predict and export need of a finished run, the weights last. Thresholds
    that evaluate has written there stay."""
    storage.make_folder(folder)
    for name in (CONFIG, LAKE, SEEN):
        if (workdir / name).exists():  # runs of before have no SEEN
            storage.write(folder / name, (workdir / name).read_bytes())
    write_metrics(folder, read_json(workdir / METRICS))
    storage.write(folder / BEST, (workdir / BEST).read_bytes())


# --- the trained network ---


def check_is_trained(workdir: Path) -> None:
    """Raise InputError where a folder has no config and best weights of a run."""
    if not (workdir / CONFIG).exists():
        raise InputError(f"{workdir}: no {CONFIG}, so no run was trained here")
    if not (workdir / BEST).exists():
        raise InputError(f"{workdir}: no {BEST}: the run has not finished its first epoch")


def load_network(workdir: Path, level: int | None = None) -> tuple[Config, "keras.Model"]:
    """Return a run's config and network with its best weights; raise InputError for a run that is
    unfinished, damaged or without that level. `level`: the U-Net++ of that depth in it
    (trainer/models/unetpp.py)."""
    from trainer.models import unetpp, weight_files
    from trainer.models.build import build

    check_is_trained(workdir)
    config = read_config(workdir)
    check_weights(workdir / BEST)
    # Without the weights that training started from: their file may be gone, and is not needed.
    network = build(config.model.model_copy(update={"weights": None}), config.data.side)
    with storage.local(workdir / BEST) as weights:
        # Not left to Keras, which warns and goes on where a file lacks layers.
        if misfit := weight_files.first_misfit(network, weights):
            raise InputError(
                f"{workdir / BEST} and {workdir / CONFIG} do not belong together: {misfit}; put "
                f"back the files of one run"
            )
        network.load_weights(weights)
    if level is None:
        return config, network
    if config.model.kind != "unetpp" or config.is_classifier:
        kind = "classifier" if config.is_classifier else config.model.kind
        raise InputError(f"--level={level}: {workdir} holds a {kind}, not a unetpp")
    smaller, network = unetpp.prune(network, config.model, config.data.side, level)
    return config.model_copy(update={"model": smaller}), network
