"""`fleet build`: choose a native node for every platform, then let buildx do the build."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fleet import buildx, route
from fleet.errors import RoutingError, UsageError
from fleet.health import node_health
from fleet.model import BuilderNode, Down, NodeFacts, Platform
from fleet.parallel import Gathering

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fleet.model import ApiFacts, FleetSpec, HostSpec, NodeHealth
    from fleet.ports import Builder, Prober

PROBE_TIMEOUT = 1.0
"""Seconds that a node has to answer before a build: a healthy one takes milliseconds."""

LATE_TIMEOUT = 15.0
"""Seconds for a node that is alive but slow, when the build cannot do without it."""


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What dispatching needs: `builder` holds fleet's own definitions, the user's builder is not touched."""

    spec: FleetSpec
    prober: Prober
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
        """Every node's health; one that is late is waited for when without it a platform has nobody."""
        answers = self._ask(self.spec.hosts, PROBE_TIMEOUT, enough=partial(self._owners_answer, wanted))
        nodes = self._judged(answers)
        late = [host for host in self.spec.hosts if isinstance(said := answers.get(host.name), Down) and said.late]
        if late and (route.refusals(wanted, nodes) or not wanted):
            self.narrate(f"waiting for {', '.join(host.name for host in late)}, slow to answer")
            nodes = self._judged(answers | self._ask(late, LATE_TIMEOUT))
        return nodes

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
        default = route.default_platform(os.uname().machine, nodes, self.owners)
        if default is None:
            raise RoutingError("no node answers", "fleet status")
        self.narrate(f"no --platform given: building for {default}")
        return (default,)

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
