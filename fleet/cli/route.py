"""`fleet route`: which node would build what, and why the others would not."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from fleet import route
from fleet.adapters.project import project
from fleet.adapters.reservations import Reservations
from fleet.cli import output
from fleet.cli.build import OWN_BUILDERS, RESERVED
from fleet.cli.progress import progress
from fleet.cli.world import entitled, load_any, world_of
from fleet.dispatching import explain, spread
from fleet.errors import RoutingError, UsageError
from fleet.health import node_health
from fleet.model.facts import NodeFacts
from fleet.model.platforms import Platform
from fleet.observing.observe import PROBE_TIMEOUT
from fleet.parallel import gather

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet.dispatching.explain import Route
    from fleet.model.health import NodeHealth
    from fleet.model.spec import FleetSpec
    from fleet.ports import Prober


def show(
    inventory: Path,
    context: str,
    asked: Sequence[str],
    *,
    affinity: str | None,
    allow_emulation: bool,
    explained: bool,
    as_json: bool,
    verbose: bool,
) -> int:
    """`fleet route`."""
    wanted = _platforms(asked)
    spec = load_any(inventory)
    vault = entitled(spec)
    world = world_of(spec)
    with progress(verbose=verbose) as narration:
        narration.waiting("asking the nodes")
        nodes = healths(spec, world.prober)
    pinned = [platform for node in world.builder.read(spec.name).nodes for platform in node.platforms]
    reserved = Reservations(vault.directory / OWN_BUILDERS / RESERVED).counts()
    load = spread.load(nodes, reserved)
    key = affinity or project(context)
    platforms = wanted or explain.known_platforms(nodes, pinned)
    nodes = route.with_emulation(platforms, nodes, lambda name: allow_emulation or spec.host(name).emulation)
    found = explain.routes(platforms, nodes, load, key)
    if not found:
        raise RoutingError("no node answers", "fleet status")
    if as_json:
        output.as_json({"fleet": spec.name, "affinity": key, "routes": [_json(one) for one in found]})
    else:
        _show(found, explained=explained)
    if refusals := route.refusals(wanted, nodes):
        raise route.refused(refusals)
    return 0


def healths(spec: FleetSpec, prober: Prober) -> tuple[NodeHealth, ...]:
    """How the daemons are, asked as `fleet build` does: without a login."""
    prober.prepare()
    answers = gather({host.name: partial(prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})
    return tuple(node_health(spec, host, NodeFacts(api=answers[host.name]), ()) for host in spec.hosts)


def _platforms(asked: Sequence[str]) -> tuple[Platform, ...]:
    try:
        texts = [text for value in asked for text in value.split(",")]
        return tuple(dict.fromkeys(Platform.parse(os.uname().machine if t == "local" else t) for t in texts))
    except ValueError as error:
        raise UsageError(f"--platform: {error}") from error


def _show(found: Sequence[Route], *, explained: bool) -> None:
    titles = ("platform", "node", "why")
    rows = [(str(one.platform), one.node or "–", one.why) for one in found]
    first, second, _ = (max(map(len, column)) for column in zip(titles, *rows, strict=True))
    click.secho(f"{titles[0]:<{first}}  {titles[1]:<{second}}  {titles[2]}", bold=True)
    for one, (platform, node, why) in zip(found, rows, strict=True):
        click.echo(f"{platform:<{first}}  ", nl=False)
        click.secho(f"{node:<{second}}", fg="green" if one.node else "red", nl=False)
        click.echo(f"  {why}")
        for name, against in one.others.items() if explained else ():
            click.echo(f"  {name}: {against}")


def _json(one: Route) -> dict[str, Any]:
    return {
        "platform": str(one.platform),
        "node": one.node,
        "why": one.why,
        "refused": one.refused,
        "emulated": one.emulated,
        "others": [{"name": name, "why": why} for name, why in one.others.items()],
    }
