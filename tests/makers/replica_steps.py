"""Steps of a tiny network on 1, 2 or 4 logical CPU devices, for
tests/trainer/training/test_replicas.py: their number is fixed at the first use, and so are the
groups that they reduce in, so this is a process of its own. Prints one JSON line a case.

    python -m tests.makers.replica_steps equal NORM REPLICAS | float16 | resume
"""

import json
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer.augmentation import augment
from trainer.config.run import Config
from trainer.devices import workers
from trainer.devices.strategy import create_strategy, distribute, replica_sum
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training import averaging, checkpoint
from trainer.training.optimizer import LossScale, build_optimizer, learning_rate
from trainer.training.step import steps_in_one_call, training_step

BATCH, STEPS = 16, 20


def run_of(norm: str, accumulate: int, momentum: float, ema: float = 0.0) -> Config:
    optimizer = {"kind": "sgd", "learning_rate": 0.5, "clip_norm": 0.05, "warmup_epochs": 0}
    optimizer |= {"momentum": momentum, "ema": ema}
    return Config.model_validate(
        {
            "model": {
                "kind": "unetpp",
                "depth": 1,
                "filters": 8,
                "norm": norm,
                "activation": "elu",
            },
            "data": {"side": 16, "batch_size": BATCH},
            "optimizer": optimizer | {"accumulate": accumulate},
        }
    )


def batches(run: Config, steps: int) -> tf.data.Dataset:
    rng, count = np.random.default_rng(0), BATCH * steps
    masks = rng.random((count, 16, 16, 1)) < rng.random((count, 1, 1, 1)) / 2
    draws = rng.random((count, augment.num_draws(run.augment, 16)))
    examples = {
        "image": rng.integers(0, 256, masks.shape).astype("uint8"),
        "mask": 255 * masks.astype("uint8"),
        "window": np.float32([[0, 255]] * count),
        "label": masks.any(axis=(1, 2, 3)).astype("float32"),
        "has_mask": np.ones(count, "float32"),
        "weight": np.ones(count, "float32"),
        "uniforms": draws.astype("float32"),
    }
    return tf.data.Dataset.from_tensor_slices(examples).batch(BATCH, drop_remainder=True)


def built(run: Config, strategy):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        network = build(run.model, 16)
        optimizer = build_optimizer(run.optimizer, learning_rate(run.optimizer, 1, STEPS))
        optimizer.build(network.trainable_variables)
    return network, optimizer


def say(**values) -> None:
    print(json.dumps({name: np.asarray(value).tolist() for name, value in values.items()}))


def equal(norm: str, replicas: int) -> None:
    accumulate = 2 if norm == "group" else 1
    run = run_of(norm, accumulate, momentum=0.9)
    strategy = create_strategy("cpu", replicas, BATCH, accumulate)
    network, optimizer = built(run, strategy)
    losses = objective.image_losses(run, 0.1, replica_sum(strategy))
    step = training_step(network, optimizer, run, strategy, losses)
    call = steps_in_one_call(strategy, step, averaging.moving_statistics(network))
    iterator = iter(distribute(strategy, batches(run, STEPS)))
    sums = [call(iterator, tf.constant(5)) for _ in range(STEPS // 5)]
    weights = np.concatenate([weight.numpy().ravel() for weight in network.weights])
    norms = [float(one["gradient_norm"]) / 5 for one in sums]
    say(loss=[one["loss"] / 5 for one in sums], norm=norms, w=weights)


def on_replicas(strategy, variables) -> np.ndarray:
    """[replicas, values]"""
    local = [strategy.experimental_local_results(variable) for variable in variables]
    replicas = range(strategy.num_replicas_in_sync)
    return np.stack(
        [np.concatenate([copies[n].numpy().ravel() for copies in local]) for n in replicas]
    )


def float16() -> None:
    """Four steps on two replicas; the third has an inf in the last replica's last example."""
    run, steps = run_of("batch", 1, momentum=0.9), 4
    strategy = create_strategy("cpu", 2, BATCH)
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    network, optimizer = built(run, strategy)
    losses = objective.image_losses(run, 0.1)

    def planted(masks, outputs, batch):
        return batch["weight"] * losses(masks, outputs, batch)

    with strategy.scope():
        scale = LossScale(1024.0, 2)
    step = training_step(network, optimizer, run, strategy, planted, scale=scale)
    call = steps_in_one_call(strategy, step, [])
    bad = tf.data.Dataset.range(BATCH * steps).map(lambda n: tf.equal(n, 3 * BATCH - 1))
    examples = tf.data.Dataset.zip(batches(run, steps).unbatch(), bad).map(
        lambda example, is_bad: example | {"weight": tf.where(is_bad, float("inf"), 1.0)}
    )
    iterator = iter(distribute(strategy, examples.batch(BATCH, drop_remainder=True)))
    for _ in range(steps):
        sums = call(iterator, tf.constant(1))
        moved = [v.value for v in (*network.weights, *optimizer.variables)]
        say(
            weights=on_replicas(strategy, [w.value for w in network.trainable_variables]),
            moved=on_replicas(strategy, moved)[0],
            scales=on_replicas(strategy, [scale.value]),
            skipped=sums["nonfinite_steps"],
            loss=sums["loss"],
        )


def resume() -> None:
    """Plain batch norm on two replicas, and its moving average: what a checkpoint gives back to
    each."""
    run, states = run_of("batch", 1, momentum=0.9, ema=0.9), []
    strategy = create_strategy("cpu", 2, BATCH)
    agreement = workers.Agreement(strategy, workers.ALONE)
    with tempfile.TemporaryDirectory() as folder:
        for is_resumed in (False, True):
            network, optimizer = built(run, strategy)
            with strategy.scope():
                averages = averaging.Averages(network, strategy)
                tracked = {"optimizer": optimizer, "shadows": averages.shadows}
                state = checkpoint.State(Path(folder), network, agreement, **tracked)
            statistics = averaging.per_replica_variables(network, averages)
            if is_resumed:
                step = state.restore(Path(folder))
                say(step=step, before=states[0], after=on_replicas(strategy, statistics))
                continue
            losses = objective.image_losses(run, 0.1)
            one = training_step(network, optimizer, run, strategy, losses, averages)
            call = steps_in_one_call(strategy, one, statistics)
            call(iter(distribute(strategy, batches(run, 3))), tf.constant(3))
            states.append(on_replicas(strategy, statistics))
            state.save(3)


if __name__ == "__main__":
    {"equal": equal, "float16": float16, "resume": resume}[sys.argv[1]](
        *sys.argv[2:3], *map(int, sys.argv[3:])
    )
