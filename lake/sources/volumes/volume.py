"""Volumes in files: where the voxels are and what they mean (Layout) -> the values of a slice, and
where the slices lie in the patient.

SimpleITK reads the geometry from a header. Voxels are read here: a compressed stream has to expand
to exactly the bytes of its volume, with its own checksum, or it is a Reject.
"""

import math
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from lake import Reject, scan, storage
from lake.labels.nodules import axes
from lake.scan import Geometry
from lake.sources.damage import Malformed
from lake.sources.dicom import grey
from lake.sources.volumes import series

CHUNK_BYTES = 2**16
# A gzip file may have several members (RFC 1952); those of bgzip hold 64 KB each.
MAX_MEMBERS = 2**17
GZIP_START = b"\x1f\x8b"
MAX_SKIP = 2**24  # bytes before the voxels within a stream: a header with its extensions


class Layout(NamedTuple):
    """Where the voxels of a volume are, and what they mean."""

    shape: tuple[int, int, int]  # slices, rows, columns
    dtype: np.dtype  # with its byte order
    offset: int | None  # of the voxels, or of their stream, in their file; None: they are its end
    is_compressed: bool = False  # in a zlib or gzip stream
    skip: int = 0  # bytes of the expanded stream before the voxels
    data_file: str | None = None  # beside the header; None: the header's own file
    slope: float = 1.0  # value = voxel * slope + intercept
    intercept: float = 0.0

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def check_layout(layout: Layout) -> Layout:
    """Return the layout if it is within the bounds of a file; else raise Reject."""
    num_slices, height, width = layout.shape
    max_pixels, max_slices, max_bytes = scan.MAX_PIXELS, 2**scan.FRAME_BITS, scan.MAX_FILE_BYTES
    if min(layout.shape) < 1:
        raise Reject("unreadable-header", f"{width} x {height} x {num_slices} voxels")
    if width * height > max_pixels or num_slices > max_slices or layout.num_bytes > max_bytes:
        raise Reject(
            "too-large",
            f"{width} x {height} x {num_slices} voxels, expected at most {max_pixels} per slice, "
            f"{max_slices} slices and {max_bytes} bytes; leave it out",
        )
    if layout.skip > MAX_SKIP:
        raise Reject("too-large", f"{layout.skip:,} bytes before the voxels")
    return layout


def check_data_file(name: str, reason: str) -> str:
    """Return the name of a data file if it is that of one file beside the header; else raise
    Reject."""
    if name.upper().startswith("LIST") or "%" in name:
        raise Reject(reason, "its data file is a list or a pattern; write one file per volume")
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0"):
        raise Reject(reason, "its data file is in another folder; put it beside the header")
    return name


def read_geometry(header: bytes, suffix: str, io_name: str, layout: Layout) -> Geometry:
    """Return the geometry that SimpleITK's reader `io_name` reads from a header alone; raise Reject
    where it reads another volume than `layout`, or one whose voxels are no boxes."""
    import SimpleITK  # takes 0.3 s and 90 MB, which readers of masks and X-rays need not have

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with storage.temporary_folder() as folder:
        path = Path(folder, f"header{suffix}")
        path.write_bytes(header)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO(io_name)
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:  # its message is about C++, and names no axis
            message = "SimpleITK reads no geometry from its header: axes at right angles?"
            raise Reject("bad-geometry", f"{message} resample tilted volumes") from None
    num_slices, height, width = layout.shape
    size, channels = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    if (size + (1,))[:3] != (width, height, num_slices) or channels != 1:
        raise Reject("unreadable-header", "SimpleITK reads another size than the header states")
    if len(size) != 3:
        raise Reject("not-a-volume", f"{len(size)} dimensions, expected 3; leave it out")
    origin, spacing, direction = reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection()
    return check_geometry(Geometry(num_slices, origin, spacing, direction))


def check_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry if it is bounded, has extent and has right angles; else raise Reject."""
    components = (*geometry.origin_mm, *geometry.spacing_mm, *geometry.direction)
    matrix = axes(geometry)
    is_orthonormal = np.allclose(matrix.T @ matrix, np.eye(3), rtol=0, atol=series.COSINE_TOLERANCE)
    is_bounded = (np.abs(components) <= grey.LARGEST).all()
    if not (is_bounded and min(geometry.spacing_mm) > 0 and is_orthonormal):
        raise Reject(
            "bad-geometry",
            f"spacing {geometry.spacing_mm} and direction {geometry.direction}: expected numbers "
            f"above 0 and three axes at right angles; resample tilted volumes",
        )
    return geometry


def read_slice(local_path: str, layout: Layout, number: int) -> np.ndarray:
    """Return the values [H, W] of one slice; raise Reject or Malformed where the file has other
    bytes than the header says."""
    path = Path(local_path)
    if layout.data_file:
        path = path.with_name(layout.data_file)
        if not path.is_file():
            raise Reject("no-pixels", f"no data file {layout.data_file} beside it")
    _, height, width = layout.shape
    status, slice_bytes = path.stat(), height * width * layout.dtype.itemsize
    if layout.is_compressed:
        voxels = _expand(str(path), status.st_mtime_ns, status.st_size, layout)
        if isinstance(voxels, str):
            raise Malformed(voxels)
        position = layout.skip + number * slice_bytes
    else:
        offset = status.st_size - layout.num_bytes if layout.offset is None else layout.offset
        if offset < 0 or status.st_size != offset + layout.num_bytes:
            raise Reject(
                "undecodable",
                f"{status.st_size:,} bytes in {path.name}, its header says "
                f"{max(offset, 0) + layout.num_bytes:,}; copy it again",
            )
        with open(path, "rb") as file:
            file.seek(offset + number * slice_bytes)
            voxels, position = file.read(slice_bytes), 0
    values = np.frombuffer(voxels, layout.dtype, height * width, position).reshape(height, width)
    if (layout.slope, layout.intercept) == (1.0, 0.0):
        return values
    return values * np.float64(layout.slope) + layout.intercept


@lru_cache(maxsize=1)  # slices of a volume are read one after the other
def _expand(path: str, changed_ns: int, size: int, layout: Layout) -> bytes | str:
    """Return the expanded stream of a volume's file, or the message of what is wrong with it: a
    damaged volume must not be expanded again for each of its slices. The file's `changed_ns` and
    `size` are part of the cache's key alone."""
    with open(path, "rb") as file:
        file.seek(layout.offset)
        try:
            return expand(file, layout.skip + layout.num_bytes)
        except Malformed as error:
            return str(error)


def expand(file: BinaryIO, num_bytes: int) -> bytes:
    """Return the `num_bytes` that the zlib or gzip stream of an open file expands to; raise
    Malformed where it is damaged or has more or fewer."""
    parts, size, num_members, content = [], 0, 1, b""
    stream = zlib.decompressobj(wbits=47)  # either format, as MetaIO reads it
    while True:
        content = content or file.read(CHUNK_BYTES)
        if not content and not stream.eof:
            raise Malformed(f"its compressed data ends after {size:,} of {num_bytes:,} bytes")
        if stream.eof:
            if len(content) < 2:
                content += file.read(CHUNK_BYTES)
            if not content.startswith(GZIP_START) or num_members == MAX_MEMBERS:
                break
            stream, num_members = zlib.decompressobj(wbits=31), num_members + 1
        try:
            parts.append(stream.decompress(content, num_bytes - size + 1))
        except zlib.error as error:
            raise Malformed(f"its compressed data is damaged: {error}; copy it again") from None
        size += len(parts[-1])
        if size > num_bytes:
            raise Malformed(f"its compressed data is more than the {num_bytes:,} bytes of its size")
        content = stream.unused_data if stream.eof else stream.unconsumed_tail
    if size < num_bytes:
        raise Malformed(f"its compressed data is {size:,} bytes, its size says {num_bytes:,}")
    return b"".join(parts)


def expand_start(content: bytes, num_bytes: int) -> bytes:
    """Return up to `num_bytes` that a gzip stream, of which `content` is the start, expands to;
    raise Malformed where it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(content, num_bytes)
    except zlib.error as error:
        raise Malformed(f"its gzip stream is damaged: {error}") from None
