"""Files as a pipeline reads and writes them, on a disk or on gs://, through Beam's file systems.

A file is written whole or not at all. lake/storage.py does the same for one process with
TensorFlow.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from lake import InputError, Stopped, storage
from lake.sources import reader

UNFINISHED = ".unfinished-"  # behind the name of a file that is being written, before a random text
# A runner's own work per element takes longer than reading a header, so an element is a chunk of
# this many files.
CHUNK_FILES = 32
UNPACKERS = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading; the bytes are as stored, also where they are compressed."""
    if not storage.is_remote(path):
        return open(path, "rb")  # 0.1 ms less than through Beam
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
    Raises Stopped where the disk is full or the folder cannot be written.
    """
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
        raise Stopped(
            f"cannot write {path}: {error.strerror or error}. Finished files stay; mend this and "
            f"repeat the command"
        ) from None


def write_text(path: str, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def remove(path: str) -> None:
    """Remove a file, unless it is absent, or another worker removes it meanwhile."""
    if not FileSystems.exists(path):
        return
    try:
        FileSystems.delete([path])
    except BeamIOError:
        if FileSystems.exists(path):  # else another worker was quicker
            raise


def make_folder(path: str) -> None:
    """Make a local folder; for one on gs://, which needs no making, write and delete an object, and
    raise InputError where it cannot be deleted."""
    if storage.is_remote(path):
        probe = f"{FileSystems.join(path, 'probe')}{UNFINISHED}{uuid.uuid4().hex}"
        with FileSystems.create(probe) as file:
            file.write(b"whether this can be written")
        try:
            remove(probe)
        except BeamIOError as error:
            message = f"{probe} cannot be deleted: {_cause(error)}"
            raise InputError(storage.refusal(message)) from None
    elif not FileSystems.exists(path):
        try:
            FileSystems.mkdirs(path)
        except OSError as error:
            raise Stopped(f"cannot make the folder {path}: {error}") from None


def names_in(folder: str) -> list[str]:
    """Return the names of the files directly in a folder."""
    files = FileSystems.match([FileSystems.join(folder, "*")])[0].metadata_list
    return [FileSystems.split(file.path)[1] for file in files]


def matching_files(option: str, pattern: str, limit: int | None = None) -> list[FileMetadata]:
    """Return the files that match an option's pattern, at most `limit`; raise InputError where
    they cannot be listed."""
    try:
        return FileSystems.match([pattern], limits=[limit])[0].metadata_list
    except (BeamIOError, ValueError) as error:  # ValueError: Beam does not know the scheme
        raise InputError(
            f"--{option}={pattern}: cannot be listed: {_cause(error)}; expected an existing folder "
            f"or bucket that you may list"
        ) from None


def _cause(error: Exception) -> Exception:
    """Return the error inside Beam's, whose details are a dict from patterns to errors."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return error


def image_files(option: str, pattern: str, kind: str) -> list[FileMetadata]:
    """Return the files that match an option's pattern, without the data files of MetaImage headers;
    raise InputError where they cannot be listed."""
    files = matching_files(option, pattern)
    return [file for file in files if not reader.is_data_file(kind, file.path)]


def image_files_on_worker(option: str, pattern: str, kind: str) -> list[FileMetadata]:
    """Return what `image_files` does, on a worker: its error is a Stopped, which reaches the
    launcher."""
    try:
        return image_files(option, pattern, kind)
    except InputError as error:
        raise Stopped(str(error)) from None


def printable(path: str) -> str:
    """Return the path with bytes that are not UTF-8 escaped, as runners and JSON need it."""
    return path.encode("utf-8", "backslashreplace").decode()


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
        from lake.sources import metaimage

        parent, name = FileSystems.split(path)
        if path != self.copied_path:
            self.folder, header = tempfile.TemporaryDirectory(), read(path)
            data_files = metaimage.data_files(path, header)
            for file_name in [name, *data_files]:
                copy = Path(self.folder.name, os.path.basename(file_name))
                copy.write_bytes(header if file_name == name else read(f"{parent}/{file_name}"))
            self.copied_path = path
        return str(Path(self.folder.name, name))
