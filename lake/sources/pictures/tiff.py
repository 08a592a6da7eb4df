"""TIFF files without Pillow: their first directory (TIFF 6.0), and what Pillow must be spared.

Pillow reads every tag whatever its size, fills missing strips with black, does not invert deep
levels whose 0 is white, and takes signed levels for others. So the directory is examined first, and
Pillow gets the file with a photometric interpretation, sign and orientation that change nothing.
"""

import io
import math
import re
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from lake import Reject
from lake.sources.damage import Malformed

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # little- and big-endian, BigTIFF
MAX_ENTRIES, MAX_TAG_BYTES = 4096, 2**24
MAX_TILE_PIXELS, MAX_SEGMENTS = 2**24, 2**17  # Pillow takes 20 us for each strip or tile
# Bytes of a value by its type; the whole numbers with their code in `struct`.
SIZES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True))
SIZES |= {16: 8, 17: 8, 18: 8}
WHOLE = {1: "B", 3: "H", 4: "L", 16: "Q"}
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION = 256, 257, 258, 259, 262, 270
STRIPS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANES = 273, 274, 277, 278, 279, 284
PREDICTOR, COLOURS, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, FORMAT = (
    317,
    320,
    322,
    323,
    324,
    325,
    339,
)
READ = frozenset(
    (
        *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION, SAMPLES, PLANES),
        *(
            ROWS_PER_STRIP,
            STRIP_BYTES,
            PREDICTOR,
            COLOURS,
            TILE_WIDTH,
            TILE_HEIGHT,
            TILES,
            TILE_BYTES,
            FORMAT,
        ),
    )
)
WHITE_IS_0, BLACK_IS_0, PALETTE, YCBCR = 0, 1, 3, 6  # photometric interpretations
UNCOMPRESSED, JPEG = 1, 7
PREDICTED = (5, 8, 32946, 34925, 50000)  # LZW, deflate twice, LZMA, Zstandard; libtiff's list
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # sample formats; others are complex
IMAGEJ_STACK = re.compile(rb"\AImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)


class Directory(NamedTuple):
    """What a TIFF says of its one image."""

    bits: int  # of a sample; 32 where it may be floating point
    orientation: int
    is_inverted: bool  # 0 is white
    is_signed: bool
    palette: bytes | None  # where Pillow would make it black
    patches: dict[int, bytes]  # {position in the file: bytes that Pillow is to see there}


class View:
    """A file in which some bytes may be others, and no place lies behind its end: TensorFlow's
    files, which are on gs://, raise an error of their own there."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes] | None = None):
        self.file, self.patches = file, patches or {}
        file.seek(0, io.SEEK_END)
        self.num_bytes = file.tell()
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        start = self.file.tell()
        content = self.file.read(size)
        for position, patch in self.patches.items():
            if start - len(patch) < position < start + len(content):
                content = bytearray(content)
                for place, byte in enumerate(patch, position - start):
                    if 0 <= place < len(content):
                        content[place] = byte
        return bytes(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, at most to the end, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.num_bytes}[whence]
        position = min(max(start + offset, 0), self.num_bytes)
        self.file.seek(position)
        return position

    def tell(self) -> int:
        return self.file.tell()


def open_image(file: BinaryIO, directory: Directory) -> Image.Image:
    """Return Pillow's image of a TIFF with the stored grey levels, or palette colours; it is not
    rotated. Raises Reject where Pillow cannot read it."""
    file.seek(0)
    try:
        image = TiffImagePlugin.TiffImageFile(View(file, directory.patches), "")
    except (KeyError, SyntaxError):
        # The directory was checked, so Pillow lacks the compression or the pixel format.
        message = f"Pillow cannot read its {directory.bits}-bit samples, its colours or its"
        raise Reject("unsupported-tiff", f"{message} compression; save it as PNG") from None
    if directory.palette:
        image.palette = ImagePalette.raw("RGB;L", directory.palette)
    return image


def values(levels: np.ndarray, directory: Directory) -> np.ndarray:
    """Return the grey values of Pillow's levels [H, W]: inverted where 0 is white, and as signed
    numbers where the directory says so."""
    if directory.is_inverted:
        highest = 255 if levels.dtype == np.uint8 else 2**directory.bits - 1
        return (highest - levels).astype(levels.dtype)
    return levels.view(f"i{levels.itemsize}") if directory.is_signed else levels


def read_directory(file: BinaryIO, num_bytes: int) -> Directory:
    """Return the first directory of a TIFF of `num_bytes`; raise Reject for an image of a kind that
    is not read, and Malformed for one that is not whole."""
    file.seek(0)
    start = file.read(16)
    order, is_big = ">" if start[:1] == b"M" else "<", b"+" in start[:4]
    entries, is_last = _entries(file, start, order, is_big)
    _check_sizes(entries)
    numbers, places = {}, {}
    for tag, (value_type, count, place) in entries.items():
        if tag in READ and value_type in WHOLE:
            content = _content(file, count * SIZES[value_type], place)
            numbers[tag] = struct.unpack(f"{order}{count}{WHOLE[value_type]}", content)
            places[tag] = place
    if not is_last or _is_stack(file, entries):
        raise Reject("multi-frame", "several frames, pages or pictures, expected one")
    bits, photometric, is_signed = _check_samples(numbers)
    _check_segments(numbers, bits, num_bytes)
    is_inverted = photometric == WHITE_IS_0 and _first(numbers, SAMPLES, 1) == 1 and bits <= 16
    if is_inverted and is_signed:
        raise Reject("unknown-colour", "signed levels whose 0 is white; save it as PNG")
    neutral = {ORIENTATION: 1} | ({PHOTOMETRIC: BLACK_IS_0} if is_inverted else {})
    neutral |= {FORMAT: UNSIGNED} if is_signed else {}
    patches = {
        places[tag]: struct.pack(f"{order}{WHOLE[entries[tag][0]]}", number)
        for tag, number in neutral.items()
        if tag in places
    }
    colours = numbers.get(COLOURS, ())
    # The entries have 16 bits, but some writers put 8-bit ones there.
    is_narrow = photometric == PALETTE and max(colours, default=256) < 256
    orientation = _first(numbers, ORIENTATION, 1)
    return Directory(
        bits,
        orientation if 1 <= orientation <= 8 else 1,
        is_inverted,
        is_signed,
        bytes(colours) if is_narrow else None,
        patches,
    )


def _entries(file: BinaryIO, start: bytes, order: str, is_big: bool) -> tuple[dict, bool]:
    """Return ({tag: (type, count, position of the value)}, whether no directory follows); raise
    Malformed where the file ends inside them or has a tag twice."""
    head, entry, pointer, room = ("Q", "HHQ", "Q", 8) if is_big else ("H", "HHL", "L", 4)
    if len(start) < 16 or (is_big and start[4:8] not in (b"\x08\0\0\0", b"\0\x08\0\0")):
        raise Malformed("the TIFF ends inside its header")
    (position,) = struct.unpack_from(order + pointer, start, 8 if is_big else 4)
    (count,) = struct.unpack(order + head, _content(file, struct.calcsize("=" + head), position))
    if not 0 < count <= MAX_ENTRIES:
        raise Malformed(f"a TIFF directory of {count} entries")
    position += struct.calcsize("=" + head)
    step = struct.calcsize("=" + entry) + room
    content = _content(file, count * step + room, position)
    entries = {}
    for k in range(count):
        tag, value_type, number = struct.unpack_from(order + entry, content, k * step)
        place, size = position + (k + 1) * step - room, number * SIZES.get(value_type, 0)
        if size > room:
            (place,) = struct.unpack_from(order + pointer, content, (k + 1) * step - room)
        if tag in entries:
            raise Malformed(f"the TIFF has its tag {tag} twice")
        entries[tag] = value_type, number, place
    return entries, not any(content[-room:])


def _check_sizes(entries: dict) -> None:
    """Raise Reject for values that would fill the memory."""
    size = sum(count * SIZES.get(value_type, 0) for value_type, count, _ in entries.values())
    if size > MAX_TAG_BYTES:
        raise Reject("too-large", f"{size:,} bytes of TIFF tags, expected at most {MAX_TAG_BYTES}")


def _content(file: BinaryIO, size: int, position: int) -> bytes:
    """Return `size` bytes at a position; raise Malformed where the file ends before."""
    file.seek(position)
    content = file.read(size)
    if len(content) < size:
        raise Malformed("the TIFF ends before, or inside, its tags; copy it again")
    return content


def _is_stack(file: BinaryIO, entries: dict) -> bool:
    """Return whether ImageJ wrote more images behind the only one that has a directory."""
    if DESCRIPTION not in entries:
        return False
    _, count, place = entries[DESCRIPTION]
    stack = IMAGEJ_STACK.search(_content(file, count, place))
    return stack is not None and int(stack[1]) > 1


def _first(numbers: dict, tag: int, default: int) -> int:
    return (numbers.get(tag) or (default,))[0]


def _check_samples(numbers: dict) -> tuple[int, int, bool]:
    """Return (bits of a sample, photometric interpretation, whether it is signed); raise Reject
    for samples that are not read."""
    samples, bits = _first(numbers, SAMPLES, 1), max(numbers.get(BITS) or (1,))
    formats = set(numbers.get(FORMAT) or (UNSIGNED,))
    is_half = FLOAT in formats and bits != 32
    if not formats <= {UNSIGNED, SIGNED, FLOAT, UNDEFINED} or bits > 32 or is_half:
        raise Reject("too-many-bits", f"samples of {bits} bits and format {sorted(formats)}")
    if samples > 1 and bits > 8:
        raise Reject(
            "deep-colour", f"{bits} bits per channel in colour or with alpha; make it grey"
        )
    if _first(numbers, PREDICTOR, 1) != 1 and _first(numbers, COMPRESSION, 1) not in PREDICTED:
        message = "a predictor with a compression that has none; save it without"
        raise Reject("unsupported-tiff", message)
    if bits == 12 and _first(numbers, WIDTH, 0) % 2:  # Pillow 12 leaves the last column black
        raise Reject(
            "unsupported-tiff", "samples of 12 bits and an odd width; save them as 16 bits"
        )
    if PHOTOMETRIC not in numbers:
        raise Malformed("the TIFF has no PhotometricInterpretation: is 0 black or white?")
    photometric, is_signed = numbers[PHOTOMETRIC][0], formats == {SIGNED}
    is_plain = samples == 1 and bits in (8, 16) and photometric in (WHITE_IS_0, BLACK_IS_0)
    if bits == 32 or FLOAT in formats:
        return 32, photometric, False  # read as they are, where they are read
    if SIGNED in formats and not (is_signed and is_plain):
        raise Reject(
            "unknown-colour", "signed colours, or signed levels of other than 8 or 16 bits"
        )
    if photometric == YCBCR and samples > 1 and _first(numbers, COMPRESSION, 1) != JPEG:
        raise Reject("unknown-colour", "YCbCr without JPEG; save it as RGB or grey")
    return bits, photometric, is_signed


def _check_segments(numbers: dict, bits: int, num_bytes: int) -> None:
    """Raise Malformed unless every strip or tile is in the file."""
    height, width = _first(numbers, HEIGHT, 0), _first(numbers, WIDTH, 0)
    if not (height and width):
        raise Malformed(f"the TIFF says {height} x {width} pixels")
    samples = _first(numbers, SAMPLES, 1)
    planes = samples if _first(numbers, PLANES, 1) == 2 else 1
    if TILES in numbers:
        tile = _first(numbers, TILE_HEIGHT, 0), _first(numbers, TILE_WIDTH, 0)
        if not 0 < tile[0] * tile[1] <= MAX_TILE_PIXELS:
            raise Malformed(f"tiles of {tile[0]} x {tile[1]} pixels")
        count = math.ceil(height / tile[0]) * math.ceil(width / tile[1]) * planes
        offsets, sizes = numbers[TILES], numbers.get(TILE_BYTES)
    else:
        rows = min(_first(numbers, ROWS_PER_STRIP, height) or height, height)
        count = math.ceil(height / rows) * planes
        offsets, sizes = numbers.get(STRIPS, ()), numbers.get(STRIP_BYTES)
    if count > MAX_SEGMENTS:
        raise Reject("too-large", f"{count:,} strips or tiles, expected at most {MAX_SEGMENTS:,}")
    is_plain = _first(numbers, COMPRESSION, 1) == UNCOMPRESSED
    if sizes is None and is_plain and count == 1:  # old files may leave the sizes out
        sizes = (math.ceil(width * samples * bits / 8) * height,)
    sizes = sizes or ()
    num_whole = sum(
        offset > 0 and size > 0 and offset + size <= num_bytes
        for offset, size in zip(offsets[:count], sizes[:count], strict=False)
    )
    if num_whole < count:
        raise Malformed(f"only {num_whole} of the TIFF's {count} strips or tiles are in the file")
    expected = math.ceil(width * samples // planes * bits / 8) * height * planes
    if is_plain and sum(sizes[:count]) < expected:
        raise Malformed(f"the TIFF has {sum(sizes[:count])} bytes of pixels, expected {expected}")
