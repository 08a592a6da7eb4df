"""What SIGINT (Ctrl-C) and SIGTERM do to a command, from its first moment to its last: one line
that says what a repeat does, and the exit code 130 or 143, or 42 where a run goes on.

Entry points arm it before they import anything else, so it imports only the standard library.
Signals are taken by a thread of their own: the main thread may be inside a library for minutes, and
an exception that a handler raised there could be swallowed, or printed as a traceback. The thread
ends the process where it stands, as a kill would, which every command is made for.
"""

import atexit
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

NUMBERS = signal.SIGINT, signal.SIGTERM
GOES_ON = 42  # exit code: interrupted, and the same command goes on
RESUMABLE = (["train"], ["tune"])  # the words of commands that end with it
NOTHING_WRITTEN = "nothing was written; run it again"
PARTLY_WRITTEN = "some of its files are written; run it again, and it writes all of them"
SWITCH_SECONDS, END_SECONDS = 0.02, 10.0  # for the thread to note a signal, or to end the process
FLUSH_SECONDS = 0.5  # for what is still to be printed; the reader of a pipe may have stopped
CALL_SECONDS = 5.0  # for `calling`, whose network may not answer


class Stop(KeyboardInterrupt):
    """Raised by a signal inside `raising`; cli.exit_code ends the command with it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _Command:
    """Holds what a signal does to the command of this process."""

    def __init__(self):
        self.wakeup = None  # a descriptor; None: not armed, so this process is no command of ours
        self.repeat = NOTHING_WRITTEN
        self.exit_code = None  # None: 128 + the signal's number
        self.take: Callable[[int], None] = end
        self.folders = {}  # temporary ones, as keys, in the order in which they were made
        self.functions = []  # to call at the end, the last one first


# --- for entry points and cli ---


def arm(goes_on: bool = False) -> None:
    """Take the signals of this process from now on; an ignored one stays ignored, as Ctrl-C is not
    meant for a job in the background. `goes_on`: the exit code is GOES_ON."""
    if goes_on:
        _COMMAND.exit_code = GOES_ON
        set_repeat("the same command goes on")
    reader, _COMMAND.wakeup = os.pipe()
    os.set_blocking(_COMMAND.wakeup, False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    _install(_leave_to_the_thread, _COMMAND.wakeup)
    atexit.register(_ignore)  # called last, as it is the first to be registered


def finish() -> None:
    """Let the next signal do nothing, as the command has done all that it does, and its exit code
    says so; another one ends the process, in case it does not end by itself."""
    take_by(lambda number: take_by(None))


def report(stop: Stop) -> int:
    """Print the line about a Stop that has come through, and return the exit code."""
    print(_line(stop.number), file=sys.stderr)
    return _exit_code(stop.number)


# --- for commands, while they work ---


def set_repeat(text: str) -> None:
    """Set what the line says from now on: what a repeat of the command does."""
    _COMMAND.repeat = text


def take_by(function: Callable[[int], None] | None) -> None:
    """Let a function take the signals from now on, on the thread that waits for them; None: they
    end the process again."""
    _COMMAND.take = function or end


def end(number: int) -> NoReturn:
    """End the process at once: without its children, its temporary folders and another word of
    anybody's, and with the line."""
    _COMMAND.take = end  # so that the main thread waits for it
    _try_for(FLUSH_SECONDS, _flush)
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what threads print while their files vanish is of no use
        os.dup2(null, descriptor)
    _kill_children()
    for folder in reversed(list(_COMMAND.folders)):
        shutil.rmtree(folder, ignore_errors=True)
    start = "\r\x1b[K" if os.isatty(stderr) else ""  # over a line that shows progress
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(stderr, f"{start}{_line(number)}\n".encode())
    if _COMMAND.functions:
        _try_for(CALL_SECONDS, *reversed(_COMMAND.functions))
    os._exit(_exit_code(number))


def remove_at_end(folder: str) -> None:
    """Let a signal remove the folder from now on; without one the caller does."""
    _COMMAND.folders[folder] = None


@contextlib.contextmanager
def removing(folder: str) -> Iterator[None]:
    """Let a signal within the block remove the folder."""
    remove_at_end(folder)
    try:
        yield
    finally:
        del _COMMAND.folders[folder]


@contextlib.contextmanager
def calling(function: Callable[[], None]) -> Iterator[None]:
    """Let a signal within the block call the function as the last thing of the process, on another
    thread, and wait CALL_SECONDS for it: it gives up what others would wait for."""
    _COMMAND.functions.append(function)
    try:
        yield
    finally:
        _COMMAND.functions.remove(function)


def raise_stop(number: int, _=None) -> NoReturn:
    raise Stop(number)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let a signal raise Stop in the block, which waits in Python for what has to be ended in
    order: processes, jobs, rented machines. A second one ends the process at once."""

    def raise_once(number: int, _) -> NoReturn:
        _install(_leave_to_the_thread, _COMMAND.wakeup)
        raise_stop(number)

    with leave_to_caller() as is_ours:
        if is_ours:
            _install(raise_once, -1)
        yield


@contextlib.contextmanager
def leave_to_caller() -> Iterator[bool]:
    """Leave the signals in the block to handlers that the caller sets; until then SIGINT raises
    KeyboardInterrupt, and SIGTERM ends the process. Yields True where it took the signals from the
    command's thread, False where it changed nothing: there is no such thread, or this one is not
    the main thread."""
    if _COMMAND.wakeup is None or threading.current_thread() is not threading.main_thread():
        yield False
        return
    signal.set_wakeup_fd(-1)  # the interpreter writes no numbers, so that the thread hears nothing
    for number, handler in zip(NUMBERS, (signal.default_int_handler, signal.SIG_DFL), strict=True):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background
            signal.signal(number, handler)
    try:
        yield True
    finally:
        _install(_leave_to_the_thread, _COMMAND.wakeup)


@contextlib.contextmanager
def keep_from_children() -> Iterator[None]:
    """Start processes and threads in the block that Ctrl-C in a terminal does not reach, as it
    would print a traceback in each; it ends the command, which ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # is inherited
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _install(handler: Callable, wakeup: int) -> None:
    """Set the handler of both signals, and where the interpreter writes their numbers."""
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _ignore() -> None:
    """Ignore the signals from now on, where Python's own end would let them kill the process."""
    for number in NUMBERS if _COMMAND.wakeup is not None else ():
        signal.signal(number, signal.SIG_IGN)


def _leave_to_the_thread(*_) -> None:
    """Let the thread run, which the library that calls this handler may have kept from it; without
    a handler the interpreter would not write the number."""
    time.sleep(SWITCH_SECONDS)
    if _COMMAND.take is end:
        time.sleep(END_SECONDS)


def _watch(reader: int) -> None:
    while True:
        for number in os.read(reader, 1):
            if number in NUMBERS:
                _COMMAND.take(number)


def _line(number: int) -> str:
    return f"{signal.Signals(number).name}: stopped; {_COMMAND.repeat}"


def _exit_code(number: int) -> int:
    return _COMMAND.exit_code or 128 + number


def _try_for(seconds: float, *functions: Callable[[], None]) -> None:
    """Call functions one after the other on a thread, and wait so long for it."""

    def call() -> None:
        for function in functions:
            with contextlib.suppress(Exception):  # the process ends in any case
                function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def _flush() -> None:
    sys.stdout.flush()  # may be closed


def _kill_children() -> None:
    """Kill the processes that descend from this one, except those in another session, which are
    meant to go on."""
    parents, sessions = {}, {}
    # Where there is no /proc (macOS), a terminal's Ctrl-C has reached the children as well.
    names = os.listdir("/proc") if os.path.isdir("/proc") else []
    for name in filter(str.isdecimal, names):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
            # state, parent, process group, session, after the command's name in brackets
            fields = file.read().rpartition(")")[2].split()
            parents[int(name)], sessions[int(name)] = int(fields[1]), int(fields[3])
    family, session = {os.getpid()}, os.getsid(0)
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    for pid in family - {os.getpid()}:
        if sessions[pid] == session:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


_COMMAND = _Command()
