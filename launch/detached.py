"""python -m launch.detached --folder F -- COMMAND …: runs a command that goes on when the
connection that started it is lost. Runs on the rented machine and needs only Python.

Repeated while the command runs, it follows the same run; repeated after its end, it starts a new
one.
The exit code is 0, or 100 + the command's, because gcloud ssh itself ends with 1 or 255 where the
connection is lost.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

from lake import signals, storage
from lake.terminal import cli

OFFSET = 100  # is added to the command's exit code
KILLED = 128 + signal.SIGKILL  # the code where the supervisor was killed before it wrote one
POLL_SECONDS = 0.2


def run(folder: Path, command: list[str]) -> int:
    """Start the command unless it runs already, copy its output, return its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "code").exists() and not is_running(folder):
        start(folder, command)
    signals.set_repeat("the run goes on by itself; the same command shows it again")
    follow(folder)
    code = int((folder / "code").read_text()) if (folder / "code").exists() else KILLED
    (folder / "code").unlink(missing_ok=True)
    return code


def start(folder: Path, command: list[str]) -> None:
    """Start a supervisor of the command, in a session of its own, and return at once; its log, lock
    and exit code are files in `folder`."""
    _write(folder / "shown", 0)  # bytes of the log that a connection has printed
    supervisor = [sys.executable, "-m", "launch.detached", f"--folder={folder}", "--supervise"]
    with (folder / "lock").open("w") as lock, (folder / "log").open("wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the supervisor inherits the lock until it ends
        subprocess.Popen(
            [*supervisor, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )


def supervise(folder: Path, command: list[str]) -> None:
    """Run the command and write its exit code."""
    # A machine that Google takes back sends SIGTERM to all its processes. The command then saves
    # its run and ends with 42, which must still be written. A handler does nothing, and is not
    # inherited; to ignore the signal would make the command ignore it, too.
    with signals.leave_to_caller():
        signal.signal(signal.SIGTERM, lambda *_: None)
        code = subprocess.call(command)
    _write(folder / "code", code if code >= 0 else 128 - code)


def is_running(folder: Path) -> bool:
    """Return whether a supervisor still holds the folder's lock."""
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def follow(folder: Path) -> None:
    """Copy the log to stdout, from where the last connection stopped to the command's end."""
    with (folder / "log").open("rb") as log:
        log.seek(int((folder / "shown").read_text()))
        has_ended = False
        while not has_ended:
            has_ended = not is_running(folder)  # asked before the last read, which then gets all
            if output := log.read():
                sys.stdout.buffer.write(output)
                sys.stdout.buffer.flush()
                _write(folder / "shown", log.tell())
            time.sleep(0 if has_ended else POLL_SECONDS)


def _write(path: Path, number: int) -> None:
    storage.write(path, str(number).encode())


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.detached."""
    parser = cli.parser("launch.detached", __doc__, example="--folder run -- radlake --version")
    add = parser.add_argument_group("command").add_argument
    add("--folder", type=Path, required=True, metavar="FOLDER", help="for its log and exit code")
    add("--supervise", action="store_true", help="for its own use")
    add("command", nargs="+", metavar="COMMAND", help="what is run, after --")
    return parser


def main(argv: list[str]) -> int:
    """Run launch.detached, or the supervisor that it starts, and return the exit code."""
    flags, _ = cli.parse(parser(), argv)
    if flags.supervise:
        supervise(flags.folder, flags.command)
        return 0
    code = run(flags.folder, flags.command)
    return code and OFFSET + code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
