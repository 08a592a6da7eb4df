"""What the training loop costs beside a bare compiled loop of the same network: images per second.

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

import tensorflow as tf

from trainer.augmentation import augment
from trainer.config import files
from trainer.config.run import Config
from trainer.devices import workers
from trainer.devices.strategy import create_strategy
from trainer.display import progress
from trainer.display.board import Board
from trainer.scoring import objective
from trainer.training import benchmark
from trainer.training.run import Run, build_learner
from trainer.training.step import compile_steps, prepare_batch

STEPS = 100  # per epoch, for the schedule of the learning rate


def random_batch(config: Config) -> dict:
    count, side = config.data.batch_size, config.data.side
    return {
        "image": tf.cast(tf.random.uniform([count, side, side, 1], maxval=256), tf.uint8),
        "mask": tf.cast(tf.random.uniform([count, side, side, 1]) > 0.99, tf.uint8),
        "window": tf.constant([[0.0, 255.0]] * count),
        "label": tf.ones([count]),
        "has_mask": tf.ones([count]),
        "weight": tf.ones([count]),
        "uniforms": tf.random.uniform([count, augment.num_draws(config.augment, side)]),
    }


def fresh_run(config: Config) -> Run:
    strategy = create_strategy("cpu", 1, config.data.batch_size)
    losses = objective.image_losses(config, positive_share=0.01)
    learner = build_learner(config, strategy, STEPS)
    return Run(config, [], None, None, STEPS, workers.ALONE, strategy, losses, *learner)


def bare(config: Config, batch: dict, steps: int) -> Callable:
    run = fresh_run(config)
    forward = objective.outputs(run.network, config.loss)

    @tf.function
    def step(batch: dict):
        images, masks = prepare_batch(batch, config.augment)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(run.image_losses(masks, forward(images, training=True), batch))
        gradients = tape.gradient(loss, run.network.trainable_variables)
        run.optimizer.apply(gradients, run.network.trainable_variables)
        return loss

    def loop() -> None:
        for _ in range(steps):
            loss = step(batch)
        loss.numpy()

    return loop


def ours(config: Config, batch: dict, steps: int, workdir: Path) -> Callable:
    run = fresh_run(config)
    take_steps = compile_steps(run)
    batches = tf.data.Dataset.from_tensors(batch).repeat()
    iterator = iter(run.strategy.experimental_distribute_dataset(batches))
    board, line = Board(workdir, 0), progress.Progress(STEPS, config, 0)
    step = 0

    def loop() -> None:
        nonlocal step
        for _ in range(0, steps, config.train.steps_per_call):
            count = min(config.train.steps_per_call, steps)
            sums = take_steps(iterator, tf.constant(count))
            sums = {name: value.numpy() for name, value in sums.items()}
            step += count
            line.show(step, sums | {"steps": count})
            means = {name: float(sums[name]) / count for name in ("loss", "gradient_norm")}
            board.scalars("train", step, {**means, **line.rates(run.optimizer)})
            board.flush()

    return loop


def main(path: str, side: int, batch: int, steps: int) -> None:
    options = [f"--data.side={side}", f"--data.batch_size={batch}", "--train.jit=off"]
    config = files.load(path, [*options, "--train.device=cpu", "--train.precision=float32"])
    data, rates_by_clock = random_batch(config), {}
    with tempfile.TemporaryDirectory() as workdir:
        loops = {
            "bare loop": bare(config, data, steps),
            "training": ours(config, data, steps, Path(workdir)),
        }
        for clock in (time.perf_counter, time.process_time):
            best = benchmark.best_seconds(
                {name: functools.partial(seconds_of, loop, clock) for name, loop in loops.items()}
            )
            rates_by_clock[clock.__name__] = {
                name: steps * batch / seconds for name, seconds in best.items()
            }
    print(f"{path} at {side} px, {steps} steps of {batch} per round, images per second:")
    for clock, rates in rates_by_clock.items():
        ratio = rates["training"] / rates["bare loop"]
        texts = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
        print(f"{clock:14s}{texts}: {ratio:.3f}x")


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
