"""All hosts side by side, and this machine: every finding, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from typing import TYPE_CHECKING

from fleet.certificates import problems
from fleet.check.ground import EngineInfo, Ground
from fleet.check.judgement import Case, State, Topic, ok, problem, unknown, warning
from fleet.check.machine import clock_judgement
from fleet.check.node import judge
from fleet.health import CLOCK_LIMIT, wrong_clock
from fleet.model.facts import BuilderFacts, Down, HostFacts, common_skew
from fleet.planning.plan import builder_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from fleet.check.judgement import Answers, Judgement
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.model.vault import VaultFacts


@dataclass(frozen=True, slots=True)
class Asked:
    """All answers that are judged: by node, and this machine's own."""

    nodes: Mapping[str, Answers]
    """The nodes that were asked, in the inventory's order."""
    builder: BuilderFacts | Down
    vault: VaultFacts | Down


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one topic, at a node or (None) at this machine."""

    node: str | None
    topic: Topic
    state: State
    text: str
    remedy: str | None = None


class Fitness(StrEnum):
    """A node in one word."""

    READY = "ready"
    PROBLEMS = "problems"
    UNKNOWN = "unknown"
    """Nothing is known against it, but not enough for it."""


_NEEDED = {Topic.LOGIN, Topic.DOCKER, Topic.PORT, Topic.IMAGE}
"""What a host has to be known for: without one of them `fleet up` fails."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check has found."""

    findings: tuple[Finding, ...]
    """Node by node, then of this machine; topics in their order."""
    nodes: Mapping[str, Fitness]

    def of(self, node: str | None) -> tuple[Finding, ...]:
        """The findings of a node, or (None) of this machine."""
        return tuple(finding for finding in self.findings if finding.node == node)

    @property
    def exit_code(self) -> int:
        """0 all is fit; 1 no node is; 3 something is not."""
        unfit = [fitness is not Fitness.READY for fitness in self.nodes.values()]
        return 1 if all(unfit) else 3 if self.unfit_here or any(unfit) else 0

    @property
    def unfit_here(self) -> bool:
        """Whether this machine has a problem of its own."""
        return any(finding.state is State.PROBLEM for finding in self.of(None))


def check(spec: FleetSpec, asked: Asked, now: datetime) -> Checked:
    """Judge every answer; what was not answered is unknown, never ok."""
    hosts = [host for host in spec.hosts if host.name in asked.nodes]
    common = common_skew(answers.host for answers in asked.nodes.values())
    same = _same_machine(hosts, asked.nodes)
    vault = asked.vault if not isinstance(asked.vault, Down) else None
    findings = []
    for host in hosts:
        judged = judge(Case(spec, host, asked.nodes[host.name], vault, common)) | {Topic.MACHINE: same[host.name]}
        findings += [_finding(host.name, topic, judged[topic]) for topic in Topic if topic in judged]
    own = (*_own_clock(hosts, asked.nodes, common), *_builder(spec, asked), *_certificates(spec, asked, now))
    findings += [_finding(None, topic, said) for topic, said in own]
    return Checked(tuple(findings), {host.name: _fitness(host.name, findings) for host in hosts})


def _finding(node: str | None, topic: Topic, said: Judgement) -> Finding:
    return Finding(node, topic, said.state, said.text, said.remedy)


def _fitness(node: str, findings: Sequence[Finding]) -> Fitness:
    mine = [finding for finding in findings if finding.node == node]
    if any(finding.state is State.PROBLEM for finding in mine):
        return Fitness.PROBLEMS
    unsure = any(finding.state is State.UNKNOWN and finding.topic in _NEEDED for finding in mine)
    return Fitness.UNKNOWN if unsure else Fitness.READY


# ----------------------------------------------------------------------------------------- host beside host


def _same_machine(hosts: Sequence[HostSpec], nodes: Mapping[str, Answers]) -> dict[str, Judgement]:
    """Whether two names mean one machine, or a machine and its copy.

    A copied disk has the same machine-id and Docker id; only one machine has the same boot, too.
    """
    known = {host.name: _identity(nodes[host.name]) for host in hosts}
    found = {
        name: ok("no other name means this machine") if identity else unknown("whether another name means this machine")
        for name, identity in known.items()
    }
    for first, second in combinations(hosts, 2):
        one, other = known[first.name], known[second.name]
        if one and other and set(one.ids) & set(other.ids):
            for host, twin in ((first, second), (second, first)):
                said = _twin(host, twin, booted_together=one.boot == other.boot)
                if found[host.name].state is not State.PROBLEM:
                    found[host.name] = said
    return found


def _twin(host: HostSpec, twin: HostSpec, *, booted_together: bool) -> Judgement:
    if not booted_together:
        return warning(
            f"it is a copy of {twin.name}: they have the same machine-id or Docker id, "
            "and a DHCP server may give both one address",
            "on one of them: rm /etc/machine-id /var/lib/docker/engine-id; systemd-machine-id-setup; reboot",
        )
    remedy = "take one of the two out of the inventory, or correct its address"
    if host.port == twin.port:
        return problem(f"{twin.name} is the same machine, and only one of them can have port {host.port}", remedy)
    return warning(f"{twin.name} is the same machine: their builds share its CPUs and disk", remedy)


@dataclass(frozen=True, slots=True)
class _Identity:
    ids: tuple[str, ...]
    boot: str


def _identity(answers: Answers) -> _Identity | None:
    ground, info = answers.ground, answers.info
    if not isinstance(ground, Ground) or ground.boot_id is None:
        return None
    ids = (ground.machine_id, info.id if isinstance(info, EngineInfo) else None)
    known = tuple(filter(None, ids))
    return _Identity(known, ground.boot_id) if known else None


# ------------------------------------------------------------------------------------------- this machine

_Own = tuple[Topic, "Judgement"]


def _own_clock(hosts: Sequence[HostSpec], nodes: Mapping[str, Answers], common: float | None) -> Iterator[_Own]:
    """Its clock is judged where there are hosts enough to tell who is wrong."""
    if common is None:
        return
    for host in hosts:
        found = nodes[host.name].host
        if isinstance(found, HostFacts) and found.clock_skew == common:
            wrong = wrong_clock(host, found, common)
            yield Topic.CLOCK, clock_judgement(common, wrong) if wrong else ok(f"within {CLOCK_LIMIT:.0f} s")
            return


def _builder(spec: FleetSpec, asked: Asked) -> Iterator[_Own]:
    if isinstance(asked.builder, Down):
        yield Topic.BUILDX, problem(asked.builder.reason, asked.builder.remedy)
        return
    if asked.builder.unusable:
        yield Topic.BUILDX, problem(asked.builder.unusable.reason, asked.builder.unusable.remedy)
    else:
        yield Topic.BUILDX, ok("docker buildx is fit")
    if not asked.builder.registered or isinstance(asked.vault, Down):
        return
    stored = BuilderFacts(asked.builder.nodes, asked.builder.driver)
    if foreign := builder_problem(spec.name, stored, asked.vault.driver_options):
        yield Topic.BUILDER, problem(foreign.reason, foreign.remedy)
    else:
        yield Topic.BUILDER, ok(f"builder {spec.name} is this fleet's")


def _certificates(spec: FleetSpec, asked: Asked, now: datetime) -> Iterator[_Own]:
    vault = asked.vault
    if isinstance(vault, Down):
        yield Topic.CERTIFICATES, problem(vault.reason, vault.remedy)
        return
    found = problems(spec, vault, now)
    for wrong in found:
        yield Topic.CERTIFICATES, warning(wrong.reason, wrong.remedy)
    if vault.authority and vault.authority.expires <= now:
        # As `fleet up` puts it, which can do nothing about it.
        yield (
            Topic.CERTIFICATES,
            problem(
                f"the fleet's CA expired on {vault.authority.expires:%Y-%m-%d}",
                "start anew: fleet down, move the vault away, fleet up",
            ),
        )
    elif not found:
        made = "are in time" if vault.client else "are made by fleet up"
        yield Topic.CERTIFICATES, ok(f"the CA's and this machine's {made}")
