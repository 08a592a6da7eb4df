"""CPU seconds and peak memory of one epoch of demo_unetpp, in pairs, on this machine's CPU: malloc
as trainer/devices/allocator.py sets it, and as the C library has it.

    python benchmarks/allocator.py --lake LAKE [--section.field=value …]

LAKE: the demo's, demo/phantoms/lake/phantoms/1.0.0. The two of a pair run side by side, so that
other work delays both alike, each in a process of its own, because a process remembers its peak.
The ratios hold on another machine with glibc, the seconds do not. Freed memory is kept at sizes,
too, at which a training would not keep it.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent.parent))

PAIRS = 2
WAYS = "given back", "kept"


def measure(way: str, options: list[str]) -> dict:
    """Train in this process; return {user, system: seconds of CPU; peak_gb; loss: of training}."""
    from trainer import task
    from trainer.devices import allocator

    if way == "kept":
        allocator.keep_freed_memory(0)
    allocator.keep_freed_memory = lambda feature_bytes: None
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", "--config=demo_unetpp", f"--workdir={folder}/run", *options]
        if code := task.main([*words, "--train.epochs=1", "--train.device=cpu"]):
            sys.exit(code)
        metrics = json.loads((Path(folder) / "run" / "metrics.json").read_text())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user": usage.ru_utime,
        "system": usage.ru_stime,
        "peak_gb": usage.ru_maxrss / 1e6,
        "loss": metrics["last"]["val"]["loss"],
    }


def start(way: str, options: list[str]) -> subprocess.Popen:
    command = [sys.executable, __file__, "--measure", way, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main(*options: str) -> None:
    for _ in range(PAIRS):
        processes = [start(way, list(options)) for way in WAYS]
        outputs = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit("".join(outputs))
        rows = [json.loads(output.splitlines()[-1]) for output in outputs]
        for way, row in zip(WAYS, rows, strict=True):
            print(
                f"freed memory {way}: {row['user']:.1f} + {row['system']:.1f} s of CPU (user, "
                f"system), peak {row['peak_gb']:.2f} GB, loss {row['loss']:.6f}"
            )
        given_back, kept = (row["user"] + row["system"] for row in rows)
        memory = rows[1]["peak_gb"] / rows[0]["peak_gb"]
        print(f"kept: {kept / given_back:.2f}x the CPU time, {memory:.2f}x the peak", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        print(json.dumps(measure(sys.argv[2], sys.argv[3:])))
    else:
        main(*sys.argv[1:])
