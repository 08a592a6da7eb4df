"""The shards of a lake, and their records one after the other: fields, pixels and mask.

In: a lake's folder and manifest. Out: Shards with Records; at a damaged one InputError says where.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from lake import InputError, picture, storage
from lake.inspection.verify_shard import FORMATS, UNDECODABLE
from lake.records import example, manifest, mask_png, tfrecord
from lake.terminal import cli


class Record(NamedTuple):
    """A record, decoded."""

    num_bytes: int  # in its shard
    fields: dict
    pixels: np.ndarray  # [H, W], of the lake's dtype
    mask: np.ndarray | None  # uint8 [H, W], 0 or 255; None where it is unknown

    @property
    def image_id(self) -> str:
        return self.fields["image_id"].decode()

    def to_png(self) -> bytes:
        """Return the image as a PNG of its stored depth: its own bytes, or the pixels of a JPEG."""
        is_png = self.fields["encoding"] == b"png"
        return self.fields["image"] if is_png else picture.to_png(self.pixels)


class Shard(NamedTuple):
    """A shard, whose records are read as they are iterated over."""

    split: str
    number: int  # in its split
    count: int  # of the split's shards
    entry: dict  # of the manifest
    records: Iterator[Record]


def read(
    folder: Path, content: dict, splits: Sequence[str], on_record: Callable[[], None]
) -> Iterator[Shard]:
    """Yield the shards of these splits, in the manifest's order; `content` is the manifest of the
    lake in `folder`. `on_record` is called after each record."""
    counts = manifest.num_shards(content)
    for split in splits:
        entries = [entry for entry in content["shards"] if entry["split"] == split]
        for number, entry in enumerate(entries):
            records = _read(folder / entry["name"], content, entry["records"], on_record)
            yield Shard(split, number, counts[split], entry, records)


def _read(
    path: Path, content: dict, num_records: int, on_record: Callable[[], None]
) -> Iterator[Record]:
    """Yield the records of a shard; raise InputError where it is damaged, or has another number of
    them."""
    if not path.exists():
        raise _damage(path, "no such file, which the manifest lists")
    position = 0
    with storage.local(path) as shard, shard.open("rb") as file:
        try:
            for data, is_intact in tfrecord.records(file):
                if not is_intact:
                    raise ValueError("not the checksum of its bytes")
                yield _decode(data, content)
                on_record()
                position += 1
        except (*UNDECODABLE, InputError) as error:
            raise _damage(f"{path} record {position}", error) from None
    if position != num_records:
        raise _damage(path, f"expected {num_records} records by the manifest, found {position}")


def _damage(place: Path | str, problem: Exception | str) -> InputError:
    return InputError(f"{place}: {problem}; {cli.typed_command('lake verify')} lists all damage")


def _decode(data: bytes, content: dict) -> Record:
    """Return the Record of these bytes; raise one of UNDECODABLE where something in it is
    damaged."""
    fields = example.decode(data, len(manifest.findings(content)))
    encoding = fields["encoding"].decode()
    if encoding not in FORMATS:
        raise ValueError(f"encoding {encoding!r}, expected one of {', '.join(FORMATS)}")
    with Image.open(io.BytesIO(fields["image"]), formats=[FORMATS[encoding]]) as image:
        pixels = np.asarray(image)
    size = (fields["height"], fields["width"])
    _check("image", pixels, size, content["dtype"])
    if not fields["has_mask"]:
        return Record(len(data), fields, pixels, mask=None)
    mask = mask_png.decode(fields["mask"])
    _check("mask", mask, size, "uint8")
    return Record(len(data), fields, pixels, np.where(mask, np.uint8(255), np.uint8(0)))


def _check(name: str, pixels: np.ndarray, size: tuple[int, int], dtype: str) -> None:
    """Raise ValueError where an image or a mask has another size or type than its record says."""
    if pixels.shape != size or pixels.dtype != dtype:
        actual = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"its {name} is {actual}, expected {dtype} {list(size)}")
