"""Steps of a tiny network on 1, 2 or 4 logical CPU devices, for
tests/trainer/training/test_replicas.py: their number is fixed at the first use, and so are the
groups that they reduce in, so this is a process of its own. Prints one JSON line a case.

    python -m tests.makers.replica_steps equal NORM REPLICAS | two_replicas | resume
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
from trainer.scoring import objective
from trainer.training import averaging
from trainer.training.checkpoint import State
from trainer.training.run import Run, build_learner, checkpoint_objects
from trainer.training.step import compile_steps, steps_in_one_call

BATCH, STEPS = 16, 20


def config_with(
    norm: str, accumulate: int, momentum: float, ema: float = 0.0, **train: object
) -> Config:
    optimizer = {"kind": "sgd", "learning_rate": 0.5, "clip_norm": 0.05, "warmup_epochs": 0}
    optimizer |= {"momentum": momentum, "ema": ema, "accumulate": accumulate}
    network = {"kind": "unetpp", "depth": 1, "filters": 8, "norm": norm, "activation": "elu"}
    return Config.model_validate(
        {
            "model": network,
            "data": {"side": 16, "batch_size": BATCH},
            "optimizer": optimizer,
            "train": {"epochs": 1, **train},
        }
    )


def batches(config: Config, steps: int) -> tf.data.Dataset:
    rng, count, side = np.random.default_rng(0), BATCH * steps, config.data.side
    masks = rng.random((count, side, side, 1)) < rng.random((count, 1, 1, 1)) / 2
    draws = rng.random((count, augment.num_draws(config.augment, side)))
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


def build(config: Config, strategy) -> Run:
    """Return a run without a lake."""
    losses = objective.image_losses(config, 0.1, replica_sum(strategy))
    learner = build_learner(config, strategy, STEPS)
    return Run(config, [], None, None, STEPS, workers.ALONE, strategy, losses, *learner)


def print_json(**values) -> None:
    print(json.dumps({name: np.asarray(value).tolist() for name, value in values.items()}))


def equal(norm: str, replicas: int) -> None:
    accumulate = 2 if norm == "group" else 1
    config = config_with(norm, accumulate, momentum=0.9)
    run = build(config, create_strategy("cpu", replicas, BATCH, accumulate))
    take_steps = compile_steps(run)
    iterator = iter(distribute(run.strategy, batches(config, STEPS)))
    sums = [take_steps(iterator, tf.constant(5)) for _ in range(STEPS // 5)]
    weights = np.concatenate([weight.numpy().ravel() for weight in run.network.weights])
    norms = [float(call["gradient_norm"]) / 5 for call in sums]
    print_json(loss=[call["loss"] / 5 for call in sums], norm=norms, w=weights)


def on_replicas(strategy, variables) -> np.ndarray:
    """Return the variables' values of each replica, [replicas, values]."""
    local = [strategy.experimental_local_results(variable) for variable in variables]
    replicas = range(strategy.num_replicas_in_sync)
    return np.stack(
        [np.concatenate([copies[n].numpy().ravel() for copies in local]) for n in replicas]
    )


def float16(strategy) -> None:
    """Take four steps on two replicas; the third has an inf in the last replica's last example."""
    precision = {"precision": "mixed_float16", "loss_scale": 1024.0, "loss_scale_steps": 2}
    config, steps = config_with("batch", 1, momentum=0.9, **precision), 4
    run = build(config, strategy)

    def weighted_losses(masks, outputs, batch):
        return batch["weight"] * run.image_losses(masks, outputs, batch)

    take_steps = compile_steps(run._replace(image_losses=weighted_losses))
    is_bad = tf.data.Dataset.range(BATCH * steps).map(lambda n: tf.equal(n, 3 * BATCH - 1))
    examples = tf.data.Dataset.zip(batches(config, steps).unbatch(), is_bad).map(
        lambda example, is_bad: example | {"weight": tf.where(is_bad, float("inf"), 1.0)}
    )
    iterator = iter(distribute(run.strategy, examples.batch(BATCH, drop_remainder=True)))
    for _ in range(steps):
        sums = take_steps(iterator, tf.constant(1))
        variables = [v.value for v in (*run.network.weights, *run.optimizer.variables)]
        weights = [weight.value for weight in run.network.trainable_variables]
        print_json(
            weights=on_replicas(run.strategy, weights),
            moved=on_replicas(run.strategy, variables)[0],
            scales=on_replicas(run.strategy, [run.scale.value]),
            skipped=sums["nonfinite_steps"],
            loss=sums["loss"],
        )


def statistics(strategy) -> None:
    """Print a batch norm's moving means of each of two replicas behind two batches of four."""
    with strategy.scope():
        layer = keras.layers.BatchNormalization(momentum=0.5)
        network = keras.Sequential([keras.Input((3,)), layer])

    def step(batch):
        network(batch, training=True)
        return {"loss": tf.reduce_sum(batch)}

    call = steps_in_one_call(strategy, step, averaging.moving_statistics(network))
    values = np.arange(24, dtype="float32").reshape(8, 3) ** 2
    dataset = tf.data.Dataset.from_tensor_slices(values).batch(4)
    call(iter(distribute(strategy, dataset)), tf.constant(2))
    print_json(means=on_replicas(strategy, [layer.moving_mean.value]))


def two_replicas() -> None:
    strategy = create_strategy("cpu", 2, BATCH)  # a second one would number its reductions alike
    statistics(strategy)  # in float32, which is still the policy
    float16(strategy)


def resume() -> None:
    """Print what a checkpoint gives back to each of two replicas: plain batch norm's statistics and
    their moving average."""
    config, before = config_with("batch", 1, momentum=0.9, ema=0.9), None
    strategy = create_strategy("cpu", 2, BATCH)
    agreement = workers.Agreement(strategy, workers.ALONE)
    with tempfile.TemporaryDirectory() as folder:
        for is_resumed in (False, True):
            run = build(config, strategy)
            with strategy.scope():
                state = State(Path(folder), run.network, agreement, **checkpoint_objects(run))
            statistics = averaging.per_replica_variables(run.network, run.averages)
            if is_resumed:
                state.restore(Path(folder))
                after = on_replicas(strategy, statistics)
                print_json(step=state.step, before=before, after=after)
                continue
            compile_steps(run)(iter(distribute(strategy, batches(config, 3))), tf.constant(3))
            before = on_replicas(strategy, statistics)
            state.step = 3
            state.save()


if __name__ == "__main__":
    {"equal": equal, "two_replicas": two_replicas, "resume": resume}[sys.argv[1]](
        *sys.argv[2:3], *map(int, sys.argv[3:])
    )
