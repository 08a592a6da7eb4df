"""malloc keeps what is freed where a small network runs on a CPU, unless a user has set it."""

import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import options, task
from trainer.config import files
from trainer.devices import allocator, strategy
from trainer.training import run as training_run

# Frees blocks of 48 MB, which glibc would map and unmap, and prints the page faults of the last
# eight: 4 KiB each at most.
ALLOCATE = """
import ctypes, resource, sys
from trainer.devices import allocator
for feature_bytes in map(int, sys.argv[1:]):
    allocator.keep_freed_memory(feature_bytes)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
for number in range(10):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(48 * 2**20)
    ctypes.memset(block, 1, 48 * 2**20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ROOT = Path(__file__).parents[3]
SMALL, LARGE = 1, allocator.MOST_BYTES + 1
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")


def faults(*feature_bytes: int, **variables: str) -> int:
    command = [sys.executable, "-c", ALLOCATE, *map(str, feature_bytes)]
    process = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return int(process.stdout)


@on_glibc
def test_what_is_freed_is_not_cleared_again():
    given_back = faults()  # hundreds of huge pages, or thousands of small ones
    assert faults(SMALL) < 100 < 150 < given_back
    # Where features are large; in a stage of large ones behind another; where a user has decided.
    for others in (faults(LARGE), faults(SMALL, LARGE), faults(SMALL, MALLOC_MMAP_MAX_="65536")):
        assert others > 0.5 * given_back


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The calls of keep_freed_memory, which changes nothing here."""
    numbers = []
    monkeypatch.setattr(allocator, "keep_freed_memory", numbers.append)
    return numbers


def test_runs_and_ensembles_on_a_cpu_ask_for_it(calls, monkeypatch, lake, systems):
    config = files.load("demo_unetpp", ["--train.device=cpu"], lake=str(lake))
    monkeypatch.setattr(training_run, "build_learner", lambda *_: (None,) * 5)
    training_run.build_run(config)
    assert calls == [config.feature_bytes] and config.feature_bytes <= allocator.MOST_BYTES
    flags = options.parser("").parse_args(["predict", *map(str, systems["cascade"]), "--output=x"])
    task._ensemble(flags, None)
    assert calls[1:] == [4 * 4 * 48**2 * 2]  # of the classifier, which is the larger one
    monkeypatch.setattr(strategy, "_kind", lambda device: "GPU")
    strategy.prepare_memory(SMALL)
    assert len(calls) == 2


def test_large_images_and_wide_networks_are_left_alone():
    for name, *changes in (("unetpp",), ("demo_unetpp", "--data.side=512"), ("xception_unet",)):
        assert files.load(name, changes, lake="x").feature_bytes > allocator.MOST_BYTES


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(allocator, "_keeps", False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("its mallopt was called"))
    allocator.keep_freed_memory(SMALL)
    assert not allocator._keeps
