"""What is built on several nodes, as it happens."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from fleet.builds import Account
from fleet.errors import HostError
from fleet.model.facts import Stage
from fleet.observing.failures import reason
from fleet.parallel import next_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fleet.builds import BuildRecord
    from fleet.model.facts import Down
    from fleet.model.spec import HostSpec
    from fleet.parallel import Stop
    from fleet.ports import Prober

AGAIN = 2.0
"""Seconds after which a node is asked again at the earliest that has no feed: it is drained, or does not answer."""

STEPS_EVERY = 0.3
"""Seconds between two looks at what a running build has done."""

Told = tuple[str, "BuildRecord | Down | None"]
"""A node, and a build there; Down: it is asked until it answers; None: it answers, and tells all from the beginning."""


def follow(hosts: Sequence[HostSpec], prober: Prober, stop: Stop, *, steps: bool = False) -> Iterator[Told]:
    """Each build that there is, and then each as it begins and as it ends, on all nodes, until `stop`.

    `steps`: what is running is told whenever more of it is done, too.
    """
    arriving: queue.SimpleQueue[Told | None] = queue.SimpleQueue()
    with stop.ends(lambda: arriving.put(None)):
        for host in hosts:
            threading.Thread(target=_Node(host, prober, stop, arriving.put, steps=steps).read, daemon=True).start()
        while (said := next_of(arriving)) is not None:
            yield said


class _Node:
    """One node's part of it."""

    def __init__(self, host: HostSpec, prober: Prober, stop: Stop, put: Callable[[Told], None], *, steps: bool) -> None:
        self._host, self._prober, self._stop, self._put, self._steps = host, prober, stop, put, steps
        self._looked_at: set[str] = set()

    def read(self) -> None:
        """Until `stop`."""
        while not self._stop.is_set():
            begun = time.monotonic()
            self._listen()
            self._stop.wait(max(begun + AGAIN - time.monotonic(), 0.0))

    def _listen(self) -> None:
        name = self._host.name
        try:
            for said in self._prober.feed(self._host, self._stop):
                self._put((name, said))
                if not self._steps or said is None or said.completed or said.ref in self._looked_at:
                    continue
                self._looked_at.add(said.ref)
                threading.Thread(target=self._look, args=(said,), daemon=True).start()
        except Exception as error:
            self._put((name, reason(Stage.API, error)))

    def _look(self, record: BuildRecord) -> None:
        """Tell what a running build has done; that it has ended is told by the feed."""
        account, due = Account(record, most=0), 0.0
        try:
            for told in self._prober.build(self._host, record.ref, self._stop):
                account.add(told)
                if (now := time.monotonic()) >= due and not account.record.completed:
                    self._put((record.node, replace(record, steps=account.counts)))
                    due = now + STEPS_EVERY
        except HostError:
            pass  # the feed tells it better
        finally:
            self._looked_at.discard(record.ref)
