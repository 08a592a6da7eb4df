"""One step whatever the replicas, and in float16 none that one of them cannot take."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from makers.marks import exhaustive

ROOT = Path(__file__).parents[3]


def replica_steps(*arguments: str) -> list[dict]:
    """Return what tests/makers/replica_steps.py prints: one dict of arrays per line."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.makers.replica_steps", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    return [{name: np.asarray(value) for name, value in json.loads(line).items()} for line in lines]


@exhaustive  # test_workers.py has two replicas
def test_one_two_and_four_replicas_end_twenty_steps_with_the_same_weights():
    """1 x 16 = 2 x 8 = 4 x 4 with group norm and two parts each; 1 = 2 with synchronised BN."""
    for norm, others in (("group", "24"), ("sync_batch", "2")):
        [one] = replica_steps("equal", norm, "1")
        assert one["loss"][-1] < one["loss"][0]
        assert min(one["norm"]) > 0.05  # every step is clipped: after the reduction, or it shows
        for replicas in others:
            [other] = replica_steps("equal", norm, replicas)
            np.testing.assert_allclose(other["loss"], one["loss"], atol=1e-5)
            np.testing.assert_allclose(other["w"], one["w"], atol=1e-5)


@pytest.fixture(scope="module")
def two_replicas() -> list[dict]:
    """What a process with two replicas prints: their statistics, then four steps in float16."""
    return replica_steps("two_replicas")


@pytest.mark.slow
def test_plain_batch_norm_statistics_are_averaged_over_replicas(two_replicas):
    means = two_replicas[0]["means"]  # [replicas, 3]
    # Two batches of four: each replica sees the mean of its own half, and remembers by halves.
    halves = (np.arange(24.0).reshape(2, 2, 2, 3) ** 2).mean(axis=2)  # [batch, replica, 3]
    expected = (0.25 * halves[0] + 0.5 * halves[1]).mean(axis=0)
    assert means.shape == (2, 3) and np.allclose(means, expected)


@pytest.mark.slow
def test_an_inf_of_the_last_replica_skips_the_step_of_all(two_replicas):
    first, second, third, fourth = steps = two_replicas[1:]
    assert [int(step["skipped"]) for step in steps] == [0, 0, 1, 0]
    # Doubled after two good steps, halved at the one that was skipped.
    assert [step["scales"].ravel().tolist() for step in steps] == [
        [1024.0] * 2,
        [2048.0] * 2,
        [1024.0] * 2,
        [1024.0] * 2,
    ]
    # Weights, moving statistics, momentum and the count of steps stand as before.
    assert (third["moved"] == second["moved"]).all() and third["loss"] == 0
    assert (second["moved"] != first["moved"]).any() and (fourth["moved"] != third["moved"]).any()
    for step in steps:
        assert np.isfinite(step["weights"]).all()
        assert (step["weights"][0] == step["weights"][1]).all()


@exhaustive
def test_each_replica_resumes_with_the_moving_statistics_that_were_saved():
    [results] = replica_steps("resume")
    # Means and variances of four norms of 8 and two of 16 values, and their moving averages.
    assert results["step"] == 3 and results["before"].shape == (2, 2 * 2 * (4 * 8 + 2 * 16))
    assert (results["before"] != 0).all()
    assert (results["before"][0] == results["before"][1]).all()
    assert (results["after"] == results["before"]).all()
