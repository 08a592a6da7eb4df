"""The three sources behind one face: which module reads a file. For whoever has files and no lake
yet."""

import logging
import warnings
from typing import BinaryIO, NamedTuple

from lake import Reject
from lake.scan import MAX_FILE_BYTES, Coding, Files, Header, Scan, Storage
from lake.sources import dicom, images

NAMES = ("dicom", "images", "metaimage")
# A pattern such as ct/** meets them too; they belong to the .mhd that names them.
METAIMAGE_DATA = (".raw", ".zraw")


def is_data_file(source: str, path: str) -> bool:
    return source == "metaimage" and path.lower().endswith(METAIMAGE_DATA)


def stem(source: str, path: str) -> str:
    """The id that a file's name gives its image."""
    return dicom.file_stem(path) if source == "dicom" else images.file_stem(path)


def quieten() -> None:
    """Decoders log a traceback for every plug-in that fails; a reject's message says it once."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom")


def read_headers(
    source: str, file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """The images of one file, at least one; raises Reject."""
    if source == "metaimage":
        from lake.sources import metaimage  # SimpleITK takes 0.3 s to import

        return metaimage.read_headers(file, path, size)
    if size > MAX_FILE_BYTES:
        raise Reject("too-large", f"{path}: {size:,} bytes, expected at most {MAX_FILE_BYTES:,}")
    if source == "images":
        return images.read_headers(file, path, size)
    return dicom.read_headers(file, path, size, image_id_from, frames)


def read_coding(source: str, file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """How the pixels of an image are coded whose header was read, from the header alone; raises
    Reject."""
    file.seek(0)
    if source == "metaimage":
        from lake.sources import metaimage

        return metaimage.read_coding(file, header, storage)
    return (images if source == "images" else dicom).read_coding(file, header, storage)


def read_scan(source: str, inputs: Files, header: Header, storage: Storage) -> Scan:
    """The pixels of one image as a record stores them; raises Reject."""
    try:
        if source == "metaimage":
            from lake.sources import metaimage

            return metaimage.read_scan(inputs.local(header.path), header, storage)
        data = inputs.read(header.path)
    except OSError as error:
        raise unreadable(header.path, error) from None
    module = images if source == "images" else dicom
    return module.read_scan(data, header, storage)


def unreadable(path: str, error: OSError) -> Reject:
    if "\\udc" in path:
        return Reject("unreadable-file", f"{path}: the name is not UTF-8; rename the file")
    return Reject("unreadable-file", f"{path}: {error.strerror or error}")


METAIMAGE, IMAGES, DICOM = "metaimage", "images", "dicom"


class ReaderSettings(NamedTuple):
    """How a lake was made of its files."""

    is_ct: bool  # slices of volumes
    image_id_from: str  # name | uid
    storage: Storage
