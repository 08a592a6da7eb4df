"""Files of lakes and workdirs, on a disk or on gs://, written whole or not at all.

A path is a pathlib.Path, or on gs:// an etils.epath.Path, which looks like one and asks TensorFlow.
TensorFlow itself tries again what fails for a moment: ten times within some minutes, unless
GCS_RETRY_CONFIG_MAX_RETRIES says otherwise.
"""

import contextlib
import importlib.util
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from lake import InputError

# TensorFlow's errors of a request to Cloud Storage, up to the object. What a function of ours
# raises within tf.data is a text in another error by the time that it ends a command.
REFUSED = re.compile(
    r"(PermissionDenied|Aborted|FailedPrecondition)Error: (.*?gs://\S+)", re.DOTALL
)
TRIED = "unfinished-"  # objects that only tell whether one can be written


def is_remote(path: str | Path) -> bool:
    return "://" in str(path)


def path_of(text: str | Path) -> Path:
    """Raises InputError for a remote place that this installation cannot read."""
    if not is_remote(text):
        return Path(text)
    if not re.match("gs://[^/]", str(text)):
        raise InputError(f"{text}: expected a local path or gs://BUCKET/PATH")
    for package in ("tensorflow", "etils"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{text}: gs:// is read with {package}: pip install 'radlake[train]'")
    from etils import epath

    return epath.Path(text)


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

    tried = folder / f"{TRIED}{uuid.uuid4().hex}"  # nobody else's, and another command's is another
    try:
        write(tried, b"whether this can be written")
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError):  # the latter of gs:// alone
        raise InputError(f"{folder}: there is no bucket of this name") from None
    tried.unlink()


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A new local file, which without an error in the block becomes the one at `path`."""
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="radlake-") as folder:
            unfinished = Path(folder, path.name)
            yield unfinished
            _upload(unfinished, path)
        return
    unfinished = path.with_name(f"unfinished.{path.name}")
    yield unfinished
    unfinished.replace(path)


def write(path: Path, content: bytes) -> None:
    if is_remote(path):
        path.write_bytes(content)  # an object appears whole
        return
    with written(path) as unfinished:
        unfinished.write_bytes(content)


def upload_folder(folder: Path, target: Path) -> None:
    """All files below a local folder: the deepest first, and what describes others last."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    for path in sorted(found, key=lambda path: (-len(path.parts), path.suffix == ".json", path)):
        _upload(path, target / path.relative_to(folder))


def _upload(file: Path, path: Path) -> None:
    import tensorflow as tf

    # One call, which no Ctrl-C ends: a file object would upload what it has when it is closed.
    tf.io.gfile.copy(str(file), str(path), overwrite=True)


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


def size_of(path: Path) -> int:
    """Bytes of a file."""
    found = path.stat()
    return found.length if is_remote(path) else found.st_size


def objects_below(folder: str) -> Iterator[str]:
    """Of a folder on gs://, without hidden ones; TensorFlow's own walk makes a request for each."""
    import tensorflow as tf

    for name in tf.io.gfile.listdir(folder):  # of a folder with a slash behind it
        if name == "/":
            raise InputError(f"{folder}//: a folder without a name; move what is in it")
        path = f"{folder}/{name}"
        if not name.startswith("."):
            yield from objects_below(path[:-1]) if name.endswith("/") else [path]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """In it, what Cloud Storage refuses is an InputError."""
    try:
        yield
    except Exception as error:  # TensorFlow, whose they are, need not be installed
        found = REFUSED.search(f"{type(error).__name__}: {error}")
        if not found or (found[1] == "FailedPrecondition" and "libcurl" not in found[2]):
            raise
        raise InputError(_advice(found[1], " ".join(found[2].split()))) from None


def refusal(said: str) -> str:
    """A message about a 403."""
    return (
        f"Cloud Storage refuses: {said}; who runs this needs to read and write objects there "
        f"(roles/storage.objectUser), and is who `gcloud auth application-default login` or "
        f"GOOGLE_APPLICATION_CREDENTIALS says, or the machine's service account"
    )


def _advice(kind: str, said: str) -> str:
    if kind == "PermissionDenied":
        return refusal(said)
    if kind == "Aborted":
        return f"Cloud Storage does not answer: {said}; repeat the command later"
    return f"Cloud Storage cannot be reached: {said}; is this machine on the network?"


def make_new_folder(folder: Path, inside: Iterable[str]) -> None:
    """A new folder, with these in it; raises InputError where files of another run could stay."""
    check_new(folder)
    try:
        for name in ("", *inside):
            make_folder(folder / name)
    except OSError as error:
        raise InputError(f"--output={folder}: {error.strerror or error}") from None


def is_of_somebody(path: Path) -> bool:
    """Not left by a check that was killed, or that may write and not delete."""
    return not path.name.startswith(TRIED)


def check_new(folder: Path) -> None:
    """Raises InputError where something is in the folder, or on gs:// nothing can be written."""
    if folder.exists() and (not folder.is_dir() or any(map(is_of_somebody, folder.iterdir()))):
        raise InputError(f"--output={folder} is there and not an empty folder; give a new one")
    check_writable(folder)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A context that fills a new folder under another name; without an error in it, the folder gets
    its own. One on gs:// is filled on this machine and uploaded."""
    check_new(folder)
    if is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="radlake-") as unfinished:
            yield Path(unfinished)
            upload_folder(Path(unfinished), folder)
        return
    folder = folder.resolve()
    unfinished = folder.with_name(f"unfinished.{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    make_new_folder(unfinished, [])
    try:
        yield unfinished
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
