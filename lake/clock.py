"""The time, as the files of a run and of a lock state it."""

import time


def now() -> str:
    """Return the time now, in UTC, such as 2026-11-30T09:05:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
