"""A sample of files, by their headers alone: paths and sizes of a listing -> what some of the files
would become in a lake."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from beam.conversion import image_rows, label_names, listing
from beam.conversion.options import ConversionOptions
from beam.estimate import costs
from beam.running import files, patterns
from lake import Reject
from lake.sources.reader import quieten, read_coding, reject_unreadable
from lake.storage import is_remote

READERS = 16  # files open at a time: reading a header on gs:// is mostly waiting
# Bytes of a file that the conversion's first pass reads: about its header, but on gs:// as much as
# Beam fetches at a time (apache_beam.io.gcp.gcsio.DEFAULT_READ_BUFFER_SIZE).
HEADER_BYTES, REMOTE_HEADER_BYTES = 2**16, 2**24


@dataclass(frozen=True)
class FileCost:
    """Says what one file would become, all its records together."""

    path: str
    bits: int  # 8 or 16: of the lake that it fits
    coding: str  # how its pixels are coded
    num_records: float
    read_bytes: float  # by both passes
    planned_bytes: float  # by which the plan counts shards
    stored_bytes: float  # of the records
    seconds: float  # of one core


def list_files(options: ConversionOptions) -> tuple[list[str], np.ndarray]:
    """Return (paths, sorted; their bytes, int64 [N]) of the files of --images that hold images."""
    matches = patterns.image_files("images", options.images, options.source).files
    matches = sorted(label_names.without_labels(matches, options), key=lambda file: file.path)
    sizes = np.fromiter((file.size_in_bytes for file in matches), np.int64, len(matches))
    return [file.path for file in matches], sizes


def choose(count: int, size: int) -> list[int]:
    """Return numbers below `count`, one from each of `size` equal stretches, the same each time: a
    folder's files are alike, and a fixed step could meet one image of each patient."""
    edges = [count * n // size for n in range(size + 1)] if size < count else range(count + 1)
    rng = random.Random(0)
    return [rng.randrange(*stretch) for stretch in zip(edges, edges[1:], strict=False)]


def read_headers(
    chunk: list[tuple[str, int]], options: ConversionOptions
) -> Iterator[FileCost | Reject]:
    """Yield the FileCost, or the Reject, of each (path, bytes), in their order."""

    def read(file: tuple[str, int]) -> FileCost | Reject:
        try:
            return read_header(files.printable(file[0]), file[1], options)
        except Reject as reject:
            return reject

    quieten()
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, chunk)


def read_header(path: str, size: int, options: ConversionOptions) -> FileCost:
    """Return the cost of a file; raise Reject, as the conversion would for its header."""
    with reject_unreadable(path), files.open_binary(path) as file:
        headers = listing.headers_in(file, path, size, options)
        header, bits = headers[0], 8 if headers[0].bits <= 8 else 16
        storage = options.storage(options.bits or bits)
        coding = read_coding(options.source, file, header, storage)
    num_records, num_slices = float(len(headers)), listing.num_images(header)
    if header.geometry:
        is_unknown = not options.labels and options.unlabelled == "keep"
        num_records = num_slices * (1.0 if is_unknown else options.empty_slices)
    # The second pass reads a file once per frame, a volume once; the pixels of an .mhd are in the
    # file beside it.
    second_pass = num_records * size
    if header.geometry:
        second_pass = max(size, num_slices * coding.num_bytes)
    first_pass = min(size, REMOTE_HEADER_BYTES if is_remote(path) else HEADER_BYTES)
    num_blocks = image_rows.num_blocks(header, options.max_side)
    return FileCost(
        path=path,
        bits=bits,
        coding=f"{coding.name}, kept" if coding.is_kept else coding.name,
        num_records=num_records,
        read_bytes=first_pass + second_pass,
        planned_bytes=num_records * num_blocks * image_rows.BLOCK_BYTES,
        stored_bytes=num_records * costs.record_bytes(header, coding, storage),
        seconds=num_records * costs.convert_seconds(header, coding, storage, options.source),
    )
