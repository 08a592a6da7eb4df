"""Image files that are no DICOM: PNG, JPEG, TIFF, BMP and GIF, opened with Pillow -> grey levels.

Pillow gets what it reads right and at bounded cost: of a PNG the chunks that say what its pixels
are, a TIFF whose directory was examined (tiff.py), a JPEG of few scans.
"""

import io
import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import BmpImagePlugin, ExifTags, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin

from lake import Reject
from lake.scan import check_pixels
from lake.sources.codecs import codestream
from lake.sources.damage import Malformed
from lake.sources.pictures import png, tiff

JPEG_START = b"\xff\xd8\xff"
# The first bytes of each format that is read. GIF and BMP are what old software writes masks as.
STARTS = {
    png.PNG_START: "PNG",
    JPEG_START: "JPEG",
    **dict.fromkeys(tiff.STARTS, "TIFF"),
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "GIF"),
    b"BM": "BMP",
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
SIDEWAYS = (5, 6, 7, 8)  # the orientations that exchange height and width
GREY_MODES = ("L", "I;16", "I")  # Pillow's modes of one channel without a palette
# Bytes of a file beyond the most that its pixels can need: its metadata.
PIXEL_BYTES, OTHER_BYTES = 8, 2**26
MAX_SEGMENTS = 10_000  # of a JPEG before its pixels; most have ten
# Pillow expands the runs of a BMP in Python, a microsecond each.
MAX_RUN_BYTES = 2**22
BMP_BITS, BMP_COMPRESSION, BMP_COLOURS = 28, 30, 46  # positions in a file
BMP_RUN_LENGTHS = (1, 2)  # compressions
BMP_HEADERS = [bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124)]


class ImageFile(NamedTuple):
    """An image file whose header is read, its pixels not."""

    image: Image.Image
    name: str  # of STARTS
    bits: int  # 8 or 16, of a level; 32 of a TIFF that may be floating point
    orientation: int  # EXIF's; 1 is upright
    directory: tiff.Directory | None  # of a TIFF

    @property
    def shape(self) -> tuple[int, int]:
        """Return (height, width) of the upright image."""
        width, height = self.image.size
        return (width, height) if self.orientation in SIDEWAYS else (height, width)


def name_of(start: bytes) -> str | None:
    """Return the name of the format that a file's first bytes tell, None for any other."""
    name = next((name for magic, name in STARTS.items() if start.startswith(magic)), None)
    # Two letters are few: texts begin with them, too.
    is_text = name == "BMP" and start[14:18] not in BMP_HEADERS
    return None if is_text else name


def open_image(file: BinaryIO) -> ImageFile:
    """Open an image file and read its header; raises Reject.

    Image.open is not used: its bound on pixels, and the warning, belong to the whole process.
    """
    file = tiff.View(file)
    start, num_bytes = file.read(64), file.num_bytes
    name, directory = name_of(start), None
    if name is None:
        raise Reject("not-an-image", "its first bytes are those of no known image format")
    if name == "PNG":
        image = PngImagePlugin.PngImageFile(io.BytesIO(png.header_chunks(file)), "")
        bits, orientation = start[24], _orientation(image)
        if bits == 16 and start[25] != 0:  # IHDR: depth, colour type
            raise Reject("deep-colour", "16 bits per channel in colour or with alpha; make it grey")
    elif name == "TIFF":
        directory = tiff.read_directory(file, num_bytes)
        image, bits, orientation = tiff.open_image(file, directory), *directory[:2]
    else:
        file.seek(0)
        opener = {"JPEG": _open_jpeg, "BMP": _open_bmp, "GIF": _open_gif}[name]
        image, bits = opener(file, start, num_bytes), 8
        orientation = _orientation(image) if name == "JPEG" else 1
    check_pixels(image.height, image.width)
    if getattr(image, "is_animated", False):
        raise Reject("multi-frame", "several frames, pages or pictures, expected one")
    bits = next(depth for depth in (8, 16, 32) if bits <= depth)
    if num_bytes > OTHER_BYTES + PIXEL_BYTES * image.height * image.width:
        size = f"{image.height} x {image.width} pixels"
        raise Reject("too-large", f"{num_bytes:,} bytes for {size}; save it anew, without metadata")
    return ImageFile(image, name, bits, orientation, directory)


def grey(file: ImageFile, data: bytes) -> np.ndarray:
    """Decode the image into upright levels [H, W]: uint8, uint16, signed or floating point where a
    TIFF is; `data` is the whole file. Raises Reject."""
    image = decode(file, data)
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        levels = levels.astype(np.uint16) if file.bits == 16 else levels
        transparent_level = image.info.get("transparency")
        is_transparent = transparent_level is not None and np.any(levels == transparent_level)
    else:
        is_transparent = image.has_transparency_data and _alpha(image).getextrema()[0] < 255
        colours = image.convert("RGB") if image.mode == "CMYK" else image
        levels = np.asarray(colours.convert("L"))
    if is_transparent:
        raise Reject("transparent", "it has pixels that are not opaque; save it without alpha")
    if file.directory:
        levels = tiff.values(levels, file.directory)
    return upright(levels, file)


def decode(file: ImageFile, data: bytes) -> Image.Image:
    """Return Pillow's image, decoded, not turned; `data` is the whole file. Raises Reject."""
    image = file.image
    if file.name == "PNG":
        # Pillow does not check the checksums of pixel data.
        image = PngImagePlugin.PngImageFile(io.BytesIO(png.pixel_chunks(data)), "")
    if file.name == "JPEG":
        codestream.check_scans(data)
    image.load()
    return image


def upright(pixels: np.ndarray, file: ImageFile) -> np.ndarray:
    """Return pixels [H, W] turned as the file's EXIF says."""
    return TURNS[file.orientation](pixels) if file.orientation in TURNS else pixels


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a JPEG, or of a PNG that has it before its pixels.

    1 is upright.
    """
    # For a PNG without it, getexif would look behind the pixels and decode them.
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if orientation in TURNS else 1


def _alpha(image: Image.Image) -> Image.Image:
    return (image if image.mode in ("LA", "RGBA") else image.convert("RGBA")).getchannel("A")


def _open_jpeg(file: BinaryIO, start: bytes, num_bytes: int) -> Image.Image:
    """Open a JPEG; raise Reject for one of so many segments, all of which Pillow would keep, that
    they would fill the memory."""
    file.seek(2)
    for _ in range(MAX_SEGMENTS):
        segment = file.read(4)
        if len(segment) < 4 or segment[0] != 0xFF or segment[1] == 0xDA:  # start of scan
            break
        is_fill = segment[1] == 0xFF
        file.seek(-3 if is_fill else struct.unpack_from(">H", segment, 2)[0] - 2, io.SEEK_CUR)
    else:
        raise Reject("too-large", f"more than {MAX_SEGMENTS} segments before its pixels")
    file.seek(0)
    return JpegImagePlugin.jpeg_factory(file, "")


def _open_bmp(file: BinaryIO, start: bytes, num_bytes: int) -> Image.Image:
    """Open a BMP; raise Reject for one of runs that would take long to expand."""
    if len(start) < 54:
        raise Malformed("the BMP ends inside its header")
    (bits,) = struct.unpack_from("<H", start, BMP_BITS)
    compression, colours = (
        struct.unpack_from("<L", start, place)[0] for place in (BMP_COMPRESSION, BMP_COLOURS)
    )
    is_core = struct.unpack_from("<L", start, 14)[0] == 12  # the oldest header has other fields
    if not is_core and compression in BMP_RUN_LENGTHS and num_bytes > MAX_RUN_BYTES:
        raise Reject("too-large", f"a run-length BMP of {num_bytes:,} bytes; save it as PNG")
    if not is_core and bits in (4, 8) and 0 < colours <= 2:
        # Pillow takes black and white for pixels of one bit. A palette of full length reaches
        # into the pixels, which is no harm, as none has a higher number.
        colours_of_all = struct.pack("<L", 2**bits)
        file = tiff.View(file, {BMP_COLOURS: colours_of_all})
    return BmpImagePlugin.BmpImageFile(file, "")


def _open_gif(file: BinaryIO, start: bytes, num_bytes: int) -> Image.Image:
    """Open a GIF; raise Reject where its picture leaves a part of the screen empty."""
    image = GifImagePlugin.GifImageFile(file, "")
    if image.tile and image.tile[0][1] != (0, 0, *image.size):
        raise Reject("transparent", "its picture does not cover its screen; save it as PNG")
    return image
