"""What each command does: load, observe, decide, apply, show. Adapters are imported by the commands that use them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import click

from fleet.cli import output
from fleet.cli.build import OWN_BUILDERS
from fleet.cli.progress import progress
from fleet.cli.world import chosen, load, load_any, vault_of, world_of
from fleet.errors import Busy
from fleet.model.facts import Down, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fleet.model.facts import ApiFacts, Facts, NodeFacts
    from fleet.model.spec import FleetSpec
    from fleet.observing.observe import Connections, Observation
    from fleet.planning.plan import Plan
    from fleet.ports import World

SOMETHING_TO_DO = 4

STATUS_TIME = 1.25
"""Seconds from the start of `status` after which it waits for nothing more: an answer within 1.5 s, whatever breaks."""

STATUS_CONTENT = 0.75
"""Seconds after which it is content with what every daemon said over mutual TLS: hosts explain what is wrong, and
nothing is."""


def plan(inventory: Path, only: Sequence[str], *, exit_code: bool, as_json: bool, verbose: bool) -> int:
    """`fleet plan`."""
    from fleet.observing.observe import Connections, observe
    from fleet.planning import plan as decide

    spec = load(inventory, only)
    world = world_of(spec, dial=chosen(spec, only))
    with progress(verbose=verbose) as show, Connections(world.connect) as connections:
        show.waiting(f"asking {_count(spec, only)}")
        facts = observe(spec, world, connections, only=only)
    decided = decide.plan(spec, facts, world.now(), only=only)
    if as_json:
        output.as_json(output.plan_json(decided))
    else:
        output.show_plan(decided)
    if decided.blocked or decided.builder_blocked:
        return 1 if len(decided.blocked) == len(decided.lanes) else 3
    return SOMETHING_TO_DO if exit_code and not decided.empty else 0


def up(
    inventory: Path,
    only: Sequence[str],
    *,
    as_json: bool,
    verbose: bool,
    restart: Sequence[str] = (),
    only_new: bool = False,
    parallel: int = 1,
    no_wait: bool = False,
    deadline: float | None = None,
) -> int:
    """`fleet up`, and `fleet restart` of the nodes in `restart`; `deadline` in the time of time.monotonic()."""
    spec = load(inventory, only)
    world = world_of(spec, dial=chosen(spec, only))
    from fleet.certificates import problems
    from fleet.observing.observe import Connections, observe

    with world.vault.locked(), Connections(world.connect) as connections:
        with progress(verbose=verbose) as show:
            show.waiting(f"asking {_count(spec, only)}")
            asked = _begin(spec, world, connections, only, only_new=only_new)
            # While the hosts let us in: what the logins need next, and what their answers are for.
            import fleet.adapters.engine  # noqa: F401 - loaded ahead
            from fleet.applying.apply import Applier
            from fleet.planning import plan as decide
            from fleet.planning.actions import GRACE

            command, patience = "restart" if restart else "up", 0 if no_wait else GRACE

            def decided_by(facts: Facts) -> Plan:
                return decide.plan(spec, facts, world.now(), only=only, restart=restart, patience=patience)

            applier = Applier(spec, world, connections, show.event, command)
            if asked is None:
                # Once for all that is asked from then on.
                applier.hold(only=only)
            facts = asked.facts() if asked else observe(spec, world, connections, only=only)
            if only_new:
                only = decide.without_daemon(spec, facts)
            nobody = only_new and not only
            decided = decide.Plan(spec.name) if nobody else decided_by(facts)
            if asked and not decided.empty:
                applier.hold(only=only)
                # Until then somebody else may have changed something.
                facts = observe(spec, world, connections, only=only)
                decided = decided_by(facts)
        if decided.signs:
            # A prompt and a progress display cannot share a terminal.
            world.vault.unlock()
        with progress(verbose=verbose) as show:
            applier = Applier(
                *(spec, world, connections, show.event, command),
                parallel=parallel,
                patience=patience,
                deadline=deadline,
            )
            report = applier.up(facts, decided, only=only, restart=restart)
            remains = None
            if report.exit_code == 0 and not decided.empty:
                show.waiting("looking again")
                remains = _remaining(spec, world, connections, only, applier.fresh_answers())
    ending = problems(spec, world.vault.read(), world.now())
    if as_json:
        output.as_json(
            output.report_json(spec.name, report, remains) | {"problems": list(map(output.down_json, ending))}
        )
    else:
        output.show_report(report)
        for problem in ending:
            output.complain(spec.name, problem)
        if remains:
            click.echo("the fleet is not yet as it is wanted; what remains:", err=True)
            output.show_plan(remains, err=True)
        elif report.exit_code == 0:
            click.echo(f"builder {spec.name}: docker buildx build --builder {spec.name} …, or fleet build …", err=True)
    return output.PARTLY if remains else report.exit_code


def _begin(
    spec: FleetSpec, world: World, connections: Connections, only: Sequence[str], *, only_new: bool
) -> Observation | None:
    """Begin to ask everybody; None: begin to log in, as without a builder here something is to be done.

    `only_new`: which hosts are to be held is known when they have answered.
    """
    from fleet.observing.observe import Observation

    if only_new or world.builder.read(spec.name).registered:
        return Observation(spec, world, connections, only=only)
    connections.open(chosen(spec, only))
    return None


def _remaining(
    spec: FleetSpec, world: World, connections: Connections, only: Sequence[str], known: Mapping[str, ApiFacts]
) -> Plan | None:
    """What a run that has done everything would still do; None: nothing. `known`: see `Observation`."""
    from fleet.observing.observe import observe
    from fleet.planning import plan as decide

    seen = observe(spec, world, connections, only=only, known=known)
    if lost := [host for host in spec.hosts if _is_lost(seen.nodes[host.name])]:
        # All is done, so the host's lock is not needed any more: a new login shows what became of it.
        for host in lost:
            connections.drop(host)
        seen = observe(spec, world, connections, only=only)
    after = decide.plan(spec, seen, world.now(), only=only)
    return None if after.empty else after


def status(inventory: Path, *, started: float, as_json: bool, verbose: bool) -> int:
    """`fleet status`; `started` in the time of time.monotonic()."""
    from fleet.fleet_health import snapshot
    from fleet.observing.observe import Connections, observe

    spec = load_any(inventory)
    world = world_of(spec, certificates=True, dial=spec.hosts)
    with progress(verbose=verbose) as show, Connections(world.connect) as connections:
        show.waiting(f"asking {_count(spec)}")
        facts = observe(spec, world, connections, deadline=started + STATUS_TIME, enough=started + STATUS_CONTENT)
        taken = snapshot(spec, facts, world.now())
    if as_json:
        output.as_json(output.snapshot_json(taken))
    else:
        output.show_snapshot(taken)
    usable = [*(node.health.usable for node in taken.nodes), *(gate.health.usable for gate in taken.gates)]
    if spec.joined and all(usable):
        from fleet.cli import joining

        joining.settle(spec)
    return output.exit_code(usable)


def down(
    inventory: Path, only: Sequence[str], *, volumes: bool, any_vault: bool, yes: bool, as_json: bool, verbose: bool
) -> int:
    """`fleet down`."""
    from fleet.applying.apply import Applier
    from fleet.observing.observe import Connections, observe
    from fleet.planning import plan as decide

    spec = load(inventory, only)
    world = world_of(spec)
    with world.vault.locked(), Connections(world.connect) as connections:

        def planned() -> Plan:
            facts = observe(spec, world, connections, only=only)
            return decide.plan_down(spec, facts, volumes=volumes, any_vault=any_vault, only=only)

        with progress(verbose=verbose) as show:
            show.waiting(f"asking {_count(spec, only)}")
            if yes:
                Applier(spec, world, connections, show.event, "down").hold(only=only)
            decided = planned()
        if not decided.empty and not yes:
            output.show_plan(decided, err=True)
            output.ask("Remove all this?", "fleet down")
        with progress(verbose=verbose) as show:
            applier = Applier(spec, world, connections, show.event, "down")
            if not decided.empty and not yes:
                applier.hold(only=only)
                agreed, decided = decided, planned()
                if _exceeds(decided, agreed):
                    raise Busy("somebody has changed the fleet meanwhile: nothing was removed", "fleet down again")
            report = applier.down(decided)
        if report.exit_code == 0 and not only:
            shutil.rmtree(vault_of(spec).directory / OWN_BUILDERS, ignore_errors=True)
    if as_json:
        output.as_json(output.report_json(spec.name, report))
    else:
        output.show_report(report)
    return report.exit_code


def _exceeds(decided: Plan, agreed: Plan) -> bool:
    """Whether something else would be done than was agreed to; that less can be done is told by the report."""
    return decided.builder != agreed.builder or any(
        lane.actions and lane.actions != agreed.lanes[name].actions for name, lane in decided.lanes.items()
    )


def schema() -> int:
    """`fleet schema`."""
    from fleet.inventory.parse import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0


def _is_lost(node: NodeFacts) -> bool:
    return isinstance(node.host, Down) and node.host.stage is Stage.SSH


def _count(spec: FleetSpec, only: Sequence[str] = ()) -> str:
    number = len(only) or len(spec.hosts)
    return f"{number} host{'s' if number != 1 else ''}"
