"""How soon each command answers `--help`, and a wrong option, path or config: wall-clock and CPU
seconds, and as ratios to `python -c pass` in the same run.

    python benchmarks/startup.py [--repeats 5]

The median counts. Other work on the machine lengthens the wall clock, and hardly the CPU time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from radlake.words import WORDS

ROOT = Path(__file__).parent.parent
HELP_S, MISTAKE_S = 0.6, 1.5  # what each should take at most, on an idle machine
# A mistake per command that is found as late as one of its kind can be.
MISTAKES = {
    "convert": "--images=nothing/*.dcm --output=l/n/1.0.0 --unlabelled=keep",
    "convert_table": "nothing",
    "synthetic": "--output=x --side=1",
    "synthetic_ct": "--output=x --volumes=0",
    "show": "nothing",
    "verify": "nothing",
    "find": "nothing --patient=1",
    "erase": "nothing --patient=1",
    "write_lake": "nothing --to=png --output=o",
    "configs": "--al",
    "train": "--config=unetpp --lake=nothing --workdir=w",
    "find_lr": "--config=unetpp --lake=nothing",
    "evaluate": "--workdir=nothing",
    "predict": "--workdir=nothing --output=o",
    "export": "--workdir=nothing --output=o",
    "predict_files": "--model=nothing --images=README.md --output=o",
    "tune": "--config=unetpp --lake=nothing --space=s --trials=2 --workdir=w",
    "average": "--workdir=nothing --output=o",
    "froc": "nothing --labels=README.md",
    "vote": "nothing nobody --output=o",
    "augment": "--config=unetpp --lake=nothing",
    "benchmark": "--config=unetpp --lake=nothing",
    "launch dataflow": "--projct=p",
    "launch vertex": "--config=nothing --accelerator=t4 --region=r --image=i --project=p "
    "--workdir=gs://b/w --lake=gs://b/l",
    "launch tpu_vm": "--config=nothing --accelerator=v2-8 --zone=z --project=p "
    "--workdir=gs://b/w --lake=gs://b/l",
    "launch slurm": "--dry_run -- radlake train --config=nothing --lake=l --workdir=w",
    "launch cluster": "--workers=2 -- no_such_command",
}


def measure(command: list[str], repeats: int, code: int) -> tuple[float, float]:
    """Return the medians of wall-clock and CPU seconds of a command, which ends with `code`."""
    pairs = []
    for _ in range(repeats):
        before, start = os.times(), time.perf_counter()
        process = subprocess.run(command, cwd=ROOT, capture_output=True)
        wall, after = time.perf_counter() - start, os.times()
        if process.returncode != code:
            sys.exit(f"{command} ended with {process.returncode}: {process.stderr.decode()}")
        cpu = after.children_user - before.children_user
        pairs.append((wall, cpu + after.children_system - before.children_system))
    return tuple(map(statistics.median, zip(*pairs, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    pass_wall, pass_cpu = measure([sys.executable, "-c", "pass"], repeats, 0)
    load = os.getloadavg()[0]
    print(f"python -c pass: {pass_wall:.2f} s, {pass_cpu:.2f} s of CPU; load {load:.1f}")
    titles = f" {'wall':>8}{'CPU':>8}{'ratio':>8}"
    print(f"{'':16} {'--help':>24} {'a mistake':>24}\n{'':16}{titles * 2}")
    worst = {}
    for word in WORDS:
        start = [sys.executable, "-m", "radlake", *word.split()]
        cells = []
        for kind, words, code in (("help", ["--help"], 0), ("mistake", MISTAKES[word].split(), 2)):
            wall, cpu = measure([*start, *words], repeats, code)
            worst[kind] = max(worst.get(kind, (0, "")), (cpu, word))
            cells.append(f"{wall:8.2f}{cpu:8.2f}{cpu / pass_cpu:8.1f}")
        print(f"{word:16} {' '.join(cells)}", flush=True)
    for kind, limit in (("help", HELP_S), ("mistake", MISTAKE_S)):
        cpu, word = worst[kind]
        print(f"{kind}: at most {cpu:.2f} s of CPU ({word}); limit on an idle machine: {limit} s")


if __name__ == "__main__":
    main()
