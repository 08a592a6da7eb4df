"""PNG and JPEG files: their bytes become a Header and a Scan; mask images become run-length texts.

The coded pixels of a baseline grey JPEG and of a plain grey PNG with the lake's bits are stored as
they are, and the rest of the file, which could name a person, is dropped. Everything else is
decoded and becomes grey: colours by their luma (ITU-R BT.601), palettes through their colours. A
JPEG is turned upright as its EXIF says, as viewers do. A file that cannot be stored is a Reject:

not-an-image        neither PNG nor JPEG (masks: nor GIF, BMP, TIFF) by its first bytes
unreadable-header   damaged or cut off before the pixels start
too-large           more pixels than lake.scan.MAX_PIXELS
multi-frame         an animation, pages, or several pictures in one file: which one is unclear
deep-colour         16 bits per channel with colour or alpha, which Pillow would cut down to 8
transparent         pixels that are not opaque: the background is unknown
undecodable         pixel data is cut off, damaged, or contradicts the header
mask-not-binary     a mask with values between background and lesion, or with several classes
"""

import io
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from lake import Reject
from lake.labels import rle
from lake.scan import Coding, Header, Scan, Storage, check_pixels
from lake.sources import pixels
from lake.sources.codestream import bare_jpeg
from lake.sources.damage import reject_damage
from lake.sources.png import PNG_START, bare_png, chunks

OPENERS = {PNG_START: PngImagePlugin.PngImageFile, b"\xff\xd8\xff": JpegImagePlugin.jpeg_factory}
MASK_OPENERS = OPENERS | {
    **dict.fromkeys((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    b"BM": BmpImagePlugin.BmpImageFile,
    **dict.fromkeys((b"II*\0", b"MM\0*"), TiffImagePlugin.TiffImageFile),
}
# What turns pixels [H, W] upright, by EXIF orientation (TIFF 6.0, tag 274).
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a[::-1].T,
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a[:, ::-1].T,
}
GREY_MODES = ("L", "I;16", "I")  # Pillow's modes of one channel without a palette
# JPEG of quality 75 moves a mask's values by up to 43 of 255, and none across half; quality 50
# moves them by up to 98 (60 masks of SIIM-ACR). A mask with values between these ends is refused.
STRAY = 1 / 4
MIN_WHITE = 128  # where the highest value is lower, several values are classes


def read_headers(file: BinaryIO, path: str, size: int) -> list[Header]:
    """Return the one Header of a PNG or JPEG file without reading its pixels; the image id is the
    file stem."""
    with reject_damage("unreadable-header", path):
        image = _open_image(file, OPENERS)
        width, height = image.size
        if _orientation(image) >= 5:
            height, width = width, height
    bits = 16 if image.mode.startswith("I") else 8
    return [Header(path, size, file_stem(path), height, width, bits)]


def read_coding(file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return how the pixels are coded, without reading them."""
    with reject_damage("unreadable-header", header.path):
        image = _open_image(file, OPENERS)
        is_kept = _is_storable_unchanged(image, header, storage) and image.mode in GREY_MODES
        return Coding(image.format.lower(), header.size, is_kept, len(image.getbands()))


def read_scan(data: bytes, header: Header, storage: Storage) -> Scan:
    """Return the image as a lake stores it; its values have no unit, so rescale is (1, 0)."""
    with reject_damage("undecodable", header.path):
        image = _open_image(io.BytesIO(data), OPENERS)
        bare = _bare(data, image, header, storage)
        # Pillow's decoder checks the entropy code of a JPEG; bare_png has checked that of a PNG.
        is_checked = bare is not None and image.format == "PNG"
        levels = None if is_checked and storage.window != "percentile" else _grey(image, data)
        if levels is not None and levels.shape != (header.height, header.width):
            raise ValueError(f"{levels.shape} pixels, another size than its header said")
        highest = 2**header.bits - 1
        rescale, window, spacing_mm = (1.0, 0.0), (0.0, float(highest)), (0.0, 0.0)
        if bare is None:
            return pixels.store(levels, highest, rescale, window, spacing_mm, storage)
        encoding = "png" if image.format == "PNG" else "jpeg-kept"
        window = pixels.view(storage.window, window, rescale, levels)
        return Scan(bare, encoding, header.height, header.width, spacing_mm, rescale, window)


def read_mask(data: bytes, path: str) -> tuple[str, tuple[int, int]]:
    """Return (relative run-length text, (height, width)) of a mask image, at its own size.

    Every pixel that is not 0 is lesion. A mask that went through a lossy code has values near 0 and
    near its highest, and is cut at half.
    """
    with reject_damage("undecodable", path):
        levels = _grey(_open_image(io.BytesIO(data), MASK_OPENERS), data)
        return rle.to_text(rle.from_mask(_is_lesion(levels))), levels.shape


def file_stem(path: str) -> str:
    """Return the file's name without its last extension."""
    return PurePosixPath(re.split(r"[/\\]", path)[-1]).stem


def _open_image(file: BinaryIO, openers: dict[bytes, Callable]) -> Image.Image:
    """Open the image and read its header, not its pixels; raises Reject.

    Image.open is not used: its bound on pixels, and the warning, belong to the whole process.
    """
    start = file.read(32)
    file.seek(0)
    opener = next((openers[magic] for magic in openers if start.startswith(magic)), None)
    if opener is None:
        raise Reject("not-an-image", "its first bytes are those of no known image format")
    image = opener(file, "")
    check_pixels(image.height, image.width)
    if getattr(image, "is_animated", False):
        raise Reject("multi-frame", "several frames, pages or pictures, expected one")
    if image.format == "PNG" and start[24] == 16 and start[25] != 0:  # IHDR: depth, colour type
        raise Reject("deep-colour", "16 bits per channel in colour or with alpha; save it as grey")
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a JPEG, or of a PNG that has it before its pixels.

    1 is upright.
    """
    # Pillow turns a TIFF itself. For a PNG, getexif would look behind the pixels and decode them.
    if image.format != "JPEG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in TURNS else 1


def _grey(image: Image.Image, data: bytes) -> np.ndarray:
    """Decode the image into upright levels [H, W], uint8 or as deep as the image; raises Reject."""
    orientation = _orientation(image)
    if image.format == "PNG":
        for _ in chunks(data):  # Pillow does not check the checksums of pixel data
            pass
    image.load()
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        transparent_level = image.info.get("transparency")
        is_transparent = transparent_level is not None and np.any(levels == transparent_level)
    else:
        is_transparent = image.has_transparency_data and _alpha(image).getextrema()[0] < 255
        colours = image.convert("RGB") if image.mode == "CMYK" else image
        levels = np.asarray(colours.convert("L"))
    if is_transparent:
        raise Reject("transparent", "it has pixels that are not opaque; save it without alpha")
    return TURNS[orientation](levels) if orientation in TURNS else levels


def _alpha(image: Image.Image) -> Image.Image:
    return (image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A")


def _bare(data: bytes, image: Image.Image, header: Header, storage: Storage) -> bytes | None:
    """Return the file's own coded pixels where a lake may store them unchanged, else None."""
    if not _is_storable_unchanged(image, header, storage):
        return None
    if image.format == "PNG":
        return bare_png(data, header.height, header.width, storage.bits)
    return bare_jpeg(data, header.height, header.width)


def _is_storable_unchanged(image: Image.Image, header: Header, storage: Storage) -> bool:
    """Return whether the lake may store the coded pixels, as far as the header tells.

    Colours, and data beside the pixels, are left to bare_png and bare_jpeg.
    """
    is_upright = image.size == (header.width, header.height) and _orientation(image) == 1
    size = (header.height, header.width)
    return is_upright and pixels.is_stored_unchanged(header.bits, *size, storage)


def _is_lesion(levels: np.ndarray) -> np.ndarray:
    """Return the mask [H, W] bool of a mask image's levels; raises Reject."""
    is_bytes = levels.dtype == np.uint8  # bincount takes 4 ms per megapixel, sorting 10
    values = np.flatnonzero(np.bincount(levels.ravel())) if is_bytes else np.unique(levels)
    if len(values) == 1 or (len(values) == 2 and values[0] == 0):
        return levels != 0
    highest = int(values[-1])
    is_near = (values <= highest * STRAY) | (values >= highest * (1 - STRAY))
    if highest < MIN_WHITE or not is_near.all():
        raise Reject(
            "mask-not-binary",
            f"{len(values)} grey values, {values[:4].tolist()} ... {highest}; expected 0 and one "
            f"other",
        )
    return levels > highest / 2
