"""Results on stdout, narration on stderr: tables and JSON. rich is imported only where it draws."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from certs.lifetimes import days_left
from fleet.errors import UsageError
from fleet.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from fleet.applying.report import Outcome, Report
    from fleet.model.facts import Down
    from fleet.model.health import NodeHealth
    from fleet.model.platforms import Platform
    from fleet.model.snapshot import Snapshot
    from fleet.planning.plan import Plan

_HEALTH = {
    "ready": ("●", "green"),
    "degraded": ("◐", "yellow"),
    "down": ("✗", "red"),
    "drained": ("○", "blue"),
    "unknown": ("?", "bright_black"),
}
PARTLY = 3
"""The exit code of what is partly done."""

_RESULT = {"done": "green", "unchanged": "green", "failed": "red", "blocked": "red", "stopped": "yellow"}


def exit_code(done: Iterable[bool]) -> int:
    """What a command for several nodes exits with, by what became of each."""
    each = tuple(done)
    return 0 if all(each) else PARTLY if any(each) else 1


def complain(name: str, why: Down) -> None:
    """What is wrong with a node, and the next thing to try, on stderr."""
    click.echo(f"{name}: {why.stage}: {why.reason}", err=True)
    _remedy(why, err=True)


def as_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2))


def ask(question: str, command: str) -> None:
    """Go on only if a person agrees; raises UsageError where nobody does, or nobody is there."""
    if not sys.stdin.isatty():
        raise UsageError(f"{command} asks before it does that, and nobody is there to answer", "say --yes")
    if not click.confirm(question, err=True):
        raise UsageError("nothing was changed")


# --------------------------------------------------------------------------------------------------- plan


def show_plan(plan: Plan, *, err: bool = False) -> None:
    """The plan as a person reads it: subject by subject, each step, and why; `err`: on stderr."""
    with redirect_stdout(sys.stderr) if err else nullcontext():
        _show_plan(plan)


def _show_plan(plan: Plan) -> None:
    _section("vault", [str(action) for action in plan.vault])
    for name, lane in plan.lanes.items():
        if lane.blocked:
            _blocked(name, lane.blocked)
        elif lane.actions:
            _section(name, [str(action) for action in lane.actions], lane.why)
        else:
            click.echo(f"{name}: nothing to do")
        if lane.warning:
            click.secho(f"  warning: {lane.warning.stage}: {lane.warning.reason}", fg="yellow")
            _remedy(lane.warning, err=False)
    if plan.gateway:
        click.secho(f"gateway: {plan.gateway.reason}", fg="yellow")
        _remedy(plan.gateway, err=False)
    if plan.builder_blocked:
        _blocked("builder", plan.builder_blocked)
    _section("builder", [str(step) for step in plan.builder])
    if plan.empty and not plan.blocked and not plan.builder_blocked:
        click.secho("Nothing to do: the fleet is as it is wanted.", fg="green")


def plan_json(plan: Plan) -> dict[str, Any]:
    """`{"fleet", "empty", "vault", "nodes": [{"name", "actions", "why", "blocked", "warning"}], "builder", …}`."""
    return {
        "fleet": plan.fleet,
        "empty": plan.empty,
        "vault": [str(action) for action in plan.vault],
        "nodes": [
            {
                "name": name,
                "actions": [str(action) for action in lane.actions],
                "why": list(lane.why),
                "blocked": down_json(lane.blocked),
                "warning": down_json(lane.warning),
            }
            for name, lane in plan.lanes.items()
        ],
        "builder": [str(step) for step in plan.builder],
        "builder_blocked": down_json(plan.builder_blocked),
        "gateway": down_json(plan.gateway),
    }


def _section(subject: str, lines: list[str], why: tuple[str, ...] = ()) -> None:
    if lines:
        click.secho(subject, bold=True, nl=False)
        click.echo(f"  because {'; '.join(why)}" if why else "")
        for line in lines:
            click.echo(f"  + {line}")


def _blocked(subject: str, why: Down) -> None:
    click.secho(f"{subject}: cannot be planned", fg="red")
    click.echo(f"  {why.stage}: {why.reason}")
    _remedy(why, err=False)


def _remedy(why: Down, *, err: bool) -> None:
    if why.remedy:
        click.echo(f"    try: {why.remedy}", err=err)


# ------------------------------------------------------------------------------------------------- report


def show_report(report: Report) -> None:
    """One line a host and one for the builder; what failed, with its stage and the next thing to try."""
    width = max(len(outcome.subject) for outcome in (*report.nodes, report.builder))
    for outcome in (*report.nodes, report.builder):
        click.echo(f"{outcome.subject:<{width}}  ", nl=False)
        click.secho(f"{outcome.result:<9}", fg=_RESULT[outcome.result], nl=False)
        click.echo(f"  {outcome.seconds:5.1f} s")
        for said in filter(None, (outcome.failure, outcome.warning)):
            click.echo(f"  {said.stage}: {said.reason}", err=True)
            _remedy(said, err=True)


def report_json(fleet: str, report: Report, remains: Plan | None = None) -> dict[str, Any]:
    """The shape that docs/commands.md gives; `remains` is what a new plan would still do."""
    return {
        "fleet": fleet,
        "exit_code": PARTLY if remains else report.exit_code,
        "nodes": [{"name": outcome.subject} | _outcome_json(outcome) for outcome in report.nodes],
        "builder": _outcome_json(report.builder),
        "remains": None if remains is None else plan_json(remains),
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "result": outcome.result,
        "seconds": round(outcome.seconds, 3),
        "failure": down_json(outcome.failure),
        "warning": down_json(outcome.warning),
    }


def down_json(down: Down | None) -> dict[str, str | None] | None:
    """`{"stage", "reason", "remedy"}`, or null."""
    return None if down is None else {"stage": down.stage, "reason": down.reason, "remedy": down.remedy}


# ----------------------------------------------------------------------------------------------- snapshot


def show_snapshot(snapshot: Snapshot) -> None:
    """A row a node, then the reason and the remedy of each that is not ready."""
    if joined := snapshot.joined:
        click.echo(f"joined {snapshot.fleet} as {joined.client}, {until(joined.expires, snapshot.taken)}")
    register = "fleet join the bundle again" if joined else "fleet up"
    registered = "registered" if snapshot.builder.registered else f"not registered: {register}"
    default = ", default" if snapshot.builder.default else ""
    ready = sum(node.health == "ready" for node in snapshot.nodes)
    click.echo(f"fleet {snapshot.fleet}: {ready} of {len(snapshot.nodes)} ready, builder {registered}{default}")
    titles = ("node", "health", "arch", "owns", "builds", "cache", "free", "cert", "ms", "buildkit")
    rows = [_row(node, snapshot.taken) for node in snapshot.nodes]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    click.secho(_line(titles, widths), bold=True)
    for node, row in zip(snapshot.nodes, rows, strict=True):
        health = f"{row[1]:<{widths[1]}}"
        click.echo(_line(row, widths).replace(health, click.style(health, fg=_HEALTH[node.health][1]), 1))
    for node in snapshot.nodes:
        if node.reason:
            click.echo(f"{node.name}: {node.reason}")
            if node.remedy:
                click.echo(f"  try: {node.remedy}")
    for gate in snapshot.gates:
        sent = f", builds for {platforms(gate.owns)} go through it" if gate.owns else ""
        state = click.style(gate.health, fg=_HEALTH[gate.health][1])
        click.echo(f"gateway {gate.endpoint} on {gate.host} for {gate.arch}: {state}{sent}")
        if gate.reason:
            click.echo(f"  {gate.reason}")
            click.echo(f"  try: {gate.remedy}")
    for problem in snapshot.problems:
        click.secho(problem.reason, fg="yellow")
        click.echo(f"  try: {problem.remedy}")


_NUMBERS = frozenset({4, 5, 6, 7, 8})


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        f"{cell:>{width}}" if column in _NUMBERS else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _row(node: NodeHealth, taken: datetime) -> tuple[str, ...]:
    return (
        node.name,
        f"{_HEALTH[node.health][0]} {node.health}",
        node.arch or "–",
        platforms(node.owns),
        _shown(node.active_builds) + (f"/{node.max_builds}" if node.max_builds else ""),
        size(node.cache_bytes),
        size(node.free_bytes),
        f"{(node.certificate.expires - taken).days} d" if node.certificate else "–",
        _shown(None if node.latency_ms is None else round(node.latency_ms)),
        node.buildkit or "–",
    )


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """The shape that docs/commands.md gives: null is unknown, sizes are bytes, times RFC 3339."""
    return {
        "fleet": snapshot.fleet,
        "joined": snapshot.joined
        and {
            "client": snapshot.joined.client,
            "expires": snapshot.joined.expires.isoformat(),
            "days_left": days_left(snapshot.joined.expires, snapshot.taken),
        },
        "builder": {"registered": snapshot.builder.registered, "default": snapshot.builder.default},
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "arch": node.arch,
                "platforms": [str(platform) for platform in node.platforms],
                "owns": [str(platform) for platform in node.owns],
                "health": node.health,
                "reason": node.reason,
                "buildkit": node.buildkit,
                "active_builds": node.active_builds,
                "max_builds": node.max_builds,
                "certificate": node.certificate
                and {
                    "expires": node.certificate.expires.isoformat(),
                    "days_left": (node.certificate.expires - snapshot.taken).days,
                },
                "cache_bytes": node.cache_bytes,
                "free_bytes": node.free_bytes,
                "latency_ms": None if node.latency_ms is None else round(node.latency_ms, 1),
            }
            for node in snapshot.nodes
        ],
        "gateway": [
            {
                "host": gate.host,
                "arch": gate.arch,
                "endpoint": gate.endpoint,
                "owns": [str(platform) for platform in gate.owns],
                "health": gate.health,
                "reason": gate.reason,
            }
            for gate in snapshot.gates
        ],
        "problems": [down_json(problem) for problem in snapshot.problems],
    }


def until(end: datetime, now: datetime) -> str:
    """How long something is good for, in days, or in hours when they count."""
    if end <= now:
        return f"which ended on {end:%Y-%m-%d %H:%M} UTC"
    if (days := days_left(end, now)) > 1:
        return f"until {end:%Y-%m-%d} ({days} days)"
    return f"until {end:%Y-%m-%d %H:%M} UTC ({(end - now) // timedelta(hours=1)} hours)"


def platforms(pinned: Sequence[Platform]) -> str:
    """Platforms for a narrow column: each architecture once, with its variants; none is a dash."""
    variants: dict[str, list[str]] = {}
    for platform in pinned:
        variants.setdefault(platform.arch, []).append(platform.variant)
    return ", ".join(" ".join((arch, *filter(None, found))) for arch, found in variants.items()) or "–"


def _shown(value: int | None) -> str:
    return "–" if value is None else str(value)
