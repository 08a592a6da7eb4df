"""What the training loop costs beside a bare compiled loop of the same network: images a second.

    python benchmarks/loop.py [--config configs/unetpp_small.yaml] [--side 256] [--batch 4]

The bare loop is what anyone would write first: a tf.function of augmentation, gradient and
optimizer.apply, called from Python on a batch in memory. Ours is training's own step in calls of
`train.steps_per_call` steps on a dataset, with the scores of training, the finite check and the
all-reduce; behind each call stand the curves and the line in the terminal, as in a run. Both start
from the same weights, with the same optimizer, and take turns; the best round of each counts, on
the clock and in CPU time of all threads, which other processes disturb less.
"""

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import tensorflow as tf

from trainer.augmentation import augment
from trainer.config import files
from trainer.config.run import Config
from trainer.devices.strategy import create_strategy
from trainer.display import progress
from trainer.display.board import Board
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training import averaging, benchmark
from trainer.training.optimizer import build_optimizer, learning_rate
from trainer.training.step import prepare_batch, steps_in_one_call, training_step


def batch_of(run: Config) -> dict:
    count, side = run.data.batch_size, run.data.side
    return {
        "image": tf.cast(tf.random.uniform([count, side, side, 1], maxval=256), tf.uint8),
        "mask": tf.cast(tf.random.uniform([count, side, side, 1]) > 0.99, tf.uint8),
        "window": tf.constant([[0.0, 255.0]] * count),
        "label": tf.ones([count]),
        "has_mask": tf.ones([count]),
        "weight": tf.ones([count]),
        "uniforms": tf.random.uniform([count, augment.num_draws(run.augment, side)]),
    }


def built(run: Config) -> tuple:
    """(network, optimizer, rate) of a fresh run."""
    keras.utils.set_random_seed(run.train.seed)
    network = build(run.model, run.data.side)
    rate = learning_rate(run.optimizer, run.train.epochs, 100)
    optimizer = build_optimizer(run.optimizer, rate)
    optimizer.build(network.trainable_variables)
    return network, optimizer


def bare(run: Config, batch: dict, steps: int):
    network, optimizer = built(run)
    losses = objective.image_losses(run, positive_share=0.01)
    forward = objective.outputs(network, run.loss)

    @tf.function
    def step(batch: dict):
        images, masks = prepare_batch(batch, run.augment)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(losses(masks, forward(images, training=True), batch))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    def loop() -> None:
        for _ in range(steps):
            loss = step(batch)
        loss.numpy()

    return loop


def ours(run: Config, batch: dict, steps: int, workdir: Path):
    strategy = create_strategy("cpu", 1, run.data.batch_size)
    network, optimizer = built(run)
    losses = objective.image_losses(run, positive_share=0.01)
    several_steps = steps_in_one_call(
        strategy,
        training_step(network, optimizer, run, strategy, losses),
        averaging.moving_statistics(network),
    )
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(strategy.experimental_distribute_dataset(batches))
    board, line = Board(workdir, 0), progress.Progress(100, run, 0)
    done = 0

    def loop() -> None:
        nonlocal done
        for _ in range(0, steps, run.train.steps_per_call):
            count = min(run.train.steps_per_call, steps)
            call = several_steps(iterator, tf.constant(count))
            call = {name: value.numpy() for name, value in call.items()}
            done += count
            line.show(done, call | {"steps": count})
            means = {name: float(call[name]) / count for name in ("loss", "gradient_norm")}
            board.scalars("train", done, {**means, **line.rates(optimizer)})
            board.flush()

    return loop


def main(path: str, side: int, batch: int, steps: int) -> None:
    options = [f"--data.side={side}", f"--data.batch_size={batch}", "--train.jit=off"]
    run = files.load(path, [*options, "--train.device=cpu", "--train.precision=float32"])
    data, found = batch_of(run), {}
    with tempfile.TemporaryDirectory() as workdir:
        loops = {
            "bare loop": bare(run, data, steps),
            "training": ours(run, data, steps, Path(workdir)),
        }
        for clock in (time.perf_counter, time.process_time):
            seconds = benchmark.best_seconds(
                {name: functools.partial(seconds_of, loop, clock) for name, loop in loops.items()}
            )
            found[clock.__name__] = {name: steps * batch / took for name, took in seconds.items()}
    print(f"{path} at {side} px, {steps} steps of {batch} a round, images a second of each clock:")
    for clock, rates in found.items():
        ratio = rates["training"] / rates["bare loop"]
        said = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
        print(f"{clock:14s}{said}: {ratio:.3f}x")


def seconds_of(loop: Callable, clock: Callable) -> float:
    started = clock()
    loop()
    return clock() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", dest="path", default="configs/unetpp_small.yaml")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    main(**vars(parser.parse_args()))
