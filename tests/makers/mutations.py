"""Seeded damage to files, some of it aware of their structure: DICOM elements, PNG chunks, JPEG
segments, the fields of text headers, the rows of a CSV."""

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable

from pydicom import uid

# Numbers that headers do not expect: for words, and for texts.
WORDS = (0, 1, 2, 3, 7, 8, 9, 11, 12, 15, 16, 17, 31, 32, 64, 255, 256, 32767, 32768, 65535)
LENGTHS = (0, 1, 2, 6, 0x4F4F, 0x5050, 2**15, 2**31 - 1, 2**32 - 2, 2**32 - 1)
TEXTS = (
    *(b"", b"0", b"-1", b"1,5", b"1\\2\\3", b"1e308", b"-1e400", b"nan", b"inf", b"1_0", b"TEXT"),
    *(b"99999999", b"0.0000001", b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR", b"RGB"),
    *(b"YBR_FULL", b"YBR_RCT", b"\xff\xfe\0", b" 1 ", b"1\0", b"SIGMOID", b"LINEAR_EXACT"),
)
VRS = b"US SS UL SL FL FD DS IS CS LO OB OW SQ UN UI UT OF".split()
# Elements that change what pixels mean: Samples … Pixel Representation, padding, rescale, window,
# LUTs, palettes, spacing, overlays' bit position.
MEANINGFUL = (
    *(*range(0x00280002, 0x00280012), *range(0x00280100, 0x00280104), 0x00280120, 0x00280121),
    *(*range(0x00281050, 0x00281057), 0x00283000, 0x00283010, *range(0x00281101, 0x00281104)),
    *(*range(0x00281201, 0x00281204), 0x00280030, 0x00181164, 0x00080016, 0x00280008, 0x60000102),
)
PIXEL_DATA = 0x7FE00010
LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


# --- any file ---


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Change, cut out, double or insert bytes, or cut the end off; most of it near the start."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        size = len(content)
        if not size:
            break
        position = rng.randrange(rng.choice((min(size, 600), size)))
        match rng.randrange(6):
            case 0:
                content[position] ^= 1 << rng.randrange(8)
            case 1:
                content[position] = rng.randrange(256)
            case 2:
                order = rng.choice("<>")
                content[position : position + 4] = struct.pack(order + "L", rng.choice(LENGTHS))
            case 3:
                del content[position : position + rng.randrange(1, 60)]
            case 4:
                start = rng.randrange(size)
                content[position:position] = content[start : start + rng.randrange(1, 200)]
            case 5:
                del content[position:]
    return bytes(content)


def pieces_changed(pieces: list[bytes], rng: random.Random) -> list[bytes]:
    """Drop, double or exchange one of the pieces of a file."""
    pieces, place = list(pieces), rng.randrange(len(pieces))
    match rng.randrange(4):
        case 0:
            del pieces[place]
        case 1:
            pieces[place:place] = [pieces[place]] * rng.choice((1, 1, 3, 500))
        case 2:
            other = rng.randrange(len(pieces))
            pieces[place], pieces[other] = pieces[other], pieces[place]
        case 3:
            pieces[place] = bytes_changed(pieces[place], rng)
    return pieces


# --- DICOM ---


def dicom(data: bytes, rng: random.Random) -> bytes:
    """Give an element another value, length or representation, drop, double or add one; or change
    any bytes."""
    if rng.random() < 0.4:
        return bytes_changed(data, rng)
    order, is_implicit = _coding(data)
    elements = _elements(data, order, is_implicit)
    if not elements:
        return bytes_changed(data, rng)
    for _ in range(rng.choice((1, 1, 2))):
        is_meaningful = rng.random() < 0.8
        places = [n for n, one in enumerate(elements) if one[0] in MEANINGFUL or not is_meaningful]
        place = rng.choice(places or [0])
        tag, vr, value = elements[place]
        match rng.randrange(7):
            case 0 | 1:
                elements[place] = (tag, vr, _hostile_value(vr, value, order, rng))
            case 2:
                tag = rng.choice(MEANINGFUL)
                elements.insert(place, (tag, rng.choice((b"US", b"SS", b"DS", b"OW")), value))
                elements.sort(key=lambda one: one[0])
            case 3:
                del elements[place]
            case 4:
                elements.insert(place, elements[rng.randrange(len(elements))])
            case 5:
                elements[place] = (tag, rng.choice(VRS), value)
            case 6:
                return _length_changed(data, elements, place, (order, is_implicit), rng)
        if not elements:
            break
    return _start(data) + b"".join(_coded(one, order, is_implicit) for one in elements)


def _start(data: bytes) -> bytes:
    """Return the preamble, the prefix and the file meta information; b"" where there are none."""
    if data[128:132] != b"DICM" or data[132:136] != b"\2\0\0\0":
        return b""
    return data[: 144 + struct.unpack_from("<L", data, 140)[0]]


def _coding(data: bytes) -> tuple[str, bool]:
    """Return the byte order of a data set, and whether its representations are implicit."""
    start = _start(data)
    is_implicit = uid.ImplicitVRLittleEndian.encode() + b"\0" in start
    return ">" if uid.ExplicitVRBigEndian.encode() + b"\0" in start else "<", is_implicit


def _elements(data: bytes, order: str, is_implicit: bool) -> list[tuple[int, bytes, bytes]]:
    """Return (tag, representation, value) of each element; one of undefined length reaches to the
    end of the file. [] where the data set is not as expected, or deflated."""
    elements, position = [], len(_start(data))
    while position + 8 <= len(data):
        group, number, vr, length = struct.unpack_from(order + "HH2sH", data, position)
        start = position + 8
        if is_implicit:
            vr, (length,) = b"", struct.unpack_from(order + "L", data, position + 4)
        elif vr in LONG:
            (length,), start = struct.unpack_from(order + "L", data, position + 8), position + 12
        elif not vr.isalpha():
            return []
        end = len(data) if length == 2**32 - 1 else start + length
        elements.append((group << 16 | number, vr, data[start:end]))
        position = end
    return elements


def _coded(element: tuple[int, bytes, bytes], order: str, is_implicit: bool, length=None) -> bytes:
    """Return an element as a data set has it; its length is that of its value unless stated."""
    tag, vr, value = element
    is_open = tag == PIXEL_DATA and value[:4] == b"\xfe\xff\0\xe0"
    length = length if length is not None else 2**32 - 1 if is_open else len(value)
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if is_implicit:
        return head + struct.pack(order + "L", length) + value
    if vr in LONG:
        return head + vr + b"\0\0" + struct.pack(order + "L", length) + value
    return head + vr + struct.pack(order + "H", length % 2**16) + value


def _length_changed(
    data: bytes, elements: list, place: int, coding: tuple[str, bool], rng: random.Random
) -> bytes:
    """Return the file, one of whose elements has another length than its value."""
    length = rng.choice((*LENGTHS, len(elements[place][2]) + rng.choice((-2, -1, 1, 2))))
    parts = [_coded(element, *coding) for element in elements]
    parts[place] = _coded(elements[place], *coding, length=length % 2**32)
    return _start(data) + b"".join(parts)


def _hostile_value(vr: bytes, value: bytes, order: str, rng: random.Random) -> bytes:
    """Return a value that an element of this representation and length does not expect."""
    if vr in (b"DS", b"IS", b"CS", b"LO", b"UI", b"PN", b"SH"):
        text = rng.choice(TEXTS)
        return text + b" " * (len(text) % 2)
    if len(value) > 64:
        return bytes_changed(value, rng)
    words = len(value) // 2
    return struct.pack(f"{order}{words}H", *(rng.choice(WORDS) for _ in range(words)))


# --- PNG, JPEG, BMP, TIFF ---


def picture(data: bytes, rng: random.Random) -> bytes:
    """Change chunks, segments or header fields as the format has them; or any bytes."""
    if rng.random() < 0.4:
        return bytes_changed(data, rng)
    if data.startswith(b"\x89PNG"):
        return _png(data, rng)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, rng)
    position = rng.randrange(min(len(data), 64) - 4) & ~1
    kind, numbers = rng.choice((("<H", WORDS), ("<L", LENGTHS)))
    value = struct.pack(kind, rng.choice(numbers))
    return data[:position] + value + data[position + len(value) :]


def _png(data: bytes, rng: random.Random) -> bytes:
    """Change a chunk of a PNG; its checksum is right again, but now and then."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, position)
        chunks.append(data[position + 4 : position + 8 + length])  # type and content
        position += 12 + length
    match rng.randrange(4):
        case 0:
            place = rng.randrange(4, len(chunks[0]))
            value = bytes([rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))])
            chunks[0] = chunks[0][:place] + value + chunks[0][place + 1 :]
        case 1:
            chunks = pieces_changed(chunks, rng)
        case 2:
            texts = (b"tRNS\0\7", b"acTL\0\0\0\2\0\0\0\0", b"gAMA\0\0\xb1\x8f", b"sBIT\4")
            texts += (b"zTXta\0\0" + zlib.compress(bytes(10**6)), b"eXIfMM\0*" + bytes(40))
            chunks.insert(rng.randrange(1, len(chunks)), rng.choice(texts))
        case 3:
            place = next(n for n, chunk in enumerate(chunks) if chunk[:4] == b"IDAT")
            rows = zlib.decompress(b"".join(chunk[4:] for chunk in chunks if chunk[:4] == b"IDAT"))
            chunks = [chunk for chunk in chunks if chunk[:4] != b"IDAT"]
            rows = bytes_changed(rows, rng) + bytes(rng.choice((0, 0, 1, 10**6)))
            chunks.insert(place, b"IDAT" + zlib.compress(rows))
    parts = [data[:8]]
    for chunk in chunks:
        damage = rng.random() < 0.05
        parts += [struct.pack(">L", max(len(chunk) - 4, 0)), chunk]
        parts += [struct.pack(">L", zlib.crc32(chunk) ^ damage)]
    return b"".join(parts)


def _jpeg(data: bytes, rng: random.Random) -> bytes:
    """Change a segment of a JPEG, or the fields of its frame and scan."""
    pieces, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        if data[position + 1] == 0xDA:  # the scan goes to the next marker, of another scan or table
            more = re.compile(rb"\xff[^\0\xd0-\xd7\xff]").search(data, end)
            end = more.start() if more else len(data)
        pieces.append(data[position:end])
        position = end
    if not pieces:
        return bytes_changed(data, rng)
    if rng.random() < 0.5:
        place = rng.choice(
            [
                n
                for n, one in enumerate(pieces)
                if one[1] in (0xC0, 0xC1, 0xC2, 0xC3, 0xDA, 0xDB, 0xC4)
            ]
        )
        content = bytearray(pieces[place])
        content[rng.randrange(1, min(len(content), 24))] = rng.choice((0, 1, 2, 8, 12, 63, 255))
        pieces[place] = bytes(content)
    else:
        pieces = pieces_changed(pieces, rng)
    return data[:2] + b"".join(pieces) + data[position:]


# --- volumes ---


def volume(data: bytes, rng: random.Random) -> bytes:
    """Change a field of a text header (MetaImage, NRRD) or of NIfTI's, or any bytes."""
    if rng.random() < 0.4:
        return bytes_changed(data, rng)
    if data[:2] == b"\x1f\x8b":  # its checksum would show any change outside
        return gzip.compress(volume(gzip.decompress(data), rng), mtime=0)
    if data[344:347] == b"n+1":
        position, kind = rng.choice(
            (
                *((place, "<h") for place in range(40, 74, 2)),
                (108, "<f"),
                *((place, "<f") for place in range(76, 120, 4)),
            )
        )
        value = rng.choice(WORDS) - 32768 if kind == "<h" else rng.choice((0, 1e9, -1, 2**31))
        return data[:position] + struct.pack(kind, value) + data[position + struct.calcsize(kind) :]
    end = data.find(b"ElementDataFile")
    end = data.find(b"\n", end) if end >= 0 else data.find(b"\n\n")
    lines, rest = data[:end].split(b"\n"), data[end:]
    place = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0 | 1:
            key, sign, _ = lines[place].partition(b"=" if b"=" in lines[place] else b":")
            lines[place] = key + sign + b" " + _hostile_field(rng)
        case 2:
            del lines[place]
        case 3:
            lines.insert(place, lines[rng.randrange(len(lines))])
        case 4:
            lines[place] = re.sub(rb"\d+", lambda _: _hostile_field(rng), lines[place])
    return b"\n".join(lines) + rest


def _hostile_field(rng: random.Random) -> bytes:
    """Return a value of a header field that its reader does not expect."""
    texts = (
        *TEXTS,
        b"True",
        b"False",
        b"MET_DOUBLE",
        b"MET_USHORT",
        b"MET_UCHAR",
        b"MET_FLOAT",
        b"10 10 4294967296",
        b"1 1 1",
        b"9 7",
        b"0 0 0",
        b"gzip",
        b"raw",
        b"LOCAL",
        b"LIST",
        b"../a.raw",
        b"1 0 0 0 1 0 0 0 -1",
        b"1 0 0 1 0 0 0 0 1",
        b"int16",
        b"double",
    )
    return rng.choice(texts)


# --- label files ---

PIECES = (
    *(b'"', b'""', b",", b",,", b"\n", b"\r", b"\0", b" ", b"-1", b"-", b"\xff", b"\xed\xa0\x80"),
    *("\u2028\u0661\uff12".encode(), b"1_0", b"+3", b"1e3", b"nan", b"0", b"65536"),
    *(b"9223372036854775807", b"99999999999999999999", b"A" * 200_000, b"1 1 " * 5000),
    b"\na1,0,val\n",
    *(b";", b"\t", b"1.0", b"True", b"\xef\xbb\xbf", b"[", b"]", b"{", b"}", b'"counts"'),
)


def labels(data: bytes, rng: random.Random) -> bytes:
    """Swap columns, then change, cut out or put in bytes, or cut the end off; in a JSON file most
    often give a field another value."""
    if data.startswith(b"{") and rng.random() < 0.7:
        return _json(data, rng)
    if rng.random() < 0.2:
        lines = [line.split(b",") for line in data.split(b"\n")]
        data = b"\n".join(b",".join([*line[1:2], *line[:1], *line[2:]]) for line in lines)
    content = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        position = rng.randrange(len(content) + 1)
        match rng.randrange(6):
            case 0:
                content[position : position + 1] = bytes([rng.randrange(256)])
            case 1:
                del content[position : position + rng.randint(1, 9)]
            case 2 if rng.random() < 0.3:
                del content[position:]
            case _:
                content[position:position] = rng.choice(PIECES)
    return bytes(content)


JSON_VALUES = (
    *(None, True, 0, -1, 1, 0.5, 10**30, "", "a1", "1", [], {}, [[]], [{}], [0, 0], [1e308] * 6),
    *(
        {"counts": "x", "size": [14, 9]},
        {"counts": [126], "size": [14, 9]},
        [["a"] * 6],
        "a" * 9999,
    ),
)


def _json(data: bytes, rng: random.Random) -> bytes:
    """Give one field of a JSON file another value, or take it out."""
    content = json.loads(data)
    places = []  # (container, key) of every value

    def visit(container) -> None:
        is_list = isinstance(container, list)
        for key in range(len(container)) if is_list else container:
            places.append((container, key))
            if isinstance(container[key], (list, dict)):
                visit(container[key])

    visit(content)
    container, key = rng.choice(places)
    if rng.random() < 0.2:
        del container[key]
    else:
        container[key] = rng.choice(JSON_VALUES)
    return json.dumps(content).encode()


MUTATORS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "dicom": dicom,
    "pictures": picture,
    "volumes": volume,
    "labels": labels,
}
