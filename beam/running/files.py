"""Files as the pipelines touch them: local folders and gs:// through Beam's file systems, whole or
not at all."""

import gzip
import os
import tempfile
import uuid
from pathlib import Path

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from lake import InputError, Stopped, storage
from lake.sources import reader


def open_binary(path: str):
    """A file as it is stored, compressed or not."""
    if is_local(path):
        return open(path, "rb")  # Beam's own opening of a local file costs 0.1 ms more
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def open_unpacked(path: str):
    """A file's content, unpacked where its name ends in .gz; reading raises EOFError, OSError or
    zlib.error where that is damaged.

    Beam's own unpacking takes a file that is cut off for whole.
    """
    file = open_binary(path)
    return gzip.open(file) if path.endswith(".gz") else file


def is_local(path: str) -> bool:
    return "://" not in path


def read(path: str) -> bytes:
    if is_local(path):
        with open(path, "rb", buffering=0) as file:  # one read of all
            return file.read()
    with open_binary(path) as file:
        return file.read()


def read_text(path: str) -> str:
    return read(path).decode()


class Unfinished:
    """A context that gives a new file under a temporary name; it gets its own name when the block
    succeeds.

    The temporary name is new each time: a runner may try one element on two workers at once. Raises
    Stopped when the disk is full or the folder cannot be written.
    """

    MARK = ".unfinished-"

    def __init__(self, path: str):
        self.path, self.temporary = path, f"{path}{self.MARK}{uuid.uuid4().hex}"

    def __enter__(self):
        try:
            self.file = FileSystems.create(
                self.temporary, compression_type=CompressionTypes.UNCOMPRESSED
            )
        except OSError as error:
            raise self._stopped(error) from None
        return self.file

    def __exit__(self, error_type, error, _):
        try:
            self.file.close()
            if error_type is None:
                FileSystems.rename([self.temporary], [self.path])
        except OSError as late:
            error_type, error = type(late), late
        if error_type is not None:
            remove(self.temporary)
        if isinstance(error, OSError):
            raise self._stopped(error) from None

    def _stopped(self, error: OSError) -> Stopped:
        reason = error.strerror or str(error)
        return Stopped(
            f"cannot write {self.path}: {reason}. What was finished stays; repeat the command when "
            f"this is mended"
        )


def write_text(path: str, text: str) -> None:
    with Unfinished(path) as file:
        file.write(text.encode())


def remove(path: str) -> None:
    if not FileSystems.exists(path):
        return
    try:
        FileSystems.delete([path])
    except BeamIOError:
        if FileSystems.exists(path):  # else another worker was quicker
            raise


def make_folder(path: str) -> None:
    """On gs:// there are none; there it is tried whether an object can be written."""
    if not is_local(path):
        tried = f"{FileSystems.join(path, 'tried')}{Unfinished.MARK}{uuid.uuid4().hex}"
        with FileSystems.create(tried) as file:
            file.write(b"whether this can be written")
        try:
            remove(tried)
        except BeamIOError as error:
            said = storage.refusal(f"{tried} cannot be deleted: {_cause(error)}")
            raise InputError(said) from None
    elif not FileSystems.exists(path):
        try:
            FileSystems.mkdirs(path)
        except OSError as error:
            raise Stopped(f"cannot make the folder {path}: {error}") from None


def names_in(folder: str) -> list[str]:
    """Names of the files that lie directly in a folder."""
    found = FileSystems.match([FileSystems.join(folder, "*")])[0].metadata_list
    return [FileSystems.split(file.path)[1] for file in found]


def matching(option: str, pattern: str, limit: int | None = None) -> list[FileMetadata]:
    """Of the files of an option's pattern, at most so many; raises InputError where their place
    cannot be listed."""
    try:
        return FileSystems.match([pattern], limits=[limit])[0].metadata_list
    except (BeamIOError, ValueError) as error:  # the latter of a scheme that Beam does not know
        raise InputError(
            f"--{option}={pattern}: cannot be listed: {_cause(error)}; expected a folder or bucket "
            f"that is there, and that who runs this may list"
        ) from None


def _cause(error: Exception) -> Exception:
    """What is within Beam's errors, which map patterns to errors."""
    while isinstance(error, BeamIOError) and error.exception_details:
        error = next(iter(error.exception_details.values()))
    return error


class Inputs:
    """Input files on a worker; a lake.sources.Files. Keeps a copy of the last remote volume."""

    def __init__(self):
        self.copied, self.folder = "", None

    def read(self, path: str) -> bytes:
        return read(path)

    def local(self, path: str) -> str:
        if is_local(path):
            return path
        from lake.sources import metaimage

        parent, name = FileSystems.split(path)
        if path != self.copied:
            self.folder, header = tempfile.TemporaryDirectory(), read(path)
            names = metaimage.data_files(header) if name.lower().endswith(".mhd") else []
            for each in [name, *names]:
                target = Path(self.folder.name, os.path.basename(each))
                target.write_bytes(header if each == name else read(f"{parent}/{each}"))
            self.copied = path
        return str(Path(self.folder.name, name))


CHUNK_FILES = 32  # of one element: a runner spends more on an element than a header costs


def image_files(option: str, pattern: str, kind: str) -> list[FileMetadata]:
    """Of the files of an option's pattern, data files of MetaImage headers left to those; raises
    InputError where they cannot be listed."""
    matched = matching(option, pattern)
    return [file for file in matched if not reader.is_data_file(kind, file.path)]


def image_files_on_worker(option: str, pattern: str, kind: str) -> list[FileMetadata]:
    """`found`, of which a runner tells the launcher: raises Stopped."""
    try:
        return image_files(option, pattern, kind)
    except InputError as error:
        raise Stopped(str(error)) from None


def printable(path: str) -> str:
    """The path with bytes that are not UTF-8 escaped: no runner can carry them, nor a JSON line."""
    return path.encode("utf-8", "backslashreplace").decode()
