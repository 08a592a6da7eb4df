"""What the C library's malloc does with memory that TensorFlow frees on a CPU.
In: nothing. Out: this process's malloc, set otherwise; strategy.py and the ensemble ask."""

import ctypes
import os
import platform

# mallopt's parameters, of glibc's malloc.h, and their variables.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
VARIABLES = "GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_"
NEVER = 2**31 - 1  # the largest int: so many bytes on top of the heap are kept
# What glibc arrives at by itself where large blocks are freed: it raises both thresholds to this.
DEFAULTS = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: NEVER}
# The largest features of a step for which the price was measured (docs/benchmarks.md). At four
# times as many, the peak grew by a fifth, as a heap of large blocks has large gaps; and less was
# gained, as such a step computes for longer than the kernel clears.
MOST_BYTES = 8 * 2**20

_keeps = False  # this process's malloc keeps what is freed


def keep_freed_memory(feature_bytes: int) -> None:
    """Have malloc keep what is freed, instead of giving it back to the system, where the largest
    features of a batch are at most MOST_BYTES; where they are more, undo that (a later stage).
    Nothing where the C library is not glibc, or the user has set its malloc.

    Each operation of a network on a CPU allocates its tensors and frees them, steps all alike. By
    default glibc maps a large tensor and unmaps it, and cuts off the free end of the heap, so that
    the kernel clears every page again for the next operation: up to a quarter of a training's CPU
    time. What is computed stays the same.
    """
    global _keeps
    keeps = feature_bytes <= MOST_BYTES
    if keeps == _keeps or platform.libc_ver()[0] != "glibc":
        return
    if any(name in os.environ for name in VARIABLES):
        return
    libc = ctypes.CDLL(None)
    for parameter, value in (KEPT if keeps else DEFAULTS).items():
        libc.mallopt(parameter, value)
    _keeps = keeps
