"""Marks of tests."""

import os

import pytest

# What takes minutes and has a smaller sibling in the suite; run it when its subject changes.
exhaustive = pytest.mark.skipif(
    not os.environ.get("RADLAKE_EXHAUSTIVE"), reason="RADLAKE_EXHAUSTIVE=1 runs it"
)
