"""Masks in NIfTI-1 files of one slice. In: bytes, gzipped or not; out: values [H, W].

The file's first axis runs along the columns of the picture, its second along the rows, as ITK
writes pictures. A file that says otherwise, as nibabel and converters of DICOM do, is a Reject:
whether its axes are exchanged or turned cannot be told, and in a square mask nobody would see it.
"""

import math
import struct
import zlib

import numpy as np

from lake import Reject
from lake.scan import MAX_PIXELS, check_pixels
from lake.sources.damage import Malformed
from lake.sources.volumes.nifti import (
    DATATYPE,
    DIM,
    MAGIC,
    SCL_SLOPE,
    TYPES,
    VOX_OFFSET,
    order_of,
    scaling,
)
from lake.sources.volumes.volume import GZIP_START

HEADER_BYTES = 348  # nifti1.h: also the header's first number, in the file's own byte order
MAX_OFFSET = 2**20  # where the values begin: extensions before them are metadata
QFORM = 252
SFORM_ROWS = 280
TOLERANCE = 1e-3


def is_nifti(start: bytes) -> bool:
    """Return whether a file begins as a NIfTI, by its first 348 bytes; a gzipped one may."""
    return start.startswith(GZIP_START) or start[MAGIC : MAGIC + 4] in (b"n+1\0", b"ni1\0")


def read(data: bytes) -> np.ndarray:
    """Return the values [H, W] of the one slice of a NIfTI file; raise Reject or Malformed."""
    if data.startswith(GZIP_START):
        inflate = zlib.decompressobj(wbits=31)
        data = inflate.decompress(data, HEADER_BYTES + MAX_OFFSET + 8 * MAX_PIXELS)
        if not inflate.eof:
            raise Malformed("its gzip stream is cut off, or longer than an image")
    if data[MAGIC : MAGIC + 4] != b"n+1\0":
        raise Reject("not-an-image", "no NIfTI-1 file with its values; save it as .nii or PNG")
    order = order_of(data) or ">"
    num_axes, *sizes = struct.unpack_from(f"{order}8h", data, DIM)
    value_type = struct.unpack_from(f"{order}h", data, DATATYPE)[0]
    (offset,), (slope, intercept) = (
        struct.unpack_from(f"{order}f", data, VOX_OFFSET),
        struct.unpack_from(f"{order}2f", data, SCL_SLOPE),
    )
    if not 1 <= num_axes <= 7 or min(sizes[:num_axes]) < 1 or value_type not in TYPES:
        raise Malformed(f"{num_axes} axes of {sizes} values of NIfTI's type {value_type}")
    width, height, *further_sizes = [*sizes[:num_axes], 1][: max(num_axes, 2)]
    check_pixels(height, width)
    if math.prod(further_sizes) != 1:
        raise Reject("multi-frame", f"{math.prod(further_sizes)} slices, expected one")
    _check_axes(data, order)
    dtype = np.dtype(order + TYPES[value_type])
    start, size = int(offset), height * width * dtype.itemsize
    if not HEADER_BYTES <= start <= len(data) - size:
        raise Malformed(f"{len(data)} bytes, expected {size} of values from byte {start} on")
    values = np.frombuffer(data, dtype, height * width, start).reshape(height, width)
    values = values.astype(dtype.newbyteorder("="))
    slope, intercept = scaling(slope, intercept)
    return values if (slope, intercept) == (1, 0) else values * slope + intercept


def _check_axes(data: bytes, order: str) -> None:
    """Raise Reject unless the file's place in the patient is that of a picture as ITK writes it,
    columns to the left and rows to the back, or unknown."""
    qform, sform, b, c, d = struct.unpack_from(f"{order}2h3f", data, QFORM)
    # NIfTI's x runs to the right, y to the front: both steps are negative.
    is_upright = True
    if sform > 0:
        rows = np.array(struct.unpack_from(f"{order}12f", data, SFORM_ROWS)).reshape(3, 4)[:2, :2]
        steps = np.diag(rows)
        is_upright = bool((steps < 0).all()) and np.allclose(rows, np.diag(steps), atol=TOLERANCE)
    elif qform > 0:
        is_upright = np.allclose((b, c, abs(d)), (0, 0, 1), atol=TOLERANCE)
    if not is_upright:
        raise Reject(
            "mask-axes",
            "its axes are not those of a picture: which are columns and rows, and from which side "
            "they run, is unclear; save the mask as PNG",
        )
