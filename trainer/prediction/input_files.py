"""Files that lie in no lake -> records as the converter would write them: read by its own readers,
in parallel, and stored as the lake was that the networks learnt from. Files that cannot be read are
rows of rejects.csv.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lake import InputError, Reject, exam, storage
from lake.predictions.folder import reject_row
from lake.records import example
from lake.scan import Header
from lake.sources import reader
from lake.sources.names import is_data_file
from lake.sources.reader import DICOM, METAIMAGE, ReaderSettings
from lake.sources.volumes import series
from lake.terminal.progress import Progress
from trainer.inference.images import ImagesToPredict, blank_record


def from_files(paths: Sequence[str], settings: ReaderSettings) -> ImagesToPredict:
    """Return the images of files, and of folders with all that is below them; raise InputError
    where there is no image."""
    files, rejects, headers = list_files(paths, settings.is_ct), [], {}
    sources = {}  # {path: the source that reads it}
    for header in _read_headers(files.roots, settings, sources, rejects):
        first = headers.setdefault(header.image_id, header)
        if first is not header:
            message = f"{header.path}: id {header.image_id} is already at {first.path}"
            reject = Reject("duplicate-id", message)
            rejects.append(reject_row(header.path, header.image_id, reject))
    if not headers:
        raise _no_image_error(rejects, len(files.roots))
    blank = blank_record(settings.storage.bits)

    def read(header: Header) -> bytes:
        """Return the serialised record of an image; the blank record, and a row in `rejects`, where
        the file cannot be read."""
        try:
            scan = reader.read_scan(sources[header.path], InputFiles(), header, settings.storage)
        except Reject as reject:
            rejects.append(reject_row(header.path, header.image_id, reject))
            return blank
        return example.encode_unlabelled(header, scan)

    def readers() -> Iterator[Callable[[], bytes]]:
        return (functools.partial(read, header) for header in headers.values())

    dtype = "uint8" if settings.storage.bits == 8 else "uint16"
    identity = *files.roots, *headers, *map(_size_and_time, files.roots)
    standings = exam.standings((header.exam for header in headers.values()), settings.exams)
    images = ImagesToPredict(readers, len(headers), dtype, headers, rejects, identity)
    is_known = bool(settings.exams)
    return images._replace(num_left_out=files.num_left_out, remarks=standings, is_known=is_known)


def _no_image_error(rejects: list[dict], num_files: int) -> InputError:
    """Return the error where no file can be predicted."""
    first = f"; the first: {rejects[0]['message']}" if rejects else ""
    if rejects and all(reject["reason"] in exam.REASONS for reject in rejects):
        return InputError(f"--input: {num_files} of {num_files} files are refused{first}")
    return InputError(f"--input: no image in {num_files} files{first}")


def _size_and_time(path: str) -> tuple[int, float]:
    """Return the bytes of a file and the time of its last change."""
    location = storage.path_of(path)
    return storage.size_of(location), storage.time_of(location)


class FilesToPredict(NamedTuple):
    """Holds the files that --input names."""

    roots: dict[str, str]  # {path: the folder from which on it lies}, sorted by path
    num_left_out: int  # files that are hidden or of the system


def list_files(paths: Sequence[str], is_ct: bool) -> FilesToPredict:
    """Return the files that the paths name, or that lie below them where they are folders, without
    those of the system and the data files of volumes. Raises InputError for a path that is not
    there."""
    roots, num_left_out = {}, 0
    for path in paths:
        if storage.is_remote(path):
            root, below = _list_objects(path, is_ct)
        elif os.path.isdir(path):
            below = [os.path.join(f, name) for f, _, names in os.walk(path) for name in names]
            root = path
        elif os.path.exists(path):
            root, below = os.path.dirname(path), [path]
        else:
            raise InputError(f"--input {path}: no such file or folder")
        for file in below:
            # A file that the user names counts, even where it is hidden.
            parts = file.removeprefix(root).split("/") if file != path else []
            if any(map(storage.is_of_system, parts)):
                num_left_out += 1
            else:
                roots.setdefault(file, root)
    source = METAIMAGE if is_ct else DICOM
    images = sorted(file for file in roots if not is_data_file(source, file))
    return FilesToPredict({file: roots[file] for file in images}, num_left_out)


def _list_objects(path: str, is_ct: bool) -> tuple[str, list[str]]:
    """Return (folder, the paths of the objects below it) of a path on gs://; raise InputError where
    there is none, and for volumes, which need a disk."""
    location = storage.path_of(path)
    if is_ct:
        raise InputError(
            f"--input {path}: volumes are read from a disk; copy them there first, such as with "
            f"gcloud storage cp --recursive"
        )
    if location.is_dir():
        return str(location), list(storage.objects_below(str(location)))
    if location.exists():
        return str(location.parent), [str(location)]
    raise InputError(f"--input {path}: no such file or folder")


class InputFiles:
    """A lake.scan.Files of paths on a disk, and of images on gs://."""

    def read(self, path: str) -> bytes:
        return storage.path_of(path).read_bytes()

    def local(self, path: str) -> str:
        return path


def _read_headers(
    roots: dict[str, str], settings: ReaderSettings, sources: dict[str, str], rejects: list[dict]
) -> list[Header]:
    """Return the headers of all images in the order of the paths, those of slices in the order of
    their volume; fill `sources` and `rejects`."""
    reader.quieten()
    headers, progress = [], Progress("listing", len(roots), "files")
    for path, root in roots.items():
        try:
            sources[path], images = _read_file(path, root, settings)
            headers += images
        except Reject as reject:
            rejects.append(reject_row(path, "", reject))
        progress.add()
    headers = reader.tell_apart(headers, _common_root(roots))
    if not settings.is_ct:
        return headers
    by_series, slices = {}, []
    for header in headers:
        by_series.setdefault(header.series, []).append(header)
    for volume in by_series.values():
        try:
            slices += series.stack_slices(volume)
        except Reject as reject:
            rejects += [reject_row(header.path, "", reject) for header in volume]
    return slices


def _common_root(roots: dict[str, str]) -> str:
    """Return the folder in which all paths of --input lie; "" where they have none in common."""
    try:
        return os.path.commonpath(set(roots.values()))
    except ValueError:  # there is no path, or some are relative and others not
        return ""


def _read_file(path: str, root: str, settings: ReaderSettings) -> tuple[str, list[Header]]:
    """Return (the source that reads the file, the headers of its images); raise Reject where no
    source can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        message = f"{path!a}: the name is not UTF-8; rename the file"
        raise Reject("unreadable-file", message) from None
    location = storage.path_of(path)
    with reader.reject_unreadable(path), location.open("rb") as file:
        return reader.read_file(file, path, storage.size_of(location), settings, root)
