"""The line that says how far a command is. In: how much is done of how much. Out: on a terminal one
line that is rewritten; elsewhere, as in a log, a line every LINE_SECONDS."""

import sys
import time
from typing import TextIO

from lake.terminal import console

LINE_SECONDS, TERMINAL_SECONDS = 10.0, 0.2  # between two lines, and two states of one


class Line:
    """Shows texts, each over the last one in a terminal, else below it, but not too often."""

    def __init__(self, stream: TextIO | None = None, first_after_s: float = 0.0):
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.next_time = 0.0 if self.is_terminal else time.monotonic() + first_after_s

    def is_due(self) -> bool:
        return time.monotonic() >= self.next_time

    def show(self, text: str, is_last: bool = False) -> None:
        """Show a text where it is time to, the last one in any case."""
        if not self.is_due() and not is_last:
            return
        seconds = TERMINAL_SECONDS if self.is_terminal else LINE_SECONDS
        self.next_time = time.monotonic() + seconds
        end = "\n" if is_last or not self.is_terminal else "\r"
        rest = "\x1b[K" if self.is_terminal else ""  # clears what a longer text has left
        console.note(f"{text}{rest}", end=end, file=self.stream, flush=True)


class Progress:
    """Shows how much is done of a total, how fast, and how long the rest will take. In a log, a
    command that is done before its first line is due shows none."""

    def __init__(self, activity: str, total: int, unit: str = "images", num_before: int = 0):
        """Start; `num_before` of the total were done by an earlier start."""
        self.activity, self.total, self.unit, self.count = activity, total, unit, num_before
        self.line, self.speed = Line(first_after_s=LINE_SECONDS), Speed()

    def add(self, count: int = 1) -> None:
        """Show that so many more are done."""
        self.update(self.count + count)

    def update(self, count: int) -> None:
        """Show that `count` are done by now."""
        if self.count >= self.total:  # the end was shown already
            return
        self.count = count
        rate, is_last = self.speed(count), count >= self.total
        if self.line.is_terminal or self.line.is_due():
            text = line_text(self.activity, count, self.total, self.unit, rate)
            self.line.show(text, is_last)


class Speed:
    """Returns per second what was done since the first call, before which a command opens files
    and compiles; 0 where that is not known yet."""

    def __init__(self):
        self.first = None  # (count, time)

    def __call__(self, count: int) -> float:
        now = time.monotonic()
        self.first = self.first or (count, now)
        first_count, first_time = self.first
        return (count - first_count) / (now - first_time) if now > first_time else 0.0


def line_text(activity: str, count: int, total: int, unit: str, rate: float) -> str:
    """Return the text about a count, which is shown as the total at most; `rate`: per second, 0
    where it is not known."""
    count = min(count, total)
    share = 100 * count // total if total else 100  # rounded down: 100% is all
    text = f"{activity}: {count:,} of {total:,} {unit} ({share}%)"
    if not rate:
        return text
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    left = f", ETA {duration((total - count) / rate)}" if count < total else ""
    return f"{text}, {speed} {unit}/s{left}"


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds, as in 0:01:30."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
