"""Time per multiply-accumulate of a U-Net++ training step against MONAI's BasicUNetPlusPlus.

    python benchmarks/unetpp_step.py [--side 256] [--batch 2] [--steps 11] [--threads 2]

One step is the forward pass and all gradients, float32, on this machine's CPU: radlake's under
TensorFlow as trainer/training/step.py runs it there, MONAI's under PyTorch. Each network has a
process, and they take steps in turns. The ratio of the medians holds on another machine, the
seconds do not. On a busy machine use --threads 1 and look at the CPU time alone, because threads
that wait for one another lose much more than their share. Each network's convolutions are counted
from its own layers, because the layouts differ (in MONAI's first row, upsampling keeps twice the
channels).

MONAI is installed into bench/monai, a virtual environment that the first run makes from
requirements-monai.txt.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent

LEAKY = {"activation": "leaky_relu", "negative_slope": 0.1}
PUBLISHED = [32, 64, 128, 256, 512, 32]  # MONAI's sixth number is the width of X(0,4)
# name: (radlake's model section, MONAI's arguments), four heads each
PAIRS = {
    "MONAI's default (32 … 256, instance norm)": (
        {"filters": [32, 32, 64, 128, 256], "norm": "instance", **LEAKY},
        {},
    ),
    "published widths (32 … 512), instance norm": (
        {"filters": 32, "norm": "instance", **LEAKY},
        {"features": PUBLISHED},
    ),
    "configs/unetpp.yaml (32 … 512, group norm)": (
        {"filters": 32, "norm": "group"},
        {"features": PUBLISHED, "norm": ["group", {"num_groups": 8}], "act": "relu"},
    ),
}


def radlake_step(section: dict, side: int, batch: int, threads: int) -> tuple[Callable, int]:
    """Return (a step, the multiply-accumulates of one image's forward pass)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf
    from full_step import forward_macs  # puts the repository on the path

    from trainer.config.network import UnetPlusPlus
    from trainer.models.build import build

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    section = UnetPlusPlus(kind="unetpp", deep_supervision=True, **section)
    network = build(section, side)
    images = tf.random.uniform([batch, side, side, 1])
    masks = tf.cast(tf.random.uniform([batch, side, side, 1]) > 0.99, tf.float32)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            logits = network(images, training=True)  # [B, side, side, 4]
            truth = tf.broadcast_to(masks, tf.shape(logits))
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(truth, logits)
            loss = tf.reduce_mean(entropy)
        return loss, tape.gradient(loss, network.trainable_variables)

    return lambda: float(gradients()[0]), forward_macs(network)


def monai_step(arguments: dict, side: int, batch: int, threads: int) -> tuple[Callable, int]:
    """Return (a step, the multiply-accumulates of one image's forward pass)."""
    import torch
    from monai.networks.nets import BasicUNetPlusPlus

    torch.set_num_threads(threads)
    network = BasicUNetPlusPlus(2, 1, 1, deep_supervision=True, **arguments)
    images = torch.rand(batch, 1, side, side)
    masks = (torch.rand(batch, 1, side, side) > 0.99).float()

    def gradients() -> float:
        network.zero_grad()
        logits = torch.cat(network(images), dim=1)  # [B, 4, side, side]
        truth = masks.expand_as(logits)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        loss.backward()
        return loss.item()

    return gradients, torch_macs(network, images[:1])


def torch_macs(network, image) -> int:
    """Return the multiply-accumulates of the convolutions for one image, as full_step.forward_macs
    does: the size of each kernel times the number of places it is applied to."""
    import torch

    macs = []

    def count(layer, inputs, output):
        places = inputs[0] if isinstance(layer, torch.nn.ConvTranspose2d) else output
        macs.append(places.shape[-2] * places.shape[-1] * layer.weight.numel())

    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    convolutions = [layer for layer in network.modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(count) for layer in convolutions]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return sum(macs)


def serve(text: str) -> None:
    """Answer a Stepper."""
    arguments = json.loads(text)
    make = {"radlake": radlake_step, "monai": monai_step}[arguments.pop("library")]
    answer_steps(*make(**arguments))


def answer_steps(step: Callable, macs: int) -> None:
    """Print the multiply-accumulates, then the seconds of a step per line of the input."""
    step()  # the first one traces, and fills the libraries' caches
    print(macs, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter(), time.process_time()
        step()
        print(time.perf_counter() - started[0], time.process_time() - started[1], flush=True)


class Stepper:
    """A process that has a network and takes a step per line of its input (answer_steps)."""

    def __init__(self, *command: object):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([*map(str, command)], stdin=pipe, stdout=pipe, text=True)
        self.macs = int(self._answer())

    def step(self) -> list[float]:
        """Take a step; return its seconds on the clock and its seconds of CPU time."""
        print(file=self.process.stdin, flush=True)
        return [float(text) for text in self._answer().split()]

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a step failed: {self.process.args}")
        return line

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def environment(name: str) -> Path:
    """Return the Python of the environment bench/NAME, after installing requirements-NAME.txt into
    it where that is missing."""
    folder = HERE.parent / "bench" / name
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing PyTorch and {name} into {folder}", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = [python, "-m", "pip", "install", "--quiet", "--requirement"]
        subprocess.run([*install, HERE / f"requirements-{name}.txt"], check=True)
        (folder / "installed").touch()
    return python


def stepper(python: Path | str, **arguments: object) -> Stepper:
    """Return a Stepper of one of the two libraries."""
    return Stepper(python, __file__, "--serve", json.dumps(arguments))


def compare(name: str, python: Path, steps: int, **size: int) -> None:
    section, arguments = PAIRS[name]
    ours = stepper(sys.executable, library="radlake", section=section, **size)
    theirs = stepper(python, library="monai", arguments=arguments, **size)
    turns = [(ours.step(), theirs.step()) for _ in range(steps)]
    ours.end()
    theirs.end()
    print(name)
    for column, kind in enumerate(("on the clock", "of CPU")):
        medians = [statistics.median(turn[side][column] for turn in turns) for side in (0, 1)]
        ratio = medians[0] / ours.macs / (medians[1] / theirs.macs)
        print(
            f"  {ratio:.2f}x MONAI's time {kind} per multiply-accumulate (bar: 1): "
            f"{medians[0]:.2f} s against {medians[1]:.2f} s per step",
            flush=True,
        )
    print(f"  {ours.macs / 1e9:.2f} G and {theirs.macs / 1e9:.2f} G an image forward")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=11, help="of each, in turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", metavar="JSON", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve(flags.serve)
    else:
        for name in PAIRS:
            size = {"side": flags.side, "batch": flags.batch, "threads": flags.threads}
            compare(name, environment("monai"), flags.steps, **size)
