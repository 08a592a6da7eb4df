"""Commands that are ended by signals at moments of their progress: the CPU time that they have
taken, and the files that they have written. The wall clock says little on a machine that others
use, too."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
POLL_SECONDS, POLLS_PER_LISTING = 0.01, 30
TICKS = os.sysconf("SC_CLK_TCK")
# Parts of names that differ between two starts: random texts, times, numbers of processes.
RANDOM = re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{4,})*|(?<=\.)\d{3,}(?=\.)")


class Trace(NamedTuple):
    """What an undisturbed command did from when it took signals on."""

    cpu_s: float
    files: dict[
        str, float
    ]  # each name that appeared or changed: the CPU seconds until it first did


class Moment(NamedTuple):
    """When a signal is sent: at a share of the undisturbed CPU time, or, where there is a name, as
    soon as a file of this name is written."""

    share: float
    file: str | None = None


class Running:
    """A running command, `python` with some words; `folder`: where it writes."""

    def __init__(self, words: list[str], folder: Path):
        self.folder, self.before = folder, files_below(folder)
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is ignored where the tests run in the background, and a child inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.output = self.error = ""
        while self.process.poll() is None and not _takes_signals(self.process.pid):
            time.sleep(0.001)
        self.pids, self.num_polls, self.cpu_s = {self.process.pid}, 0, 0.0
        self.start_s = cpu_seconds(self.process.pid)

    def wait(self, seconds: float = POLL_SECONDS) -> bool:
        """Wait a moment; return whether the command still runs."""
        try:
            self.output, self.error = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            if self.num_polls % POLLS_PER_LISTING == 0:
                self.pids = family(self.process.pid)
            self.num_polls += 1
            self.cpu_s = max(self.cpu_s, sum(map(cpu_seconds, self.pids)) - self.start_s)
            return True
        return False

    def changes(self) -> set[str]:
        """Return the names of the files that have appeared or changed since it began."""
        states = files_below(self.folder)
        return {name for name, state in states.items() if self.before.get(name) != state}


def _takes_signals(pid: int) -> bool:
    """Return whether a process has a handler of SIGTERM: until then Python itself starts."""
    status = Path(f"/proc/{pid}/status").read_text()
    handled = re.search(r"SigCgt:\s*(\w+)", status)
    return bool(handled and int(handled[1], 16) >> (signal.SIGTERM - 1) & 1)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken, user and system; 0 where it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def family(pid: int) -> set[int]:
    """Return a process and those that descend from it."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{name}/stat").read_text()
            parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    pids = {pid}
    while more := {child for child, parent in parents.items() if parent in pids} - pids:
        pids |= more
    return pids


def files_below(folder: Path) -> dict[str, tuple]:
    """Return {name: what changes when it is written} of the files below a folder."""
    states = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                state = status.st_ino, status.st_size, status.st_mtime_ns
                states[RANDOM.sub("*", str(path.relative_to(folder)))] = state
    return states


def trace(words: list[str], folder: Path) -> Trace:
    """Run a command to its end."""
    files, command = {}, Running(words, folder)
    while command.wait():
        for name in command.changes():
            files.setdefault(name, command.cpu_s)
    for name in command.changes():
        files.setdefault(name, command.cpu_s)
    assert command.process.returncode == 0, command.error
    return Trace(command.cpu_s, files)


def moments_of(undisturbed: Trace, count: int) -> list[Moment]:
    """Return moments that are spread over a command: up to half of them by the files that it
    writes, the last one among them; the first is when it takes signals."""
    names = list(undisturbed.files)
    num_files = min(count // 2, len(names))
    chosen = [names[len(names) * (k + 1) // num_files - 1] for k in range(num_files)]
    moments = [Moment(undisturbed.files[name] / undisturbed.cpu_s, name) for name in chosen]
    generator, rest = random.Random(0), count - num_files
    moments += [Moment((k + generator.random() * (k > 0)) / rest) for k in range(rest)]
    return sorted(moments, key=lambda moment: moment.share)


def interrupt(
    words: list[str],
    number: signal.Signals,
    moment: Moment,
    undisturbed: Trace,
    folder: Path,
    code: int | None,
) -> int:
    """Send a command a signal, check how it ends, and return its exit code; 0: it was quicker."""
    command = Running(words, folder)

    def is_reached() -> bool:
        if moment.file:
            return moment.file in command.changes()
        return command.cpu_s >= moment.share * undisturbed.cpu_s

    is_running = True
    while is_running and not is_reached():
        is_running = command.wait()
    if is_running:
        command.process.send_signal(number)
        assert not command.wait(seconds=600)
    actual = command.process.returncode
    story = f"{number.name} at {moment}: {actual}\n{command.output}\n{command.error}"
    if is_running and number == signal.SIGKILL:  # its children may say that it is gone
        assert actual == -number, story
        return actual
    assert "Traceback" not in command.error, story
    if actual == 0:
        return 0
    assert actual == (code or 128 + number), story
    lines = [
        line
        for line in [*command.output.splitlines(), *command.error.splitlines()]
        if line.startswith(f"{number.name}: stopped")
    ]
    assert len(lines) == 1, story
    assert "the same command goes on" in lines[0] or "run it again" in lines[0], story
    assert "nothing was written" not in lines[0] or not command.changes(), story
    return actual


def sweep(
    words: Callable[[Path], list[str]],
    folder: Path,
    result: Callable[[Path], object],
    count: int,
    code: int | None = None,
) -> None:
    """Interrupt the command `words(output)` at `count` moments, each start going on with what the
    last has left, and compare `result(output)` with that of an undisturbed one. `code`: of an
    interrupted command; None: 128 + the signal's number."""
    expected_output, output = (folder / name / "same" / "1.0.0" for name in ("a", "b"))
    undisturbed = trace(words(expected_output), expected_output.parent)
    expected, codes = result(expected_output), []
    print(f"{undisturbed.cpu_s:.1f} s of CPU, {len(undisturbed.files)} files")
    for place, moment in enumerate(moments_of(undisturbed, count)):
        number, command = NUMBERS[place % len(NUMBERS)], words(output)
        codes.append(interrupt(command, number, moment, undisturbed, output.parent, code))
        print(f"{number.name} at {moment.share:.0%} {moment.file}: {codes[-1]}", flush=True)
        if codes[-1] == 0:
            assert result(output) == expected, moment
            shutil.rmtree(output.parent, ignore_errors=True)
    trace(words(output), output.parent)
    assert result(output) == expected
    unfinished = [name for name in files_below(output.parent) if "unfinished" in name]
    assert not unfinished, unfinished
    assert sum(map(bool, codes)) >= count / 2, codes
