"""Files of lakes and workdirs, on a disk or on gs://, written whole or not at all.

A path is a pathlib.Path, or for gs:// an etils.epath.Path, which has the same methods. That one
reads with TensorFlow, or with gcsfs where TensorFlow is not installed; only TensorFlow writes.
TensorFlow repeats a failed request, ten times within some minutes unless the environment sets
GCS_RETRY_CONFIG_MAX_RETRIES.
"""

import atexit
import contextlib
import functools
import importlib.util
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from lake import InputError, Stopped, disk, signals

# TensorFlow's errors about a request to Cloud Storage, up to the object's name. An error that is
# raised inside tf.data arrives as text within another error.
REFUSED = re.compile(
    r"(PermissionDenied|Aborted|FailedPrecondition)Error: (.*?gs://\S+)", re.DOTALL
)
# What TensorFlow reads as a pattern where it restores variables or deletes checkpoints.
PATTERN = re.compile(r"[*?\[\]\\]")
# Files and folders that systems put beside those of people: macOS, Windows, network storage.
OF_SYSTEMS = frozenset(
    ("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini")
    + ("$recycle.bin", "system volume information", "@eadir", "#recycle", "lost+found")
)
UNFINISHED = "unfinished."  # before the name of a local file that is being written
PROBE = "unfinished-"  # before the name of an object that is written to try whether one can be


def is_of_system(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or was left there by a system."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def is_remote(path: str | Path) -> bool:
    """Return whether a path is a URL, such as gs://BUCKET/PATH."""
    return "://" in str(path)


def whole_path(path: str) -> str:
    """Return the path from the root on, with its symbolic links; a URL is whole already."""
    return path if is_remote(path) else os.path.abspath(path)


def path_of(text: str | Path) -> Path:
    """Return the path; raise InputError for a remote one that this installation cannot read."""
    if not is_remote(text):
        return Path(text)
    if not re.match("gs://[^/]", str(text)):
        raise InputError(f"{text}: expected a local path or gs://BUCKET/PATH")
    has_client = any(importlib.util.find_spec(name) for name in ("tensorflow", "gcsfs"))
    if not has_client or importlib.util.find_spec("etils") is None:
        raise InputError(
            f"{text}: gs:// is read with TensorFlow or gcsfs: pip install 'radlake[train]' or "
            f"'radlake[cloud]'"
        )
    from etils import epath

    return epath.Path(text)


@functools.cache
def without_pattern(folder: str) -> str:
    """Return a path of the folder, which exists, that TensorFlow takes for a name: the folder's
    own, or a symbolic link to it that lasts as long as the process; raise InputError for a remote
    one, which has no links."""
    if not PATTERN.search(folder):
        return folder
    if is_remote(folder):
        raise InputError(
            f"{folder}: TensorFlow reads the characters * ? [ ] and \\ as a pattern; choose a path "
            f"without them"
        )
    link_folder = tempfile.mkdtemp(prefix="radlake-")
    signals.remove_at_end(link_folder)
    atexit.register(shutil.rmtree, link_folder, ignore_errors=True)
    link = os.path.join(link_folder, "link")
    os.symlink(os.path.abspath(folder), link)
    return link


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Yield a new folder on this machine, which is gone after the block, and after a signal."""
    with tempfile.TemporaryDirectory(prefix="radlake-") as folder, signals.removing(folder):
        yield folder


def make_folder(path: Path) -> None:
    """Make a local folder and those above it; Cloud Storage has no folders to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def check_exists(option: str, path: str | Path) -> None:
    """Raise InputError where there is no such local file or folder; on gs:// its reader says so."""
    if not is_remote(path) and not os.path.exists(path):
        raise InputError(f"{option} {path}: no such file or folder")


def check_writable(folder: Path) -> None:
    """Try, before minutes of work, whether something can be written into a folder, which need not
    be there yet; raise InputError where it cannot, and TensorFlow's error where gs:// refuses."""
    if not is_remote(folder):
        disk.check_writable(folder)
        return
    import tensorflow as tf

    probe = folder / f"{PROBE}{uuid.uuid4().hex}"  # another name for each command that runs now
    try:
        write(probe, b"whether this can be written")
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError):  # the second for "gs://b"
        raise InputError(f"{folder}: there is no bucket of this name") from None
    probe.unlink()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the path of a new local file; it becomes the one at `path` unless the block raises."""
    if is_remote(path):
        with temporary_folder() as folder:
            unfinished_path = Path(folder, path.name)
            yield unfinished_path
            _upload(unfinished_path, path)
        return
    unfinished_path = path.with_name(f"{UNFINISHED}{path.name}")
    try:
        with signals.calling(lambda: unfinished_path.unlink(missing_ok=True)):
            yield unfinished_path
            unfinished_path.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished_path.unlink()  # a full disk needs the room
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # which a write that finds no room leaves out
        raise


def write(path: Path, content: bytes) -> None:
    """Write a file, local or on gs://, whole or not at all."""
    if is_remote(path):
        path.write_bytes(content)  # an object appears whole
        return
    with whole_file(path) as unfinished_path:
        unfinished_path.write_bytes(content)


def upload_folder(folder: Path, target: Path) -> None:
    """Upload all files below a local folder. Whatever describes others comes later: deeper files
    first, and of one depth the JSON files last."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (-len(path.parts), path.suffix == ".json", path)):
        _upload(path, target / path.relative_to(folder))


def _upload(file: Path, path: Path) -> None:
    """Copy a local file to `path` on gs://."""
    import tensorflow as tf

    # One call into TensorFlow, which Ctrl-C cannot interrupt. Ctrl-C while a file object is open
    # would close it, and closing uploads what has been written so far.
    tf.io.gfile.copy(str(file), str(path), overwrite=True)


@contextlib.contextmanager
def local(path: Path) -> Iterator[Path]:
    """Yield a local path itself, or a copy of a remote file that lasts as long as the block."""
    if not is_remote(path):
        yield path
        return
    with temporary_folder() as folder:
        copy = Path(folder, path.name)
        path.copy(copy)
        yield copy


def size_of(path: Path) -> int:
    """Return the bytes of a file."""
    status = path.stat()
    return status.length if is_remote(path) else status.st_size


def time_of(path: Path) -> float:
    """Return when a file or object was last written, in seconds since 1970."""
    status = path.stat()
    return status.mtime if is_remote(path) else status.st_mtime


def objects_below(folder: str) -> Iterator[str]:
    """Yield the paths of the objects below a folder on gs://; raise InputError where a folder there
    has no name. TensorFlow's own walk takes a request for each object."""
    import tensorflow as tf

    for name in tf.io.gfile.listdir(folder):  # the name of a folder ends in a slash
        if name == "/":
            raise InputError(f"{folder}//: a folder without a name; move what is in it")
        path = f"{folder}/{name}"
        yield from objects_below(path[:-1]) if name.endswith("/") else [path]


@contextlib.contextmanager
def explain_errors() -> Iterator[None]:
    """Turn an error by which Cloud Storage or a disk refuses a request within the block into an
    InputError that says what to do."""
    try:
        yield
    except (InputError, Stopped):  # they say where and what already
        raise
    except Exception as error:  # the clients, whose errors these are, need not be installed
        advice = _advice(error) or disk.advice(error)
        if advice is None:
            raise
        raise InputError(advice) from None


def _advice(error: Exception) -> str | None:
    """Return the message that a user reads instead of this error; None where Cloud Storage did not
    raise it."""
    if match := REFUSED.search(f"{type(error).__name__}: {error}"):  # TensorFlow
        kind, request = match[1], " ".join(match[2].split())
        if kind == "PermissionDenied":
            return refusal(request)
        if kind == "Aborted":
            return f"Cloud Storage does not answer: {request}; repeat the command later"
        if "libcurl" in request:
            return f"Cloud Storage cannot be reached: {request}; is this machine on the network?"
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and message.startswith("Forbidden: "):  # gcsfs
        return refusal(message)
    if not type(error).__module__.startswith(("google.", "gcsfs.")):
        return None
    response = getattr(error, "response", None)
    code = getattr(error, "code", None) or getattr(response, "status_code", None)
    if code == 404:
        return f"{message}; no bucket?"
    return refusal(message) if code in (401, 403) else None


def refusal(request: str) -> str:
    """Return the message about a request that was answered with 403."""
    return (
        f"Cloud Storage refuses: {request}. Whoever runs this must be allowed to read and write "
        f"objects there (roles/storage.objectUser). That is the account of `gcloud auth "
        f"application-default login`, of GOOGLE_APPLICATION_CREDENTIALS, or of this machine"
    )


def make_new_folder(folder: Path, inside: Iterable[str]) -> None:
    """Make a new folder with these folders in it; raise InputError where something is in it, or it
    cannot be made."""
    check_new(folder)
    try:
        for name in ("", *inside):
            make_folder(folder / name)
    except OSError as error:
        raise InputError(f"--output={folder}: {error.strerror or error}") from None


def check_new(folder: Path, passed: tuple[str, ...] = ()) -> None:
    """Raise InputError where something is in the folder, or nothing can be written there; files
    whose names begin with one of `passed` do not count."""
    # A probe stays where a command was killed, or is allowed to write but not to delete.
    passed = (PROBE, *passed)
    if folder.exists() and not (
        folder.is_dir() and all(path.name.startswith(passed) for path in folder.iterdir())
    ):
        raise InputError(f"--output={folder} exists and is not an empty folder; give a new one")
    check_writable(folder)


@contextlib.contextmanager
def whole_folder(folder: Path, passed: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a new folder to fill, which becomes `folder` unless the block raises; one on gs:// is
    filled on this machine and then uploaded. `passed` as in check_new. Of two processes at once in
    one folder the second removes what the first has written: the caller holds a lock. Raises
    InputError where `folder` is not new."""
    check_new(folder, passed)
    if is_remote(folder):
        with temporary_folder() as unfinished_folder:
            yield Path(unfinished_folder)
            signals.set_repeat(f"remove {folder}, which is half uploaded, and run it again")
            upload_folder(Path(unfinished_folder), folder)
        return
    folder = folder.resolve()
    unfinished_folder = folder.with_name(f"{UNFINISHED}{folder.name}")
    shutil.rmtree(unfinished_folder, ignore_errors=True)  # left by a run that was killed
    make_new_folder(unfinished_folder, [])
    try:
        with signals.removing(str(unfinished_folder)):
            yield unfinished_folder
        unfinished_folder.replace(folder)
    finally:
        shutil.rmtree(unfinished_folder, ignore_errors=True)
