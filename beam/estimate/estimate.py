"""python -m beam.convert --estimate: the headers of a sample -> what all files would take and give.
No pixel is decoded and nothing is written."""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from beam.conversion import folders, listing, plan, quotas, shards
from beam.conversion.options import ConversionOptions
from beam.estimate import sample
from lake import InputError, Reject

STANDARD_ERRORS = 1.96  # 95%


@dataclass(frozen=True)
class Estimate:
    """Totals of all files, as a sample of them says. Of two numbers the second is half of a 95%
    interval, for what the sample alone leaves open."""

    files: int
    file_bytes: int
    sampled: int
    rejects: Counter  # of the sample, by reason
    kinds: Counter  # of the sample, by coding
    has_pixels_elsewhere: bool  # .mhd: their data files are in no listing
    records: int
    moved: float  # bytes read, by both passes
    stored: tuple[float, float]  # bytes of the lake
    seconds: tuple[float, float]  # of one core, beside the start of each process
    training_seconds: float  # of one core, to read every record once
    splits: tuple[tuple[str, int, int], ...]  # (name, records, shards)

    @property
    def shards(self) -> int:
        return sum(shards for _, _, shards in self.splits)


def estimate(flags: argparse.Namespace, options: ConversionOptions) -> Estimate:
    """Raises InputError where no header of the sample could become a record, Stopped where the
    conversion would stop for the bits of its images."""
    paths, sizes = sample.listed(flags.images, options.source)
    if not paths:
        raise InputError(f"--images={flags.images}: no file of --source {options.source} matches")
    at = sample.drawn(len(paths), flags.sample)
    class_root = folders.folder_of_classes(flags.images) if options.class_folders else None
    reader = listing.ReadHeaders(
        options.source, options.image_id_from, options.frames, class_root, progress_file=None
    )
    is_unknown = not flags.labels and options.unlabelled == "keep"
    slice_share = 1.0 if is_unknown else options.empty_slices
    chosen = [(paths[n], int(sizes[n])) for n in at]
    results = list(sample.look(chosen, reader, options, slice_share))
    found = [result for result in results if isinstance(result, sample.Looked)]
    if not found:
        raise InputError(
            f"none of {len(results)} headers can become a record, such as {results[0]}"
        )
    shards.lake_bits(list({one.bits: one.path for one in found}.items()), options.bits)

    def total(name: str) -> tuple[float, float]:
        return enlarged([getattr(result, name, 0.0) for result in results], sizes[at], sizes)

    records = round(sum(one.records for one in found) * len(sizes) / len(results))
    stored, seconds = total("stored"), total("seconds")
    if flags.record_kb is not None:
        stored = records * flags.record_kb * 1e3, 0.0
    if flags.core_seconds is not None:
        seconds = records * flags.core_seconds, 0.0
    return Estimate(
        files=len(sizes),
        file_bytes=int(sizes.sum()),
        sampled=len(results),
        rejects=Counter(one.reason for one in results if isinstance(one, Reject)),
        kinds=Counter(one.kind for one in found),
        has_pixels_elsewhere=any(one.path.lower().endswith(".mhd") for one in found),
        records=records,
        moved=total("moved")[0],
        stored=stored,
        seconds=seconds,
        training_seconds=total("training_seconds")[0],
        splits=tuple(dealt(records, total("planned")[0], options)),
    )


def enlarged(
    values: list[float], sampled_sizes: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """(total, half of its 95% interval) over files of `sizes` [N] of what grows with a file's size,
    from its values in a sample of them: the ratio estimator (Cochran, Sampling Techniques, 6.4)."""
    count, ratio = len(values), sum(values) / max(sampled_sizes.sum(), 1)
    residuals = np.array(values) - ratio * sampled_sizes  # [sample]
    variance = (residuals**2).sum() / max(count - 1, 1) / count * (1 - count / len(sizes))
    error = STANDARD_ERRORS * len(sizes) * variance**0.5
    return ratio * float(sizes.sum()), float(error)


def dealt(
    records: int, planned: float, options: ConversionOptions
) -> Iterator[tuple[str, int, int]]:
    """(split, records, shards), were every image a patient's only one."""
    for name, share in quotas.parse(options.splits):
        own = round(records * share)
        yield name, own, plan.num_shards(own, round(planned * share), options)
