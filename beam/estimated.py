"""An Estimate -> what a user reads: shards, time and workers, dollars, what a trainer needs."""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from beam import costs
from beam.estimate import Estimate
from lake import InputError

# What launch.dataflow asks for; Beam's own --machine_type and --max_num_workers replace it.
MACHINE, MAX_WORKERS = "e2-standard-4", 20
GB_A_CORE = {"standard": 4, "highmem": 8, "highcpu": 1}  # of most families, within a factor of two
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
TIMES = (("h", 3600), ("min", 60), ("s", 1))


class Machine(NamedTuple):
    name: str
    cores: int
    gb: float  # of memory


def table(found: Estimate, flags: argparse.Namespace, pipeline_options: PipelineOptions) -> str:
    """Raises InputError for a machine whose size is not in its name."""
    asked = pipeline_options.view_as(WorkerOptions)
    machine = machine_of(asked.machine_type or MACHINE)
    most = asked.max_num_workers or asked.num_workers or MAX_WORKERS
    read, written = scaled(found.moved), scaled(found.stored[0])
    lines = [
        f"files    {found.files:>12,}  {scaled(found.file_bytes)}; the headers of "
        f"{found.sampled:,} read: {counted(found.kinds, found.sampled)}",
        *rejects(found, flags.max_reject_fraction),
        *shard_lines(found),
        f"lake     {written:>12}{interval(found.stored)}",
        f"moved    {read:>12}  read, headers first; {written} written",
        *time_lines(found, machine, most, flags),
        *trainer_lines(found, flags),
        *assumptions(flags),
    ]
    return "\n".join(lines)


def machine_of(name: str) -> Machine:
    match = re.fullmatch(r"\w+-(standard|highmem|highcpu)-(\d+)", name)
    if not match:
        raise InputError(
            f"--machine_type={name}: expected a name with its number of cores, such as {MACHINE}"
        )
    cores = int(match[2])
    return Machine(name, cores, cores * GB_A_CORE[match[1]])


def rejects(found: Estimate, allowed: float) -> Iterator[str]:
    share = found.rejects.total() / found.sampled
    if share:
        line = f"rejects  {share:>12.1%}  of the sample: {counted(found.rejects, found.sampled)}"
        yield line + f"; above --max_reject_fraction={allowed:g}" * (share > allowed)


def shard_lines(found: Estimate) -> Iterator[str]:
    yield f"{'split':<9}{'records':>12} {'shards':>8} {'records a shard':>16} {'MB a shard':>11}"
    record_mb = found.stored[0] / max(found.records, 1) / 1e6
    for name, records, shards in found.splits:
        own = records / max(shards, 1)
        yield f"{name:<9}{records:>12,} {shards:>8,} {own:>16,.0f} {own * record_mb:>11.1f}"


def time_lines(
    found: Estimate, machine: Machine, most: int, flags: argparse.Namespace
) -> Iterator[str]:
    """Time and money. One core writes a shard from its beginning to its end, so the cores that are
    busy, and the time, come from whole shards."""
    seconds, each = found.seconds[0], found.seconds[0] / max(found.records, 1)
    cores = min(most * machine.cores, max(found.shards, 1))
    workers = math.ceil(cores / machine.cores)
    at_best = math.ceil(found.shards / cores) * seconds / max(found.shards, 1) + costs.START_S
    worker_hour = machine.cores * flags.price_vcpu_hour + machine.gb * flags.price_gb_hour
    gone = workers * worker_hour * at_best / 3600 + found.moved / 1e9 * flags.price_gb_read
    month = found.stored[0] / 1e9 * flags.price_gb_month
    yield (
        f"one core {spent(seconds + costs.START_S):>12}{interval(found.seconds)}  "
        f"{each * 1e3:.2f} ms a record, {costs.START_S} s for the start"
    )
    yield (
        f"workers  {workers:>12,}  of at most {most:,} x {machine.name}, {cores:,} cores with a "
        f"shard each at a time: {spent(at_best)} at best"
    )
    yield (
        f"dollars  {gone:>12,.2f}  and {month:,.2f} a month for the lake, at "
        f"{flags.price_vcpu_hour:g} a vCPU-hour, {flags.price_gb_hour:g} a GB-hour of memory, "
        f"{flags.price_gb_month:g} a GB-month, {flags.price_gb_read:g} a GB read"
    )


def trainer_lines(found: Estimate, flags: argparse.Namespace) -> Iterator[str]:
    """What each rate of an accelerator asks of the bucket and of the cores that decode."""
    record_mb = found.stored[0] / max(found.records, 1) / 1e6
    record_s = found.training_seconds / max(found.records, 1)
    name, records, _ = found.splits[0]
    yield f"trainer of {flags.accelerators:,} accelerators, at the stored size, without data.cache"
    yield (
        f"{'each: images/s':>21} {'images/s':>12} {'MB/s':>10} {'cores that decode':>18} "
        f"{'epoch of ' + name:>15}"
    )
    for each in flags.images_per_second:
        rate = each * flags.accelerators
        epoch = spent(records / rate) if rate else "never"
        yield (
            f"{each:>21,g} {rate:>12,g} {rate * record_mb:>10,.1f} {rate * record_s:>18,.1f} "
            f"{epoch:>15}"
        )


def assumptions(flags: argparse.Namespace) -> Iterator[str]:
    """What neither a listing nor a header can say."""
    if flags.labels or flags.masks:
        yield "taken for granted: every image has a label"
    if flags.split_column or flags.splits_from:
        yield f"taken for granted: what is decided already is near --splits={flags.splits}"
    if flags.source == "metaimage" and flags.labels:
        yield f"not counted: slices that a nodule reaches; {flags.empty_slices:g} of all are"
    yield "not counted: the minutes in which a machine starts"


def counted(counter: Counter, total: int) -> str:
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counter.most_common())


def interval(value: tuple[float, float]) -> str:
    """What the sample leaves open, from half a percent on."""
    total, error = value
    return f" ± {error / total:.0%}" if error >= total / 200 > 0 else ""


def scaled(num_bytes: float) -> str:
    name, size = next((unit for unit in UNITS if num_bytes >= unit[1]), UNITS[-1])
    return f"{num_bytes / size:,.1f} {name}"


def spent(seconds: float) -> str:
    name, unit = next((time for time in TIMES if seconds >= 2 * time[1]), TIMES[-1])
    return f"{seconds / unit:,.1f} {name}"
