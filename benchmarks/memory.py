"""Peak memory of the gradient of one image of a config at its own size, with and without
train.rematerialise, float32, on this machine's CPU.

    python benchmarks/memory.py configs/unetpp.yaml [--section.field=value …]

Each in a process of its own, because a process remembers its peak. The ratios hold on another
machine, the seconds do not.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

REPEATS = 2
OPTIONS = ["--data.batch_size=1", "--train.precision=float32", "--train.jit=off"]
REMATERIALISED = "--train.rematerialise=on"


def peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(path: str, options: list[str]) -> dict:
    """{built, peak: GB; seconds of CPU: the fastest of a few after a first one} of this process."""
    import keras
    import tensorflow as tf

    from trainer.config import files
    from trainer.models.build import build
    from trainer.scoring import objective
    from trainer.scoring.losses import identity
    from trainer.training import rematerialise

    config = files.load(path, [*OPTIONS, *options])
    keras.utils.set_random_seed(config.train.seed)
    network = build(config.model, config.data.side)
    called = rematerialise.rematerialise if config.train.rematerialise else identity
    forward = objective.outputs(network, config.loss, called)
    losses = objective.image_losses(config, positive_share=0.01)
    side = config.data.side
    images = tf.random.uniform([1, side, side, 1])
    masks = tf.cast(tf.random.uniform([1, side, side, 1]) > 0.99, tf.float32)
    batch = {"has_mask": tf.ones([1]), "label": tf.ones([1]), "weight": tf.ones([1])}

    @tf.function(jit_compile=config.train.jit, autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(losses(masks, forward(images, training=True), batch))
        return tf.linalg.global_norm(tape.gradient(loss, network.trainable_variables))

    built_gb, seconds = peak_gigabytes(), []
    for _ in range(1 + REPEATS):
        started = time.process_time()  # of CPU: other work counts less
        norm = float(gradients())
        seconds.append(time.process_time() - started)
    return {
        "built": built_gb,
        "peak": peak_gigabytes(),
        "seconds": min(seconds[1:]),
        "gradient_norm": norm,
    }


def in_a_process(path: str, options: list[str]) -> dict:
    command = [sys.executable, __file__, "--measure", path, *options]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def main(path: str, *options: str) -> None:
    plain, remade = (in_a_process(path, [*options, *more]) for more in ([], [REMATERIALISED]))
    for name, row in (("as it is", plain), ("rematerialised", remade)):
        print(
            f"{path}, {name}: {row['peak'] - row['built']:.2f} GB for the gradient of one "
            f"image ({row['peak']:.2f} GB with {row['built']:.2f} GB before it), "
            f"{row['seconds']:.1f} s of CPU, gradient norm {row['gradient_norm']:.6f}"
        )
    less = (remade["peak"] - remade["built"]) / (plain["peak"] - plain["built"])
    longer = remade["seconds"] / plain["seconds"]
    print(f"rematerialised: {less:.2f}x the memory, {longer:.2f}x the time")


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2], sys.argv[3:])))
    else:
        main(*sys.argv[1:])
