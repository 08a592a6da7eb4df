"""NIfTI-1 files (.nii, .nii.gz): header -> where the voxels are, and the bytes from which SimpleITK
reads the geometry. (NIfTI's axes lead to the right, the front and the head, those of a lake to the
left, the back and the head; SimpleITK turns them.)"""

import struct

import numpy as np

from lake import Reject
from lake.sources.damage import Malformed
from lake.sources.volumes.volume import GZIP_START, Layout, check_layout, expand_start

SUFFIXES = (".nii", ".nii.gz")
ITK_READER = "NiftiImageIO"
HEADER_BYTES = 352  # of which the last four say whether extensions follow
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
TYPES |= {1024: "i8", 1280: "u8"}
# Positions in the header (nifti1.h).
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SCL_SLOPE, MAGIC = 40, 70, 76, 108, 112, 344


def read(file_start: bytes) -> tuple[Layout, bytes]:
    """Return (layout, header without extensions) of the volume at the start of a file; raises
    Reject."""
    is_compressed = file_start.startswith(GZIP_START)
    header = expand_start(file_start, HEADER_BYTES) if is_compressed else file_start[:HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        raise Malformed("the file ends inside its NIfTI header; copy it again")
    if 540 in struct.unpack("<l", header[:4]) + struct.unpack(">l", header[:4]):
        raise Reject("unsupported-volume", "NIfTI-2; save it as NIfTI-1")
    order = order_of(header)
    if not order or header[MAGIC : MAGIC + 4] != b"n+1\0":
        advice = "; with an .img beside it, save both as one .nii" if order else ""
        raise Reject("unsupported-volume", f"no NIfTI-1 header of one file{advice}")
    count, *dims = struct.unpack_from(order + "8h", header, DIM)
    if not (3 <= count <= 7 and max(dims[3:count], default=1) == 1):
        raise Reject("not-a-volume", f"{count} dimensions {dims[:count]}, expected 3; leave it out")
    (datatype,) = struct.unpack_from(order + "h", header, DATATYPE)
    if datatype not in TYPES:
        raise Reject("not-grey", f"NIfTI's data type {datatype}, expected grey numbers")
    offset, slope, intercept = struct.unpack_from(order + "3f", header, VOX_OFFSET)
    if not (HEADER_BYTES <= offset < 2**31 and offset == int(offset)):
        raise Malformed(f"NIfTI's vox_offset is {offset:g}")
    _check_spacing(struct.unpack_from(order + "3f", header, PIXDIM + 4))
    slope, intercept = scaling(slope, intercept)
    width, height, num_slices = dims[:3]
    places = (0, True, int(offset)) if is_compressed else (int(offset), False)
    dtype = np.dtype(order + TYPES[datatype])
    layout = Layout((num_slices, height, width), dtype, *places)
    layout = layout._replace(slope=slope, intercept=intercept)
    return check_layout(layout), header[: MAGIC + 4] + bytes(4)


def order_of(header: bytes) -> str:
    """Return the byte order of a header, whose first number is its length; "" where it is not."""
    return next((order for order in "<>" if struct.unpack(order + "l", header[:4]) == (348,)), "")


def _check_spacing(spacing: tuple[float, ...]) -> None:
    """Raise Reject for voxels without extent, which SimpleITK would take for 1 mm."""
    if not all(0 < abs(length) < np.inf for length in spacing):
        raise Reject("bad-geometry", f"voxels of {spacing}: no size; leave it out")


def scaling(slope: float, intercept: float) -> tuple[float, float]:
    """Return (slope, intercept) of the values; a slope of 0 means that there is none (nifti1.h)."""
    slope, intercept = (number if np.isfinite(number) else 0.0 for number in (slope, intercept))
    return (slope, intercept) if slope else (1.0, 0.0)
