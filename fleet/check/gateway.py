"""What is in a gateway's way on its host and in the network: one judgement for all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fleet.check.ground import Ground, Reach
from fleet.check.judgement import Judgement, State, ok, unknown, warning
from fleet.check.network import at_hand, free
from fleet.containers.proxy import gates
from fleet.model.spec import GATEWAY, Delivery, object_name
from fleet.planning.lane import other_authority

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet.check.judgement import Case
    from fleet.model.spec import GatewaySpec, HostSpec

_WORST_FIRST = (State.PROBLEM, State.WARNING, State.UNKNOWN, State.OK)


def gateway(case: Case) -> Judgement:
    """Name, ports, image, and the way there from this machine; the worst of it counts, and all that is amiss is told.

    Where it only cannot be reached, `fleet up` lets builds go to the nodes without it.
    """
    judged = sorted(_judged(case), key=lambda one: _WORST_FIRST.index(one.state))
    told = [one for one in judged if one.state is not State.OK] or judged
    return Judgement(judged[0].state, "; ".join(one.text for one in told), judged[0].remedy)


def _judged(case: Case) -> Iterator[Judgement]:
    wanted, found = case.spec.gateway, case.found
    if not wanted:
        return
    name, proxies = object_name(case.spec.name, GATEWAY), found.proxy.containers
    if found.proxy.foreign:
        taken = ", ".join(found.proxy.foreign)
        yield warning(f"{taken} is not fleet's (it lacks fleet's label)", "rename or remove it")
    elif case.vault and (other := next(filter(None, (other_authority(one, case.vault) for one in proxies)), None)):
        yield warning(other.reason, other.remedy)
    runs = any(one.name == name and one.state == "running" for one in proxies)
    for (host, _), gate in gates(case.spec).items():
        if host == case.host.name:
            ours = runs and not _others(case, gate.port)
            yield ok(f"port {gate.port} is {name}'s") if ours else free(case, gate.port, "gateway.ports")
            yield from _reached(case, gate, runs=runs)
    yield _image(case, wanted)


def _others(case: Case, port: int) -> bool:
    """Whether a program other than HAProxy has the port: the gateway may run with other ports than it is to have."""
    ground = case.answers.ground
    found = ground.ports.get(port) if isinstance(ground, Ground) else None
    return bool(found and found.taken and found.by and "haproxy" not in found.by)


def _reached(case: Case, gate: HostSpec, *, runs: bool) -> Iterator[Judgement]:
    """Without a gateway there, a port that refuses is as it should be; of all else `reachable` tells the cause."""
    here = case.answers.gates.get(gate.port, Reach.UNKNOWN)
    if here is Reach.OPEN or (here is Reach.REFUSED and not runs):
        return
    if here is Reach.UNKNOWN:
        yield unknown(f"whether {gate.endpoint} can be reached from here")
        return
    yield warning(
        f"a connection from here to {gate.endpoint} is {here}: builds would go to the nodes without it",
        f"open TCP {gate.port} to this machine in the firewalls before and on {case.host.name}: the port is its own",
    )


def _image(case: Case, wanted: GatewaySpec) -> Judgement:
    said = at_hand(case, wanted.image, case.found.proxy.image, case.answers.gateway_image, "gateway.image")
    sent = case.host.delivery is Delivery.STREAM
    return replace(said, state=State.WARNING) if sent and said.state is State.PROBLEM else said
