"""Progress of a local job: workers append one byte per event to a file, the launcher counts them.

Beam's own counters can be read only after the run, and worker processes share no memory.
"""

import functools
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path

MATCHED, LISTED, RECORD, REJECTED, LEFT_OUT = b"m", b"l", b"r", b"x", b"o"
EVENTS = (MATCHED, LISTED, RECORD, REJECTED, LEFT_OUT)


def tick(progress_file: str | None, event: bytes) -> None:
    """Append one or more events; without a file do nothing, as a remote runner has its own page."""
    if progress_file and event:
        os.write(_descriptor(progress_file), event)


@functools.cache
def _descriptor(progress_file: str) -> int:
    """Return the file's descriptor, opened once per process: opening takes most of a tick."""
    return os.open(progress_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class Line:
    """A context in which the line on stderr that shows the progress is rewritten every second."""

    def __init__(self, progress_file: str, activity: str = "converting", seconds: float = 1.0):
        self.path, self.activity, self.seconds = Path(progress_file), activity, seconds
        self.end_event = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self.path.touch()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end_event.set()
        self.thread.join()

    def _watch(self) -> None:
        """Count the events that the file gains and rewrite the line, until the context ends."""
        start, counts, offset = time.monotonic(), Counter(), 0
        while True:
            is_last = self.end_event.wait(self.seconds)
            with self.path.open("rb") as file:
                file.seek(offset)
                events = file.read()
            offset += len(events)
            counts.update({event: events.count(event) for event in EVENTS})
            end = "\r" if sys.stderr.isatty() and not is_last else "\n"
            sys.stderr.write(progress_line(counts, time.monotonic() - start, self.activity) + end)
            sys.stderr.flush()
            if is_last:
                return


def progress_line(counts: Counter, seconds: float, activity: str = "converting") -> str:
    """Return what a job shows of its progress: how many headers are read while it lists files,
    later how many images are finished."""
    total = counts[MATCHED]
    num_finished = counts[RECORD] + counts[REJECTED] + counts[LEFT_OUT]
    if not counts[RECORD]:
        return f"listing: {counts[LISTED]:,} of {total:,} headers read, {seconds:.0f} s"
    return (
        f"{activity}: {num_finished:,} of {total:,} images ({num_finished / total:.0%}), "
        f"{num_finished / seconds:.0f} images/s, {counts[REJECTED]:,} rejected, {seconds:.0f} s"
    )
