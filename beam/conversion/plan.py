"""Which split, fold and shard an image belongs to: the same on every runner and for every number of
workers.

Every image sends one row of 16 bytes. One worker gathers the rows, deals the groups (patients) and
sends back an Assignment of about 10 bytes per group, in which each image looks up its own place.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from beam.conversion import earlier_lake, stratify
from beam.conversion.image_rows import BLOCK_BYTES, SMALLEST_LESION, image_key, row_type, to_row
from beam.conversion.labelling import LabelledImage
from beam.conversion.options import ConversionOptions
from beam.conversion.quotas import Splits, deal, parse
from lake import Stopped
from lake.records import manifest
from lake.scan import stable_hash

ROWS_PER_CHUNK = 10_000
MAX_SPLITS = 20  # a column with more values than this does not name splits


@dataclass(frozen=True)
class Assignment:
    """Says where every group and every image of a conversion goes."""

    groups: np.ndarray  # uint64 [G], sorted
    split: np.ndarray  # uint8 [G], into `names`
    fold: np.ndarray  # int8 [G], -1 without folds
    names: tuple[str, ...]
    first_shards: tuple[int, ...]  # per split, of the new images: 0, or behind those of the base
    # Per split the upper half, uint32, of the first image key of each shard. The slices of a volume
    # differ in the lower half only, so one shard has them all.
    boundaries: tuple[np.ndarray, ...]

    def place(self, group: int, image: int) -> tuple[str, int, int, int]:
        """Return (split, shard, shards of the split, fold) of an image from its two keys."""
        position = np.searchsorted(self.groups, np.uint64(group))
        split, fold = self.split[position], int(self.fold[position])
        boundaries = self.boundaries[split]
        shard = int(np.searchsorted(boundaries, np.uint32(image >> 32), side="right")) - 1
        shard += self.first_shards[split]
        return self.names[split], shard, self.num_shards(self.names[split]), fold

    def num_shards(self, name: str) -> int:
        """Return the number of shards of a split, with those of the version that an append
        continues."""
        split = self.names.index(name)
        return self.first_shards[split] + len(self.boundaries[split])


class Planned(NamedTuple):
    """Holds the collections that the plan gives."""

    entries: beam.PCollection  # ((split, shard, shards), (key, fold, LabelledImage))
    assignment: beam.PCollection  # one Assignment


@beam.ptransform_fn
def Plan(
    images,
    options: ConversionOptions,
    tally: beam.PCollection,
    earlier: beam.PCollection | None = None,
):
    """Give every image its place: LabelledImage -> Planned. It waits for `tally`, which stops a
    conversion whose labels are of other images. `earlier`: the EarlierLake of an append."""
    if earlier is None:
        earlier = (
            images.pipeline
            | "Earlier lake" >> beam.Create([options.splits_from])
            | "Read earlier" >> beam.Map(earlier_lake.read)  # EarlierLake or None
        )
    assignment = (
        images
        | "Rows" >> beam.Map(to_row, beam.pvalue.AsSingleton(earlier), options)
        | "Gather and deal" >> beam.CombineGlobally(Gather(options))  # Assignment
    )
    assignment = assignment | "Wait" >> beam.Map(
        lambda assignment, _: assignment, beam.pvalue.AsSingleton(tally)
    )
    entries = images | "Place" >> beam.Map(to_shard, beam.pvalue.AsSingleton(assignment))
    return Planned(entries, assignment)


# --- gathering ---


class Gather(beam.CombineFn):
    """Combines the rows of all images into their Assignment."""

    def __init__(self, options: ConversionOptions):
        self.options, self.dtype = options, row_type(options)

    def create_accumulator(self):
        return [], []  # full chunks, rows

    def add_input(self, accumulator, row):
        """Add one image's row; ROWS_PER_CHUNK of them become an array, which takes less memory."""
        chunks, rows = accumulator
        rows.append(row)
        if len(rows) >= ROWS_PER_CHUNK:
            chunks.append(np.array(rows, self.dtype))
            rows.clear()
        return accumulator

    def merge_accumulators(self, accumulators):
        all_chunks = []
        for chunks, rows in accumulators:
            all_chunks += [*chunks, np.array(rows, self.dtype)]
        return all_chunks, []

    def compact(self, accumulator):
        return self.merge_accumulators([accumulator])

    def extract_output(self, accumulator):
        """Return the Assignment of all rows. Empties the accumulator's chunks."""
        chunks, rows = accumulator
        chunks = [*chunks, np.array(rows, self.dtype)]
        accumulator[0].clear()
        all_rows, end = np.empty(sum(map(len, chunks)), self.dtype), 0
        while chunks:  # one by one, so that no row is in memory twice
            chunk = chunks.pop()
            all_rows[end : end + len(chunk)] = chunk
            end += len(chunk)
        return assign(all_rows, self.options)


# --- dealing ---


def assign(rows: np.ndarray, options: ConversionOptions) -> Assignment:
    """Deal all images' rows [N], in whatever order they come: groups to splits and folds, then the
    images of each split to its shards. Raises Stopped where preset splits contradict each other.

    Ten million rows are dealt here by one worker, so everything is a numpy array: `by_group` [N]
    lists row numbers group by group, `starts` [G] says where each group begins in it, `line` [G]
    lists group numbers in the order in which they are dealt.
    """
    splits = parse(options.splits)
    if options.splits_from and not options.base and len(rows) and not rows["split"].any():
        raise Stopped(
            f"--splits_from={options.splits_from}: none of its patients and images is among these; "
            f"the same --deidentify_key_file and --image_id are needed to recognise them"
        )
    by_group = np.argsort(rows["group"], kind="stable").astype(np.uint32)
    groups = rows["group"][by_group]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]][: len(groups)]).astype(np.uint32)
    groups, sizes = groups[starts], np.diff(starts, append=np.uint32(len(groups)))
    split_names, split, fold = _preset_splits(rows, by_group, starts, splits)

    # The line is sorted by the size of a group's largest lesion, then by its number of images, then
    # by its hash. `deal` keeps the quotas on every stretch of a line, so each split gets its share
    # of every range of lesion sizes and, among negatives, of every number of images. Both numbers
    # fit one integer: float16's bits sort as its values do. A stable sort leaves equal groups in
    # the order of their hashes, as `groups` is.
    lesion = _largest(rows["lesion"][by_group], starts).view(np.int16).astype(np.int64)
    line = np.argsort(lesion << 16 | np.minimum(sizes, 2**16 - 1), kind="stable")
    line = line.astype(np.uint32)
    del lesion
    open_groups = line[split[line] < 0]  # all but the groups with a preset split
    split_numbers = np.array([split_names.index(name) for name, _ in splits])
    base = options.base
    if options.findings or base:  # besides, each split gets its share of every finding
        has, shares = _strata(rows[by_group], starts, options), [share for _, share in splits]
        numbers = stratify.deal(has[open_groups], shares, base and base.by_split)
    else:
        numbers = deal(len(open_groups), splits)
    split[open_groups] = split_numbers[numbers]

    # Folds are dealt in turn along the same line, to the groups of train and val without one.
    is_folded = np.isin(
        split, [split_names.index(name) for name in manifest.FOLDED if name in split_names]
    )
    fold[~is_folded] = -1
    if options.folds:
        open_groups = line[is_folded[line] & (fold[line] < 0)]
        if options.findings or base:
            shares = [Fraction(1, options.folds)] * options.folds
            fold[open_groups] = stratify.deal(has[open_groups], shares, base and base.by_fold)
        else:
            fold[open_groups] = np.arange(len(open_groups)) % options.folds

    boundaries = _boundaries(rows, by_group, np.repeat(split, sizes), len(split_names), options)
    first_shards = tuple(base.num_shards.get(name, 0) if base else 0 for name in split_names)
    return Assignment(groups, split.astype(np.uint8), fold, split_names, first_shards, boundaries)


def _boundaries(rows, by_group, split, num_splits, options) -> tuple[np.ndarray, ...]:
    """Cut each split into shards of equally many images in the order of their keys, and return the
    first key of each shard. `split` [N] follows `by_group`."""
    boundaries = []
    for number in range(num_splits):
        images = by_group[split == number]
        keys = np.sort(rows["image"][images])
        num_bytes = int(rows["blocks"][images].sum(dtype=np.uint64)) * BLOCK_BYTES
        count = num_shards(len(images), num_bytes, options)
        # All slices of a volume have one key, so unique() drops the cuts through a volume.
        boundaries.append(np.unique(keys[np.arange(count) * len(keys) // count]))
        boundaries[-1][:1] = 0
    return tuple(boundaries)


def _largest(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the largest value of each group [G], from values [N] group by group and the groups'
    starts [G]."""
    return np.maximum.reduceat(values, starts) if len(values) else values


def _strata(rows: np.ndarray, starts: np.ndarray, options: ConversionOptions) -> np.ndarray:
    """Return which findings, or else which class or whether a lesion, an image of each group has,
    bool [G, F], from the rows [N] of all images group by group and the groups' starts [G]."""
    if options.findings:
        bits = rows["findings"]
        bits = np.bitwise_or.reduceat(bits, starts) if len(bits) else bits
        return np.unpackbits(bits, axis=1, count=len(options.findings)).astype(bool)
    if not (classes := options.earlier_classes):
        return _largest(rows["lesion"], starts)[:, None] > 0
    labels = np.rint(rows["lesion"].astype(np.float64) / SMALLEST_LESION)
    is_class = labels[:, None] == np.arange(len(classes))  # [N, F]
    return np.logical_or.reduceat(is_class, starts) if len(rows) else is_class


def _preset_splits(
    rows, by_group, starts, splits: Splits
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return (names of all splits; the preset split of each group, int16 [G]; its preset fold, int8
    [G]), -1 where it is yet to be dealt; raise Stopped where one group has two splits."""
    names = tuple(name for name, _ in splits)
    if "split" not in rows.dtype.names or not len(rows):
        return names, np.full(len(starts), -1, np.int16), np.full(len(starts), -1, np.int8)
    texts, codes = np.unique(rows["split"][by_group], return_inverse=True)
    texts = [text.decode() for text in texts]
    names = tuple(dict.fromkeys([*names, *(text for text in texts if text)]))
    if len(names) > MAX_SPLITS:
        raise Stopped(f"{len(names)} splits, expected at most {MAX_SPLITS}: {names[:5]} …")
    numbers = np.array([names.index(text) if text else -1 for text in texts], np.int16)[codes]
    highest = _largest(numbers, starts)
    lowest = np.minimum.reduceat(np.where(numbers < 0, highest.max(), numbers), starts)
    clashes = np.flatnonzero((highest >= 0) & (lowest < highest))
    if len(clashes):
        example = names[lowest[clashes[0]]], names[highest[clashes[0]]]
        raise Stopped(
            f"{len(clashes)} patients (or studies) have images in two splits, such as {example[0]} "
            f"and {example[1]}; correct the column or the lake that the splits come from: all "
            f"images of a patient must be in one"
        )
    return names, highest, _largest(rows["fold"][by_group], starts)


def num_shards(num_images: int, total_bytes: int, options: ConversionOptions) -> int:
    """Return the number of a split's shards: of about `shard_mb` and at most `shard_images` each,
    at least `min_shards`, none empty."""
    by_bytes = math.ceil(total_bytes / (options.shard_mb * 1e6))
    by_images = math.ceil(num_images / options.shard_images)
    min_shards = 1 if options.base else options.min_shards  # else each night had so many more
    return min(num_images, max(min_shards, by_bytes, by_images))


def to_shard(image: LabelledImage, assignment: Assignment) -> tuple[tuple, tuple]:
    """Return ((split, shard, shards of the split), (the image's key, its fold, the image))."""
    key = image_key(image)
    split, shard, shards, fold = assignment.place(stable_hash(image.group), key)
    return (split, shard, shards), (key, fold, image)
