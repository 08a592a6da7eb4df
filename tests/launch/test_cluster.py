"""launch.cluster with commands that are quicker than a training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import cluster

ROOT = Path(__file__).parents[2]
INDEX = "import json, os; n = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"


def start(code: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "launch.cluster", "--workers=2", *options, "--"]
    return subprocess.Popen(
        [*command, sys.executable, "-c", INDEX + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_each_worker_has_its_place_in_one_cluster_and_its_name_in_front():
    first, second = map(json.loads, cluster.configs(2))
    assert first["cluster"] == second["cluster"] and len(set(first["cluster"]["worker"])) == 2
    process = start("print('I am', n)")
    output, _ = process.communicate()
    assert process.returncode == 0
    assert sorted(output.splitlines()) == ["worker 0: I am 0", "worker 1: I am 1"]


def test_one_bad_end_ends_all_with_its_code():
    process = start("import sys, time; n or sys.exit(3); time.sleep(600)", "--grace_seconds=0.1")
    _, error = process.communicate()
    assert process.returncode == 3
    assert error.startswith("worker 0 ended with exit code 3; the others have 0.1 s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_worker_and_leaves_no_orphan(number):
    code = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: sys.exit(42))
print(os.getpid())
time.sleep(600)
"""
    process = start(code)
    pids = [int(process.stdout.readline().split()[-1]) for _ in range(2)]
    process.send_signal(number)
    process.communicate()
    assert process.returncode == 42
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], 0), ([42, 42], 42), ([42, 2], 2), ([-9, 42], 42), ([-9, -15], 143), ([0, -9], 137)],
)
def test_the_exit_code_is_an_error_before_a_repeat_before_a_signal(codes, expected):
    assert cluster.combined_code(codes) == expected


def test_a_worker_that_takes_no_notice_is_killed(monkeypatch):
    monkeypatch.setattr(cluster, "KILL_SECONDS", 0.2)
    code = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    code += "n and time.sleep(600)\nsys.exit(5)"
    began = time.monotonic()
    assert cluster.run([sys.executable, "-c", INDEX + code], 2, grace_seconds=0.5) == 5
    assert time.monotonic() - began < 60


def test_a_command_that_does_not_exist_is_one_message(capsys):
    assert cluster.main(["--workers=1", "--", "/nowhere/python"]) == 2
    assert "/nowhere/python: no such command" in capsys.readouterr().err
