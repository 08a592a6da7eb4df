"""python -m launch.cluster --workers 2 -- COMMAND …: runs several workers of one command on this
machine, each with its TF_CONFIG, and puts the worker's name in front of each line of its output.

When a worker fails, the others get --grace_seconds to notice it themselves and are then ended. The
exit code is the lowest positive one of a worker (so 42, "repeat the command", gives way to 1 or 2);
else 128 + the number of the signal that ended one. SIGTERM and Ctrl-C reach every worker.
"""

if __name__ == "__main__":  # before the rest is imported, which takes a while
    from lake import signals

    signals.arm()

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from lake import InputError, signals
from lake.terminal import cli

POLL_SECONDS = 0.1
KILL_SECONDS = 30.0  # the time between SIGTERM and SIGKILL, in which a worker saves and ends


def parser() -> argparse.ArgumentParser:
    """Return the parser of launch.cluster."""
    command = "radlake train --config unetpp_small --lake lakes/phantoms/1.0.0 --workdir runs/two"
    parser = cli.parser("launch.cluster", __doc__, example=f"--workers 2 -- {command}")
    add = parser.add_argument_group("workers").add_argument
    add("--workers", type=cli.at_least(1), required=True, metavar="N", help="how many")
    grace = "how long the other workers may go on when one has failed"
    add("--grace_seconds", type=float, default=60.0, metavar="S", help=grace)
    add("command", nargs="+", metavar="COMMAND", help="what each runs, after --")
    return parser


def configs(num_workers: int) -> list[str]:
    """Return the TF_CONFIG of each worker, on ports of this machine that are free now."""
    with contextlib.ExitStack() as stack:  # all are open at once, so that no port comes twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(num_workers)]
        for open_socket in sockets:
            open_socket.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{open_socket.getsockname()[1]}" for open_socket in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}})
        for number in range(num_workers)
    ]


class Cluster:
    """A context in which the workers run, each in a process group of its own; at its end those that
    still run are killed."""

    def __init__(self, command: list[str], num_workers: int):
        self.command, self.configs = command, configs(num_workers)
        self.processes, self.threads = [], []

    def __enter__(self) -> "Cluster":
        """Start every worker, and a thread per worker that copies its output line by line."""
        for number, config in enumerate(self.configs):
            process = subprocess.Popen(
                self.command,
                env=os.environ | {"TF_CONFIG": config, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches a worker once, through `send`
            )
            thread = threading.Thread(target=_copy_lines, args=(process.stdout, number))
            thread.start()
            self.processes.append(process)
            self.threads.append(thread)
        return self

    def __exit__(self, *_) -> None:
        self.send(signal.SIGKILL)
        for process, thread in zip(self.processes, self.threads, strict=True):
            process.wait()
            thread.join()

    def codes(self) -> list[int | None]:
        """Return each worker's exit code; None while it runs."""
        return [process.poll() for process in self.processes]

    def send(self, number: int) -> None:
        """Send a signal to the workers that run, and to the processes that they have started."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def wait(self, seconds: float | None, or_failure: bool = False) -> bool:
        """Wait until all workers have ended, or with `or_failure` one has failed; return False
        where that takes longer than `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while None in (codes := self.codes()):
            if or_failure and any(codes):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _copy_lines(lines: BinaryIO, number: int) -> None:
    """Copy the lines to stdout, each after the worker's name."""
    name = f"worker {number}: ".encode()
    for line in lines:
        sys.stdout.buffer.write(name + line.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()


def run(command: list[str], num_workers: int, grace_seconds: float) -> int:
    """Start the workers, wait for them and return one exit code; raise InputError where there is no
    such command."""
    if not shutil.which(command[0]):
        raise InputError(f"{command[0]}: no such command")
    with signals.raising(), Cluster(command, num_workers) as cluster, _forward_signals(cluster):
        cluster.wait(seconds=None, or_failure=True)
        if None in cluster.codes():
            number, code = next((n, c) for n, c in enumerate(cluster.codes()) if c)
            ending = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            message = f"worker {number} ended with {ending}; the others have {grace_seconds:g} s"
            print(message, file=sys.stderr, flush=True)
            if not cluster.wait(grace_seconds):
                cluster.send(signal.SIGTERM)
                cluster.wait(KILL_SECONDS)
        codes = cluster.codes()
    return combined_code([-signal.SIGKILL if code is None else code for code in codes])


def combined_code(codes: list[int]) -> int:
    """Return one exit code for all workers; -15 means that SIGTERM ended one, as in subprocess."""
    errors = [code for code in codes if code > 0]
    return min(errors) if errors else max((128 - code for code in codes if code), default=0)


@contextlib.contextmanager
def _forward_signals(cluster: Cluster) -> Iterator[None]:
    """Send SIGTERM and SIGINT on to every worker, instead of ending this process."""
    numbers = signal.SIGTERM, signal.SIGINT
    previous_handlers = [signal.signal(number, lambda n, _: cluster.send(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous_handlers, strict=True):
            signal.signal(number, handler)


def main(argv: list[str]) -> int:
    flags, _ = cli.parse(parser(), argv)
    return cli.exit_code(lambda: run(flags.command, flags.workers, flags.grace_seconds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
