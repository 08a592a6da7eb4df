"""MetaImage headers (.mhd with its data file, .mha): text -> where the voxels are, and the text
from which SimpleITK reads the geometry."""

import re

import numpy as np

from lake import Reject
from lake.sources.volumes.volume import Layout, check_data_file, check_layout

SUFFIXES = (".mhd", ".mha")
ITK_READER = "MetaImageIO"
KEY = re.compile(rb"\s*(\w+)\s*[=:]")
TYPES = {  # a MET_LONG has four bytes (MetaIO's metaTypes.h)
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    **dict.fromkeys(("MET_INT", "MET_LONG"), "i4"),
    **dict.fromkeys(("MET_UINT", "MET_ULONG"), "u4"),
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read(file_start: bytes) -> tuple[Layout, bytes]:
    """Return (layout, text of the header) of the volume at the start of a file; raises Reject.

    MetaIO trusts the text that it parses, so the text is checked before MetaIO gets it.
    """
    fields, header_bytes = _fields(file_start)
    if fields.get("NDims") != "3":
        raise Reject("not-a-volume", "expected NDims = 3; leave it out")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise Reject("not-grey", "more than one channel, expected a CT; leave it out")
    kind = fields.get("ElementType", "")
    if kind not in TYPES or not _is_true(fields.get("BinaryData", "")):
        raise Reject("unsupported-mhd", f"expected binary data, one of {sorted(TYPES)}")
    if not re.fullmatch(r"[1-9]\d{0,9}(\s+[1-9]\d{0,9}){2}", fields.get("DimSize", "")):
        raise Reject("unreadable-header", "DimSize is not three whole numbers above 0")
    # Neither MetaIO's readers nor SimpleITK apply it, and whoever wrote it meant it.
    scaling = [fields.get(f"ElementToIntensityFunction{name}", "") for name in ("Slope", "Offset")]
    if scaling not in (["", ""], ["1", "0"], ["1", ""], ["", "0"]):
        raise Reject("unsupported-mhd", "an ElementToIntensityFunction; write values in HU")
    width, height, num_slices = map(int, fields["DimSize"].split())
    # MetaIO takes the second name where a header has both.
    order = fields.get("ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", ""))
    dtype = np.dtype((">" if _is_true(order) else "<") + TYPES[kind])
    is_compressed = _is_true(fields.get("CompressedData", ""))
    name = fields["ElementDataFile"]
    is_local = name.upper() == "LOCAL"
    offset = _offset(fields, header_bytes if is_local else 0, is_compressed)
    data_file = None if is_local else check_data_file(name, "unsupported-mhd")
    shape = num_slices, height, width
    layout = Layout(shape, dtype, offset, is_compressed, data_file=data_file)
    return check_layout(layout), file_start[:header_bytes]


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Return ({key: value}, length in bytes) of the MetaImage header at the start of `data`; its
    last key is ElementDataFile. Raises Reject where that is missing or a key comes twice."""
    fields, position = {}, 0
    while position < len(data):
        end = data.find(b"\n", position) + 1 or len(data)
        line, position = data[position:end], end
        match = KEY.match(line)
        if match:
            key = match[1].decode()
            if key in fields:
                raise Reject("unreadable-header", "a MetaImage header with one key twice")
            fields[key] = line[match.end() :].strip().decode("utf-8", "surrogateescape")
            if key == "ElementDataFile":
                return fields, position
    raise Reject("unreadable-header", "no ElementDataFile: not a whole MetaImage header")


def _offset(fields: dict[str, str], default: int, is_compressed: bool) -> int | None:
    """Return the bytes before the data as MetaIO reads HeaderSize: where it is 0, `default`; where
    it is -1, None, as the data are the last bytes of the file. Raises Reject for any other text."""
    text = fields.get("HeaderSize", "0")
    if not re.fullmatch(r"-1|\d{1,12}", text):
        raise Reject("unreadable-header", "HeaderSize is no whole number")
    if text == "-1":
        if is_compressed:
            raise Reject("unsupported-mhd", "HeaderSize = -1 and compressed: where do they begin?")
        return None
    return int(text) or default


def _is_true(text: str) -> bool:
    return text.upper()[:1] in ("T", "1")  # as MetaIO reads it
