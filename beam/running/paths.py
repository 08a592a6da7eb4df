"""Paths as a pipeline takes them: a folder and names -> a path; a pattern -> the files it matches.

What lies on this machine's disk is answered without Apache Beam, whose import takes a second or
more: a wrong path is refused before. Beam's file systems answer for gs:// and the like.
"""

import contextlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from lake import storage

WILDCARD = re.compile(r"[*?[]")


class LocalFile(NamedTuple):
    """Holds what Beam's FileMetadata does, of a file on this machine's disk."""

    path: str
    size_in_bytes: int
    last_updated_in_seconds: float


def join(folder: str, *names: str) -> str:
    """Return the path of names one below the other in a folder."""
    return posixpath.join(folder, *names)


def exists(path: str) -> bool:
    """Return whether there is a file or folder."""
    if not storage.is_remote(path):
        return os.path.exists(path)
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.exists(path)


def status(path: str):
    """Return the LocalFile, or Beam's FileMetadata, of one file; raise OSError where it is
    absent."""
    if not storage.is_remote(path):
        result = os.stat(path)
        return LocalFile(path, result.st_size, result.st_mtime)
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.get_filesystem(path).metadata(path)


def match(pattern: str, limit: int | None = None) -> list:
    """Return LocalFiles, or Beam's FileMetadata, of the files that match a pattern, at most
    `limit`. Raises re.error for letters such as [3-1], Beam's BeamIOError or ValueError for what
    cannot be listed."""
    if not storage.is_remote(pattern):
        return [*itertools.islice(_local_files(pattern + "*" * pattern.endswith("/")), limit)]
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.match([pattern], limits=[limit])[0].metadata_list


def _local_files(pattern: str) -> Iterator[LocalFile]:
    """Yield the files that match a pattern without a slash at its end, as Beam's LocalFileSystem
    would."""
    if not WILDCARD.search(pattern):
        yield from _if_there(pattern)
        return
    expression = re.compile(expression_of(pattern))
    folder = os.path.dirname(WILDCARD.split(pattern)[0])
    for parent, _, names in os.walk(folder or "."):
        for name in names:
            path = os.path.join(parent, name)
            path = path if folder else path.removeprefix("./")
            if expression.match(path):
                yield from _if_there(path)


def _if_there(path: str) -> Iterator[LocalFile]:
    """Yield the one LocalFile of a path, or none where it is absent, or vanishes meanwhile."""
    with contextlib.suppress(OSError):
        yield status(path)


def expression_of(pattern: str) -> str:
    """Return the regular expression that Beam makes of a pattern: * stays in a folder, ** does not,
    ? is any character, [ab] is a or b, and [!ab] any other character."""
    expression, place = r"(?ms)", 0
    while place < len(pattern):
        letter = pattern[place]
        letters = re.compile(r"\[(!?+\]?+[^\]]*)\]").match(pattern, place)
        if pattern.startswith("**", place):
            expression, place = expression + ".*", place + 2
        elif letters:
            text = letters[1].replace("\\", r"\\")
            negation = {"!": "^", "^": r"\^"}.get(text[:1], text[:1])
            expression, place = f"{expression}[{negation}{text[1:]}]", letters.end()
        else:
            plain = {"*": r"[^/\\]*", "?": "."}.get(letter, re.escape(letter))
            expression, place = expression + plain, place + 1
    return expression + r"\Z"
