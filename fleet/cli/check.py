"""`fleet check`: ask, judge, show."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from fleet.cli import output
from fleet.cli.progress import progress
from fleet.cli.world import load, world_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet.check.verdict import Checked, Finding

CHECK_TIME = 12.0
"""Seconds for everybody to answer: longer than a login waits for a dead host, which is then told as that."""

THIS_MACHINE = "this machine"


def check(inventory: Path, only: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    """`fleet check`."""
    from fleet.check.preflight import ask
    from fleet.check.verdict import check as judge
    from fleet.observing.observe import Connections

    spec = load(inventory, only)
    world = world_of(spec)
    with progress(verbose=verbose) as told, Connections(world.connect) as connections:
        told.waiting("asking the hosts")
        asked = ask(spec, world, connections, deadline=time.monotonic() + CHECK_TIME, only=only)
        checked = judge(spec, asked, world.now())
    if as_json:
        output.as_json(checked_json(spec.name, checked))
    else:
        show_checked(checked, verbose=verbose)
    return checked.exit_code


_GLYPHS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red"), "unknown": ("?", "bright_black")}


def show_checked(checked: Checked, *, verbose: bool) -> None:
    """What is not ok, node by node, and what to try; `verbose`: what is ok, too."""
    for node in (*checked.nodes, None):
        findings = [finding for finding in checked.of(node) if verbose or finding.state != "ok"]
        if not findings:
            continue
        click.secho(node or THIS_MACHINE, bold=True)
        for topics, finding in _merged(findings):
            glyph, colour = _GLYPHS[finding.state]
            click.echo(f"  {click.style(glyph, fg=colour)} {topics}: {finding.text}")
            if finding.remedy:
                click.echo(f"      try: {finding.remedy}")
    click.echo(_summary(checked))


def _merged(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """Topics that are unknown for one reason share a line, at the place of the first of them."""
    lines: dict[object, tuple[str, Finding]] = {}
    for finding in findings:
        key = (finding.state, finding.text) if finding.state == "unknown" else finding.topic
        topics = f"{lines[key][0]}, {finding.topic}" if key in lines else finding.topic
        lines[key] = (topics, finding)
    return list(lines.values())


def _summary(checked: Checked) -> str:
    count = len(checked.nodes)
    said = {"ready": "ready for fleet up", "problems": "with problems", "unknown": "unknown"}
    numbers = {word: sum(fitness == word for fitness in checked.nodes.values()) for word in said}
    parts = [f"{numbers[word]} {text}" for word, text in said.items() if numbers[word] or word == "ready"]
    here = f"; {THIS_MACHINE} has problems" if checked.unfit_here else ""
    return f"{count} node{'s' if count != 1 else ''}: {', '.join(parts)}{here}"


def checked_json(fleet: str, checked: Checked) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "fleet": fleet,
        "exit_code": checked.exit_code,
        "nodes": [
            {"name": name, "fitness": fitness, "findings": [_finding_json(found) for found in checked.of(name)]}
            for name, fitness in checked.nodes.items()
        ],
        "this_machine": [_finding_json(found) for found in checked.of(None)],
    }


def _finding_json(finding: Finding) -> dict[str, str | None]:
    return {"topic": finding.topic, "state": finding.state, "text": finding.text, "remedy": finding.remedy}
