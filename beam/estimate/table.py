"""An Estimate -> the table that a user reads: records, shards, bytes and core time."""

from collections import Counter
from collections.abc import Iterator

from beam.conversion.options import ConversionOptions
from beam.estimate import costs
from beam.estimate.estimate import Estimate

BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6))
TIMES = (("h", 3600), ("min", 60), ("s", 1))


def table(estimate: Estimate, options: ConversionOptions) -> str:
    """Return the table, with the assumptions of the estimate at its end."""
    read_size, written_size = megabytes(estimate.read_bytes), megabytes(estimate.stored_bytes[0])
    seconds, records = estimate.seconds[0], max(estimate.num_records, 1)
    num_shards = sum(shards for _, _, shards in estimate.splits)
    lines = [
        f"files    {estimate.num_files:>12,}  {megabytes(estimate.file_bytes)}; the headers of "
        f"{estimate.num_sampled:,} read: {shares(estimate.codings, estimate.num_sampled)}",
        *rejects(estimate, options.max_reject_fraction),
        *splits(estimate),
        f"lake     {written_size:>12}{interval(estimate.stored_bytes)}",
        f"moved    {read_size:>12}  read, headers first; {written_size} written",
        f"one core {duration(seconds + costs.START_S):>12}{interval(estimate.seconds)}  "
        f"{seconds / records * 1e3:.2f} ms per record, {costs.START_S} s for the start",
        f"cores    {num_shards:>12,}  can be busy at most: one core writes a whole shard",
        *assumptions(estimate, options),
    ]
    return "\n".join(lines)


def rejects(estimate: Estimate, max_fraction: float) -> Iterator[str]:
    """Yield a line where files of the sample cannot become records."""
    share = estimate.rejects.total() / estimate.num_sampled
    if share:
        reasons = shares(estimate.rejects, estimate.num_sampled)
        line = f"rejects  {share:>12.1%}  of the sample: {reasons}"
        if share > max_fraction:
            line += f"; above --max_reject_fraction={max_fraction:g}"
        yield line


def splits(estimate: Estimate) -> Iterator[str]:
    """Yield the rows of the splits under their heading."""
    yield f"{'split':<9}{'records':>12} {'shards':>8} {'records/shard':>14} {'MB/shard':>9}"
    record_mb = estimate.stored_bytes[0] / max(estimate.num_records, 1) / 1e6
    for name, records, shards in estimate.splits:
        per_shard = records / max(shards, 1)
        yield (
            f"{name:<9}{records:>12,} {shards:>8,} {per_shard:>14,.0f} "
            f"{per_shard * record_mb:>9.1f}"
        )


def assumptions(estimate: Estimate, options: ConversionOptions) -> Iterator[str]:
    """Yield a line for each assumption and for each cost that is left out."""
    if options.labels or options.masks:
        yield "assumed: every image has a label"
    if options.split_column or options.splits_from:
        yield f"assumed: splits that are set already are near --splits={options.splits}"
    if options.source == "metaimage" and options.labels:
        yield f"not counted: slices with a nodule; counted: {options.empty_slices:g} of all slices"
    if estimate.has_pixels_elsewhere:
        yield "not counted in the bytes of the files, but in those moved: what lies beside an .mhd"
    yield "not counted: the minutes in which a machine starts"


def shares(counter: Counter, total: int) -> str:
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counter.most_common())


def interval(total_and_error: tuple[float, float]) -> str:
    """Return the relative uncertainty of (total, half of its interval), from half a percent on."""
    total, error = total_and_error
    return f" ± {error / total:.0%}" if error >= total / 200 > 0 else ""


def megabytes(num_bytes: float) -> str:
    name, size = next((unit for unit in BYTES if num_bytes >= unit[1]), BYTES[-1])
    return f"{num_bytes / size:,.1f} {name}"


def duration(seconds: float) -> str:
    name, unit = next((time for time in TIMES if seconds >= 2 * time[1]), TIMES[-1])
    return f"{seconds / unit:,.1f} {name}"
