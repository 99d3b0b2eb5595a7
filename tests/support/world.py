"""A small world for laws about plans: machines, a buildx and a vault. In it, fleet can be killed before any change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import pytest

from fleet import parallel
from fleet.applying import act, apply
from fleet.applying.apply import Applier
from fleet.applying.report import Event, Result
from fleet.containers.proxy import gates
from fleet.model.facts import Down, Facts, HostFacts, NodeFacts
from fleet.model.spec import FleetSpec, HostSpec
from fleet.observing.observe import Connections, files, observe_host, offered
from fleet.planning.actions import GRACE, AwaitReady
from fleet.planning.plan import Plan, plan, plan_down
from fleet.ports import Builder, Host, Prober, Vault, World
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_vault import FakeVault
from tests.support.fakes import FakeBuilder, FakeHost, FakeProber, Machine, connector
from tests.support.values import NOW


class Killed(BaseException):
    """Fleet is no more."""


@dataclass(slots=True)
class FakeWorld:
    """Everything outside, in memory; time stands still unless a test moves `now`."""

    machines: dict[str, Machine] = field(default_factory=dict)
    builder: FakeBuilder = field(default_factory=FakeBuilder)
    vault: FakeVault = field(default_factory=FakeVault)
    now: datetime = NOW
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, *machines: Machine) -> FakeWorld:
        """A world of these machines."""
        return cls({machine.address: machine for machine in machines})

    def ports(self, before_change: Callable[[str], None] = lambda _: None) -> World:
        """This world as the core is given it.

        `before_change` is called with what is about to be changed: a host's name, `builder` or `vault`.
        """
        connect = connector(self.machines)

        def connect_told(host: HostSpec) -> Host:
            return cast("Host", _Told(connect(host), lambda *_: before_change(host.name)))

        return World(
            connect=connect_told,
            prober=cast("Prober", _Told(self.prober(), lambda host, *_: before_change(host.name))),
            builder=cast("Builder", _Told(self.builder, lambda *_: before_change("builder"))),
            registry=self.registry,
            vault=cast("Vault", _Told(self.vault, lambda *_: before_change("vault"))),
            now=self._clock,
            read_file=self.read_file,
            operator="anna@desk",
        )

    def read_file(self, path: str) -> bytes:
        """A file of the operator's machine."""
        if path == self.vault.client_files["cacert"]:
            return self.vault.trust()
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.files[path]

    def prober(self) -> FakeProber:
        """Asks the daemons here."""
        return FakeProber(self.machines, self.vault, self._clock)

    def _clock(self) -> datetime:
        return self.now

    # ------------------------------------------------------------------------------------ observing, planning

    def facts(self, spec: FleetSpec, *, only: Collection[str] = ()) -> Facts:
        """What `observe` would find, in one thread."""
        keys = self.vault.read()
        prober = self.prober()
        with Connections(connector(self.machines)) as connections:
            nodes = {
                host.name: NodeFacts(
                    host=observe_host(spec, host, connections, closely=True) if not only or host.name in only else None,
                    api=prober.probe(host, timeout=1) if keys.client else None,
                )
                for host in spec.hosts
            }
        arches = {node.host.arch for node in nodes.values() if isinstance(node.host, HostFacts)}
        images = [spec.buildkit.image, *([spec.gateway.image] if spec.gateway else [])]
        offers = {(image, arch): offered(self.ports(), image, arch) for image in images for arch in arches}
        through = {key: prober.probe(gate, timeout=1) for key, gate in gates(spec).items() if keys.client}
        given = files(spec, self.ports())
        return Facts(nodes, self.builder.read(spec.name), keys, offers, files=given, gates=through)

    def plan(self, spec: FleetSpec, *, only: Collection[str] = (), patience: int = GRACE) -> Plan:
        """What `fleet plan` would decide now."""
        return plan(spec, self.facts(spec, only=only), self.now, only=only, patience=patience)

    # ---------------------------------------------------------------------------------------- carrying it out

    def apply(
        self, spec: FleetSpec, *, stop: Mapping[str, int] | None = None, watch: Callable[[], None] = lambda: None
    ) -> dict[str, Down]:
        """Plan and carry it out, one thing after the other; the hosts that failed.

        `stop` kills fleet before a change: after so many of a host, of the `builder`, of the `vault` or of `anything`.
        The other hosts' lanes go on for as long as they do not depend on it, as if both had been under way. `watch` is
        called before each change, and at the end.
        """
        left = dict(stop or {})

        def before_change(subject: str) -> None:
            watch()
            for counted in (subject, "anything"):
                if left.get(counted) == 0:
                    raise Killed
                if counted in left:
                    left[counted] -= 1

        facts = self.facts(spec)
        decided = plan(spec, facts, self.now)

        def emit(event: Event) -> None:
            if event.text == str(AwaitReady(event.subject)):
                self.machines[spec.host(event.subject).address].settle()

        ports = self.ports(before_change)
        threads = set(threading.enumerate())
        with at_once(), Connections(ports.connect) as connections:
            try:
                report = Applier(spec, ports, connections, emit).up(facts, decided)
            except Killed:
                return {}
            finally:
                await_others(threads)
        watch()
        return {one.subject: one.failure for one in report.nodes if one.failure and one.result is Result.FAILED}

    def down(self, spec: FleetSpec) -> None:
        """Plan `fleet down --volumes` and carry it out."""
        ports = self.ports()
        with Connections(ports.connect) as connections:
            Applier(spec, ports, connections, lambda _: None).down(plan_down(spec, self.facts(spec), volumes=True))


def await_others(but: Collection[threading.Thread]) -> None:
    """Wait until no threads run but these."""
    while under_way := set(threading.enumerate()).difference(but):
        for thread in under_way:
            with suppress(RuntimeError):  # one that another is just starting
                thread.join()


@contextmanager
def at_once() -> Iterator[None]:
    """Nothing is waited for, and one thing is done after the other, in an order that does not change."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STEADY", "SETTLING", "LOOK_EVERY", "READY_TIMEOUT"):
            patch.setattr(act, name, 0.0)
        patch.setattr(apply, "GATEWAY_TIMEOUT", 0.0)
        patch.setattr(parallel, "WIDTH", 1)
        yield


_CHANGES = frozenset(
    {
        *(
            "pull",
            "load",
            "create",
            "create_proxy",
            "start",
            "stop",
            "kill_unless",
            "rename",
            "remove",
            "remove_volume",
            "remove_image",
        ),
        *("note", "prune", "run", "create_authority", "issue_client", "issue_bundle_credential", "revoke"),
        *("renew_nodes", "begin_rotation", "switch_authority", "end_rotation"),
    }
)


class _Told:
    """A port that tells before it changes something."""

    def __init__(self, port: Any, tell: Callable[..., None]) -> None:
        self._port, self._tell = port, tell

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._port, name)
        if name == "engine":
            return lambda: _Told(member(), self._tell)
        if name not in _CHANGES or isinstance(self._port, FakeHost):
            return member

        def call(*arguments: Any, **named: Any) -> Any:
            self._tell(*arguments)
            return member(*arguments, **named)

        return call
