"""How the gateway is: on each of its hosts, for each architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.containers.proxy import endpoint, gates, gateway_arch
from fleet.model.facts import ApiFacts, Down, HostFacts, Stage
from fleet.model.health import GateHealth, Health
from fleet.model.spec import GATEWAY, object_name

if TYPE_CHECKING:
    from fleet.model.facts import Facts, NodeFacts
    from fleet.model.spec import FleetSpec


def gate_health(spec: FleetSpec, facts: Facts) -> tuple[GateHealth, ...]:
    """Each gateway's way to each architecture that the fleet is known to have."""
    sends = {node.endpoint: node.platforms for node in facts.builder.nodes if gateway_arch(node)}
    seen = {arch for node in facts.nodes.values() if (arch := arch_of(node))}
    found = []
    for (name, arch), gate in gates(spec).items():
        if arch in seen or endpoint(gate) in sends:
            state, why = _judge(spec, facts.nodes[name].host, facts.gates.get((name, arch)))
            reason = f"{why.stage}: {why.reason}" if why else None
            owns = sends.get(endpoint(gate), ())
            remedy = "tell the fleet's operator" if why and spec.joined else why.remedy if why else None
            found.append(GateHealth(name, arch, gate.endpoint, owns, state, reason, remedy))
    return tuple(found)


def arch_of(node: NodeFacts) -> str | None:
    """The architecture of a node, as its host or its daemon says."""
    if isinstance(node.host, HostFacts):
        return node.host.arch
    return node.api.platforms[0].arch if isinstance(node.api, ApiFacts) and node.api.platforms else None


def _judge(
    spec: FleetSpec, host: HostFacts | Down | None, answer: ApiFacts | Down | None
) -> tuple[Health, Down | None]:
    """What answers behind it counts; the host says why nothing does."""
    if isinstance(answer, ApiFacts):
        return Health.READY, None
    if isinstance(host, Down):
        return Health.DOWN, host
    name = object_name(spec.name, GATEWAY)
    if host and not any(one.name == name and one.state == "running" for one in host.proxy.containers):
        state = next((one.detail or one.state for one in host.proxy.containers if one.name == name), "there is none")
        return Health.DOWN, Down(Stage.CONTAINER, f"{name}: {state}", "fleet up")
    if answer is None:
        return Health.UNKNOWN, Down(Stage.API, "nothing has answered in time", "run it again")
    return (Health.UNKNOWN if answer.late else Health.DOWN), explained(answer)


def explained(answer: Down) -> Down:
    """What a failed probe through a gateway means: it ends connections that it can give to nobody."""
    if answer.stage is Stage.TCP:
        remedy = "fleet up; its ports are the host's own, which its firewall may close"
        return Down(Stage.TCP, answer.reason, remedy, late=answer.late)
    return Down(answer.stage, f"no node behind it can be reached through it ({answer.reason})", "fleet status")
