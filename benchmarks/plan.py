"""The plan of a simulated index of a million images: time, memory, and how well quotas hold.

python benchmarks/plan.py [--images 1000000]

The real steps (rows, gathering, dealing) run on a local Beam runner; only listing and joining are
simulated. Memory is what a process grows by beyond the same run of a tenth of the images.
"""

import argparse
import dataclasses
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import apache_beam
import numpy as np

from beam.conversion import image_rows, options, plan, quotas
from beam.running import runners
from lake.scan import stable_hash

STEP = 20_000


def simulated(start: int, stop: int):
    """ROWs of patients with one, one and two images, 22% of them positive with sizes spread as
    SIIM-ACR's."""
    for number in range(start, stop):
        patient = number - (number % 4 == 3)
        lesion = 0.0
        if random.Random(patient).random() < 0.22:
            lesion = 10 ** random.Random(-number).gauss(-2.1, 0.5)
        yield stable_hash(f"p{patient}"), stable_hash(f"i{number}") >> 32, lesion, 34


def simulated_array(start: int, stop: int) -> np.ndarray:
    return np.array(list(simulated(start, stop)), image_rows.row_type(conversion_options()))


def conversion_options() -> options.ConversionOptions:
    flags = options.parser().parse_args(
        ["--images=x", "--labels=y", "--output=a/b/1.0.0", "--deidentify=keep"]
    )
    return options.from_flags(flags, is_local=True, progress_file=None)


def measure(images: int, output: str) -> None:
    """Plans in this process; prints seconds of CPU and peak bytes."""
    started = time.process_time()
    pipeline = apache_beam.Pipeline(runner=runners.LOCAL)
    _ = (
        pipeline
        | apache_beam.Create([(n, min(n + STEP, images)) for n in range(0, images, STEP)])
        | apache_beam.FlatMapTuple(simulated)
        | apache_beam.CombineGlobally(plan.Gather(conversion_options()))
        | apache_beam.Map(save, output)
    )
    pipeline.run().wait_until_finish()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(time.process_time() - started, peak)


def save(assignment: plan.Assignment, output: str) -> None:
    """All but the shards' boundaries, which are not of one length and not looked at."""
    with open(output, "wb") as file:
        np.savez(file, **dataclasses.asdict(assignment) | {"boundaries": []})


def run(images: int, output: Path) -> tuple[float, float]:
    command = [sys.executable, __file__, "--images", str(images), "--measure", str(output)]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    seconds, peak = printed.split()
    return float(seconds), float(peak)


def report(images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder, "plan")
        small, large = (run(count, saved) for count in (images // 10, images))
        with np.load(saved) as arrays:
            assignment = plan.Assignment(**dict(arrays) | {"names": tuple(arrays["names"])})
    print(f"{images // 10:9,} images {small[0]:6.1f} s of CPU {small[1] / 1e6:6.0f} MB peak")
    print(f"{images:9,} images {large[0]:6.1f} s of CPU {large[1] / 1e6:6.0f} MB peak")
    grown = len(assignment.groups) * 0.9
    print(f"{(large[1] - small[1]) / grown:.0f} bytes per additional patient (bar: 200)")
    rows = simulated_array(0, images)
    split = assignment.split[np.searchsorted(assignment.groups, rows["group"])]
    worst = 0.0
    for name, share in quotas.parse(conversion_options().splits):
        actual = np.mean(split == assignment.names.index(name))
        worst = max(worst, abs(actual - float(share)))
    print(f"shares of images differ from --splits by at most {worst:.3%} (bar: 0.1%)")
    positives = np.flatnonzero(rows["lesion"] > 0)
    positives = positives[np.argsort(rows["lesion"][positives])]
    worst = 0.0
    for decile in np.array_split(positives, 10):
        for name, share in quotas.parse(conversion_options().splits):
            actual = np.mean(split[decile] == assignment.names.index(name))
            worst = max(worst, abs(actual - float(share)))
    print(f"within deciles of lesion size by at most {worst:.2%} (bar: 1%)")
    report_growth(rows, assignment)


def report_growth(rows: np.ndarray, assignment: plan.Assignment) -> None:
    """A tenth more images with the splits of the first ones given."""
    conversion = dataclasses.replace(conversion_options(), splits_from="lake")
    grown = np.zeros(len(rows) * 11 // 10, image_rows.row_type(conversion))
    more = simulated_array(len(rows), len(grown))
    for name in rows.dtype.names:
        grown[name] = np.concatenate([rows[name], more[name]])
    names = np.array([name.encode() for name in assignment.names])
    grown["split"][: len(rows)] = names[
        assignment.split[np.searchsorted(assignment.groups, rows["group"])]
    ]
    grown["fold"] = -1
    later = plan.assign(grown, conversion)
    position = np.searchsorted(later.groups, assignment.groups)
    moved = np.count_nonzero(later.split[position] != assignment.split)
    patients = len(assignment.groups)
    print(f"with --splits_from and 10% more images {moved} of {patients:,} patients moved")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--measure", metavar="FILE", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    measure(flags.images, flags.measure) if flags.measure else report(flags.images)
