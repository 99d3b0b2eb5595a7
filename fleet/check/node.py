"""One host, topic by topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.check import gateway, machine, network
from fleet.check.judgement import NO_ANSWER, NotKnownError, State, Topic, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet.check.judgement import Case, Judgement


def judge(case: Case) -> dict[Topic, Judgement]:
    """What there is to say of each topic that a host can be judged by alone."""
    login, topics = machine.login(case), dict(_TOPICS)
    if case.spec.gateway and case.host.name in case.spec.gateway.hosts:
        topics[Topic.GATEWAY] = gateway.gateway
    if login.state is not State.OK:
        # All the rest hangs on it.
        reason = unknown(NO_ANSWER if login.state is State.UNKNOWN else "it cannot be logged in to")
        return dict.fromkeys(topics, reason) | {Topic.LOGIN: login, Topic.REACHABLE: network.reachable(case)}
    judged = {}
    for topic, look in topics.items():
        try:
            judged[topic] = look(case)
        except NotKnownError as missing:
            judged[topic] = unknown(str(missing))
    return judged


_TOPICS: dict[Topic, Callable[[Case], Judgement]] = {
    Topic.LOGIN: machine.login,
    Topic.DOCKER: machine.docker,
    Topic.ARCHITECTURE: machine.architecture,
    Topic.EMULATION: machine.emulation,
    Topic.CGROUPS: machine.cgroups,
    Topic.STORAGE: machine.storage,
    Topic.DISK: machine.disk,
    Topic.INODES: machine.inodes,
    Topic.MEMORY: machine.memory,
    Topic.CLOCK: machine.clock,
    Topic.CONTAINER: network.container,
    Topic.PORT: network.port,
    Topic.REACHABLE: network.reachable,
    Topic.MTU: network.mtu,
    Topic.DNS: network.dns,
    Topic.REGISTRY: network.registry,
    Topic.IMAGE: network.image,
}
