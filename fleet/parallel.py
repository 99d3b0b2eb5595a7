"""Do one thing for many hosts at once, and wait no longer than asked."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")
V = TypeVar("V")

WIDTH = 64
"""Threads at a time: more only makes the logins of a large fleet slower, each costs about 0.1 s of CPU."""


def gather(tasks: Mapping[K, Callable[[], V]], *, timeout: float | None = None) -> dict[K, V]:
    """Run all tasks side by side; the results of those that end within `timeout` seconds, in the tasks' order.

    A task that is late goes on in a daemon thread, unheeded: nothing can end a blocking system call from outside, and
    the process must be able to end without it. The first exception of a task is raised here.
    """
    waiting: queue.SimpleQueue[tuple[K, Callable[[], V]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[K, V | None, BaseException | None]] = queue.SimpleQueue()
    for item in tasks.items():
        waiting.put(item)

    def work() -> None:
        while True:
            try:
                key, task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((key, task(), None))
            except BaseException as error:  # it is raised again in the caller's thread
                done.put((key, None, error))

    for _ in range(min(WIDTH, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    deadline = None if timeout is None else time.monotonic() + timeout
    results: dict[K, V] = {}
    for _ in tasks:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        try:
            key, value, error = done.get(timeout=left)
        except queue.Empty:
            break
        if error is not None:
            raise error
        results[key] = value  # type: ignore[assignment]  # None only together with an error
    return {key: results[key] for key in tasks if key in results}
