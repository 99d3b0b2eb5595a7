"""From facts to a snapshot: every node, the gateway, and what concerns no single node."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fleet.certificates import node_problem, problems
from fleet.gateway_health import gate_health
from fleet.health import node_health
from fleet.model.snapshot import Snapshot

if TYPE_CHECKING:
    from datetime import datetime

    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec


def snapshot(spec: FleetSpec, facts: Facts, taken: datetime) -> Snapshot:
    """The fleet's health as the facts show it."""
    owned = {node.name: node.platforms for node in facts.builder.nodes}
    return Snapshot(
        fleet=spec.name,
        taken=taken,
        builder=facts.builder,
        nodes=tuple(
            node_health(
                *(spec, host, facts.nodes[host.name], owned.get(host.name, ())),
                ending=partial(node_problem, spec, host, now=taken),
                common=facts.common_skew,
            )
            for host in spec.hosts
        ),
        joined=spec.joined,
        problems=problems(spec, facts.vault, taken),
        gates=gate_health(spec, facts),
    )
