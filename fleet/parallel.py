"""Do one thing for many hosts at once, and wait no longer than asked; or again and again, until it is to stop."""

from __future__ import annotations

import heapq
import queue
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

K = TypeVar("K")
V = TypeVar("V")

WIDTH = 64
"""Threads at a time: more only makes the logins of a large fleet slower, each costs about 0.1 s of CPU."""

HEED = 0.25
"""Seconds after which an interrupt is heeded at the latest: the kernel may hand it to a thread that does not wait."""


class Stop(threading.Event):
    """Set when something is to end; it then ends what is waited for as well, which would not notice."""

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._ends: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Let it end."""
        with self._guard:
            super().set()
            ends = list(self._ends.values())
        for end in ends:
            end()

    @contextmanager
    def ends(self, end: Callable[[], object]) -> Iterator[None]:
        """Within this context `end` is called once it is to stop, at once if it is already; from whichever thread."""
        key = object()
        with self._guard:
            self._ends[key] = end
            stopped = self.is_set()
        if stopped:
            end()
        try:
            yield
        finally:
            with self._guard:
                del self._ends[key]


class Gathering(Generic[K, V]):
    """Tasks under way side by side."""

    def __init__(self, tasks: Mapping[K, Callable[[], V]]) -> None:
        """Begin all tasks, in their order.

        A task that is late goes on in a daemon thread, unheeded: nothing can end a blocking system call from outside,
        and the process must be able to end without it.
        """
        self._keys = tuple(tasks)
        self._outcomes: dict[K, Callable[[], V]] = {}
        self._done: queue.SimpleQueue[K] = queue.SimpleQueue()
        waiting: queue.SimpleQueue[tuple[K, Callable[[], V]]] = queue.SimpleQueue()
        for item in tasks.items():
            waiting.put(item)
        for _ in range(min(WIDTH, len(tasks))):
            threading.Thread(target=self._work, args=(waiting,), daemon=True).start()

    def results(
        self, *, timeout: float | None = None, enough: Callable[[Mapping[K, V]], bool] | None = None
    ) -> dict[K, V]:
        """The results of the tasks that end within `timeout` seconds, in their order; a task's exception is raised.

        `enough`: looks at what there is after each result and may say that no more is needed. May be called again for
        the rest, also after an interrupt or a failure, which is raised once more when the others have had their time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while len(self._outcomes) < len(self._keys):
            left = HEED if deadline is None else max(deadline - time.monotonic(), 0.0)
            try:
                key = self._done.get(timeout=min(left, HEED))
            except queue.Empty:
                if left < HEED:
                    break
                continue
            self._outcomes[key]()  # a failure is told at once
            if enough and enough(self._so_far()):
                break
        return self._so_far()

    def _so_far(self) -> dict[K, V]:
        return {key: self._outcomes[key]() for key in self._keys if key in self._outcomes}

    def _work(self, waiting: queue.SimpleQueue[tuple[K, Callable[[], V]]]) -> None:
        while True:
            try:
                key, task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                value = task()
            except BaseException as error:  # it belongs to the thread that collects
                self._outcomes[key] = partial(_raise, error)
            else:
                self._outcomes[key] = partial(_same, value)
            self._done.put(key)


class Rounds:
    """Tasks done again and again, each by its own clock: one that is slow delays no other until the end."""

    def __init__(self, tasks: Mapping[str, Callable[[], float]]) -> None:
        """Begin; a task returns the seconds until it is due again, and must not raise."""
        self._tasks = tasks
        self._due = [(0.0, key) for key in tasks]
        heapq.heapify(self._due)
        self._changed = threading.Condition()
        self._ended = False
        self._now: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._plan, daemon=True)]
        self._threads += (threading.Thread(target=self._work, daemon=True) for _ in range(min(WIDTH, len(self._tasks))))
        for thread in self._threads:
            thread.start()

    def hurry(self, keys: Collection[str]) -> None:
        """These are due now, but for those under way."""
        with self._changed:
            self._due = [(0.0 if key in keys else due, key) for due, key in self._due]
            heapq.heapify(self._due)
            self._changed.notify()

    def end(self, *, patience: float) -> None:
        """Begin nothing more, and wait so many seconds for what is under way."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        for _ in self._threads[1:]:
            self._now.put(None)
        deadline = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _plan(self) -> None:
        with self._changed:
            while not self._ended:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is None or left > 0:
                    self._changed.wait(left)
                else:
                    self._now.put(heapq.heappop(self._due)[1])

    def _work(self) -> None:
        while (key := self._now.get()) is not None and not self._ended:
            due = time.monotonic() + self._tasks[key]()
            with self._changed:
                heapq.heappush(self._due, (due, key))
                if self._due[0][1] == key:
                    self._changed.notify()


def next_of(arriving: queue.SimpleQueue[V]) -> V:
    """What comes next there, however long that takes; an interrupt is heeded meanwhile."""
    while True:
        with suppress(queue.Empty):
            return arriving.get(timeout=HEED)


def gather(tasks: Mapping[K, Callable[[], V]], *, timeout: float | None = None) -> dict[K, V]:
    """Run all tasks side by side and collect: see `Gathering`."""
    return Gathering(tasks).results(timeout=timeout)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _same(value: V) -> V:
    return value
