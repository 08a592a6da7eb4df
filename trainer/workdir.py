"""What a run keeps in its folder: the names of its files, whose folder it is, metrics.json, and the
trained network that is loaded from it."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lake import InputError, storage
from trainer.config import files
from trainer.config.run import Config

if TYPE_CHECKING:  # Keras takes seconds to import, and the names below are read without it
    import keras

CONFIG, METRICS, BEST = "config.yaml", "metrics.json", "best.weights.h5"
CHECKPOINTS, LAKE, FURTHER = "checkpoints", "lake.json", "best"
# The folders that Vertex AI names in the environment of a custom job with a baseOutputDirectory
# (BASE/logs, BASE/checkpoints and BASE/model on gs://). A run is one folder, so the first that is
# named is the workdir where none is given; what evaluate, predict and export need is copied into
# BASE/model at the end.
WORKDIRS = "AIP_TENSORBOARD_LOG_DIR", "AIP_CHECKPOINT_DIR"
MODEL = "AIP_MODEL_DIR"
# Values that a resumed run may change: they leave batches, gradients and schedule as they are.
FREE_TO_CHANGE = (
    "lake:",
    "model.weights:",
    "data.cache:",
    "train.device:",
    "train.replicas:",
    "train.worker_minutes:",
    "train.checkpoint_minutes:",
    "train.max_hours:",
    "train.patience:",
    "train.profile:",
    "train.jit:",
    "train.rematerialise:",
)


def claim(workdir: Path, run: Config, lakes: list[dict]) -> None:
    """Writes what the run and its lakes are; where a checkpoint stands, raises InputError unless it
    is this run's."""
    stored = {"dtype": lakes[0]["dtype"], "options": lakes[0]["options"]}
    identity = {"lake": run.lake, "shards": shards_sha256(lakes), **stored}
    read_json(workdir / METRICS)  # an unreadable one would end the run after its next epoch
    if checkpoint_steps(workdir):
        found = read_config(workdir)
        changed = [
            line for line in files.differences(found, run) if not line.startswith(FREE_TO_CHANGE)
        ]
        known = read_json(workdir / LAKE)
        if known.get("shards") != identity["shards"]:
            changed.append(f"lake: the shards of {known.get('lake')} -> others in {run.lake}")
        if changed:
            raise InputError(
                f"{workdir} holds another run; use another --workdir, or repeat its values:\n  "
                + "\n  ".join(changed)
            )
    storage.make_folder(workdir)
    with storage.written(workdir / CONFIG) as unfinished:
        files.save(run, unfinished)
    storage.write(workdir / LAKE, json.dumps(identity).encode() + b"\n")


def shards_sha256(lakes: list[dict]) -> str:
    """One checksum of all lakes' shards, from those in their manifests."""
    shards = json.dumps([shard["sha256"] for lake in lakes for shard in lake["shards"]])
    return hashlib.sha256(shards.encode()).hexdigest()


def checkpoint_steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that are there, the newest first; TensorFlow's list of them may be
    damaged. Without that list, data without an index are a first save that a kill cut short."""
    folder = workdir / CHECKPOINTS
    parts = "index|data" if (folder / "checkpoint").exists() else "index"
    found = [re.match(rf"ckpt-(\d+)\.({parts})", path.name) for path in folder.glob("ckpt-*")]
    return sorted({int(match[1]) for match in found if match}, reverse=True)


def copy_trained(workdir: Path, folder: Path) -> None:
    """What evaluate, predict and export need of a finished run; the weights come last. Thresholds
    that evaluate chose there stay."""
    storage.make_folder(folder)
    for name in (CONFIG, LAKE):
        storage.write(folder / name, (workdir / name).read_bytes())
    write_metrics(folder, read_json(workdir / METRICS))
    storage.write(folder / BEST, (workdir / BEST).read_bytes())


def write_metrics(workdir: Path, metrics: dict) -> None:
    """Puts new entries into metrics.json beside those that are there."""
    path = workdir / METRICS
    write_json(path, read_json(path) | metrics)


def write_json(path: Path, content: dict) -> None:
    storage.write(path, json.dumps(content, indent=1).encode() + b"\n")


def read_json(path: Path) -> dict:
    """An object, empty where there is no such file."""
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:  # of JSON or of UTF-8
        raise InputError(
            f"{path}: not JSON ({error}); put back a copy of it{_or_delete(path)}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object, not {content!r}")
    return content


def _or_delete(path: Path) -> str:
    return ", or delete it: only scores of the past are in it" if path.name == METRICS else ""


def read_config(workdir: Path) -> Config:
    """config.yaml, which ends with its stages; cut off, it would be read as another run's."""
    found = files.load(workdir / CONFIG, [])
    if "\nstages:" not in (workdir / CONFIG).read_text():
        raise InputError(f"{workdir / CONFIG}: cut off: no stages: at its end; put back a copy")
    return found


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


def load_network(workdir: Path, level: int | None = None) -> tuple[Config, "keras.Model"]:
    """A trained network with its best weights, rebuilt from config.yaml; raises InputError for an
    unfinished run. `level`: the U-Net++ of that depth in it (trainer/models/unetpp.py)."""
    from trainer.models import unetpp
    from trainer.models.build import build

    if not (workdir / CONFIG).exists():
        raise InputError(f"{workdir}: no {CONFIG}, so no run was trained here")
    if not (workdir / BEST).exists():
        raise InputError(f"{workdir}: no {BEST}: the run has not finished its first epoch")
    run = read_config(workdir)
    check_weights(workdir / BEST)
    # The weights that training started from are not needed again, nor is the place that they came
    # from.
    network = build(run.model.model_copy(update={"weights": None}), run.data.side)
    with storage.local(workdir / BEST) as weights:
        network.load_weights(weights)
    if level is None:
        return run, network
    if run.model.kind != "unetpp" or run.is_classifier:
        held = "classifier" if run.is_classifier else run.model.kind
        raise InputError(f"--level={level}: {workdir} holds a {held}, not a unetpp")
    smaller, network = unetpp.pruned(network, run.model, run.data.side, level)
    return run.model_copy(update={"model": smaller}), network


def workdir_of_job(given: str | None) -> Path:
    """Of a training run; raises InputError where neither the user nor the job says it."""
    if given is not None:
        return storage.path_of(given)
    for name in WORKDIRS:
        if text := os.environ.get(name):
            print(f"no --workdir: {name} says {text}", flush=True)
            return storage.path_of(text)
    raise InputError(
        f"--workdir is required: the folder of the run. Only a job of Vertex AI with a "
        f"baseOutputDirectory says it another way ({WORKDIRS[0]})"
    )


def model_of_job() -> Path | None:
    """Where the trained network goes besides; None: nowhere else."""
    text = os.environ.get(MODEL)
    return storage.path_of(text) if text else None
