"""Which split and which shard an image belongs to: the same on every runner and for every number of
workers.

Groups (patients) stand in one line, ordered by stratum and within it by hash, and are dealt along
it by quota; the images of a split stand in hash order and are cut into shards. No worker ever holds
more than one bucket of the line.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction

import apache_beam as beam

from beam.listing import Image
from lake import InputError
from lake.sources.dicom import shrunk_size

BUCKET_BITS = 12  # 4096 buckets a line: 10 million images are 2,500 a bucket
Splits = tuple[tuple[str, Fraction], ...]


def parse_splits(text: str) -> Splits:
    """`train=0.8,val=0.1,test=0.1` -> ((name, share), …); raises InputError."""
    try:
        splits = tuple(
            (name.strip(), Fraction(share))
            for name, share in (part.split("=") for part in text.split(","))
        )
    except (ValueError, ZeroDivisionError):
        raise InputError(
            f"--splits={text}: expected NAME=SHARE,…, such as train=0.8,val=0.1,test=0.1"
        ) from None
    names = [name for name, _ in splits]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        raise InputError(f"--splits={text}: split names must differ and be plain words")
    if any(share < 0 for _, share in splits) or sum(share for _, share in splits) != 1:
        raise InputError(
            f"--splits={text}: the shares add up to {float(sum(s for _, s in splits)):g}, "
            f"expected 1"
        )
    return splits


def deal(position: int, splits: Splits) -> str:
    """The split of the group at `position` of the line: any stretch of n positions gets share·n of
    each, within 2."""
    remaining = Fraction(1)
    for name, share in reversed(splits[1:]):
        # Systematic sampling: take a position whenever share·position passes the next half.
        quota = share / remaining if remaining else Fraction(0)
        before, after = (math.floor(quota * p + Fraction(1, 2)) for p in (position, position + 1))
        if after > before:
            return name
        position, remaining = position - before, remaining - share
    return splits[0][0]


def stratum(images: list[Image]) -> tuple[int, int]:
    """(lesion size, number of images) class of one group: alike in one stratum, so that quotas hold
    for both.

    Size classes are factors of two of the largest lesion's share of its image: -1 unknown, 0 none,
    1 below 2^-12 …
    """
    shares = [
        image.label.lesion_px / (image.header.height * image.header.width) for image in images
    ]
    largest = max(shares)
    labels = max(image.label.label for image in images)
    # A class CSV knows no sizes: its classes are the labels.
    size_class = labels if largest <= 0 else max(1, 13 + math.ceil(math.log2(largest)))
    return size_class, min(len(images), 8)


def order(text: str) -> int:
    """A stable 64-bit hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class InHashOrder(beam.PTransform):
    """(line, name, element) -> (line, position, length of the line, position in all lines,
    element).

    Positions within a line follow the hash of the name; lines follow each other sorted.
    """

    def expand(self, elements):
        keyed = elements | "Bucket" >> beam.Map(_bucket)  # ((line, bucket), (hash, name, element))
        offsets = (
            keyed
            | "Ones" >> beam.Map(lambda item: (item[0], 1))
            | "Count" >> beam.CombinePerKey(sum)
            | "All counts" >> beam.combiners.ToList()
            | "Offsets" >> beam.Map(_offsets)
        )
        return (
            keyed
            | "By bucket" >> beam.GroupByKey()
            | "Rank" >> beam.FlatMap(_rank, beam.pvalue.AsSingleton(offsets))
        )


def _bucket(item: tuple) -> tuple[tuple, tuple]:
    line, name, element = item
    hashed = order(name)
    return (line, hashed >> (64 - BUCKET_BITS)), (hashed, name, element)


def _offsets(counts: list) -> dict:
    """{(line, bucket): positions before it in all lines}, and {line: (positions before it, its
    length)}."""
    table, before, lengths, starts = {}, 0, {}, {}
    for (line, bucket), count in sorted(counts):
        starts.setdefault(line, before)
        table[line, bucket] = before
        lengths[line] = lengths.get(line, 0) + count
        before += count
    return {"buckets": table, "lines": {line: (starts[line], lengths[line]) for line in starts}}


def _rank(bucket: tuple, offsets: dict) -> Iterator[tuple]:
    key, items = bucket
    line = key[0]
    start, length = offsets["lines"][line]
    for rank, (_, _, element) in enumerate(sorted(items, key=lambda item: item[:2])):
        position = offsets["buckets"][key] + rank
        yield line, position - start, length, position, element


def keyed_by_stratum(group: tuple[str, Iterable[Image]]) -> tuple:
    """(group name, images) -> (stratum, group name, images), for InHashOrder."""
    name, images = group
    images = sorted(images, key=lambda image: image.header.image_id)
    return stratum(images), name, images


def split_images(ranked: tuple, splits: Splits) -> Iterator[tuple[str, str, Image]]:
    """A dealt group -> (split, image id, image) of each of its images, for InHashOrder."""
    *_, position, images = ranked
    split = deal(position, splits)
    for image in images:
        yield split, image.header.image_id, image


def stored_bytes(image: Image, max_side: int | None) -> int:
    """About what a record of the image takes: its file, or its pixels where those are fewer."""
    height, width = shrunk_size(image.header.height, image.header.width, max_side)
    return min(image.header.size, height * width * (1 + (image.header.bits > 8)))


def num_shards(images: int, total_bytes: int, shard_mb: float, min_shards: int) -> int:
    """Shards of a split: of about `shard_mb`, at least `min_shards`, none empty."""
    return max(1, min(images, max(min_shards, math.ceil(total_bytes / (shard_mb * 1e6)))))


def to_shard(
    ranked: tuple, split_bytes: dict[str, int], shard_mb: float, min_shards: int
) -> tuple[tuple, tuple]:
    """A ranked image -> ((split, shard, shards of the split), (position in the split, image))."""
    split, position, images, _, image = ranked
    shards = num_shards(images, split_bytes[split], shard_mb, min_shards)
    return (split, position * shards // images, shards), (position, image)
