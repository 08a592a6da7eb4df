"""The folder that predict writes into: tables that get their names when they are whole, and the
files of single images. On a disk, or on gs://, where the table that is written last tells that all
is there."""

import csv
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from lake import InputError, storage
from lake.predictions.folder import file_name


def path_of(folder: Path, image_id: str, suffix: str) -> Path:
    return folder / file_name(image_id, suffix)


def id_of(path: Path) -> str:
    """The image id of path_of."""
    return urllib.parse.unquote(path.stem)


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
