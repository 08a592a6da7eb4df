"""python -m beam.convert --estimate: the headers of a sample -> what all files would cost and give.
No pixel is decoded and nothing is written."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beam.conversion import plan, quotas, shards
from beam.conversion.options import ConversionOptions
from beam.estimate import sample
from lake import InputError, Reject

STANDARD_ERRORS = 1.96  # 95%


@dataclass(frozen=True)
class Estimate:
    """Holds totals over all files, calculated from a sample of them. In a pair of numbers the
    second is half of the 95% interval, as far as the sample alone makes it uncertain."""

    num_files: int
    file_bytes: int
    num_sampled: int
    rejects: Counter  # of the sample, by reason
    codings: Counter  # of the sample
    has_pixels_elsewhere: bool  # of .mhd, whose data files are in no listing
    num_records: int
    read_bytes: float  # by both passes
    stored_bytes: tuple[float, float]  # of the lake
    seconds: tuple[float, float]  # of one core, without the start of each process
    splits: tuple[tuple[str, int, int], ...]  # (name, records, shards)


def estimate(
    options: ConversionOptions,
    num_samples: int,
    record_kb: float | None = None,
    core_seconds: float | None = None,
) -> Estimate:
    """Estimate a conversion, with kilobytes and core-seconds per record where they are known.

    Raises InputError where no header of the sample could become a record, Stopped where the
    conversion would stop because some images have 8 bits and some more.
    """
    paths, sizes = sample.list_files(options)
    if not paths:
        raise InputError(f"--images={options.images}: no file of --source {options.source} matches")
    numbers = sample.choose(len(paths), num_samples)
    chunk = [(paths[n], int(sizes[n])) for n in numbers]
    results = list(sample.read_headers(chunk, options))  # FileCost or Reject
    costs = [result for result in results if isinstance(result, sample.FileCost)]
    if not costs:
        raise InputError(
            f"none of {len(results)} headers can become a record, such as {results[0]}"
        )
    shards.lake_bits(list({cost.bits: cost.path for cost in costs}.items()), options.bits)

    def total(name: str) -> tuple[float, float]:
        values = [getattr(result, name, 0.0) for result in results]
        return extrapolate(values, sizes[numbers], sizes)

    num_records = round(sum(cost.num_records for cost in costs) * len(sizes) / len(results))
    stored_bytes, seconds = total("stored_bytes"), total("seconds")
    if record_kb is not None:
        stored_bytes = num_records * record_kb * 1e3, 0.0
    if core_seconds is not None:
        seconds = num_records * core_seconds, 0.0
    return Estimate(
        num_files=len(sizes),
        file_bytes=int(sizes.sum()),
        num_sampled=len(results),
        rejects=Counter(result.reason for result in results if isinstance(result, Reject)),
        codings=Counter(cost.coding for cost in costs),
        has_pixels_elsewhere=any(cost.path.lower().endswith(".mhd") for cost in costs),
        num_records=num_records,
        read_bytes=total("read_bytes")[0],
        stored_bytes=stored_bytes,
        seconds=seconds,
        splits=tuple(split_sizes(num_records, total("planned_bytes")[0], options)),
    )


def extrapolate(
    values: list[float], sampled_sizes: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """Return (total, half of its 95% interval) over files of `sizes` [N], from values [n] of a
    sample of them with `sampled_sizes` [n].

    The ratio estimator (Cochran, Sampling Techniques, 6.4): what a file costs is taken to grow with
    its size, so the total is the sample's cost per byte times all bytes. The variance comes from
    how much the sampled values differ from that; a sample of all files has none (1 - n / N).
    """
    count, ratio = len(values), sum(values) / max(sampled_sizes.sum(), 1)
    residuals = np.array(values) - ratio * sampled_sizes  # [n]
    variance = (residuals**2).sum() / max(count - 1, 1) / count * (1 - count / len(sizes))
    error = STANDARD_ERRORS * len(sizes) * variance**0.5
    return ratio * float(sizes.sum()), float(error)


def split_sizes(
    num_records: int, planned_bytes: float, options: ConversionOptions
) -> Iterator[tuple[str, int, int]]:
    """Yield (split, its records, its shards), assuming one image per patient."""
    for name, share in quotas.parse(options.splits):
        split_records = round(num_records * share)
        num_shards = plan.num_shards(split_records, round(planned_bytes * share), options)
        yield name, split_records, num_shards
