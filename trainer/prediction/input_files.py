"""Files that lie in no lake -> records as the converter would write them: by its own readers, in
parallel, stored as the lake was that the networks learnt from. What cannot be read is a row of
rejects.csv.
"""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from lake import InputError, Reject, storage
from lake.predictions.folder import reject_row
from lake.records import example
from lake.records.example import UNKNOWN
from lake.scan import Header, Scan
from lake.sources import images, reader, series
from lake.sources.reader import DICOM, IMAGES, METAIMAGE, ReaderSettings
from trainer.inference.images import ImagesToPredict, blank_record

FRAMES = "each"  # frame of a file is an image


def from_files(paths: Sequence[str], stored: ReaderSettings) -> ImagesToPredict:
    """Files, and folders with all that is below them; raises InputError where there is no image."""
    found, rejects, headers = list_files(paths, stored.is_ct), [], {}
    kinds = {}  # which source reads each path
    for header in _headers(found, stored, kinds, rejects):
        if header.image_id in headers:
            at = headers[header.image_id].path
            said = f"{header.path}: id {header.image_id} is already at {at}"
            rejects.append(reject_row(header.path, header.image_id, Reject("duplicate-id", said)))
        else:
            headers[header.image_id] = header
    if not headers:
        first = f"; the first: {rejects[0]['message']}" if rejects else ""
        raise InputError(f"--input: no image in {len(found)} files{first}")
    listed, blank = list(headers.values()), blank_record(stored.storage.bits)

    def read(number) -> np.ndarray:
        header = listed[number]
        try:
            scan = reader.read_scan(kinds[header.path], InputFiles(), header, stored.storage)
        except Reject as reject:
            rejects.append(reject_row(header.path, header.image_id, reject))
            return np.array(blank, object)
        return np.array(_record(header, scan), object)  # numpy's own bytes lose zeros at the end

    def records() -> tf.data.Dataset:
        return tf.data.Dataset.range(len(listed)).map(
            lambda number: tf.ensure_shape(tf.numpy_function(read, [number], tf.string), []),
            tf.data.AUTOTUNE,
            deterministic=True,
        )

    dtype = "uint8" if stored.storage.bits == 8 else "uint16"
    return ImagesToPredict(records, len(listed), dtype, headers, rejects)


def list_files(paths: Sequence[str], is_ct: bool) -> list[str]:
    """The files of paths and below folders, sorted; hidden ones and a volume's data left out."""
    found = set()
    for path in paths:
        if storage.is_remote(path):
            found |= _objects(path, is_ct)
        elif os.path.isdir(path):
            for folder, subfolders, names in os.walk(path):
                subfolders[:] = [name for name in subfolders if not name.startswith(".")]
                found |= {os.path.join(folder, name) for name in names if name[0] != "."}
        elif os.path.exists(path):
            found.add(path)
        else:
            raise InputError(f"--input {path}: no such file or folder")
    kind = METAIMAGE if is_ct else DICOM
    return sorted(path for path in found if not reader.is_data_file(kind, path))


def _objects(path: str, is_ct: bool) -> set[str]:
    """files_of one path on gs://."""
    at = storage.path_of(path)
    if is_ct:
        raise InputError(
            f"--input {path}: volumes are read from a disk; copy them there first, such as with "
            f"gcloud storage cp --recursive"
        )
    if at.is_dir():
        return set(storage.objects_below(str(at)))
    if at.exists():
        return {str(at)}
    raise InputError(f"--input {path}: no such file or folder")


class InputFiles:
    """A lake.sources.Files of paths on a disk, and of images on gs://."""

    def read(self, path: str) -> bytes:
        return storage.path_of(path).read_bytes()

    def local(self, path: str) -> str:
        return path


def _headers(
    paths: list[str], stored: ReaderSettings, kinds: dict, rejects: list[dict]
) -> list[Header]:
    """The images of all files: in the order of the paths, slices in that of their volumes."""
    reader.quieten()
    found = []
    for path in paths:
        try:
            found += _headers_of(path, stored, kinds)
        except Reject as reject:
            rejects.append(reject_row(path, "", reject))
    return _slices(found, rejects) if stored.is_ct else found


def _headers_of(path: str, stored: ReaderSettings, kinds: dict) -> list[Header]:
    try:
        path.encode()
        at = storage.path_of(path)
        with at.open("rb") as file:
            start, size = file.read(8), storage.size_of(at)
            file.seek(0)
            is_image = any(start.startswith(magic) for magic in images.OPENERS)
            kinds[path] = METAIMAGE if stored.is_ct else IMAGES if is_image else DICOM
            return reader.read_headers(kinds[path], file, path, size, stored.image_id_from, FRAMES)
    except UnicodeEncodeError:
        said = f"{path!a}: the name is not UTF-8; rename the file"
        raise Reject("unreadable-file", said) from None
    except OSError as error:
        raise reader.unreadable(path, error) from None


def _slices(headers: list[Header], rejects: list[dict]) -> list[Header]:
    """One Header a slice, series after series."""
    by_series, found = {}, []
    for header in headers:
        by_series.setdefault(header.series, []).append(header)
    for of_series in by_series.values():
        try:
            found += [header for header, _ in series.slices(of_series, None, empty_share=1.0)[0]]
        except Reject as reject:
            rejects += [reject_row(header.path, "", reject) for header in of_series]
    return found


def _record(header: Header, scan: Scan) -> bytes:
    """What the converter would write, but for the label and what tells of the patient."""
    of_scan = {**vars(scan), "encoding": scan.encoding.encode()}
    of_header = {
        "image_id": header.image_id.encode(),
        "original_height": header.height,
        "original_width": header.width,
        "original_bits": header.bits,
    }
    return example.encode({**UNKNOWN, **of_scan, **of_header})
