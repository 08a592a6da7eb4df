"""The headers of a JPEG 2000 codestream (ITU-T T.800 annex A): what they say of the image, and into
how many parts they cut it. A decoder holds half a kilobyte for each part, with data or without.
"""

import itertools
import struct
from collections.abc import Iterator
from typing import NamedTuple

from lake import Reject

# Coding style of all components and of one, start of a tile, start of its data (T.800 table A.2).
STYLE, COMPONENT_STYLE, TILE, DATA = 0xFF52, 0xFF53, 0xFF90, 0xFF93
MAX_SEGMENTS = 200_000  # of the main header and those of all tiles
# OpenJPEG holds 10 KB for a tile and 550 bytes for a precinct; encoders make tiles of 128 pixels a
# side or more, and precincts of 64 or more but for the smallest copies of the image.
MIN_PARTS, TILE_PIXELS, PRECINCT_PIXELS = 1000, 1024, 64
MAX_PACKETS = 20_000_000  # of a tile, each resolution counted as the largest: two bytes each


class MainHeader(NamedTuple):
    """What the headers of a codestream say."""

    height: int
    width: int
    samples: int  # per pixel
    bits: int  # of a sample
    is_signed: bool
    is_reversible: bool  # the wavelet keeps whole numbers
    layers: int  # of quality
    tile: tuple[int, int]  # height, width
    # Of each coding style (a whole header has one): log2 of width and height of the precincts, from
    # the smallest copy of the image to the largest.
    precincts: list[list[tuple[int, int]]]


def read_header(frame: bytes, start: int) -> MainHeader | None:
    """Return the MainHeader of a codestream at `start`, None where the size is cut off; raises
    Reject where the components differ or the segments are too many."""
    if len(frame) < start + 45:
        return None
    right, bottom, left, top, width, height = struct.unpack_from(">6L", frame, start + 8)
    (samples,) = struct.unpack_from(">H", frame, start + 40)
    depths = set(frame[start + 42 : start + 42 + 3 * samples : 3])
    if len(depths) != 1:
        raise Reject("undecodable", "the components of the JPEG 2000 are not of one depth")
    (depth,) = depths
    styles, is_reversible, layers = [], None, 1
    for marker, content in _segments(frame, start + 2):
        if marker == STYLE and len(content) >= 10:
            styles.append(_precincts(content[5:], bool(content[0] & 1)))
            is_reversible = content[9] == 1 if is_reversible is None else is_reversible
            layers = max(layers, *struct.unpack_from(">H", content, 2))
        elif marker == COMPONENT_STYLE:  # its component's number, then flags
            number_bytes = 1 if samples < 257 else 2
            style = content[number_bytes + 1 :]
            if len(style) >= 5:
                styles.append(_precincts(style, bool(content[number_bytes] & 1)))
    sign, tile = depth >= 0x80, (height, width)
    size = (bottom - top, right - left, samples)
    return MainHeader(*size, (depth & 0x7F) + 1, sign, bool(is_reversible), layers, tile, styles)


def check_parts(header: MainHeader) -> None:
    """Raise Reject where tiles or precincts are so many that they cost more than the pixels do."""
    if 0 in header.tile:
        raise Reject("undecodable", "the tiles of the JPEG 2000 have no size")
    num_pixels = header.height * header.width
    tile = [min(sides) for sides in zip(header.tile, (header.height, header.width), strict=True)]
    rows, columns = header.height // tile[0] + 2, header.width // tile[1] + 2  # may be shifted
    num_tiles = rows * columns
    tile_precincts = max(_most_precincts(tile, style) for style in header.precincts)
    tile_precincts *= header.samples
    num_precincts = tile_precincts * num_tiles
    num_packets = tile_precincts * header.layers * max(map(len, header.precincts))
    if num_packets > MAX_PACKETS:
        raise Reject("too-large", f"the JPEG 2000 has up to {num_packets:,} packets in a tile")
    for name, count, pixels_each in (
        ("tiles", num_tiles, TILE_PIXELS),
        ("precincts", num_precincts, PRECINCT_PIXELS / header.samples),
    ):
        if count > MIN_PARTS + num_pixels / pixels_each:
            raise Reject(
                "too-large", f"the JPEG 2000 has up to {count:,} {name}; save it with fewer"
            )


def _segments(frame: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, content) of the segments of the main header and of the headers of all tiles;
    raise Reject where they are too many."""
    tile_end = 0  # 0: this tile is the last
    for _ in range(MAX_SEGMENTS):
        if position + 4 > len(frame):
            return
        marker, length = struct.unpack_from(">2H", frame, position)
        if marker == DATA:
            if not tile_end:
                return
            position = tile_end
            continue
        end = position + 2 + length
        if marker >> 8 != 0xFF or length < 2 or end > len(frame):
            return
        if marker == TILE:
            if end < position + 12:
                return
            (tile_bytes,) = struct.unpack_from(">L", frame, position + 6)
            tile_end = max(position + tile_bytes, end) if tile_bytes else 0
        yield marker, frame[position + 4 : end]
        position = end
    raise Reject("too-large", f"the JPEG 2000 has more than {MAX_SEGMENTS:,} segments")


def _precincts(style: bytes, is_given: bool) -> list[tuple[int, int]]:
    """Return log2 of the precincts' (width, height) at each resolution of a coding style, which
    starts with the number of resolutions less one."""
    sizes = style[5 : 6 + style[0]] if is_given else b""
    sizes = itertools.chain(sizes, itertools.repeat(0xFF))  # as large as can be
    return [(size & 15, size >> 4) for size in itertools.islice(sizes, style[0] + 1)]


def _most_precincts(tile: list[int], precincts: list[tuple[int, int]]) -> int:
    """Return the most precincts that a tile [height, width] can have in one component."""
    height, width = tile
    count = 0
    for level, (log_width, log_height) in enumerate(reversed(precincts)):
        rows, columns = (height >> level >> log_height) + 2, (width >> level >> log_width) + 2
        count += rows * columns if log_width < 15 or log_height < 15 else 1
    return count
