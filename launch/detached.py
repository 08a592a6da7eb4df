"""python -m launch.detached --folder F -- COMMAND …: a command that outlives the connection that
started it. Runs on the rented machine, with nothing but Python.

Repeated while the command runs, it follows the same run; repeated after its end, it starts anew.
The exit code is 0, or 100 + the command's own, because gcloud ssh ends with 1 or 255 where the
connection is lost.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import time
from pathlib import Path

OFFSET = 100  # between the command's exit code and ours
KILLED = 128 + signal.SIGKILL  # of a command whose end nobody noted
POLL_SECONDS = 0.2


def run(folder: Path, command: list[str]) -> int:
    """Starts the command, or finds it running; copies its output, and returns its exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "code").exists() and not is_running(folder):
        start(folder, command)
    follow(folder)
    code = int((folder / "code").read_text()) if (folder / "code").exists() else KILLED
    (folder / "code").unlink(missing_ok=True)
    return code


def start(folder: Path, command: list[str]) -> None:
    _write(folder / "shown", 0)
    supervisor = [sys.executable, "-m", "launch.detached", f"--folder={folder}", "--supervise"]
    with (folder / "lock").open("w") as lock, (folder / "log").open("wb") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the supervisor inherits it and holds it until its end
        subprocess.Popen(
            [*supervisor, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )


def supervise(folder: Path, command: list[str]) -> None:
    """Runs the command and notes its exit code."""
    # A machine that is taken sends SIGTERM to everybody; the code of a saved run must be noted.
    # A handler, because what is ignored would be ignored by the command, too.
    signal.signal(signal.SIGTERM, lambda *_: None)
    code = subprocess.call(command)
    _write(folder / "code", code if code >= 0 else 128 - code)


def is_running(folder: Path) -> bool:
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def follow(folder: Path) -> None:
    """Copies what no earlier connection has shown, until the command has ended."""
    with (folder / "log").open("rb") as log:
        log.seek(int((folder / "shown").read_text()))
        has_ended = False
        while not has_ended:
            has_ended = not is_running(folder)  # before the last reading, so that nothing is missed
            if new := log.read():
                sys.stdout.buffer.write(new)
                sys.stdout.buffer.flush()
                _write(folder / "shown", log.tell())
            time.sleep(0 if has_ended else POLL_SECONDS)


def _write(path: Path, number: int) -> None:
    """Whole or not at all: a connection may end at any moment."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(str(number))
    unfinished.rename(path)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m launch.detached", allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--supervise", action="store_true", help="for its own use")
    parser.add_argument("command", nargs="+")
    flags = parser.parse_args(argv)
    if flags.supervise:
        supervise(flags.folder, flags.command)
        return 0
    code = run(flags.folder, flags.command)
    return code and OFFSET + code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
