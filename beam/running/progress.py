"""Progress of a local job: workers append one byte per event to a file, the launcher counts them.

Beam's own counters can be read only after the run, and worker processes share no memory.
"""

import functools
import os
import threading
import time
from collections import Counter
from pathlib import Path

from lake.terminal import progress

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
    """A context in which a line on stderr shows the progress."""

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
        line, speed = progress.Line(), progress.Speed()
        while True:
            is_last = self.end_event.wait(self.seconds)
            with self.path.open("rb") as file:
                file.seek(offset)
                events = file.read()
            offset += len(events)
            counts.update({event: events.count(event) for event in EVENTS})
            rate = speed(num_finished(counts)) if counts[RECORD] else 0.0
            seconds = time.monotonic() - start
            line.show(progress_line(counts, seconds, self.activity, rate), is_last)
            if is_last:
                return


def num_finished(counts: Counter) -> int:
    """Return the number of images that are finished, one way or another."""
    return counts[RECORD] + counts[REJECTED] + counts[LEFT_OUT]


def progress_line(
    counts: Counter, seconds: float, activity: str = "converting", rate: float = 0.0
) -> str:
    """Return the line that shows a job's progress: the number of headers that are read while it
    lists files, later that of finished images, of them `rate` per second."""
    total = counts[MATCHED]
    if not counts[RECORD]:
        num_listed = min(counts[LISTED], total)  # workers note one after the other
        return f"listing: {num_listed:,} of {total:,} headers read, {seconds:.0f} s"
    text = progress.line_text(activity, num_finished(counts), total, "images", rate)
    return f"{text}, {counts[REJECTED]:,} rejected, {seconds:.0f} s"
