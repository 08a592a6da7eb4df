"""Which split, fold and shard an image belongs to: the same on every runner and for every number of
workers.

Every image sends one row of 16 bytes; one worker deals the groups (patients) from them and sends
back a Plan of about 10 bytes a group, from which each image finds its own place.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems

from beam.conversion.deidentify import pseudonym
from beam.conversion.listing import LabelledImage
from beam.conversion.options import ConversionOptions
from beam.conversion.quotas import Splits, deal, parse
from beam.running import files
from lake import Stopped
from lake.labels.tables import MAX_SPLIT_NAME
from lake.records import index, manifest
from lake.scan import FRAME_BITS, Header, stable_hash
from lake.sources.pixels import shrunk_size

ROW = [
    ("group", np.uint64),
    ("image", np.uint32),
    ("lesion", np.float16),  # share of the image, -1 unknown
    ("blocks", np.uint16),  # of BLOCK_BYTES: about what its record takes
]
BLOCK_BYTES = 4096
# What a CSV column or an earlier lake has decided; rows are longer only where one was asked.
DECIDED = [("split", f"S{MAX_SPLIT_NAME}"), ("fold", np.int8)]
ROWS_A_CHUNK = 10_000
# float16 has it; also a positive of a class CSV, whose size is unknown, and n times it class n of
# class folders, so that each class is dealt by itself.
SMALLEST_LESION = 1e-7
MAX_SPLITS = 20  # a column with more values than this names no splits


@dataclass(frozen=True)
class Assignment:
    """Where every group and every image of a conversion goes."""

    groups: np.ndarray  # uint64 [G], sorted
    split: np.ndarray  # uint8 [G], into `names`
    fold: np.ndarray  # int8 [G], -1 without folds
    names: tuple[str, ...]
    # Of each split: the upper half of the first image key of each shard, uint32. The slices of a
    # volume differ in the lower half only, so that one shard has them all.
    boundaries: tuple[np.ndarray, ...]

    def place(self, group: int, image: int) -> tuple[str, int, int, int]:
        """(split, shard, shards of the split, fold) of an image by its two keys."""
        at = np.searchsorted(self.groups, np.uint64(group))
        boundaries = self.boundaries[self.split[at]]
        shard = int(np.searchsorted(boundaries, np.uint32(image >> 32), side="right")) - 1
        return self.names[self.split[at]], shard, len(boundaries), int(self.fold[at])


@dataclass(frozen=True)
class Earlier:
    """The splits and folds of a lake that was made before."""

    keys: np.ndarray  # uint64 [N], sorted: of patients and of images
    split: np.ndarray  # S16 [N]
    fold: np.ndarray  # int8 [N]

    def of(self, names: Iterable[str]) -> tuple[bytes, int]:
        """(split, fold) of the first of the names that the lake knows; (b"", -1) when none."""
        for name in names:
            key = np.uint64(stable_hash(name))
            at = np.searchsorted(self.keys, key)
            if at < len(self.keys) and self.keys[at] == key:
                return bytes(self.split[at]), int(self.fold[at])
        return b"", -1


def image_key(image: LabelledImage) -> int:
    """Where an image stands in its split: by hash, the slices of one volume together and in
    order."""
    header = image.header
    if header.geometry is None:
        return stable_hash(header.image_id)
    return stable_hash(header.series) >> FRAME_BITS << FRAME_BITS | header.frame


def row_type(options: ConversionOptions) -> np.dtype:
    """The dtype of the rows of one conversion."""
    return np.dtype(ROW + DECIDED if options.split_column or options.splits_from else ROW)


def to_row(image: LabelledImage, earlier: Earlier | None, options: ConversionOptions) -> tuple:
    """What the plan needs to know of one image, the fields of `row_type`."""
    label = image.label
    if label.has_mask:
        lesion = label.lesion_px / (image.header.height * image.header.width)
    else:
        lesion = label.label * SMALLEST_LESION
    lesion = max(lesion, SMALLEST_LESION) if label.label == 1 else lesion
    blocks = num_blocks(image.header, options.max_side)
    row = stable_hash(image.group), image_key(image) >> 32, lesion, blocks
    if earlier is not None:
        return (*row, *earlier.of(earlier_names(image, options.key_file)))
    return (*row, image.split.encode(), -1) if options.split_column else row


def earlier_names(image: LabelledImage, key_file: str | None) -> list[str]:
    """Under which names an earlier lake may know the image: its patient, then itself, hashed or
    not."""
    header = image.header
    names = [f"patient/{pseudonym('patient', header.patient, key_file)}"] if header.patient else []
    hashed = pseudonym("image", header.image_id, key_file)
    return [*names, f"image/{header.image_id}", f"image/{hashed}"]


def read_earlier(folder: str | None) -> Earlier | None:
    """Splits and folds from the index of the lake in `folder`."""
    if folder is None:
        return None
    with files.open_binary(FileSystems.join(folder, manifest.INDEX)) as file:
        table = index.read_file(file, ("patient", "image_id", "split", "fold"))
    split, fold = np.array(table["split"].to_pylist(), "S"), table["fold"].to_numpy()
    patients = [(f"patient/{name}", n) for n, name in enumerate(table["patient"].to_pylist())]
    images = [(f"image/{name}", n) for n, name in enumerate(table["image_id"].to_pylist())]
    named = [*(pair for pair in patients if pair[0] != "patient/"), *images]
    keys = np.array([stable_hash(name) for name, _ in named], np.uint64)
    keys, first = np.unique(keys, return_index=True)
    at = np.array([n for _, n in named], np.int64)[first]
    return Earlier(keys, split[at].astype(DECIDED[0][1]), fold[at].astype(np.int8))


class Gather(beam.CombineFn):
    """Rows -> Plan."""

    def __init__(self, options: ConversionOptions):
        self.options, self.dtype = options, row_type(options)

    def create_accumulator(self):
        return [], []  # full chunks, rows

    def add_input(self, accumulator, row):
        chunks, rows = accumulator
        rows.append(row)
        if len(rows) >= ROWS_A_CHUNK:
            chunks.append(np.array(rows, self.dtype))
            rows.clear()
        return accumulator

    def merge_accumulators(self, accumulators):
        merged = []
        for chunks, rows in accumulators:
            merged += [*chunks, np.array(rows, self.dtype)]
        return merged, []

    def compact(self, accumulator):
        return self.merge_accumulators([accumulator])

    def extract_output(self, accumulator):
        chunks, rows = accumulator
        chunks = [*chunks, np.array(rows, self.dtype)]
        accumulator[0].clear()
        gathered, at = np.empty(sum(map(len, chunks)), self.dtype), 0
        while chunks:  # one by one, so that no row is held twice
            chunk = chunks.pop()
            gathered[at : at + len(chunk)] = chunk
            at += len(chunk)
        return assign(gathered, self.options)


def assign(rows: np.ndarray, options: ConversionOptions) -> Assignment:
    """The plan of all images' rows, whatever order they come in."""
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
    names, split, fold = _decided(rows, by_group, starts, splits)
    # Quotas dealt along this line hold for every range of lesion sizes; where sizes are equal, for
    # every number of images; where those are equal, the hash decides.
    # The groups are sorted by hash already, and float16's bits sort as its values do.
    lesion = _largest(rows["lesion"][by_group], starts).view(np.int16).astype(np.int64)
    line = np.argsort(lesion << 16 | np.minimum(sizes, 2**16 - 1), kind="stable")
    line = line.astype(np.uint32)
    new = line[split[line] < 0]
    del lesion
    numbers = np.array([names.index(name) for name, _ in splits])
    split[new] = numbers[deal(len(new), splits)]
    _deal_folds(fold, split, names, line, options.folds)
    split_of_row = np.repeat(split, sizes)
    boundaries = []
    for number in range(len(names)):
        own = by_group[split_of_row == number]
        keys = np.sort(rows["image"][own])
        size = int(rows["blocks"][own].sum(dtype=np.uint64)) * BLOCK_BYTES
        shards = num_shards(len(own), size, options)
        # Fewer where a volume is larger than a shard: it is not cut.
        boundaries.append(np.unique(keys[np.arange(shards) * len(keys) // shards]))
        boundaries[-1][:1] = 0
    return Assignment(groups, split.astype(np.uint8), fold, names, tuple(boundaries))


def _largest(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(values, starts) if len(values) else values


def _decided(
    rows, by_group, starts, splits: Splits
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """(names of all splits; the split that each group already has, int16 [G]; its fold, int8 [G]),
    -1 where it is yet to be dealt; raises Stopped where one group has two splits."""
    names = tuple(name for name, _ in splits)
    if "split" not in rows.dtype.names or not len(rows):
        return names, np.full(len(starts), -1, np.int16), np.full(len(starts), -1, np.int8)
    seen, codes = np.unique(rows["split"][by_group], return_inverse=True)
    found = [name.decode() for name in seen]
    names = tuple(dict.fromkeys([*names, *(name for name in found if name)]))
    if len(names) > MAX_SPLITS:
        raise Stopped(f"{len(names)} splits, expected at most {MAX_SPLITS}: {names[:5]} …")
    numbers = np.array([names.index(name) if name else -1 for name in found], np.int16)[codes]
    highest = _largest(numbers, starts)
    lowest = np.minimum.reduceat(np.where(numbers < 0, highest.max(), numbers), starts)
    torn = np.flatnonzero((highest >= 0) & (lowest < highest))
    if len(torn):
        example = names[lowest[torn[0]]], names[highest[torn[0]]]
        raise Stopped(
            f"{len(torn)} patients (or studies) have images in two splits, such as {example[0]} "
            f"and {example[1]}; a patient must be on one side: mend the column or the lake that "
            f"says so"
        )
    return names, highest, _largest(rows["fold"][by_group], starts)


def _deal_folds(fold: np.ndarray, split: np.ndarray, names, line: np.ndarray, folds: int) -> None:
    """Deals folds in turn, along the line, to train's and val's groups that have none."""
    is_folded = np.isin(split, [names.index(name) for name in manifest.FOLDED if name in names])
    fold[~is_folded] = -1
    if folds:
        new = line[is_folded[line] & (fold[line] < 0)]
        fold[new] = np.arange(len(new)) % folds


def num_blocks(header: Header, max_side: int | None) -> int:
    """About what a record of the image takes, in blocks: its file, or its pixels where those are
    fewer."""
    height, width = shrunk_size(header.height, header.width, max_side)
    stored_bytes = min(header.size, height * width * (1 + (header.bits > 8)))
    return min(-(-stored_bytes // BLOCK_BYTES), 2**16 - 1)


def num_shards(images: int, total_bytes: int, options: ConversionOptions) -> int:
    """Shards of a split: of about `shard_mb` and at most `shard_images`, at least `min_shards`,
    none empty."""
    by_bytes = math.ceil(total_bytes / (options.shard_mb * 1e6))
    by_images = math.ceil(images / options.shard_images)
    return min(images, max(options.min_shards, by_bytes, by_images))


def to_shard(image: LabelledImage, plan: Assignment) -> tuple[tuple, tuple]:
    """An image -> ((split, shard, shards of the split), (its key, fold, image))."""
    key = image_key(image)
    split, shard, shards, fold = plan.place(stable_hash(image.group), key)
    return (split, shard, shards), (key, fold, image)


class Planned(beam.PTransform):
    """Image -> ((split, shard, shards), (key, fold, Image))."""

    def __init__(self, options: ConversionOptions):
        super().__init__()
        self.options = options

    def expand(self, images):
        options = self.options
        earlier = images.pipeline | "Earlier lake" >> beam.Create([options.splits_from])
        earlier |= "Read earlier" >> beam.Map(read_earlier)
        plan = (
            images
            | "Rows" >> beam.Map(to_row, beam.pvalue.AsSingleton(earlier), options)
            | "Gather and deal" >> beam.CombineGlobally(Gather(options))
        )
        return images | "Place" >> beam.Map(to_shard, beam.pvalue.AsSingleton(plan))
