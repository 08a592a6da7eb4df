"""The line that says how far a command is."""

import io

from lake.terminal import progress
from lake.terminal.progress import Line, Progress, line_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_text_is_never_above_its_total_and_says_100_percent_of_all_alone():
    assert line_text("predicting", 0, 1200, "images", 0) == "predicting: 0 of 1,200 images (0%)"
    expected = "predicting: 1,199 of 1,200 images (99%), 2.5 images/s, ETA 0:00:00"
    assert line_text("predicting", 1199, 1200, "images", 2.5) == expected
    expected = "verifying: 12 of 12 shards (100%), 40 shards/s"
    assert line_text("verifying", 14, 12, "shards", 40.4) == expected
    assert line_text("verifying", 0, 0, "shards", 0) == "verifying: 0 of 0 shards (100%)"
    assert line_text("a", 1, 3601, "images", 1).endswith("1 images/s, ETA 1:00:00")


def test_a_terminal_has_one_line_that_is_rewritten_and_a_log_a_line_now_and_then(monkeypatch):
    terminal, log = Terminal(), io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    lines = Line(terminal), Line(log)
    for number in range(4):
        monkeypatch.setattr(progress.time, "monotonic", lambda number=number: 6.0 * number)
        for line in lines:
            line.show(f"{number}", is_last=number == 3)
    assert terminal.getvalue() == "0\x1b[K\r1\x1b[K\r2\x1b[K\r3\x1b[K\n"
    assert log.getvalue() == "0\n2\n3\n"


def test_what_is_done_at_once_shows_nothing_in_a_log(capsys):
    shown = Progress("verifying", 3, "shards")
    for number in (1, 2, 3, 4):
        shown.update(number)
    assert capsys.readouterr() == ("", "")


def test_the_speed_is_that_of_this_start(monkeypatch):
    """500 of 1,000 were there before; the first of the rest took an hour, to compile."""
    clock = iter([3600.0, 3610.0, 3620.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    speed = progress.Speed()
    assert [speed(count) for count in (501, 601, 701)] == [0.0, 10.0, 10.0]
