"""Files as a pipeline reads and writes them, on a disk or on gs://, through Beam's file systems.

A file is written whole or not at all. lake/storage.py does the same for one process with
TensorFlow. Beam is imported inside the functions that need it: a wrong path is refused without.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import posixpath
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from beam.running import paths, patterns
from lake import InputError, Refused, disk, storage
from lake.scan import stable_hash

UNFINISHED = ".unfinished-"  # behind the name of a file that is being written, before a random text
# A runner's own work per element takes longer than reading a header, so an element is a chunk of
# this many files.
CHUNK_FILES = 32
COPIED_BYTES = 2**22  # at a time
UNPACKERS = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading; the bytes are as stored, also where they are compressed."""
    if not storage.is_remote(path):
        return open(path, "rb")  # 0.1 ms less than through Beam
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def open_unpacked(path: str) -> BinaryIO:
    """Open a file for reading, unpacked where its name ends in .gz, .bz2, .xz or .zip; reading a
    damaged one raises EOFError, OSError, zlib.error, lzma.LZMAError or zipfile.BadZipFile. (Beam
    would unpack a truncated file without an error.)"""
    file = open_binary(path)
    ending = path.lower().rpartition(".")[2]
    if ending in UNPACKERS:
        return UNPACKERS[ending](file)
    return _only_member(file, path) if ending == "zip" else file


def _only_member(file: BinaryIO, path: str) -> BinaryIO:
    """Open the one file in a ZIP archive, beside which macOS adds its own; raise OSError where it
    has none or several."""
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/")]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if len(names) != 1:
        raise OSError(f"{path} holds {len(names)} files, expected one; unpack it")
    return archive.open(names[0])


def read(path: str) -> bytes:
    """Return the bytes of a file, on a disk or on gs://."""
    if not storage.is_remote(path):
        with open(path, "rb", buffering=0) as file:  # unbuffered: one read call
            return file.read()
    with open_binary(path) as file:
        return file.read()


def read_text(path: str) -> str:
    return read(path).decode()


@contextlib.contextmanager
def whole_file(path: str) -> Iterator[BinaryIO]:
    """Yield a new file under a temporary name; it is renamed to `path` unless the block raises.

    The temporary name is always another, as a runner may try one element on two workers at once.
    Raises Refused where the disk is full or the folder cannot be written.
    """
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems

    unfinished_path = f"{path}{UNFINISHED}{uuid.uuid4().hex}"
    try:
        file = FileSystems.create(unfinished_path, compression_type=CompressionTypes.UNCOMPRESSED)
        try:
            with file:
                yield file
            FileSystems.rename([unfinished_path], [path])
        except BaseException:
            remove(unfinished_path)
            raise
    except OSError as error:
        raise Refused(
            f"cannot write {path}: {error.strerror or error}. Finished files stay; mend this and "
            f"repeat the command"
        ) from None


def link_or_copy(source: str, target: str) -> bool:
    """Give a file a second name, or where the disk has no hard links, and on gs://, copy it there
    on the server; return whether it was linked. `target` is whole or absent."""
    from apache_beam.io.filesystems import FileSystems

    remove(target)  # renaming one name of a file to another of its names would leave both
    if storage.is_remote(target):
        FileSystems.copy([source], [target])
        return False
    unfinished_path = f"{target}{UNFINISHED}{uuid.uuid4().hex}"
    try:
        os.link(source, unfinished_path)
    except OSError:
        if not os.path.exists(source):
            raise
        with open_binary(source) as original, whole_file(target) as copy:
            shutil.copyfileobj(original, copy, COPIED_BYTES)
        return False
    os.rename(unfinished_path, target)
    return True


def write_text(path: str, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def remove(path: str) -> None:
    """Remove a file, unless it is absent, or another worker removes it meanwhile."""
    if not paths.exists(path):
        return
    from apache_beam.io.filesystem import BeamIOError
    from apache_beam.io.filesystems import FileSystems

    try:
        FileSystems.delete([path])
    except BeamIOError:
        if paths.exists(path):  # else another worker was quicker
            raise


def make_folder(path: str) -> None:
    """Make a local folder; for one on gs://, which needs no making, write and delete an object.
    Raise InputError where that cannot be done."""
    if storage.is_remote(path):
        from apache_beam.io.filesystem import BeamIOError
        from apache_beam.io.filesystems import FileSystems

        probe = f"{paths.join(path, 'probe')}{UNFINISHED}{uuid.uuid4().hex}"
        with FileSystems.create(probe) as file:
            file.write(b"whether this can be written")
        try:
            remove(probe)
        except BeamIOError as error:
            message = f"{probe} cannot be deleted: {patterns.cause_of(error)}"
            raise InputError(storage.refusal(message)) from None
        return
    disk.check_writable(Path(path))
    if not paths.exists(path):
        os.makedirs(path)


def names_in(folder: str) -> list[str]:
    """Return the names of the files directly in a folder."""
    return [posixpath.basename(file.path) for file in _files_in(folder)]


def versions_in(folder: str) -> set[tuple]:
    """Return (path, bytes, time of its last change) of each file directly in a folder, without
    locks: what differs where one was written."""
    return {
        (file.path, file.size_in_bytes, file.last_updated_in_seconds)
        for file in _files_in(folder)
        if not file.path.endswith(".lock")
    }


def _files_in(folder: str) -> list:
    return patterns.matching_files("output", paths.join(patterns.as_it_stands(folder), "*"))


def size_of(path: str) -> int:
    """Return the bytes of a file."""
    return paths.status(path).size_in_bytes


def printable(path: str) -> str:
    """Return the path with bytes that are not UTF-8 escaped, as runners and JSON need it."""
    return path.encode("utf-8", "backslashreplace").decode()


def version_of(file: BinaryIO, path: str, update_time: float, is_volume_header: bool) -> float:
    """Return a number that changes when the file is written again or, for the header of a volume,
    when one of its data files is."""
    versions = _data_file_versions(file, path) if is_volume_header else ()
    return stable_hash(f"{update_time} {versions}") if versions else update_time


def _data_file_versions(file: BinaryIO, path: str) -> tuple[tuple[int, float] | None, ...]:
    """Return (bytes, time of the last change) of each data file of a volume's header; None for a
    file that is not there. A pattern need not match them."""
    from lake.sources.volumes import metaimage

    file.seek(0)
    versions = []
    for name in metaimage.data_files(path, file.read(metaimage.HEADER_BYTES)):
        try:
            status = paths.status(paths.join(posixpath.dirname(path), name))
            versions.append((status.size_in_bytes, status.last_updated_in_seconds))
        except OSError:
            versions.append(None)
    return tuple(versions)


class Inputs:
    """The input files as a worker reads them, a lake.sources.reader.Files. The last volume that was
    read from gs:// stays on the worker's disk, because each of its slices asks for it."""

    def __init__(self):
        self.copied_path, self.folder = "", None

    def read(self, path: str) -> bytes:
        return read(path)

    def local(self, path: str) -> str:
        """Return a local path of the file, and of the data files beside the header of a volume."""
        if not storage.is_remote(path):
            return path
        from lake.sources.volumes import metaimage

        parent, name = posixpath.split(path)
        if path != self.copied_path:
            self.folder, header = tempfile.TemporaryDirectory(), read(path)
            data_files = metaimage.data_files(path, header)
            for file_name in [name, *data_files]:
                copy = Path(self.folder.name, os.path.basename(file_name))
                copy.write_bytes(header if file_name == name else read(f"{parent}/{file_name}"))
            self.copied_path = path
        return str(Path(self.folder.name, name))
