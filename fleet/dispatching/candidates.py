"""Who could build now: daemons asked no longer than a build needs it, and those waited for that will be back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fleet import notes, route
from fleet.dispatching import spread
from fleet.health import node_health
from fleet.model.facts import Down, NodeFacts
from fleet.model.platforms import Platform, runs_natively
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from fleet.builds import BuildRecord
    from fleet.model.facts import ApiFacts
    from fleet.model.health import NodeHealth
    from fleet.model.spec import FleetSpec, HostSpec

PROBE_TIMEOUT = 1.0
"""Seconds that a node has to answer before a build: a healthy one takes milliseconds."""

LATE_TIMEOUT = 15.0
"""Seconds for a node that is alive but slow, when the build cannot do without it."""

SILENT_TIMEOUT = 60.0
"""Seconds for a node to come back that nobody else can stand in for: an emulated one restarts in half a minute."""

PASSING_TIMEOUT = 300.0
"""Seconds for a node whose daemon fleet is replacing: its builds end first, and a slow host starts slowly."""

LOOK_EVERY = 0.5
"""Seconds between two looks at a node that is waited for."""


class Probes(Protocol):
    """What of a Prober a build needs."""

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not."""
        ...

    def builds(self, host: HostSpec, *, refs: Sequence[str]) -> Iterator[BuildRecord]:
        """Of these builds what the daemon remembers. Raises HostError while it is read."""
        ...


@dataclass(frozen=True, slots=True)
class Candidates:
    """The fleet's nodes, as a build of the project `key` asks them."""

    spec: FleetSpec
    prober: Probes
    owners: Mapping[Platform, str]
    """Who owns a platform in the registered builder."""
    key: str
    narrate: Callable[[str], None]
    allow_emulation: bool = False
    """Whether every node may emulate, and not only those of which the inventory says it."""
    lost: set[str] = field(default_factory=set)
    """Nodes that this build has lost: last in turn, but if nobody else runs a platform they are waited for."""

    def health(self, wanted: Sequence[Platform], busy: Collection[str] = ()) -> tuple[NodeHealth, ...]:
        """Every node's health; nodes that may soon be fit are waited for when without them a platform has nobody.

        `wanted` may be empty: the default platform. `busy`: nodes that are known to have builds already.
        """
        answers = self._ask(self.spec.hosts, PROBE_TIMEOUT, enough=partial(self._settled, wanted, busy))
        nodes = self._judged(answers)
        began, told, replaced = time.monotonic(), False, set[str]()
        while True:
            needed = wanted or tuple(filter(None, (self.default(nodes),)))
            waited = time.monotonic() - began
            replaced |= {name for name, answer in answers.items() if (d := notes.drain(answer)) and d.passing}
            hopes = [h for h in self.spec.hosts if self._patience(h, answers.get(h.name), needed, replaced) > waited]
            if not hopes or (needed and not route.refusals(needed, nodes)):
                return route.with_emulation(needed, nodes, self._may_emulate)
            if not told:
                told = True
                self.narrate(f"waiting for {', '.join(host.name for host in hopes)}: {_reasons(hopes, nodes)}")
            answers |= self._ask(hopes, LATE_TIMEOUT)
            nodes = self._judged(answers)
            time.sleep(LOOK_EVERY)

    def standing_in(self, name: str, platforms: Sequence[Platform]) -> bool:
        """Whether other nodes could build all that this one does, now."""
        others = [host for host in self.spec.hosts if host.name not in {name, *self.lost}]
        return not route.refusals(platforms, self._judged(self._ask(others, PROBE_TIMEOUT)))

    def default(self, nodes: Sequence[NodeHealth]) -> Platform | None:
        """What a build without --platform is for."""
        return route.default_platform(os.uname().machine, nodes, self.owners)

    def choose(
        self, platforms: Sequence[Platform], nodes: Sequence[NodeHealth], load: Mapping[str, int]
    ) -> dict[str, list[Platform]] | spread.Full:
        """Node -> what it is to build; Full: of one of the platforms. Every platform has an able node."""
        chosen: dict[str, list[Platform]] = {}
        for platform in platforms:
            standing = [node for node in nodes if node.name not in self.lost]
            fit = standing if any(route.why_not(platform, node) is None for node in standing) else nodes
            choice = spread.choose(platform, fit, load, self.key)
            if isinstance(choice, spread.Full):
                return choice
            chosen.setdefault(choice.node, []).append(platform)
        return chosen

    def _settled(
        self, wanted: Sequence[Platform], busy: Collection[str], answers: Mapping[str, ApiFacts | Down]
    ) -> bool:
        """Whether the choice is clear: of every platform the first in turn has answered, is able, and idle.

        A build need not wait then for the nodes behind it.
        """
        needed = wanted or ((own,) if (own := self.default(())) in self.owners and own else ())
        nodes = {node.name: node for node in self._judged(answers) if node.name in answers}
        return bool(needed) and all(self._is_clear(platform, busy, nodes) for platform in needed)

    def _is_clear(self, platform: Platform, busy: Collection[str], nodes: Mapping[str, NodeHealth]) -> bool:
        able = {host.name: spread.weight(host.max_builds) for host in self.spec.hosts if self._may_run(host, platform)}
        for name in spread.order(self.key, able):
            node = nodes.get(name)
            if node is None or name in self.lost:
                return False
            if route.why_not(platform, node) is None:
                return node.active_builds == 0 and name not in busy
        return False

    def _may_emulate(self, name: str) -> bool:
        return self.allow_emulation or self.spec.host(name).emulation

    def _may_run(self, host: HostSpec, platform: Platform) -> bool:
        """Not, if it owns platforms of another kind of machine in the registered builder."""
        owned = [pinned for pinned, owner in self.owners.items() if owner == host.name]
        return not owned or any(runs_natively(pinned.arch, platform) for pinned in owned)

    def _patience(
        self, host: HostSpec, answer: ApiFacts | Down | None, wanted: Sequence[Platform], replaced: Collection[str]
    ) -> float:
        """For how many seconds a node that is not fit now is worth waiting for; `replaced`: it said so before."""
        if isinstance(answer, Down) and host.name in replaced:
            return PASSING_TIMEOUT
        if isinstance(answer, Down):
            owned = any(self.owners.get(platform) == host.name for platform in wanted)
            return LATE_TIMEOUT if answer.late else SILENT_TIMEOUT if owned or host.name in self.lost else 0
        drain = notes.drain(answer)
        return PASSING_TIMEOUT if drain and drain.passing else 0

    def _ask(
        self,
        hosts: Sequence[HostSpec],
        timeout: float,
        enough: Callable[[Mapping[str, ApiFacts | Down]], bool] = lambda _: False,
    ) -> dict[str, ApiFacts | Down]:
        asking = Gathering({host.name: partial(self.prober.probe, host, timeout=timeout) for host in hosts})
        return asking.results(enough=enough)

    def _judged(self, answers: Mapping[str, ApiFacts | Down]) -> tuple[NodeHealth, ...]:
        return tuple(
            node_health(self.spec, host, NodeFacts(api=answers.get(host.name)), ()) for host in self.spec.hosts
        )


def _reasons(hosts: Iterable[HostSpec], nodes: Sequence[NodeHealth]) -> str:
    names = {host.name for host in hosts}
    return "; ".join(dict.fromkeys(node.reason for node in nodes if node.name in names and node.reason))
