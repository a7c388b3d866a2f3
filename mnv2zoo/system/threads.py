"""Works on a few items at a time in threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def in_order(
    items: Iterable[S], work: Callable[[S], T], ahead: int, threads: int | None = None
) -> Generator[tuple[S, T], None, None]:
    """Works on items in a thread pool, a limited number ahead of the consumer.

    Args:
        items: The items, which are taken as they are needed.
        work: Called with each item, in a thread.
        ahead: Maximum number of items that are in progress or waiting.
        threads: Number of threads. Default: that of `ThreadPoolExecutor`.

    Yields:
        Each item, in order, with the result. An exception of `work` is raised when its item is due.
    """
    waiting: deque[tuple[S, Future[T]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) == ahead:
                first, result = waiting.popleft()
                yield first, result.result()
        for item, result in waiting:
            yield item, result.result()
    finally:
        pool.shutdown(cancel_futures=True)
