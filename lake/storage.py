"""Files of lakes and workdirs, on a disk or on gs://, written whole or not at all.

A path is a pathlib.Path, or on gs:// an etils.epath.Path, which looks like one and asks TensorFlow.
TensorFlow itself tries again what fails for a moment: ten times within some minutes, unless
GCS_RETRY_CONFIG_MAX_RETRIES says otherwise.
"""

import argparse
import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lake import InputError


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def path_of(text: str | Path) -> Path:
    """Raises InputError for a remote place that this installation cannot read."""
    if not is_remote(text):
        return Path(text)
    if not str(text).startswith("gs://"):
        raise InputError(f"{text}: expected a local path or gs://BUCKET/PATH")
    for package in ("tensorflow", "etils"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{text}: gs:// is read with {package}: pip install 'radlake[train]'")
    from etils import epath

    return epath.Path(text)


def local_path(text: str) -> Path:
    """A type of argparse, for what is written on this machine alone."""
    if is_remote(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a local path; copy it there afterwards")
    return Path(text)


def make_folder(path: Path) -> None:
    """Cloud Storage has none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Before minutes of work: raises InputError where a bucket is not there, and what `explained`
    explains where nothing can be written to it."""
    if not is_remote(folder):
        return
    import tensorflow as tf

    try:
        write(folder / "unfinished", b"whether this can be written")
    except tf.errors.NotFoundError:
        raise InputError(f"{folder}: there is no bucket of this name") from None
    (folder / "unfinished").unlink()


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A new local file, which without an error in the block becomes the one at `path`."""
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="radlake-") as folder:
            unfinished = Path(folder, path.name)
            yield unfinished
            path.write_bytes(unfinished.read_bytes())  # an object appears whole
        return
    unfinished = path.with_name(f"unfinished.{path.name}")
    yield unfinished
    unfinished.replace(path)


def write(path: Path, content: bytes) -> None:
    with written(path) as unfinished:
        unfinished.write_bytes(content)


@contextlib.contextmanager
def local(path: Path) -> Iterator[Path]:
    """The file itself, or a copy of a remote one for as long as the block runs."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="radlake-") as folder:
        copy = Path(folder, path.name)
        path.copy(copy)
        yield copy


@contextlib.contextmanager
def explained(*paths: str | Path) -> Iterator[None]:
    """In it, where one of the paths is remote, what Cloud Storage refuses is an InputError."""
    is_asked = any(is_remote(path) for path in paths)
    if not is_asked or importlib.util.find_spec("tensorflow") is None:  # then path_of says so
        yield
        return
    import tensorflow as tf

    try:
        yield
    except tf.errors.PermissionDeniedError as error:
        raise InputError(
            f"Cloud Storage refuses: {_said(error)}; who runs this needs to read and write objects "
            f"there (roles/storage.objectUser), and is who `gcloud auth application-default login` "
            f"or GOOGLE_APPLICATION_CREDENTIALS says, or the machine's service account"
        ) from None
    except tf.errors.AbortedError as error:
        raise InputError(
            f"Cloud Storage does not answer: {_said(error)}; the same command goes on"
        ) from None
    except tf.errors.FailedPreconditionError as error:
        if "libcurl" not in error.message:
            raise
        raise InputError(
            f"Cloud Storage cannot be reached: {_said(error)}; is this machine on the network?"
        ) from None


def _said(error: Exception) -> str:
    return " ".join(error.message.split())
