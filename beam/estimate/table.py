"""An Estimate -> what a user reads: shards, time and workers, dollars, what a trainer needs."""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from beam.estimate import costs
from beam.estimate.estimate import Estimate
from lake import InputError, workers

GB_A_CORE = {"standard": 4, "highmem": 8, "highcpu": 1}  # of most families, within a factor of two
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
TIMES = (("h", 3600), ("min", 60), ("s", 1))


class Workers(NamedTuple):
    most: int
    machine: str
    cores: int  # of each
    memory_gb: float
    disk: str  # of each
    is_local: bool  # the runner that was asked for has none of them


def workers_of(pipeline_options: PipelineOptions, is_local: bool) -> Workers:
    """What Beam's own options ask for, else what launch.dataflow does; raises InputError for a
    machine whose size is not in its name, and for no workers."""
    asked = pipeline_options.view_as(WorkerOptions)
    for name in ("max_num_workers", "num_workers"):
        number = getattr(asked, name)
        if number is not None and number < 1:
            raise InputError(f"--{name}={number}: expected a number from 1 on")
    most = asked.max_num_workers or asked.num_workers or workers.MOST
    machine = asked.machine_type or workers.MACHINE
    match = re.fullmatch(r"\w+-(standard|highmem|highcpu)-([1-9]\d*)", machine)
    if not match:
        raise InputError(
            f"--machine_type={machine}: expected a name with its number of cores, such as "
            f"{workers.MACHINE}"
        )
    cores = int(match[2])
    given = asked.disk_size_gb
    disk = f"{given:,} GB" if given else f"{workers.DISK_GB} GB with launch.dataflow"
    return Workers(most, machine, cores, cores * GB_A_CORE[match[1]], disk, is_local)


def table(found: Estimate, flags: argparse.Namespace, asked: Workers) -> str:
    read, written = scaled(found.moved), scaled(found.stored[0])
    lines = [
        f"files    {found.files:>12,}  {scaled(found.file_bytes)}; the headers of "
        f"{found.sampled:,} read: {counted(found.kinds, found.sampled)}",
        *rejects(found, flags.max_reject_fraction),
        *shard_lines(found),
        f"lake     {written:>12}{interval(found.stored)}",
        f"moved    {read:>12}  read, headers first; {written} written",
        *time_lines(found, asked, flags),
        *trainer_lines(found, flags),
        *assumptions(found, asked, flags),
    ]
    return "\n".join(lines)


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


def time_lines(found: Estimate, asked: Workers, flags: argparse.Namespace) -> Iterator[str]:
    """Time and money. One core writes a shard from its beginning to its end, so the cores that are
    busy, and the time, come from whole shards."""
    seconds, each = found.seconds[0], found.seconds[0] / max(found.records, 1)
    cores = min(asked.most * asked.cores, max(found.shards, 1))
    busy = math.ceil(cores / asked.cores)
    at_best = math.ceil(found.shards / cores) * seconds / max(found.shards, 1) + costs.START_S
    worker_hour = asked.cores * flags.price_vcpu_hour + asked.memory_gb * flags.price_gb_hour
    gone = busy * worker_hour * at_best / 3600 + found.moved / 1e9 * flags.price_gb_read
    month = found.stored[0] / 1e9 * flags.price_gb_month
    yield (
        f"one core {spent(seconds + costs.START_S):>12}{interval(found.seconds)}  "
        f"{each * 1e3:.2f} ms a record, {costs.START_S} s for the start"
    )
    yield (
        f"workers  {busy:>12,}  of at most {asked.most:,} x {asked.machine}, {cores:,} cores with "
        f"a shard each at a time: {spent(at_best)} at best"
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
    records_of = {name: records for name, records, _ in found.splits}
    name = "train" if "train" in records_of else next(iter(records_of))
    yield f"trainer of {flags.accelerators:,} accelerators, at the stored size, without data.cache"
    yield (
        f"{'each: images/s':>21} {'images/s':>12} {'MB/s':>10} {'cores that decode':>18} "
        f"{'epoch of ' + name:>15}"
    )
    for each in flags.images_per_second:
        rate = each * flags.accelerators
        epoch = spent(records_of[name] / rate) if rate else "never"
        yield (
            f"{each:>21,g} {rate:>12,g} {rate * record_mb:>10,.1f} {rate * record_s:>18,.1f} "
            f"{epoch:>15}"
        )


def assumptions(found: Estimate, asked: Workers, flags: argparse.Namespace) -> Iterator[str]:
    """What neither a listing nor a header can say."""
    if asked.is_local:
        yield (
            f"taken for granted: {asked.most:,} x {asked.machine} of Dataflow, though without its "
            f"--runner the conversion is this machine's"
        )
    if flags.labels or flags.masks:
        yield "taken for granted: every image has a label"
    if flags.split_column or flags.splits_from:
        yield f"taken for granted: what is decided already is near --splits={flags.splits}"
    if flags.source == "metaimage" and flags.labels:
        yield f"not counted: slices that a nodule reaches; {flags.empty_slices:g} of all are"
    if found.has_pixels_elsewhere:
        yield "not counted in the bytes of the files, but in those moved: what lies beside an .mhd"
    yield f"not counted in dollars: the workers' disks, each {asked.disk}"
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
