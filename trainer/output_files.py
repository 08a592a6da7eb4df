"""The folder that predict writes into: tables that get their names when they are whole, and the
files of single images. On a disk, or on gs://, where the table that is written last tells that all
is there."""

import contextlib
import csv
import io
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lake import InputError, storage, submission

PNG_LEVEL = 1  # 20 ms for a map of 1024 px; zlib's usual 6 takes three times that for a tenth less


def make_folder(folder: Path, inside: Iterable[str]) -> None:
    """A new folder, with these in it; raises InputError where files of another run could stay."""
    check_new(folder)
    try:
        for name in ("", *inside):
            storage.make_folder(folder / name)
    except OSError as error:
        raise InputError(f"--output={folder}: {error.strerror or error}") from None


def is_of_somebody(path: Path) -> bool:
    """Not left by a check that was killed, or that may write and not delete."""
    return not path.name.startswith(storage.TRIED)


def check_new(folder: Path) -> None:
    """Raises InputError where something is in the folder, or on gs:// nothing can be written."""
    if folder.exists() and (not folder.is_dir() or any(map(is_of_somebody, folder.iterdir()))):
        raise InputError(f"--output={folder} is there and not an empty folder; give a new one")
    storage.check_writable(folder)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A context that fills a new folder under another name; without an error in it, the folder gets
    its own. One on gs:// is filled on this machine and uploaded."""
    check_new(folder)
    if storage.is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="radlake-") as unfinished:
            yield Path(unfinished)
            storage.upload_folder(Path(unfinished), folder)
        return
    folder = folder.resolve()
    unfinished = folder.with_name(f"unfinished.{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    make_folder(unfinished, [])
    try:
        yield unfinished
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def path_of(folder: Path, image_id: str, suffix: str) -> Path:
    return folder / submission.file_name(image_id, suffix)


def id_of(path: Path) -> str:
    """The image id of path_of."""
    return urllib.parse.unquote(path.stem)


def to_png(pixels: np.ndarray) -> bytes:
    """Of uint8 pixels, grey [H, W] or RGB [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


class Table:
    """A context that writes a CSV row by row; without an error in it, the file gets its name."""

    def __init__(self, path: Path, columns: Iterable[str]):
        self.path, self.columns = path, columns
        self.whole = storage.written(path)

    def __enter__(self) -> "Table":
        try:
            # Names of files can be other bytes than UTF-8.
            self.file = self.whole.__enter__().open(
                "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
        except OSError as error:
            raise InputError(f"--output={self.path}: {error.strerror}") from None
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.write(*self.columns)
        return self

    def write(self, *values) -> None:
        self.writer.writerow(values)

    def __exit__(self, *error):
        self.file.close()
        return self.whole.__exit__(*error)
