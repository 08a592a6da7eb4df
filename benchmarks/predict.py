"""How much predict costs beside its network's bare forward pass, and whether its memory stays flat.

python benchmarks/predict.py --images 'xrays/dicom/*.dcm' --labels xrays/train-rle.csv [--side 256]

The images are converted into a lake in a temporary folder first. With the network of
configs/unetpp_small.yaml and random weights, two things then take turns in one process:

forward     the compiled ensemble on one batch in memory, again and again
predict     all of predict: records, forward, masks at the source's size, run lengths, tables

The latter runs with thresholds that leave a mask in 22 % of the images, as in SIIM-ACR, and with
thresholds that leave one in all of them. It prints images per second of the clock and of CPU time,
medians over the rounds, and the peak memory of fresh processes that predict a quarter of the images
and all of them.
"""

import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np

from beam import convert
from trainer.config import files
from trainer.inference import images
from trainer.inference.decision import Decision, Triplet
from trainer.inference.ensemble import Ensemble, Member
from trainer.models.build import build
from trainer.prediction import predict
from trainer.prediction.one_image import FIELDS, OutputOptions

CONFIG = Path(__file__).parent.parent / "configs" / "unetpp_small.yaml"
SHARES = {"predict, 22 % with a mask": 0.22, "predict, all with a mask": 1.0}
SPLIT = "train"


def untrained(side: int, lake: str) -> Ensemble:
    config = files.load(CONFIG, [f"--data.side={side}"], lake=lake)
    keras.utils.set_random_seed(0)
    return Ensemble([Member(Path("untrained"), config, build(config.model, side))], ())


def first_of(lake: str, count: int) -> images.ImagesToPredict:
    return images.from_lake(lake, SPLIT).first(count)


def thresholds(system: Ensemble, batch: dict) -> dict[str, Decision]:
    """Return a decision for each of SHARES, from the highest p per image of a batch."""
    highest = system(batch).probabilities.numpy().max(axis=(1, 2, 3))
    quantiles = {name: float(np.quantile(highest, 1 - share)) for name, share in SHARES.items()}
    return {name: Decision(Triplet(p - 1e-4, 0.0, p - 1e-4)) for name, p in quantiles.items()}


def predicted(system: Ensemble, lake: str, count: int, chosen: Decision) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        predict.predict(system, chosen, first_of(lake, count), output, OutputOptions())


def forward(system: Ensemble, batch: dict, steps: int) -> None:
    for _ in range(steps):
        system(batch).probabilities.numpy()


def rates(runs: dict, count: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Return images per second of (the clock, CPU time) per run; the runs take turns, and the first
    turn warms up."""
    seconds = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, config in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            config()
            if number:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: tuple(count / statistics.median(kind) for kind in zip(*measured, strict=True))
        for name, measured in seconds.items()
    }


def peak_mb(lake: str, side: int, count: int) -> float:
    """Return the peak memory in MB of a fresh process that predicts so many images."""
    command = [sys.executable, __file__, f"--lake={lake}", f"--side={side}", f"--only={count}"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(process.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images")
    parser.add_argument("--labels")
    parser.add_argument("--lake", help="a lake of an earlier conversion, instead of the two")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--count", type=int, default=720, help="images per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", type=int, help="predict this many and print the peak memory in MB"
    )
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lake = flags.lake or f"{folder}/lake/bench/1.0.0"
        if not flags.lake:
            arguments = [f"--images={flags.images}", f"--labels={flags.labels}", f"--output={lake}"]
            convert.run([*arguments, f"--splits={SPLIT}=1", "--runner=DirectRunner"])
        if flags.only:
            only(lake, flags.side, flags.only)
        else:
            measure(lake, flags.side, flags.count, flags.rounds)


def only(lake: str, side: int, count: int) -> None:
    predicted(untrained(side, lake), lake, count, Decision(Triplet(0.5, 0.0, 0.5)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(lake: str, side: int, count: int, rounds: int) -> None:
    system = untrained(side, lake)
    inputs = first_of(lake, count)
    batch = next(iter(images.batches(inputs, system, FIELDS, with_image=False)))
    steps = -(-inputs.count // system.settings.batch_size)
    runs = {"forward": functools.partial(forward, system, batch, steps)}
    for name, chosen in thresholds(system, batch).items():
        runs[name] = functools.partial(predicted, system, lake, count, chosen)
    measured = rates(runs, inputs.count, rounds)
    for name, numbers in measured.items():
        ratios = [number / bare for number, bare in zip(numbers, measured["forward"], strict=True)]
        print(
            f"{name:<28}{numbers[0]:7.1f} images/s, {ratios[0]:.2f}x forward; "
            f"{numbers[1]:7.1f} images/CPU-s, {ratios[1]:.2f}x",
            flush=True,
        )
    few = inputs.count // 4
    peaks = {number: peak_mb(lake, side, number) for number in (few, inputs.count)}
    print("peak memory: " + ", ".join(f"{mb:,.0f} MB at {n} images" for n, mb in peaks.items()))


if __name__ == "__main__":
    main()
