"""A sample of files, by their headers alone: paths and sizes of a listing -> what some of the files
would become in a lake."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from beam.conversion import listing, plan
from beam.conversion.options import ConversionOptions
from beam.estimate import costs
from beam.running import files
from lake import Reject
from lake.sources.reader import quieten, read_coding, unreadable

READERS = 16  # files opened at a time: reading a header on gs:// is mostly waiting
# What the conversion's first pass moves of a file: its header, but on gs:// as much as Beam fetches
# at a time (apache_beam.io.gcp.gcsio.DEFAULT_READ_BUFFER_SIZE).
HEADER_BYTES, REMOTE_HEADER_BYTES = 2**16, 2**24


@dataclass(frozen=True)
class Looked:
    """What one file would become, all its records together."""

    path: str
    bits: int  # 8 or 16, of the lake that it fits
    kind: str  # how its pixels are coded
    records: float
    moved: float  # bytes that both passes read
    planned: float  # bytes that shards are dealt by
    stored: float  # bytes of the records
    seconds: float  # of one core
    training_seconds: float  # of one core, to read the records once


def listed(pattern: str, kind: str) -> tuple[list[str], np.ndarray]:
    """(paths, sorted; their bytes, int64 [N]) of the files of --images that hold images."""
    found = sorted(files.image_files("images", pattern, kind), key=lambda file: file.path)
    sizes = np.fromiter((file.size_in_bytes for file in found), np.int64, len(found))
    return [file.path for file in found], sizes


def drawn(count: int, wanted: int) -> list[int]:
    """Numbers below `count`, one from each of `wanted` equal stretches, the same each time: a
    folder's files are alike, and a fixed step could meet one image of each patient."""
    edges = [count * n // wanted for n in range(wanted + 1)] if wanted < count else range(count + 1)
    choice = random.Random(0)
    return [choice.randrange(*stretch) for stretch in zip(edges, edges[1:], strict=False)]


def look(
    chosen: list[tuple[str, int]],
    reader: listing.ReadHeaders,
    options: ConversionOptions,
    slice_share: float,
) -> Iterator[Looked | Reject]:
    """What each (path, bytes) would become; of a volume's slices so many are taken."""

    def at(file: tuple[str, int]) -> Looked | Reject:
        try:
            return looked(files.printable(file[0]), file[1], reader, options, slice_share)
        except Reject as reject:
            return reject

    quieten()
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(at, chosen)


def looked(
    path: str,
    size: int,
    reader: listing.ReadHeaders,
    options: ConversionOptions,
    slice_share: float,
) -> Looked:
    """Raises Reject, as the conversion would for the file's header."""
    kind = options.source
    try:
        with files.open_binary(path) as opened:
            headers = reader.headers_in(opened, path, size)
            header, bits = headers[0], 8 if headers[0].bits <= 8 else 16
            storage = options.storage(options.bits or bits)
            coding = read_coding(kind, opened, header, storage)
    except OSError as error:
        raise unreadable(path, error) from None
    records, slices = float(len(headers)), listing.num_images(header)
    if header.geometry:
        records = slices * slice_share
    # Each frame of a file is read by itself; a volume is read once, of an .mhd the file beside it.
    second_pass = max(size, slices * coding.num_bytes) if header.geometry else records * size
    first_pass = min(size, HEADER_BYTES if files.is_local(path) else REMOTE_HEADER_BYTES)
    return Looked(
        path=path,
        bits=bits,
        kind=f"{coding.name}, kept" if coding.is_kept else coding.name,
        records=records,
        moved=first_pass + second_pass,
        planned=records * plan.num_blocks(header, options.max_side) * plan.BLOCK_BYTES,
        stored=records * costs.record_bytes(header, coding, storage),
        seconds=records * costs.convert_seconds(header, coding, storage, kind),
        training_seconds=records * costs.training_seconds(header, coding, storage),
    )
