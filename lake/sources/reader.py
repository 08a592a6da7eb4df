"""One interface to the three sources: which module reads a file. Whoever has files and no lake yet
starts here."""

import contextlib
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import BinaryIO

from lake import Reject, exam, ids
from lake.scan import MAX_FILE_BYTES, Coding, Files, Header, ReaderSettings, Scan, Storage
from lake.sources import kinds
from lake.sources.dicom import dicom
from lake.sources.masks import dicom_masks
from lake.sources.names import DICOM, IMAGES, METAIMAGE
from lake.sources.pictures import images


def stem(source: str, path: str) -> str:
    """Return the image id that a file's name stands for."""
    return dicom.file_stem(path) if source == "dicom" else images.file_stem(path)


def quieten() -> None:
    """Silence pydicom, whose plug-ins each log a traceback when they fail, and Pillow, which warns
    of odd metadata; the reject's message says it once."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    for module in ("pydicom", "PIL"):
        warnings.filterwarnings("ignore", module=module)


def read_headers(
    source: str, file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """Return the Headers of the images in one file, at least one; raises Reject."""
    with _advise(source, file, path, has_choice=True):
        return _read_headers(source, file, path, size, image_id_from, frames)


def _read_headers(
    source: str, file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """Return the Headers as `read_headers` does; its Reject gives no advice on files of other
    sources."""
    if size > MAX_FILE_BYTES:
        raise Reject("too-large", f"{path}: {size:,} bytes, expected at most {MAX_FILE_BYTES:,}")
    if source == DICOM:
        return _read_dicom_headers(file, path, size, image_id_from, frames)
    return _module(source).read_headers(file, path, size)


def _read_dicom_headers(
    file: BinaryIO, path: str, size: int, image_id_from: str, frames: str
) -> list[Header]:
    """Return the Headers of a DICOM file; raise Reject for a DICOM SEG, too, which is no image."""
    try:
        headers = dicom.read_headers(file, path, size, image_id_from, frames)
    except Reject as reject:
        if reject.reason == "multi-frame":
            _check_is_image(file, path)
        raise
    if not headers[0].modality:  # SEG is no modality of an image
        _check_is_image(file, path)
    return headers


def _check_is_image(file: BinaryIO, path: str) -> None:
    """Raise Reject for a DICOM SEG."""
    if dicom_masks.is_segmentation(file, path):
        raise Reject(
            "segmentation",
            f"{path}: a DICOM SEG: masks of images, and no image; give it to --masks, or leave it "
            f"out",
        )


@contextlib.contextmanager
def _advise(source: str, file: BinaryIO, path: str, has_choice: bool) -> Iterator[None]:
    """Let the Reject of a file that this source does not read say what the file is instead."""
    try:
        yield
    except Reject:
        file.seek(0)
        advice = kinds.advice(file.read(kinds.START_BYTES), path, source, has_choice)
        if advice is None:
            raise
        reason = {DICOM: "not-dicom", IMAGES: "not-an-image", METAIMAGE: "not-a-volume"}[source]
        raise Reject(reason, f"{path}: {advice}") from None


def name_by_path(header: Header, root: str) -> Header:
    """Return the header with the folders of its path below `root` added to its id; of a volume that
    is named after its file, they are added to the series."""
    if header.geometry is None:
        return replace(header, image_id=ids.with_folders(header.path, root, header.image_id))
    if not header.image_id:  # a volume of one file, whose name is its series
        return replace(header, series=ids.with_folders(header.path, root, header.series))
    return header


def label_id(header: Header) -> str:
    """Return the id that all images of a file share: its own without a frame, or its series."""
    return header.series if header.geometry else ids.without_frame(header.image_id)


def tell_apart(headers: Sequence[Header], root: str) -> list[Header]:
    """Return the headers, with the folders below `root` in those ids that come from files' names
    and that several files have. Ids that files hold in themselves stay: who shares one is one
    image."""
    paths = defaultdict(set)
    for header in headers:
        paths[label_id(header)].add(header.path)

    def is_repeated(header: Header) -> bool:
        """Return whether an id comes from the file's name and several files have it."""
        name = label_id(header)
        is_name = name in (stem(DICOM, header.path), stem(IMAGES, header.path))
        is_name = is_name or (header.geometry is not None and not header.image_id)
        return is_name and len(paths[name]) > 1

    return [name_by_path(one, root) if is_repeated(one) else one for one in headers]


def read_file(
    file: BinaryIO, path: str, size: int, settings: ReaderSettings, root: str
) -> tuple[str, list[Header]]:
    """Return (source that reads the file, its images) of a file that lies in no lake: PNG, JPEG,
    TIFF, BMP and GIF are told from DICOM by their first bytes, and every frame is an image. Where
    the ids of the lake have folders, those of the file have the folders below `root`. Raises
    Reject, also where the file shows what no image of the lake did."""
    kind = kinds.kind_of(file.read(kinds.START_BYTES), path)
    file.seek(0)
    is_image = kind is not None and kind.sources == (IMAGES,)
    source = METAIMAGE if settings.is_ct else IMAGES if is_image else DICOM
    with _advise(source, file, path, has_choice=False):
        headers = _read_headers(source, file, path, size, settings.image_id_from, frames="each")
    difference = exam.difference(headers[0].exam, settings.exams)  # all its frames are of one exam
    if difference and not settings.any_modality:
        raise Reject(difference.reason, f"{path}: {difference.message}")
    if settings.image_id_from == "path":
        headers = [name_by_path(header, root) for header in headers]
    return source, headers


def read_coding(source: str, file: BinaryIO, header: Header, storage: Storage) -> Coding:
    """Return the coding of an image's pixels, from the file's header alone; raises Reject."""
    file.seek(0)
    return _module(source).read_coding(file, header, storage)


def read_scan(source: str, inputs: Files, header: Header, storage: Storage) -> Scan:
    """Return the pixels of one image as a record stores them; raises Reject."""
    with reject_unreadable(header.path):
        content = (inputs.local if source == METAIMAGE else inputs.read)(header.path)
    return _module(source).read_scan(content, header, storage)


def _module(source: str) -> ModuleType:
    """Return the module that reads the files of a source."""
    if source == METAIMAGE:
        from lake.sources.volumes import metaimage

        return metaimage
    return images if source == IMAGES else dicom


@contextlib.contextmanager
def reject_unreadable(path: str) -> Iterator[None]:
    """Turn the error of a file that the system does not open or read into a Reject."""
    try:
        yield
    except OSError as error:
        is_utf8 = "\\udc" not in path
        cause = error.strerror or error if is_utf8 else "the name is not UTF-8; rename the file"
        raise Reject("unreadable-file", f"{path}: {cause}") from None
