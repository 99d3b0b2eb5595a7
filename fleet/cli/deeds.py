"""What the dashboard's keys do: the same as the commands, told as events instead of on the terminal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet import notes
from fleet.applying.report import Event
from fleet.cli import cache, drain
from fleet.cli.world import chosen
from fleet.errors import VaultError
from fleet.observing.observe import Connections, observe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fleet.applying.report import Outcome
    from fleet.errors import HostError
    from fleet.model.facts import Down
    from fleet.model.spec import FleetSpec
    from fleet.ports import World


@dataclass(frozen=True, slots=True)
class _Told:
    """A Progress that passes everything on."""

    event: Callable[[Event], None]

    def waiting(self, text: str) -> None:
        self.event(Event("fleet", text, "note"))


@dataclass(frozen=True, slots=True)
class Deeds:
    """Everything that a key may change; what is said in the end is one line each. All raise FleetError."""

    spec: FleetSpec
    world: Callable[[], World]
    """Made anew for each, as each command does."""

    def up(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> list[str]:
        """As `fleet up --host`."""
        return self._apply(nodes, tell, restart=())

    def restart(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> list[str]:
        """As `fleet restart`."""
        return self._apply(nodes, tell, restart=nodes)

    def drain(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> list[str]:
        """As `fleet drain`."""
        return self._note(nodes, tell, away=True)

    def resume(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> list[str]:
        """As `fleet resume`."""
        return self._note(nodes, tell, away=False)

    def prune(self, nodes: Sequence[str], tell: Callable[[Event], None]) -> list[str]:
        """As `fleet prune`."""
        from fleet.cache import Pruning
        from fleet.quantities import size

        world, hosts = self.world(), chosen(self.spec, nodes)
        began = world.now()
        for host in hosts:
            tell(Event(host.name, "prune the build cache"))
        freed = cache.clean(hosts, world.prober, Pruning(), tell)
        for name, one in freed.items():
            tell(Event(name, f"freed {size(one.bytes)}", "failed" if one.failure else "done"))
        unnoted = {} if self.spec.joined else cache.noted(self.spec, world, began, freed)
        lines = [
            f"{name}: freed {size(one.bytes)}" + (f", then {_why(one.failure)}" if one.failure else "")
            for name, one in freed.items()
        ]
        return lines + _whys(unnoted)

    def _apply(self, nodes: Sequence[str], tell: Callable[[Event], None], *, restart: Sequence[str]) -> list[str]:
        from fleet.applying.apply import Applier
        from fleet.planning.plan import plan

        spec, world = self.spec, self.world()
        with world.vault.locked(), Connections(world.connect) as connections:
            applier = Applier(spec, world, connections, tell, "restart" if restart else "up")
            applier.hold(only=nodes)
            facts = observe(spec, world, connections, only=nodes)
            decided = plan(spec, facts, world.now(), only=nodes, restart=restart)
            if decided.signs and facts.vault.sealed and not _passphrase_is_at_hand(spec):
                raise VaultError(
                    "the CA's key is sealed, and this screen cannot ask for its passphrase",
                    "set FLEET_CA_PASSPHRASE or tls.ca_passphrase_command, or fleet up in a terminal",
                )
            report = applier.up(facts, decided, only=nodes, restart=restart)
        return [_outcome(one) for one in (*report.nodes, report.builder)]

    def _note(self, nodes: Sequence[str], tell: Callable[[Event], None], *, away: bool) -> list[str]:
        from fleet.applying.record import Recorder

        world, told, command = self.world(), _Told(tell), "drain" if away else "resume"
        text = notes.Drain(world.operator, world.now()).text() if away else None
        # This machine's builder is changed, too.
        with world.vault.locked(), Connections(world.connect) as connections:
            recorder = Recorder(self.spec.name, command, world, connections)
            for name in nodes:
                tell(Event(name, command))
            failed = drain.note_all(recorder, chosen(self.spec, nodes), text, told)
            for name in nodes:
                error = failed.get(name)
                tell(Event(name, error.message if error else f"{command}: done", "failed" if error else "done"))
            registered = drain.reregister(self.spec, world, told)
            missing = recorder.missing()
        lines = [f"{name}: {_said(failed[name])}" if name in failed else f"{name}: done" for name in nodes]
        return [*lines, *([_outcome(registered)] if registered else []), *_whys(missing)]


def _passphrase_is_at_hand(spec: FleetSpec) -> bool:
    return bool(spec.tls.ca_passphrase_command) or "FLEET_CA_PASSPHRASE" in os.environ


def _outcome(one: Outcome) -> str:
    said = "".join(f": {_why(down)}" for down in (one.failure, one.warning) if down)
    return f"{one.subject}: {one.result}{said}"


def _why(down: Down) -> str:
    return f"{down.stage}: {down.reason}" + (f" (try: {down.remedy})" if down.remedy else "")


def _said(error: HostError) -> str:
    return f"{error.stage}: {error.message}" + (f" (try: {error.remedy})" if error.remedy else "")


def _whys(missing: Mapping[str, Down]) -> list[str]:
    return [f"{name}: {_why(down)}" for name, down in missing.items()]
