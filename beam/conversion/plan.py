"""Which split, fold and shard an image belongs to: the same on every runner and for every number of
workers.

Every image sends one row of 16 bytes. One worker gathers the rows, deals the groups (patients) and
sends back an Assignment of about 10 bytes per group, in which each image looks up its own place.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import apache_beam as beam
import numpy as np

from beam.conversion import earlier_lake, stratify
from beam.conversion.earlier_lake import EarlierLake
from beam.conversion.labelling import LabelledImage
from beam.conversion.options import ConversionOptions
from beam.conversion.quotas import Splits, deal, parse
from lake import Stopped
from lake.records import manifest
from lake.scan import FRAME_BITS, Header, stable_hash
from lake.sources.pixels import shrunk_size

ROW = [
    ("group", np.uint64),
    ("image", np.uint32),
    ("lesion", np.float16),  # share of the image; below 0: unknown
    ("blocks", np.uint16),  # of BLOCK_BYTES: about the size of its record
]
BLOCK_BYTES = 4096
# The place that a CSV column or an earlier lake has set; rows have these fields only with such an
# option.
PRESET = [("split", earlier_lake.SPLIT_TYPE), ("fold", earlier_lake.FOLD_TYPE)]
ROWS_PER_CHUNK = 10_000
# The smallest that float16 holds. A positive of a class CSV, whose size is unknown, has this size,
# and class n of class folders n times it, so that each class is dealt by itself.
SMALLEST_LESION = 1e-7
MAX_SPLITS = 20  # a column with more values than this does not name splits


@dataclass(frozen=True)
class Assignment:
    """Says where every group and every image of a conversion goes."""

    groups: np.ndarray  # uint64 [G], sorted
    split: np.ndarray  # uint8 [G], into `names`
    fold: np.ndarray  # int8 [G], -1 without folds
    names: tuple[str, ...]
    # Per split the upper half, uint32, of the first image key of each shard. The slices of a volume
    # differ in the lower half only, so one shard has them all.
    boundaries: tuple[np.ndarray, ...]

    def place(self, group: int, image: int) -> tuple[str, int, int, int]:
        """Return (split, shard, shards of the split, fold) of an image from its two keys."""
        position = np.searchsorted(self.groups, np.uint64(group))
        split, fold = self.split[position], int(self.fold[position])
        boundaries = self.boundaries[split]
        shard = int(np.searchsorted(boundaries, np.uint32(image >> 32), side="right")) - 1
        return self.names[split], shard, len(boundaries), fold


@beam.ptransform_fn
def Plan(images, options: ConversionOptions, tally: beam.PCollection):
    """Give every image its place: LabelledImage -> ((split, shard, shards), (key, fold, image)).
    It waits for `tally`, which stops a conversion whose labels are of other images."""
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
    return images | "Place" >> beam.Map(to_shard, beam.pvalue.AsSingleton(assignment))


# --- an image's row ---


def row_type(options: ConversionOptions) -> np.dtype:
    """Return the dtype of the rows of one conversion."""
    fields = ROW + PRESET if options.split_column or options.splits_from else ROW
    if options.findings:  # a bit for each, which is set where it is present
        fields = [*fields, ("findings", np.uint8, (-(-len(options.findings) // 8),))]
    return np.dtype(fields)


def to_row(image: LabelledImage, earlier: EarlierLake | None, options: ConversionOptions) -> tuple:
    """Return the values of one image for the fields of `row_type`."""
    label = image.label
    if label.has_mask:
        lesion = label.lesion_px / (image.header.height * image.header.width)
    else:  # below 0 where the label is unknown, -1
        lesion = label.label * SMALLEST_LESION
    # A positive is dealt as one, even where float16 would round its share of the image to 0.
    lesion = max(lesion, SMALLEST_LESION) if label.label == 1 else lesion
    blocks = num_blocks(image.header, options.max_side)
    # The upper half of the image's key is enough to cut shards, and half as long.
    row = stable_hash(image.group), image_key(image) >> 32, lesion, blocks
    if earlier is not None:
        row += earlier.find(earlier_lake.names(image.header, options.key_file))
    elif options.split_column:  # it names splits, but no folds: -1 leaves them to be dealt
        row += image.split.encode(), -1
    if options.findings:
        row += (tuple(np.packbits(np.array(label.findings) == 1).tolist()),)
    return row


def image_key(image: LabelledImage) -> int:
    """Return the 64 bits that order the images of a split: a hash; the slices of one volume stay
    together and in order."""
    header = image.header
    if header.geometry is None:
        return stable_hash(header.image_id)
    return stable_hash(header.series) >> FRAME_BITS << FRAME_BITS | header.frame


def num_blocks(header: Header, max_side: int | None) -> int:
    """Return the number of blocks that a record of the image takes, roughly: as many as its file or
    its stored pixels, whichever take fewer."""
    height, width = shrunk_size(header.height, header.width, max_side)
    stored_bytes = min(header.size, height * width * (1 + (header.bits > 8)))
    return min(-(-stored_bytes // BLOCK_BYTES), 2**16 - 1)


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
    if options.splits_from and len(rows) and not rows["split"].any():
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
    if options.findings:  # besides, each split gets its share of every finding
        has = _findings(rows["findings"][by_group], starts, len(options.findings))
        numbers = stratify.deal(has[open_groups], [share for _, share in splits])
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
        if options.findings:
            shares = [Fraction(1, options.folds)] * options.folds
            fold[open_groups] = stratify.deal(has[open_groups], shares)
        else:
            fold[open_groups] = np.arange(len(open_groups)) % options.folds

    boundaries = _boundaries(rows, by_group, np.repeat(split, sizes), len(split_names), options)
    return Assignment(groups, split.astype(np.uint8), fold, split_names, boundaries)


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


def _findings(bits: np.ndarray, starts: np.ndarray, num_findings: int) -> np.ndarray:
    """Return which findings an image of each group has, bool [G, findings], from the bits of all
    images [N, bytes] group by group and the groups' starts [G]."""
    bits = np.bitwise_or.reduceat(bits, starts) if len(bits) else bits
    return np.unpackbits(bits, axis=1, count=num_findings).astype(bool)


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
    return min(num_images, max(options.min_shards, by_bytes, by_images))


def to_shard(image: LabelledImage, assignment: Assignment) -> tuple[tuple, tuple]:
    """Return ((split, shard, shards of the split), (the image's key, its fold, the image))."""
    key = image_key(image)
    split, shard, shards, fold = assignment.place(stable_hash(image.group), key)
    return (split, shard, shards), (key, fold, image)
