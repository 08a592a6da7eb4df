"""launch.detached: a run outlives the connection that started it, and is found again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def connect(tmp_path):
    """Starts launch.detached for a Python text in tmp_path; returns the process."""

    def start(text: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "launch.detached", f"--folder={tmp_path}", "--"]
        command += [sys.executable, "-u", "-c", text]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    return start


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 101), (42, 142)])
def test_the_exit_code_travels_apart_from_those_of_gcloud(connect, code, expected):
    process = connect(f"import sys; print('hello'); sys.exit({code})")
    assert process.communicate(timeout=60)[0] == "hello\n"
    assert process.returncode == expected


def test_a_second_connection_goes_on_with_the_same_run(connect, tmp_path):
    text = (
        "import pathlib, time, os\n"
        "print('run', os.getpid())\n"
        f"while not pathlib.Path({str(tmp_path / 'go')!r}).exists(): time.sleep(0.1)\n"
        "print('end')"
    )
    first = connect(text)
    assert first.stdout.readline().startswith("run ")
    while (tmp_path / "shown").read_text() == "0":
        time.sleep(0.05)
    first.kill()  # the connection is lost; SIGHUP would be ignored under nohup
    assert first.wait(60) == -signal.SIGKILL
    second = connect(text)
    (tmp_path / "go").touch()
    assert second.communicate(timeout=60)[0] == "end\n"
    assert second.returncode == 0
    third = connect(text)
    assert third.communicate(timeout=60)[0].startswith("run ")


def test_a_run_whose_machine_is_taken_notes_its_code(connect):
    text = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))\n"
        "print(os.getpgrp())\n"
        "time.sleep(60)"
    )
    process = connect(text)
    # A machine that shuts down tells everybody, the run and who watches it.
    os.killpg(int(process.stdout.readline()), signal.SIGTERM)
    assert process.wait(60) == 142
