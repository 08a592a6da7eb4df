"""What one GPU does with training steps, on JAX: no TensorFlow, no lake, within six minutes.

    python benchmarks/gpu.py [--minutes 6] [--json FILE] [--toy]

Prints, for configs/unetpp.yaml and for a U-Net on DenseNet121 (random weights) at 1024 and 512 px
in bfloat16: images per second, TFLOP/s and their share of the device's peak, memory, the largest
batch that fits, by doubling, and the augmentation's time beside the step's; then float32, other
layouts and numbers of channels, and the ten kernels that take most of a step. The step is a whole
one (benchmarks/gpu_step.py); its batch is drawn and stays on the device, so input is not measured.
What there was no time for is listed. `--toy` tries all of it on a CPU, with networks so small that
its figures say nothing.

It needs JAX, Keras, NumPy, pydantic and PyYAML alone, beside a checkout. For a machine that has
nothing but JAX, fetch the rest here for its Python, carry the folder, and install it there:

    pip download --dest wheels --no-deps --only-binary :all: --python-version 3.12 \\
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 keras absl-py h5py \\
        markdown-it-py mdurl namex optree packaging pygments rich pydantic pydantic-core \\
        annotated-types typing-extensions typing-inspection pyyaml
    pip install --no-index --find-links wheels keras pydantic pyyaml

JAX_COMPILATION_CACHE_DIR=FOLDER keeps the compiled steps, so that a second run gets further. Each
part is a process of its own: its memory is its own peak, and it ends when its time is over.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

STEP = Path(__file__).with_name("gpu_step.py")
SPARE_SECONDS = 5  # of the whole time, for the last process to end and the tables

# {how JAX's device_kind begins: TFLOP/s of dense products in (bfloat16, float32)}, by the makers'
# data sheets, where NVIDIA's give twice as much, with sparsity. float32 is TF32 there, which XLA
# takes for float32 convolutions by default. The longest name that fits counts.
PEAKS = {
    # nvidia.com/en-us/data-center/a100, /h100, /h200, /l4, /l40s
    "NVIDIA A100": (312, 156),
    "NVIDIA H100": (989.5, 494.5),
    "NVIDIA H100 PCIe": (756.5, 378),
    "NVIDIA H100 NVL": (835.5, 417.5),
    "NVIDIA H200": (989.5, 494.5),
    "NVIDIA H200 NVL": (835.5, 417.5),
    "NVIDIA L4": (121, 60),
    "NVIDIA L40S": (362, 183),
    # cloud.google.com/tpu/docs/v5e, /v6e: no float32
    "TPU v5 lite": (197, None),
    "TPU v6 lite": (918, None),
}


class Part(NamedTuple):
    """What is measured of one network; its fields go to gpu_step.py as JSON."""

    network: str
    side: int
    precision: str = "bfloat16"
    choice: str = "as it is"
    doublings: int = 0  # of the batch, at most, behind the config's
    is_profiled: bool = False
    is_toy: bool = False

    @property
    def title(self) -> str:
        choice = "" if self.choice == "as it is" else f", {self.choice}"
        return f"{self.network} {self.side} px {self.precision}{choice}"


class Group(NamedTuple):
    """The parts of one process, and its share of the time that is left."""

    parts: list[Part]
    weight: int


NETWORKS = ("unetpp", "unet_densenet121")
CHOICES = ("layout NHWC", "layout NCHW", "8 channels", "twice the filters")


def groups_of_parts(is_toy: bool) -> list[Group]:
    """Return what is measured, the most important first."""
    if is_toy:
        small = Part("unetpp", 32, is_toy=True)
        first = small._replace(doublings=1, is_profiled=True)
        return [Group([first, small._replace(network="unet", precision="float32")], 1)]
    doubled = [Part(network, side, doublings=20) for side in (1024, 512) for network in NETWORKS]
    doubled[0] = doubled[0]._replace(is_profiled=True)
    singles = [Part(network, 1024, "float32") for network in NETWORKS]
    choices = [Part("unetpp", 1024, choice=choice) for choice in CHOICES]
    return [*(Group([part], 5) for part in doubled), Group(singles, 4), Group(choices, 5)]


# --- running ---


def run_group(parts: list[Part], seconds: float) -> Iterator[dict]:
    """Yield the results of a process that measures the parts and ends after so many seconds at the
    latest; {"stopped": …} where its time was over, {"failure": …} where it ended with an error."""
    order = {"parts": [part._asdict() for part in parts], "until": time.time() + seconds}
    command = [sys.executable, str(STEP), json.dumps(order)]
    is_over = threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        timer = threading.Timer(seconds, lambda: (is_over.set(), process.kill()))
        timer.start()
        try:
            yield from map(json.loads, process.stdout)
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        if is_over.is_set():
            yield {"stopped": f"the end of {' and '.join(part.title for part in parts)}"}
        elif process.returncode:
            errors.seek(0)
            yield {"failure": errors.read()[-3000:]}


def run(groups: list[Group], minutes: float, report: Callable[[str], None]) -> dict:
    """Return all results, within the minutes; `report` takes a line per step as it comes. Ends
    early on a CPU, unless the parts are toys."""
    end = time.monotonic() + 60 * minutes - SPARE_SECONDS
    results = {"date": time.strftime("%Y-%m-%d"), "options": sys.argv[1:], "device": None}
    results |= {key: [] for key in ("rows", "too_large", "kernels", "left_out", "failures")}
    for number, (parts, weight) in enumerate(groups):
        # What a group does not need is for those behind it.
        weights = [group.weight for group in groups[number:]]
        seconds = max(0.0, end - time.monotonic()) * weight / sum(weights)
        for result in run_group(parts, seconds):
            ((name, value),) = result.items()
            if name == "device":
                results["device"] = value
                if value["platform"] == "cpu" and not parts[0].is_toy:
                    return results
            elif name == "row":
                results["rows"].append(value | rates(value, results["device"]["kind"]))
                report(table(results["rows"][-1:])[-1])
            elif name == "kernels":
                results["kernels"] = value
            else:
                lists = {"failure": "failures", "too_large": "too_large"}
                results[lists.get(name, "left_out")].append(value)
    return results


# --- reading the results ---


def peak_of(kind: str, precision: str) -> float | None:
    """Return the peak TFLOP/s of a device kind; None where PEAKS does not have it."""
    names = [name for name in PEAKS if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    return PEAKS[max(names, key=len)][precision == "float32"] if names else None


def rates(row: dict, kind: str) -> dict:
    """Return a row's TFLOP/s, their share of the peak or None, and the augmentation's share."""
    tflops = row["flops"][row["flops_source"]] / row["step_seconds"] / 1e12
    peak = peak_of(kind, row["precision"])
    return {
        "tflops_per_second": tflops,
        "share_of_peak": tflops / peak if peak else None,
        "augmentation_share": row["augmentation_seconds"] / row["step_seconds"],
    }


def top_kernels(trace, num_steps: int, count: int = 10) -> list[dict]:
    """Return the `count` kernels that took most time of a trace (jax.profiler.ProfileData) of some
    steps; [] where it has no device's, as on a CPU."""
    seconds, calls = Counter(), Counter()
    for plane in trace.planes:
        for line in plane.lines if plane.name.startswith("/device:") else ():
            if line.name.startswith("Stream") or line.name == "XLA Ops":  # of GPUs, of TPUs
                for event in line.events:
                    seconds[event.name] += event.duration_ns / 1e9
                    calls[event.name] += 1
    return [
        {
            "kernel": name,
            "share": value / seconds.total(),
            "seconds_per_step": value / num_steps,
            "calls_per_step": calls[name] / num_steps,
        }
        for name, value in seconds.most_common(count)
    ]


def table(rows: list[dict]) -> list[str]:
    """Return the lines of the table of steps, in Markdown."""
    columns = (
        "network | side | precision | tried | batch | images/s | TFLOP/s | of the peak "
        "| peak memory | compiled for | augmentation | compilation"
    )
    lines = [f"| {columns} |", "|---" * 12 + "|"]
    for row in rows:
        share, peak = row["share_of_peak"], row["peak_bytes"]
        cells = [row["network"], f"{row['side']} px", row["precision"], row["choice"], row["batch"]]
        cells += [f"{row['images_per_second']:.4g}", f"{row['tflops_per_second']:.3g}"]
        cells += ["?" if share is None else f"{share:.1%}"]
        cells += ["?" if peak is None else f"{peak / 1e9:.2f} GB"]
        cells += [f"{row['compiled_bytes'] / 1e9:.2f} GB", f"{row['augmentation_share']:.1%}"]
        cells += [f"{row['compile_seconds']:.0f} s"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return lines


def summary(results: dict) -> list[str]:
    """Return lines about the largest batches, and about each choice beside bfloat16 as it is."""

    def part_of(row: dict) -> Part:
        return Part(row["network"], row["side"], row["precision"], row["choice"])

    speeds, limits, lines = {}, {}, []
    for row in results["rows"]:
        speeds.setdefault(part_of(row), {})[row["batch"]] = row["images_per_second"]
    for row in results["too_large"]:
        part = part_of(row)
        limits[part] = min(row["batch"], limits.get(part, row["batch"]))
    for part in speeds | limits:
        base = part._replace(precision="bfloat16", choice="as it is")
        sizes = speeds.get(part, {})
        if part == base or part in limits:
            end = f"{limits[part]} is out of memory" if part in limits else "larger: not tried"
            lines.append(f"{part.title}: largest batch {max(sizes, default='none')}; {end}")
        for size in sizes.keys() & speeds.get(base, {}).keys() if part != base else ():
            ratio = sizes[size] / speeds[base][size]
            lines.append(f"{part.title}, batch {size}: {ratio:.2f}x the images/s as it is")
    return lines


def page(results: dict) -> str:
    """Return everything that is printed at the end."""
    device, rows, kernels = results["device"], results["rows"], results["kernels"]
    memory = f", {device['bytes_limit'] / 1e9:.1f} GB for JAX" if device["bytes_limit"] else ""
    lines = [f"{device['kind']}{memory}, JAX {device['jax']}, Keras {device['keras']}", ""]
    lines += [*table(rows), "", "?: not told by the device, or an earlier step needed more."]
    lines.append("augmentation: its time, compiled by itself, over the whole step's.")
    for source, count in Counter(row["flops_source"] for row in rows).items():
        kind = "counted by layer" if source.startswith("conv") else f"JAX's cost_analysis, {source}"
        lines.append(f"Operations of {count} of {len(rows)} rows: {kind}.")
    if peak_of(device["kind"], "bfloat16") is None:
        lines.append(f"No share of the peak: PEAKS does not have {device['kind']!r}.")
    lines += ["", *summary(results), ""]
    if kernels:
        lines += ["| kernel | share | ms per step | calls per step |", "|---" * 4 + "|"]
    else:
        lines.append("No kernels: the profile has none of a device, as always on a CPU.")
    for row in kernels:
        times = f"{1e3 * row['seconds_per_step']:.2f} | {row['calls_per_step']:.4g}"
        lines.append(f"| `{row['kernel'][:80]}` | {row['share']:.1%} | {times} |")
    lines += [f"left out for want of time: {name}" for name in results["left_out"]]
    lines += [f"failed:\n{text}" for text in results["failures"]]
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of it (default: 6)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument("--toy", action="store_true", help="tiny networks; on a CPU, too")
    flags = parser.parse_args(argv)
    if not flags.minutes > SPARE_SECONDS / 60:
        parser.error(f"--minutes {flags.minutes:g}: expected more than {SPARE_SECONDS} seconds")
    if flags.json and not flags.json.absolute().parent.is_dir():
        parser.error(f"--json {flags.json}: its folder does not exist; make it first")
    groups = groups_of_parts(flags.toy)
    results = run(groups, flags.minutes, lambda line: print(line, file=sys.stderr, flush=True))
    if flags.json:
        flags.json.write_text(json.dumps(results, indent=1))
    if results["device"] is None:
        reasons = results["failures"] or ["its time was over before JAX had started"]
        print("no step was measured:", *reasons, sep="\n", file=sys.stderr)
        return 1
    if results["device"]["platform"] == "cpu" and not flags.toy:
        parser.error("JAX has only a CPU here; expected a GPU: pip install 'jax[cuda13]', or --toy")
    print(page(results))
    return 1 if results["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
