"""One full training step of a config at its own size, one image, float32, on this machine's CPU.

    python benchmarks/full_step.py configs/unetpp.yaml

Prints seconds a step, peak memory, and how near its convolutions come to a bare one measured in
the same process: the ratio holds on another machine, the seconds do not.
"""

import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import tensorflow as tf

from trainer.augmentation import augment
from trainer.config import files
from trainer.devices.strategy import create_strategy
from trainer.models.build import build
from trainer.scoring import objective
from trainer.training.optimizer import build_optimizer, learning_rate
from trainer.training.step import training_step

REPEATS = 3
OPTIONS = ["--data.batch_size=1", "--train.device=cpu", "--train.precision=float32"]


def seconds(call) -> float:
    """The fastest of a few calls after a first one, which compiles."""
    call()
    found = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def yardstick(side: int, filters: int = 64) -> float:
    """Multiply-accumulates a second of one 3x3 convolution on an image of [side, side, filters]."""
    x, kernel = tf.ones([1, side, side, filters]), tf.ones([3, 3, filters, filters])
    convolve = tf.function(lambda: tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME")))
    return side * side * 9 * filters * filters / seconds(lambda: float(convolve()))


def forward_macs(network: keras.Model) -> int:
    """Multiply-accumulates of the convolutions in one forward pass of one image."""
    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2DTranspose):
            _, height, width, _ = layer.input.shape
            total += height * width * layer.kernel.numpy().size
        elif isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output.shape
            total += height * width * layer.kernel.numpy().size
    return total


def main(path: str) -> None:
    run = files.load(path, OPTIONS)
    strategy = create_strategy("cpu", None, 1)
    network = build(run.model, run.data.side)
    rate = learning_rate(run.optimizer, run.train.epochs, 100)
    optimizer = build_optimizer(run.optimizer, rate)
    optimizer.build(network.trainable_variables)
    losses = objective.image_losses(run, positive_share=0.01)
    step = training_step(network, optimizer, run, strategy, losses)
    side = run.data.side
    batch = {
        "image": tf.cast(tf.random.uniform([1, side, side, 1], maxval=256), tf.uint8),
        "mask": tf.cast(tf.random.uniform([1, side, side, 1]) > 0.99, tf.uint8),
        "window": tf.constant([[0.0, 255.0]]),
        "label": tf.ones([1]),
        "has_mask": tf.ones([1]),
        "weight": tf.ones([1]),
        "uniforms": tf.random.uniform([1, augment.num_draws(run.augment, side)]),
    }
    compiled = tf.function(lambda: strategy.run(step, args=(batch,))["loss"])
    bare = yardstick(side)
    took = seconds(lambda: float(compiled()))
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    macs = 3 * forward_macs(network)  # forward, and both gradients
    print(
        f"{path}: {took:.1f} s a step of one {side} px image, peak memory {gigabytes:.1f} GB\n"
        f"{forward_macs(network) / 1e9:.1f} G multiply-accumulates forward; the step runs at "
        f"{macs / took / 1e9:.0f} G a second, {macs / took / bare:.2f}x a bare 3x3 convolution "
        f"({bare / 1e9:.0f} G a second)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
