"""Follow a fleet that is watched: this machine's builder changes with it, as `fleet up` would have it; no host does."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fleet.applying.apply import Applier
from fleet.errors import BuilderError, FleetError, Held
from fleet.model.facts import Down, Stage
from fleet.model.spec import Connection
from fleet.observing.observe import Connections
from fleet.planning import failover

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from fleet import buildx
    from fleet.applying.report import Event
    from fleet.model.facts import Facts
    from fleet.model.spec import FleetSpec
    from fleet.planning.failover import Move
    from fleet.ports import World


@dataclass(frozen=True, slots=True)
class Change:
    """What has changed in the builder, when (UTC) and why."""

    at: datetime
    moves: tuple[Move, ...]
    steps: tuple[str, ...]
    why: tuple[str, ...]


def to_be_watched(spec: FleetSpec) -> FleetSpec:
    """The same, but only the hosts of gateways are logged in to: they alone know whom their gateway passes by."""
    needed = spec.gateway.hosts if spec.gateway else ()
    hosts = (host if host.name in needed else replace(host, connection=Connection.NONE) for host in spec.hosts)
    return replace(spec, hosts=tuple(hosts))


class Follower:
    """Remembers how everybody has answered, and changes the registration when it is time to."""

    def __init__(self, spec: FleetSpec, world: World, *, may_go_on: Callable[[], None] = lambda: None) -> None:
        """`may_go_on` is called before each step, and raises what is to end it there."""
        self._spec, self._world, self._may_go_on = spec, world, may_go_on
        self._memory = failover.Memory()
        self.trouble: Down | None = None
        """Why the builder does not follow; None: it does."""

    def look(self, facts: Facts) -> Change | None:
        """Change what is to be changed in view of what is known now.

        While another fleet of this machine is at work nothing is: that one sees to the builder itself.
        """
        now = time.monotonic()
        self._memory = failover.noticed(self._memory, facts, now)
        if self._memory.rests(now):
            return None
        try:
            change, self.trouble = self._follow(facts, now)
        except Held:
            return None
        except FleetError as error:
            self.trouble = Down(Stage.BUILDER, error.message, error.remedy)
            return None
        return change

    def _follow(self, facts: Facts, now: float) -> tuple[Change | None, Down | None]:
        """What has changed, and what has failed."""
        if not facts.builder.registered:
            raise BuilderError(f"there is no builder {self._spec.name} here", "fleet up, or fleet join BUNDLE")
        # Keys that cannot be read are the watch's to tell.
        if not facts.vault.driver_options or not self._steps(facts, now):
            return None, None
        world, name = self._world, self._spec.name
        with world.vault.locked():
            # Whoever was at work until now may have changed it.
            facts = replace(facts, builder=world.builder.read(name), vault=world.vault.read())
            steps = self._steps(facts, now)
            if not steps:
                return None, None
            done: list[str] = []

            def heard(event: Event) -> None:
                if event.state == "begun":
                    self._may_go_on()
                    done.append(event.text)

            with Connections(world.connect) as none:
                outcome = Applier(self._spec, world, none, heard, "watch").register(steps, None)
            self._memory = replace(self._memory, changed=time.monotonic())
            moved = failover.moves(self._spec, facts.builder.nodes, world.builder.read(name).nodes)
        if outcome.failure:
            # What nobody owns then was not given away: it is a part of what failed.
            moved, done = tuple(move for move in moved if move.owner), done[:-1]
            if not moved:
                return None, outcome.failure
        why = failover.reasons(self._spec, moved, self._memory, now)
        return Change(world.now(), moved, tuple(done), why), outcome.failure

    def _steps(self, facts: Facts, now: float) -> tuple[buildx.Step, ...]:
        steps, blocked = failover.steps(self._spec, facts, self._memory, now)
        if blocked:
            raise BuilderError(blocked.reason, blocked.remedy)
        return steps
