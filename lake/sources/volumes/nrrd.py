"""NRRD headers (.nrrd, or .nhdr with its data file): text -> where the voxels are, and the text
from which SimpleITK reads the geometry."""

import re

import numpy as np

from lake import Reject
from lake.sources.damage import Malformed
from lake.sources.volumes.volume import Layout, check_data_file, check_layout

SUFFIXES = (".nrrd", ".nhdr")
ITK_READER = "NrrdImageIO"
START = re.compile(rb"NRRD000[1-6]\r?\n")
FIELD = re.compile(r"([^:]+): *(.*)")
NAMES = {  # the format's own spellings of its types
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in NAMES.items() for name in names.split(", ")}
SPATIAL_KINDS = {"domain", "space", "none", "???"}


def read(file_start: bytes) -> tuple[Layout, bytes]:
    """Return (layout, text of the header) of the volume at the start of a file; raises Reject."""
    fields, header_bytes = _fields(file_start)
    if fields.get("dimension") != "3":
        raise Reject("not-a-volume", "expected dimension: 3; leave it out")
    if not set(fields.get("kinds", "domain").lower().split()) <= SPATIAL_KINDS:
        raise Reject("not-a-volume", "axes that are not of space, such as colours; leave it out")
    if not re.fullmatch(r"[1-9]\d{0,9}(\s+[1-9]\d{0,9}){2}", fields.get("sizes", "")):
        raise Malformed("NRRD's sizes are not three whole numbers above 0")
    type_code = TYPES.get(fields.get("type", "").lower())
    encoding = fields.get("encoding", "").lower()
    if type_code is None or encoding not in ("raw", "gzip", "gz"):
        raise Reject("unsupported-volume", "expected numbers, encoding raw or gzip; save it so")
    endian = fields.get("endian", "" if type_code[1] != "1" else "little").lower()
    if endian not in ("little", "big"):
        raise Malformed("NRRD's endian is neither little nor big")
    if {"spacedirections", "spacings"}.isdisjoint(fields) or "nan" in fields.get("spacings", ""):
        raise Reject("bad-geometry", "neither space directions nor spacings; leave it out")
    width, height, num_slices = map(int, fields["sizes"].split())
    dtype = np.dtype((">" if endian == "big" else "<") + type_code)
    data_file = None
    if "datafile" in fields:
        data_file, header_bytes = check_data_file(fields["datafile"], "unsupported-volume"), 0
    layout = Layout((num_slices, height, width), dtype, header_bytes, data_file=data_file)
    return check_layout(_skip_bytes(layout, fields, encoding)), _attached_header(fields)


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Return ({field: value}, length in bytes) of the NRRD header at the start of `data`; fields
    in lower case, without spaces. Raises Malformed where there is none or a field comes twice."""
    magic = START.match(data)
    if not magic:
        raise Malformed("no NRRD header")
    fields, position = {}, magic.end()
    while position < len(data):
        end = data.find(b"\n", position) + 1 or len(data)
        line, position = data[position:end].decode("utf-8", "replace").strip(), end
        if not line:
            return fields, position
        match = FIELD.fullmatch(line)
        if line.startswith("#") or ":=" in line or not match:
            continue
        name = match[1].lower().replace(" ", "")
        if name in fields:
            raise Malformed("an NRRD header with one field twice")
        fields[name] = match[2].strip()
    if "datafile" not in fields:  # with one, the header may be the whole file
        raise Malformed("an NRRD header without an end")
    return fields, position


def _skip_bytes(layout: Layout, fields: dict[str, str], encoding: str) -> Layout:
    """Return the layout moved by the field `byte skip`, which counts expanded bytes. Raises Reject
    for a `line skip`, and for a skip that is not read."""
    text = fields.get("byteskip", "0")
    if not re.fullmatch(r"-1|\d{1,12}", text) or fields.get("lineskip", "0") != "0":
        raise Reject("unsupported-volume", "lines to skip, or bytes that are no number")
    skip, is_compressed = int(text), encoding != "raw"
    if is_compressed and skip < 0:
        raise Reject("unsupported-volume", "byte skip -1 of compressed data")
    if is_compressed:
        return layout._replace(is_compressed=True, skip=skip)
    return layout._replace(offset=None if skip < 0 else layout.offset + skip)


def _attached_header(fields: dict[str, str]) -> bytes:
    """Return an NRRD header, as bytes, for data that follow in the same file: only the fields that
    SimpleITK needs for the geometry."""
    names = ("type", "dimension", "space", "spacedimension", "sizes", "spacedirections", "kinds")
    names += ("endian", "encoding", "spaceorigin", "spacings", "spaceunits", "centers")
    names_with_spaces = {"spacedimension": "space dimension", "spacedirections": "space directions"}
    names_with_spaces |= {"spaceorigin": "space origin", "spaceunits": "space units"}
    named = {names_with_spaces.get(name, name): fields[name] for name in names if name in fields}
    lines = [f"{name}: {value}" for name, value in named.items()]
    return "\n".join(["NRRD0004", *lines, "", ""]).encode()
