"""A function of many items, computed by threads: items go in, in an order, and their results come
out in that order.

The threads are Python's: an error in one of them ends the loop that waits for it, and a loop that
ends early leaves none behind. TensorFlow's own threads, where they are inside a Python function,
can keep a process from ending.
"""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator


def results(function: Callable, items: Iterable, limit: int) -> Iterator:
    """Yield `function(item)` of each item, in their order; raise what it raises. Up to `limit`
    items are taken ahead of the one that is yielded, so that threads are busy and memory does not
    grow."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    futures = collections.deque()
    try:
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) > limit:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
