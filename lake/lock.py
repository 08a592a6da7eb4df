"""One process at a time in a folder, on a disk or on gs://. In: a folder and the name of a lock.
Out: leave to work there, or InputError that says who does.

On a disk the lock is flock's on a small file, which ends with its process, by kill -9 too. Some
network disks lock for one machine alone or not at all, and gs:// has no locks. So the file, or
object, also says who wrote it, and is written anew every BEAT_SECONDS: where flock cannot tell,
a process without such a sign of life for SILENT_SECONDS counts as dead. A signal removes it.

Limits: on gs:// TensorFlow cannot create an object on the condition that there is none. So each
process writes an object of its own and then lists them; of two that see each other both withdraw
and try again. A process that was frozen for SILENT_SECONDS, and has lost its lock meanwhile, ends
itself at its next beat; what it writes before is not prevented. On a network disk whose flock is
of one machine alone, two machines that start within a second may both begin; one ends at its first
beat.
"""

import contextlib
import errno
import fcntl
import json
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lake import InputError, clock, signals, storage
from lake.terminal import console

FIRST_BEAT_SECONDS, BEAT_SECONDS, SILENT_SECONDS = 3, 20, 180
POLL_SECONDS, RETRY_SECONDS = 0.5, 2.0
TEXT_BYTES = 4096  # more than any text of a lock
# What flock raises on disks that have no locks.
WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
BOOT = Path("/proc/sys/kernel/random/boot_id")  # of this machine, its containers too


class Owner(NamedTuple):
    """A process that holds a lock, as it says in the lock's file."""

    start: str  # a random text
    host: str
    boot: str  # flock tells of processes of the same boot whether they live
    pid: int
    since: str

    def __str__(self):
        return f"process {self.pid} on {self.host} (since {self.since})"


@contextlib.contextmanager
def hold(folder: Path, name: str, verb: str, advice: str) -> Iterator[None]:
    """Hold the lock `name` of a folder, which is made if it is absent. Raises InputError where
    another process holds it, or where the folder cannot be written.

    `verb` and `advice` are words of that message, such as "trains" and "give another --workdir".
    A block that raises InputError leaves no folder and no file of the lock that were not there.
    """
    owner = _this_process()

    def refuse(other: Owner | None) -> None:
        who = other or "another process"
        raise InputError(f"{folder}: {who} {verb} here; wait until it has ended, or {advice}")

    take = _take_object if storage.is_remote(folder) else _take_file
    with take(folder / name, owner, refuse) as beat, _beating(beat, folder, verb):
        yield


@contextlib.contextmanager
def briefly(folder: Path) -> Iterator[None]:
    """Let other processes that come here wait until the block ends, so that it can read a file and
    change it. Does nothing on gs:// and on disks without locks."""
    if storage.is_remote(folder):
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _this_process() -> Owner:
    return Owner(uuid.uuid4().hex, socket.gethostname(), _boot(), os.getpid(), clock.now())


def _boot() -> str:
    return BOOT.read_text().strip() if BOOT.exists() else socket.gethostname()


def _text(owner: Owner, beats: int) -> bytes:
    return json.dumps(owner._asdict() | {"beats": f"{beats:09d}"}).encode() + b"\n"


def _owner_in(text: bytes) -> Owner | None:
    """Return the owner that a lock's text names; None where it names none."""
    try:
        content = json.loads(text)
        return Owner(*(content[name] for name in Owner._fields))
    except (ValueError, KeyError, TypeError):  # empty, or half written
        return None


def _flock(descriptor: int, operation: int) -> bool:
    """Take flock's lock; return whether this disk has locks."""
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:  # BlockingIOError, too
            raise
        return False
    return True


# --- on a disk ---


@contextlib.contextmanager
def _take_file(path: Path, owner: Owner, refuse: Callable) -> Iterator[Callable[[int], bool]]:
    """Hold the lock at `path`; yield a function that writes the next sign of life, and returns
    whether the lock is still this process's."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_new_folders(path.parent))
        try:
            descriptor, has_locks = _open_locked(path)
        except BlockingIOError:
            refuse(_owner_in(_read(path)))
        stack.callback(os.close, descriptor)
        earlier_text = os.pread(descriptor, TEXT_BYTES, 0)
        final_text = b""

        def write(text: bytes) -> None:
            try:
                os.ftruncate(descriptor, os.pwrite(descriptor, text, 0))
            except OSError as error:
                error.filename = str(path)
                raise

        def beat(number: int) -> bool:
            current = _owner_in(_read(path))
            if current is not None and current.start != owner.start:
                return False
            write(_text(owner, number))
            return True

        try:
            earlier = _owner_in(earlier_text)
            if earlier and not (has_locks and earlier.boot == owner.boot):
                age = _time_of_disk(path.parent) - os.fstat(descriptor).st_mtime
                _wait_for_silence(path, earlier, age, refuse)
            # Another machine's start, which flock may not hold up, would listen for a sign of life.
            stack.enter_context(signals.calling(lambda: path.unlink(missing_ok=True)))
            write(_text(owner, 0))
            yield beat
        except InputError:
            final_text = earlier_text  # a refused start leaves the folder as it was
            raise
        finally:
            if final_text:
                write(final_text)
            else:
                path.unlink(missing_ok=True)


def _open_locked(path: Path) -> tuple[int, bool]:
    """Return a descriptor of the file at `path` with flock's lock on it, and whether this disk has
    locks; raise BlockingIOError where another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            has_locks = _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have removed the file between the two calls.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, has_locks
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def _new_folders(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; those that were made and are empty afterwards go again."""
    new_folders = []
    for path in (folder, *folder.parents):
        if path.exists():
            break
        new_folders.append(path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it has files now
            for path in new_folders:
                path.rmdir()


def _time_of_disk(folder: Path) -> float:
    """Return the time by the clock that a folder's files have their times from."""
    probe = folder / f"{storage.PROBE}{uuid.uuid4().hex}"
    probe.write_bytes(b"now")
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


# --- on gs:// ---


@contextlib.contextmanager
def _take_object(path: Path, owner: Owner, refuse: Callable) -> Iterator[Callable[[int], bool]]:
    """Hold the lock at `path` on gs://, as _take_file does; a signal gives it up."""
    own_path, writing = path.with_name(f"{path.name}.{owner.start}"), threading.Lock()

    def others() -> list[Path]:
        names = {p.name for p in path.parent.iterdir()} - {own_path.name}
        return [path.with_name(name) for name in names if name.startswith(f"{path.name}.")]

    def beat(number: int) -> bool:
        with writing:
            if others():
                return False
            own_path.write_bytes(_text(owner, number))
        return True

    def give_up() -> None:
        writing.acquire()  # for ever: no sign of life follows
        own_path.unlink(missing_ok=True)

    with signals.calling(give_up):
        _take_own_object(own_path, owner, others, refuse)
        try:
            yield beat
        finally:
            own_path.unlink(missing_ok=True)


def _take_own_object(own_path: Path, owner: Owner, others: Callable, refuse: Callable) -> None:
    """Write this process's object while there is none of `others` that live."""
    while True:
        own_path.write_bytes(_text(owner, 0))
        if not (other_paths := others()):
            break
        times = {p: _time_of(p) for p in (own_path, *other_paths)}
        own_path.unlink()
        for other_path in other_paths:
            other = _owner_in(_read(other_path))
            if other is None:  # withdrawn meanwhile
                continue
            _wait_for_silence(other_path, other, times[own_path] - times[other_path], refuse)
            other_path.unlink(missing_ok=True)
        time.sleep(random.uniform(0, RETRY_SECONDS))


def _time_of(path: Path) -> float:
    """Return when an object was written; 0 where it is gone."""
    with contextlib.suppress(FileNotFoundError):  # its owner may remove it between the two calls
        return storage.time_of(path) if path.exists() else 0.0
    return 0.0


def _read(path: Path) -> bytes:
    """Return the bytes of a file; none where it is gone."""
    with contextlib.suppress(FileNotFoundError):  # its owner may remove it between the two calls
        return path.read_bytes() if path.exists() else b""
    return b""


# --- signs of life ---


def _wait_for_silence(path: Path, owner: Owner, age: float, refuse: Callable) -> None:
    """Return once the owner of the lock at `path` has given no sign of life for SILENT_SECONDS, of
    which `age` have passed; refuse where it gives one. Returns where the lock is gone."""
    text, seconds = _read(path), SILENT_SECONDS - age
    if seconds > 0 and text:
        text_of_wait = f"{path}: {owner} may be at work; listening for {seconds:.0f} s"
        console.note(text_of_wait, flush=True)
    deadline = time.monotonic() + seconds
    while text and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        new_text = _read(path)
        if new_text and new_text != text:
            refuse(_owner_in(new_text))
        text = new_text


@contextlib.contextmanager
def _beating(beat: Callable[[int], bool], folder: Path, verb: str) -> Iterator[None]:
    """Call `beat` every BEAT_SECONDS from a thread; where it returns False, end the process."""
    is_over = threading.Event()

    def beat_until_over() -> None:
        """Give a sign of life again and again, until the block ends or the lock is lost."""
        number, seconds = 0, FIRST_BEAT_SECONDS
        while not is_over.wait(seconds):
            number, seconds = number + 1, BEAT_SECONDS
            is_ours = True
            with contextlib.suppress(Exception):  # a disk or network that fails may answer later
                is_ours = beat(number)
            if not is_ours and not is_over.is_set():
                message = f"error: {folder}: another process {verb} here; this one has ended"
                print(message, file=sys.stderr, flush=True)
                os._exit(2)  # at once: nothing more may be written

    thread = threading.Thread(target=beat_until_over, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
