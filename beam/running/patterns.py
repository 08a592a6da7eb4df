"""Which files a pattern names: a pattern of the command line -> files, without what systems leave
beside them."""

import contextlib
import functools
import itertools
import os
import posixpath
import re
import unicodedata
import warnings
from collections.abc import Callable
from typing import NamedTuple

from beam.running import paths
from beam.running.paths import WILDCARD
from lake import InputError, Stopped, storage
from lake.sources.names import is_data_file

LITERAL_BRACKET = "[[]"  # stands for [ in a pattern
BRACKET = re.compile(r"\[(?!\[\])")  # begins a set of letters, or is meant as it stands
MOST_BRACKETS = 4  # are tried both ways


class Matches(NamedTuple):
    """Holds the files that a pattern names."""

    files: list  # of paths.LocalFile, or Beam's FileMetadata
    num_left_out: int  # files of the system


def fixed_folder(pattern: str) -> str:
    """Return the folder above a pattern's first wildcard."""
    return posixpath.dirname(WILDCARD.split(pattern)[0])


def has_folders(pattern: str) -> bool:
    """Return whether a pattern matches images in more than one folder."""
    folder, name = posixpath.split(pattern)
    return bool(WILDCARD.search(folder)) or "**" in name


def as_it_stands(path: str) -> str:
    """Return the pattern that matches a path alone, brackets included."""
    return path.replace("[", LITERAL_BRACKET)


def image_files(option: str, pattern: str, source: str) -> Matches:
    """Return the files that match an option's pattern, without those of the system and the data
    files of MetaImage headers; raise InputError where they cannot be listed."""
    matches = matching_files(option, pattern)
    files = [file for file in matches if not is_of_system(file.path, pattern)]
    images = [file for file in files if not is_data_file(source, file.path)]
    return Matches(images, len(matches) - len(files))


def image_files_on_worker(option: str, pattern: str, source: str) -> Matches:
    """Return the Matches of `image_files` on a worker. Raises Stopped, which reaches the launcher,
    instead of InputError."""
    try:
        return image_files(option, pattern, source)
    except InputError as error:
        raise Stopped(str(error)) from None


def is_of_system(path: str, pattern: str) -> bool:
    """Return whether a wildcard of the pattern met a hidden file or folder, or one that a system
    left: what a shell's * leaves out, __MACOSX, Thumbs.db and the like."""
    fixed_parts = _parts(fixed_folder(pattern))
    parts = _parts(path)[len(fixed_parts) :]
    is_hidden_meant = any(part.startswith(".") for part in _parts(pattern)[len(fixed_parts) :])
    if path.endswith("/"):  # an object that stands for a folder, as consoles of buckets make them
        return True
    of_systems = [part for part in parts if storage.is_of_system(part)]
    return any(not (is_hidden_meant and part.startswith(".")) for part in of_systems)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def matching_files(option: str, pattern: str, limit: int | None = None) -> list:
    """Return the files that match an option's pattern, about `limit` at most; raise InputError
    where they cannot be listed, or where its [ ] can be read in two ways."""
    matches, first = {}, None
    for reading in _readings(pattern):
        files = {}  # {path: file}
        for form in _forms(reading):
            files |= {file.path: file for file in _match(option, form, limit)}
        if files and first is not None and files.keys() != matches.keys():
            raise InputError(
                f"--{option}={pattern}: [ ] matches as a set of letters, such as {min(matches)}, "
                f"and as it stands, such as {min(files)}; write {LITERAL_BRACKET} for a [ that "
                f"stands for itself, or rename the folder"
            )
        if files:
            matches, first = files, reading
    return list(matches.values())


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function: path of an existing file -> whether the pattern names it. Either of them
    may be relative, or pass through a symbolic link."""
    pattern += "*" if pattern.endswith("/") else ""  # as Beam reads it
    expressions = []
    for form in (form for reading in _readings(pattern) for form in _forms(reading)):
        root = fixed_folder(form)
        rest = form[len(root) :].lstrip("/")
        real_root = place(posixpath.join(root, ""))
        literal_root = re.sub(r"[*?[]", r"[\g<0>]", real_root)
        with contextlib.suppress(re.error):  # [3-1] and the like match nothing
            expressions.append(re.compile(paths.expression_of(literal_root + rest)))

    def is_matched(path: str) -> bool:
        real_path = place(path)
        return any(expression.match(real_path) for expression in expressions)

    return is_matched


def place(path: str) -> str:
    """Return where a file lies: its path from the root, without symbolic links of folders."""
    if storage.is_remote(path):
        return path
    folder, name = posixpath.split(path)
    return posixpath.join(_real_folder(os.path.abspath(folder)), name)


@functools.lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _readings(pattern: str) -> list[str]:
    """Return the readings of a pattern: each [ begins a set of letters, or stands for itself, as
    folders may have it in their names."""
    brackets = [match.start() for match in BRACKET.finditer(pattern)]
    if not 0 < len(brackets) <= MOST_BRACKETS:
        return [pattern]
    readings = []
    for flags in itertools.product((False, True), repeat=len(brackets)):
        is_literal = dict(zip(brackets, flags, strict=True))
        letters = (
            LITERAL_BRACKET if is_literal.get(n) else letter for n, letter in enumerate(pattern)
        )
        readings.append("".join(letters))
    return readings


def _forms(pattern: str) -> list[str]:
    """Return the spellings of a pattern: as given, and with letters like é as one character and as
    two. Names on disk may have another one."""
    forms = (pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD")))
    return list(dict.fromkeys(forms))


def _match(option: str, pattern: str, limit: int | None) -> list:
    """Return the files of one pattern; raise InputError where they cannot be listed."""
    warnings.filterwarnings("ignore", "Possible nested set", FutureWarning)  # by LITERAL_BRACKET
    try:
        return paths.match(pattern, limit)
    except (OSError, ValueError, re.error) as error:  # ValueError: Beam does not know the scheme
        cause = cause_of(error)
        if isinstance(cause, re.error):  # [3-1] and the like match nothing
            return []
        raise InputError(
            f"--{option}={pattern}: cannot be listed: {cause}; expected an existing folder or "
            f"bucket that you may list"
        ) from None


def cause_of(error: Exception) -> Exception:
    """Return the error inside Beam's, whose details are a dict from patterns to errors."""
    while details := getattr(error, "exception_details", None):  # of a BeamIOError
        error = next(iter(details.values()))
    return error


# --- before a job starts ---


def check_matches(option: str, pattern: str | None) -> None:
    """Raise InputError where the pattern of an option matches no file, names a folder, or cannot
    be listed."""
    if not pattern:
        return
    is_plain = not WILDCARD.search(pattern) and not pattern.endswith("/")  # FOLDER/ means FOLDER/*
    if is_plain and _is_folder(option, pattern):
        raise InputError(f"--{option}={pattern}: is a folder; expected {_inside(pattern)}")
    matches = matching_files(option, pattern, limit=1)
    if matches and not is_of_system(matches[0].path, pattern):
        return
    matches = matching_files(option, pattern)
    if all(is_of_system(file.path, pattern) for file in matches):
        raise InputError(f"--{option}={pattern}: {_why_none(option, pattern, len(matches))}")


def _why_none(option: str, pattern: str, num_left_out: int) -> str:
    """Return why a pattern matches no file."""
    if num_left_out:
        return (
            f"no file matches but {num_left_out} that are hidden or that a system left there "
            f"(.NAME, __MACOSX, Thumbs.db)"
        )
    if _is_folder(option, pattern):
        return f"matches folders alone; expected {_inside(pattern)}"
    message = "no file matches; quote the pattern, or the shell expands it"
    if BRACKET.search(pattern):
        message += f". [ ] stands for one of the letters inside; write {LITERAL_BRACKET} for a ["
    return message


def _is_folder(option: str, pattern: str) -> bool:
    """Return whether the pattern is itself a folder: a local one, or a prefix with files below it.
    Raises InputError where it cannot be listed."""
    if not storage.is_remote(pattern) and os.path.isdir(pattern):
        return True
    return bool(_match(option, f"{pattern.rstrip('/')}/**", limit=1))


def _inside(folder: str) -> str:
    """Return the advice what to write instead of a folder."""
    return f"a pattern of the files in it, such as '{folder.rstrip('/')}/**'"
