"""python -m launch.cluster --workers 2 -- COMMAND …: several workers of one command on this
machine, each with its TF_CONFIG; their lines come with the worker's name in front.

When one ends badly the others are ended, after the time they need to notice it themselves. The exit
code is the lowest of the workers' that is an error's (so 42, "repeat the command", comes behind a
worker's own 1 or 2), or 128 + the signal that ended one. SIGTERM and Ctrl-C go to every worker.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import BinaryIO

POLL_SECONDS = 0.1
KILL_SECONDS = 30.0  # that a worker has after SIGTERM to save and end


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m launch.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--workers", type=int, required=True, metavar="N")
    made.add_argument(
        "--grace_seconds",
        type=float,
        default=60.0,
        help="how long the other workers may go on when one has ended badly (default: 60)",
    )
    made.add_argument("command", nargs="+", metavar="COMMAND", help="behind --")
    return made


def configs(workers: int) -> list[str]:
    """The TF_CONFIG of each worker, on ports of this machine that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}})
        for number in range(workers)
    ]


class Cluster:
    """The workers' processes, each a group of its own; left with none of them running."""

    def __init__(self, command: list[str], workers: int):
        self.command, self.configs = command, configs(workers)
        self.processes, self.threads = [], []

    def __enter__(self) -> "Cluster":
        for number, config in enumerate(self.configs):
            process = subprocess.Popen(
                self.command,
                env=os.environ | {"TF_CONFIG": config, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches a worker through us, and once
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
        """Of each worker; None: it runs."""
        return [process.poll() for process in self.processes]

    def send(self, number: int) -> None:
        """A signal to all that run, and to what they have started."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def wait(self, seconds: float | None, or_failure: bool = False) -> bool:
        """Until all have ended (or one badly); whether it is so within the time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while None in (codes := self.codes()):
            if or_failure and any(codes):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True


def _copy_lines(lines: BinaryIO, number: int) -> None:
    name = f"worker {number}: ".encode()
    for line in lines:
        sys.stdout.buffer.write(name + line.rstrip(b"\n") + b"\n")
        sys.stdout.buffer.flush()


def run(command: list[str], workers: int, grace_seconds: float) -> int:
    """Starts the workers and waits for them; the exit code for all."""
    with Cluster(command, workers) as cluster, _passed_on(cluster):
        cluster.wait(None, or_failure=True)
        if None in cluster.codes():
            number, code = next((n, c) for n, c in enumerate(cluster.codes()) if c)
            print(
                f"worker {number} ended with {said(code)}; the others have {grace_seconds:g} s",
                file=sys.stderr,
                flush=True,
            )
            if not cluster.wait(grace_seconds):
                cluster.send(signal.SIGTERM)
                cluster.wait(KILL_SECONDS)
        codes = [process.poll() for process in cluster.processes]
    return exit_code([-signal.SIGKILL if code is None else code for code in codes])


def said(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def exit_code(codes: list[int]) -> int:
    """One for all, of at least one code as subprocess gives it: -15 is an end by SIGTERM."""
    errors = [code for code in codes if code > 0]
    return min(errors) if errors else max((128 - code for code in codes if code), default=0)


@contextlib.contextmanager
def _passed_on(cluster: Cluster):
    """SIGTERM and SIGINT to this process go to every worker; each may end in its own way."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(number, lambda n, _: cluster.send(n)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main(argv: list[str]) -> int:
    flags = parser().parse_args(argv)
    if flags.workers < 1:
        print(f"error: --workers={flags.workers}: give 1 or more", file=sys.stderr)
        return 2
    try:
        return run(flags.command, flags.workers, flags.grace_seconds)
    except FileNotFoundError:
        print(f"error: {flags.command[0]}: no such command", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
