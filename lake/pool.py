"""New processes that share the work of a command. In: their number. Out: a pool of them, which ends
without a word when the command ends, be it killed.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.pool import Pool

from lake import signals

# What Python's own helper prints about the locks of a killed process, which it then removes.
LEFT_LOCKS = "ignore:resource_tracker"


def start(num_processes: int) -> Pool:
    """Return a pool of so many new processes; a forked one would wait for ever for locks of
    libraries' threads (pyarrow's, TensorFlow's) that it does not have."""
    with signals.keep_from_children(), _ignored_by_children(LEFT_LOCKS):
        return multiprocessing.get_context("spawn").Pool(num_processes, _end_with_parent)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone: nobody takes its results, and a traceback
    would say so."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@contextlib.contextmanager
def _ignored_by_children(warning: str) -> Iterator[None]:
    """Let processes that the block starts ignore a warning of Python's."""
    name = "PYTHONWARNINGS"
    before = os.environ.get(name)
    os.environ[name] = f"{before},{warning}" if before else warning
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
