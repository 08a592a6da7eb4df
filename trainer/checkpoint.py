"""What a run keeps in its workdir: config.yaml, checkpoints to resume from, the best weights,
metrics.json."""

import hashlib
import json
import math
import time
from pathlib import Path

import keras
import tensorflow as tf

from lake import InputError
from trainer import config

CONFIG, METRICS, BEST = "config.yaml", "metrics.json", "best.weights.h5"
CHECKPOINTS, LAKE = "checkpoints", "lake.json"
# Values that a resumed run may change: they leave batches, gradients and schedule as they are.
FREE_TO_CHANGE = (
    "lake:",
    "model.weights:",
    "train.device:",
    "train.replicas:",
    "train.checkpoint_minutes:",
    "train.jit:",
    "train.rematerialise:",
)


def claim(workdir: Path, run: config.Config, lakes: list[dict]) -> None:
    """Writes what the run and its lakes are; where a checkpoint stands, raises InputError unless it
    is this run's."""
    shards = json.dumps([shard["sha256"] for lake in lakes for shard in lake["shards"]])
    identity = {"lake": run.lake, "shards": hashlib.sha256(shards.encode()).hexdigest()}
    if (workdir / CHECKPOINTS / "checkpoint").exists():
        found = config.load(workdir / CONFIG, [])
        changed = [
            line for line in config.differences(found, run) if not line.startswith(FREE_TO_CHANGE)
        ]
        known = json.loads((workdir / LAKE).read_text())
        if known["shards"] != identity["shards"]:
            changed.append(f"lake: the shards of {known['lake']} -> other shards in {run.lake}")
        if changed:
            raise InputError(
                f"{workdir} holds another run; use another --workdir, or repeat its values:\n  "
                + "\n  ".join(changed)
            )
    workdir.mkdir(parents=True, exist_ok=True)
    config.save(run, workdir / CONFIG)
    _write(workdir / LAKE, json.dumps(identity) + "\n")


class State:
    """Network, optimizer and progress of a run, saved and restored together."""

    def __init__(self, workdir: Path, network: keras.Model, **tracked):
        """`tracked`: what else moves in a run, such as the optimizer, by name."""
        self.workdir, self.network, self.saved_at = workdir, network, time.monotonic()
        self.best_score = tf.Variable(float("-inf"), dtype=tf.float64, trainable=False)
        self.stale_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)  # since the best one
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        weights = {id(weight) for weight in network.weights}
        # Where dropout's random numbers stand: Keras hides it from tf.train.Checkpoint.
        seeds = [v.value for v in network.variables if id(v) not in weights]
        self.checkpoint = tf.train.Checkpoint(
            network=network,
            seeds=seeds,
            best_score=self.best_score,
            stale_epochs=self.stale_epochs,
            step=self.step,
            **tracked,
        )
        self.manager = tf.train.CheckpointManager(
            self.checkpoint, str(workdir / CHECKPOINTS), max_to_keep=2
        )

    def restore(self) -> int:
        """The step of the newest checkpoint, now restored; 0 where there is none."""
        if self.manager.latest_checkpoint:
            self.checkpoint.restore(self.manager.latest_checkpoint).assert_consumed()
            print(f"resuming at step {self.step.numpy():,} from {self.manager.latest_checkpoint}")
        return int(self.step.numpy())

    def save(self, step: int) -> None:
        self.step.assign(step)
        self.manager.save(checkpoint_number=step)
        self.saved_at = time.monotonic()

    def save_if_due(self, step: int, minutes: float) -> None:
        if time.monotonic() - self.saved_at > 60 * minutes:
            self.save(step)

    def keep_if_best(self, score: float) -> bool:
        """Writes best.weights.h5 when the score is the highest so far."""
        if not math.isfinite(score):
            raise InputError(
                "the validation score is not a number; is a lesion left in the validation split "
                "at this data.side?"
            )
        is_best = score > self.best_score.numpy()
        self.stale_epochs.assign(0 if is_best else self.stale_epochs + 1)
        if is_best:
            self.best_score.assign(score)
            unfinished = self.workdir / f"unfinished.{BEST}"
            self.network.save_weights(unfinished)
            unfinished.replace(self.workdir / BEST)
        return is_best


def write_metrics(workdir: Path, metrics: dict) -> None:
    """Puts new entries into metrics.json beside those that are there."""
    path = workdir / METRICS
    known = json.loads(path.read_text()) if path.exists() else {}
    _write(path, json.dumps(known | metrics, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a run can be killed at any moment."""
    unfinished = path.with_name(f"unfinished.{path.name}")
    unfinished.write_text(text)
    unfinished.replace(path)


def load(workdir: Path, prune: int | None = None) -> tuple[config.Config, keras.Model]:
    """A trained network with its best weights, rebuilt from config.yaml; raises InputError for an
    unfinished run. `prune`: the U-Net++ of that depth in it (trainer/models/unetpp.py)."""
    from trainer import models
    from trainer.models import unetpp

    if not (workdir / CONFIG).exists():
        raise InputError(f"{workdir}: no {CONFIG}, so no run was trained here")
    if not (workdir / BEST).exists():
        raise InputError(f"{workdir}: no {BEST}: the run has not finished its first epoch")
    run = config.load(workdir / CONFIG, [])
    # The weights that training started from are not needed again, nor is the place that they came
    # from.
    network = models.build(run.model.model_copy(update={"weights": None}), run.data.side)
    network.load_weights(workdir / BEST)
    if prune is None:
        return run, network
    if run.model.kind != "unetpp" or run.is_classifier:
        held = "classifier" if run.is_classifier else run.model.kind
        raise InputError(f"--prune={prune}: {workdir} holds a {held}, not a unetpp")
    smaller, network = unetpp.pruned(network, run.model, run.data.side, prune)
    return run.model_copy(update={"model": smaller}), network
