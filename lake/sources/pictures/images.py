"""PNG, JPEG, TIFF, BMP and GIF files: their bytes become a Header and a Scan.

The coded pixels of a baseline grey JPEG and of a plain grey PNG with the lake's bits are stored as
they are, and the rest of the file, which could name a person, is dropped. Everything else is
decoded and becomes grey: colours by their luma (ITU-R BT.601), palettes through their colours. A
picture is turned upright as its EXIF says, as viewers do. A file that cannot be stored is a Reject:

not-an-image        none of these formats by its first bytes
unreadable-header   damaged or cut off before the pixels start
too-large           more pixels than lake.scan.MAX_PIXELS, or what takes too long to decode
too-many-bits       a TIFF of floating point or of more than 16 bits
unsupported-tiff    a TIFF that Pillow does not read, or would read wrongly
unknown-colour      a TIFF whose colours have no conversion to grey
multi-frame         an animation, pages, or several pictures in one file: which one is unclear
deep-colour         16 bits per channel with colour or alpha, which Pillow would cut down to 8
transparent         pixels that are not opaque: the background is unknown
undecodable         pixel data is cut off, damaged, or contradicts the header
"""

import io
import re
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np

from lake import Reject
from lake.scan import Coding, Header, Scan, Storage
from lake.sources import pixels
from lake.sources.codecs.codestream import bare_jpeg
from lake.sources.damage import reject_damage
from lake.sources.pictures import formats
from lake.sources.pictures.formats import ImageFile
from lake.sources.pictures.png import bare_png


def read_headers(file: BinaryIO, path: str, size: int) -> list[Header]:
    """Return the one Header of an image file without reading its pixels; the image id is the file
    stem. Raises Reject."""
    with reject_damage("unreadable-header", path):
        image = formats.open_image(file)
        if image.bits > 16:
            message = "32 bits per pixel, perhaps floating point, expected at most 16"
            raise Reject("too-many-bits", f"{message}; save it as a 16-bit image")
    return [Header(path, size, file_stem(path), *image.shape, image.bits)]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return the coding of the pixels, without reading them; raises Reject."""
    with reject_damage("unreadable-header", header.path):
        image = formats.open_image(file)
        is_grey = image.image.mode in formats.GREY_MODES
        is_kept = is_grey and _is_storable_unchanged(image, header, storage)
        num_channels = len(image.image.getbands())
        return Coding(image.name.lower(), header.size, is_kept, num_channels)


def read_scan(data: bytes, header: Header, storage: Storage) -> Scan:
    """Return the image as a lake stores it; its values have no unit, so rescale is (1, 0), and an
    offset where a TIFF is signed. Raises Reject."""
    with reject_damage("undecodable", header.path):
        image = formats.open_image(io.BytesIO(data))
        bare = _bare_code(data, image, header, storage)
        # Pillow's decoder checks the entropy code of a JPEG; bare_png has checked that of a PNG.
        is_checked = bare is not None and image.name == "PNG"
        has_window = header.bits == 8 and storage.window != "percentile"
        levels = None if is_checked and has_window else formats.grey(image, data)
        if levels is not None and levels.shape != (header.height, header.width):
            raise ValueError(f"{levels.shape} pixels, another size than its header said")
        lowest, highest = 0, 2**header.bits - 1
        if levels is not None and levels.dtype.kind == "i":
            lowest = -(2 ** (header.bits - 1))
            levels = levels.astype(np.int32) - lowest
        window = (0.0, float(highest))
        if header.bits > 8:  # as in DICOM, an image may use a small part of its bits
            window = pixels.extent(levels)
        rescale, spacing_mm = (1.0, float(lowest)), (0.0, 0.0)
        if bare is None:
            return pixels.store(levels, highest, rescale, window, spacing_mm, storage)
        encoding = "png" if image.name == "PNG" else "jpeg-kept"
        window = pixels.view(storage.window, window, rescale, levels)
        size = header.height, header.width
        if levels is None:
            is_flat = pixels.is_flat_code(bare, *size, window)
        else:
            is_flat = pixels.is_flat(levels, window)
        return Scan(bare, encoding, *size, spacing_mm, rescale, window, is_flat=is_flat)


def file_stem(path: str) -> str:
    """Return the file's name without its last extension."""
    return PurePosixPath(re.split(r"[/\\]", path)[-1]).stem


def _bare_code(data: bytes, image: ImageFile, header: Header, storage: Storage) -> bytes | None:
    """Return the file's own coded pixels where a lake may store them unchanged, else None."""
    if not _is_storable_unchanged(image, header, storage):
        return None
    if image.name == "PNG":
        return bare_png(data, header.height, header.width, storage.bits)
    return bare_jpeg(data, header.height, header.width) if image.name == "JPEG" else None


def _is_storable_unchanged(image: ImageFile, header: Header, storage: Storage) -> bool:
    """Return whether the lake may store the coded pixels, as far as the header tells.

    Colours, and data beside the pixels, are left to bare_png and bare_jpeg.
    """
    size = (header.height, header.width)
    is_upright = image.shape == size and image.orientation == 1
    is_coded = image.name in ("PNG", "JPEG")
    return is_coded and is_upright and pixels.is_stored_unchanged(header.bits, *size, storage)
