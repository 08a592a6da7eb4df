"""One full training step of a config at its own size, one image, float32, on this machine's CPU.

    python benchmarks/full_step.py configs/unetpp.yaml

Prints seconds per step, peak memory, and how near its convolutions come to a bare one measured in
the same process: the ratio holds on another machine, the seconds do not.
"""

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import loop
import tensorflow as tf
from macs import forward_macs

from trainer.config import files
from trainer.config.run import Config
from trainer.devices.strategy import prepare_memory
from trainer.training.step import training_step

REPEATS = 3
OPTIONS = ["--data.batch_size=1", "--train.device=cpu", "--train.precision=float32"]


def seconds(call) -> float:
    """Return the seconds of the fastest of a few calls after a first one, which compiles."""
    call()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def yardstick(side: int, filters: int = 64) -> float:
    """Return multiply-accumulates per second of a 3x3 convolution on [side, side, filters]."""
    x, kernel = tf.ones([1, side, side, filters]), tf.ones([3, 3, filters, filters])
    convolve = tf.function(lambda: tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME")))
    return side * side * 9 * filters * filters / seconds(lambda: float(convolve()))


def random_step(config: Config) -> tuple[Callable, keras.Model]:
    """Return (a training step on random pixels, which returns its loss, and its network)."""
    run, batch = loop.fresh_run(config), loop.random_batch(config)
    prepare_memory(config.feature_bytes, run.strategy)
    step = training_step(run)
    compiled = tf.function(lambda: run.strategy.run(step, args=(batch,))["loss"], autograph=False)
    return lambda: float(compiled()), run.network


def main(path: str) -> None:
    config = files.load(path, OPTIONS)
    side = config.data.side
    step, network = random_step(config)
    bare = yardstick(side)
    step_seconds = seconds(step)
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    macs = 3 * forward_macs(network)  # forward, and both gradients
    rate = macs / step_seconds  # multiply-accumulates per second
    print(
        f"{path}: {step_seconds:.1f} s per step of one {side} px image, peak memory "
        f"{gigabytes:.1f} GB\n"
        f"{macs / 3e9:.1f} G multiply-accumulates forward; the step runs at {rate / 1e9:.0f} G per "
        f"second, {rate / bare:.2f}x a bare 3x3 convolution ({bare / 1e9:.0f} G per second)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
