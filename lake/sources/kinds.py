"""What a file is by its first bytes, and what to do with one that a source does not read: the
advice in the message of its Reject."""

import re
import struct
from typing import NamedTuple

from lake.sources.names import DICOM, IMAGES, METAIMAGE
from lake.sources.pictures import formats

START_BYTES = 512  # of a file, from which its kind is told
METAIMAGE_START = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")
# The first element of a DICOM data set without prefix: of group 2, or the first of group 8.
DICOM_STARTS = [bytes((group, 0, element, 0)) for group in (2, 8) for element in (0, 1, 5, 8, 22)]
ANALYZE_BYTES, NIFTI_MAGIC = 348, 344  # the length of a header; the place of what only NIfTI has
SAVE = "save it as PNG or TIFF"
UNPACK = "unpack it"
LEAVE = "leave it out"
# First bytes of what no source reads: (place, bytes, name, what to do).
OTHERS = (
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", SAVE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", SAVE),
    (8, b"WEBP", "a WebP image", SAVE),
    (4, b"ftypavif", "an AVIF image", SAVE),
    (4, b"ftyp", "a film, or an image of a telephone (HEIC)", SAVE),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", SAVE),
    (0, b"8BPS", "a Photoshop file", SAVE),
    (0, b"%PDF", "a PDF", LEAVE),
    (0, b"PK\3\4", "a ZIP archive, or a document of an office program", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x1f\x8b", "a gzip file", UNPACK),
    (0, b"BZh", "a bzip2 file", UNPACK),
    (0, b"\xfd7zXZ", "an xz file", UNPACK),
    (0, b"\x89HDF", "an HDF5 file", "write its images as PNG or NRRD"),
    (0, b"\x93NUMPY", "a NumPy array", "write it as PNG or NRRD"),
    (0, b"MATLAB", "a MATLAB file", "write its images as PNG or NRRD"),
    (0, b"<!DOCTYPE", "an HTML page", "was the download refused?"),
    (0, b"<html", "an HTML page", "was the download refused?"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself: git lfs pull"),
)


class Kind(NamedTuple):
    """What a file is."""

    name: str  # with its article
    sources: tuple[str, ...] = ()  # that read it
    advice: str = LEAVE  # where none does
    suffixes: tuple[str, ...] = ()  # by which --source metaimage tells it


def kind_of(start: bytes, path: str) -> Kind | None:
    """Return the kind of a file from its first START_BYTES, None where it is not known."""
    if not start:
        return Kind("an empty file", advice="copy it again, or leave it out")
    if start[128:132] == b"DICM":
        return Kind("a DICOM file", (DICOM, METAIMAGE))
    if start[:4] in DICOM_STARTS:
        return Kind("what looks like a DICOM file without its prefix", (DICOM, METAIMAGE))
    if METAIMAGE_START.match(start):
        return Kind("a MetaImage header", (METAIMAGE,), suffixes=(".mhd", ".mha"))
    if start.startswith(b"NRRD000"):
        return Kind("an NRRD volume", (METAIMAGE,), suffixes=(".nrrd", ".nhdr"))
    if path.lower().endswith(".nii.gz") and start.startswith(b"\x1f\x8b"):
        return Kind("a NIfTI volume", (METAIMAGE,), suffixes=(".nii.gz",))
    lengths = [struct.unpack(f"{order}l", start[:4].ljust(4))[0] for order in "<>"]
    if ANALYZE_BYTES in lengths:
        if start[NIFTI_MAGIC : NIFTI_MAGIC + 3] == b"n+1":
            return Kind("a NIfTI volume", (METAIMAGE,), suffixes=(".nii",))
        return Kind("a NIfTI or Analyze header without its voxels", advice="save both as one .nii")
    for place, magic, name, advice in OTHERS:
        if start[place : place + len(magic)].lower() == magic.lower():
            return Kind(name, advice=advice)
    name = formats.name_of(start)
    return Kind(f"a {name} image", (IMAGES,)) if name else None


def advice(start: bytes, path: str, source: str, has_choice: bool) -> str | None:
    """Return a message on what the file is and what to do, where `source` does not read this kind;
    else None.

    `has_choice`: there is an option --source. Networks are of one kind, and have none.
    """
    kind = kind_of(start, path)
    if kind is None:
        return None
    if source in kind.sources:
        is_told = source != METAIMAGE or path.lower().endswith(kind.suffixes or "")
        return None if is_told else f"{kind.name}; end its name in {' or '.join(kind.suffixes)}"
    if not kind.sources:
        return f"{kind.name}, which is not read; {kind.advice}"
    if has_choice:
        ct = " (CT volumes in HU)" if kind.sources == (METAIMAGE,) else ""
        return f"{kind.name}; --source {kind.sources[0]} reads it{ct}, --source {source} does not"
    networks = "CT volumes" if source == METAIMAGE else "single images"
    return f"{kind.name}; these networks learnt from {networks}; leave it out"
