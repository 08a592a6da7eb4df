"""Processes that share work: where the command is killed they end, without a word."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = """
import os, time
from lake import pool
with pool.start(2) as processes:
    assert "PYTHONWARNINGS" not in os.environ
    for _ in processes.imap(time.sleep, 1000 * [0.1]):
        print("at work", flush=True)
"""


def test_a_killed_command_leaves_nobody_and_no_word(monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", COMMAND], cwd=ROOT, **streams) as process:
        for _ in range(4):
            assert process.stdout.readline() == "at work\n"
        process.kill()
        _, error = process.communicate(timeout=60)  # until nobody holds the streams
    assert error == ""
