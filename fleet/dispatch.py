"""`fleet build`: choose a native node for every platform, then let buildx do the build."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fleet import buildx, notes, route
from fleet.errors import RoutingError, UsageError
from fleet.health import node_health
from fleet.model import BuilderNode, Down, NodeFacts, Platform
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from fleet.model import ApiFacts, FleetSpec, HostSpec, NodeHealth
    from fleet.ports import Builder

PROBE_TIMEOUT = 1.0
"""Seconds that a node has to answer before a build: a healthy one takes milliseconds."""

LATE_TIMEOUT = 15.0
"""Seconds for a node that is alive but slow, when the build cannot do without it."""

SILENT_TIMEOUT = 60.0
"""Seconds for the owner of a platform that nobody else has to come back: an emulated one restarts in half a minute."""

PASSING_TIMEOUT = 300.0
"""Seconds for a node whose daemon fleet is replacing: its builds end first, and a slow host starts slowly."""

LOOK_EVERY = 0.2
"""Seconds between two looks at a node that is waited for."""


class Probes(Protocol):
    """What of a Prober a build needs."""

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        """What the daemon answers within `timeout` seconds, or the stage at which it does not."""
        ...


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What dispatching needs: `builder` holds fleet's own definitions, the user's builder is not touched."""

    spec: FleetSpec
    prober: Probes
    builder: Builder
    driver_options: Mapping[str, str]
    owners: Mapping[Platform, str]
    """Who owns a platform in the registered builder: its cache is the warm one."""
    narrate: Callable[[str], None]

    def build(self, arguments: Sequence[str]) -> int:
        """Run one `docker buildx build`; its exit code. Raises RoutingError or UsageError before anything is sent."""
        parsed = buildx.parse_build(arguments, os.environ.get("DOCKER_DEFAULT_PLATFORM", ""))
        if parsed.builder:
            raise UsageError(
                "fleet build chooses the nodes itself, so --builder has no place here",
                f"drop it, or type: docker buildx build --builder {parsed.builder} …",
            )
        nodes = self._health(parsed.platforms)
        self.builder.check()
        platforms = self._platforms(parsed, nodes)
        chosen = self._choose(platforms, nodes)
        for platform, owner in self.owners.items():
            if platform in platforms and platform not in chosen.get(owner, ()):
                able = next(name for name, pinned in chosen.items() if platform in pinned)
                self.narrate(f"{platform} on {able}: its owner {owner} does not answer")
        name = self._define(chosen)
        wanted = () if parsed.platforms else ("--platform", ",".join(map(str, platforms)))
        return self.builder.call(("build", "--builder", name, *wanted, *arguments))

    def _health(self, wanted: Sequence[Platform]) -> tuple[NodeHealth, ...]:
        """Every node's health; nodes that may soon be fit are waited for when without them a platform has nobody."""
        answers = self._ask(self.spec.hosts, PROBE_TIMEOUT, enough=partial(self._owners_answer, wanted))
        nodes = self._judged(answers)
        began, told, replaced = time.monotonic(), False, set[str]()
        while True:
            needed = wanted or tuple(filter(None, (self._default(nodes),)))
            waited = time.monotonic() - began
            replaced |= {name for name, answer in answers.items() if (d := notes.drain(answer)) and d.passing}
            hopes = [h for h in self.spec.hosts if self._patience(h, answers.get(h.name), needed, replaced) > waited]
            if not hopes or (needed and not route.refusals(needed, nodes)):
                return nodes
            if not told:
                told = True
                self.narrate(f"waiting for {', '.join(host.name for host in hopes)}: {_reasons(hopes, nodes)}")
            answers |= self._ask(hopes, LATE_TIMEOUT)
            nodes = self._judged(answers)
            time.sleep(LOOK_EVERY)

    def _patience(
        self, host: HostSpec, answer: ApiFacts | Down | None, wanted: Sequence[Platform], replaced: Collection[str]
    ) -> float:
        """For how many seconds a node that is not fit now is worth waiting for; `replaced`: it said so before."""
        if isinstance(answer, Down) and host.name in replaced:
            return PASSING_TIMEOUT
        if isinstance(answer, Down):
            owned = [platform for platform in wanted if self.owners.get(platform) == host.name]
            return LATE_TIMEOUT if answer.late else SILENT_TIMEOUT if owned else 0
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

    def _owners_answer(self, wanted: Sequence[Platform], answers: Mapping[str, ApiFacts | Down]) -> bool:
        """Whether the nodes that are first choice are fit: then the build need not wait for the others."""
        fit = {node.name: node for node in self._judged(answers)}
        owners = [self.owners.get(platform) for platform in wanted]
        return bool(owners) and all(
            owner in fit and route.why_not(platform, fit[owner]) is None
            for platform, owner in zip(wanted, owners, strict=True)
        )

    def _judged(self, answers: Mapping[str, ApiFacts | Down]) -> tuple[NodeHealth, ...]:
        return tuple(
            node_health(self.spec, host, NodeFacts(api=answers.get(host.name)), ()) for host in self.spec.hosts
        )

    def _platforms(self, parsed: buildx.BuildArguments, nodes: Sequence[NodeHealth]) -> tuple[Platform, ...]:
        if parsed.platforms:
            return parsed.platforms
        default = self._default(nodes)
        if default is None:
            raise RoutingError("no node answers", "fleet status")
        self.narrate(f"no --platform given: building for {default}")
        return (default,)

    def _default(self, nodes: Sequence[NodeHealth]) -> Platform | None:
        return route.default_platform(os.uname().machine, nodes, self.owners)

    def _choose(self, platforms: Sequence[Platform], nodes: Sequence[NodeHealth]) -> dict[str, list[Platform]]:
        if refused := route.refusals(platforms, nodes):
            lines = [
                f"no healthy node runs {refusal.platform} natively\n"
                + "\n".join(f"  {name}: {reason}" for name, reason in refusal.reasons.items())
                for refusal in refused
            ]
            raise RoutingError("\n".join(lines), "fleet status; add or repair a node, or build for other platforms")
        chosen: dict[str, list[Platform]] = {}
        for platform in platforms:
            able = [node.name for node in nodes if route.why_not(platform, node) is None]
            owner = self.owners.get(platform)
            chosen.setdefault(owner if owner in able else able[0], []).append(platform)
        return chosen

    def _define(self, chosen: Mapping[str, Sequence[Platform]]) -> str:
        """A builder of exactly the chosen nodes and pins: no other node is asked, no platform is left to chance.

        Named by its content, so that builds side by side share or do not share it, but never change it.
        """
        nodes = [
            BuilderNode(name, f"tcp://{self.spec.host(name).endpoint}", tuple(platforms), self.driver_options)
            for name, platforms in chosen.items()
        ]
        digest = hashlib.sha256(repr([(n, sorted(n.options.items())) for n in nodes]).encode()).hexdigest()
        name = f"{self.spec.name}-{digest[:12]}"
        for step in buildx.steps(self.builder.read(name).nodes, nodes):
            self.builder.run(buildx.arguments(name, step))
        return name


def _reasons(hosts: Iterable[HostSpec], nodes: Sequence[NodeHealth]) -> str:
    names = {host.name for host in hosts}
    return "; ".join(dict.fromkeys(node.reason for node in nodes if node.name in names and node.reason))
