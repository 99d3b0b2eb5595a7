"""`fleet builds --steps`: one build step by step, with what its steps write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from fleet.builds import Account, BuildRecord, Step, StepState, Written
from fleet.cli import output
from fleet.errors import HostError, UsageError
from fleet.model.facts import Down
from fleet.parallel import Stop
from fleet.quantities import lasting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from fleet.model.spec import HostSpec
    from fleet.ports import Prober

_COLOURS = {StepState.CACHED: "blue", StepState.DONE: "green", StepState.FAILED: "red", StepState.CANCELED: "yellow"}


def find(records: Iterable[BuildRecord], ref: str) -> BuildRecord:
    """The build whose ref begins so; raises UsageError when there is none, or more than one."""
    found = {record.ref: record for record in records if record.ref.startswith(ref)}
    if len(found) == 1 and ref:
        return next(iter(found.values()))
    if not found:
        raise UsageError(f"no node remembers a build {ref}", "fleet builds shows what there is")
    raise UsageError(f"{len(found)} builds begin with {ref!r}: {', '.join(sorted(found)[:5])}", "say more of it")


def steps(host: HostSpec, prober: Prober, record: BuildRecord, *, now: Callable[[], datetime], as_json: bool) -> int:
    """Tell it, one that runs to its end; interrupting that is a regular end."""
    account, stop = Account(record), Stop()
    show = _Show(now)
    try:
        for told in prober.build(host, record.ref, stop):
            account.add(told)
            if not as_json:
                show.add(told)
    except KeyboardInterrupt:
        stop.set()
    except HostError as error:
        output.complain(host.name, Down(error.stage, error.message, error.remedy))
        return 1
    if as_json:
        from fleet.cli.builds import build_json

        click.echo(json.dumps(build_json(account.record) | {"log": log_json(account, now())}, indent=2))
    else:
        click.secho(_ending(account.record, now()), bold=True)
    return 0


def log_json(account: Account, now: datetime) -> list[dict[str, Any]]:
    """The shape that docs/commands.md gives."""
    lines: dict[str, list[dict[str, str]]] = {key: [] for key in account.steps}
    for said in account.written:
        lines.setdefault(said.step, []).append({"time": said.line.at.isoformat(), "line": said.line.text})
    return [
        {
            "step": step.name,
            "state": step.state,
            "seconds": None if (took := step.seconds(now)) is None else round(took, 3),
            "reason": step.reason,
            "lines": lines[step.key],
        }
        for step in account.steps.values()
    ]


class _Show:
    """Prints steps as they begin and end, and their lines between, each with its step's number."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._numbers: dict[str, int] = {}
        self._ended: dict[str, StepState] = {}

    def add(self, told: BuildRecord | Step | Written) -> None:
        """What comes next; a record is told at the end."""
        if isinstance(told, Written):
            click.echo(f"{self._number(told.step)}   {told.line.text}".rstrip())
        elif isinstance(told, Step) and told.state is not StepState.WAITING:
            if told.key not in self._numbers:
                click.secho(f"{self._number(told.key)} {told.name}", bold=True)
            # BuildKit takes up again what it was done with, for others who need it, too.
            if told.state.over and self._ended.get(told.key) is not told.state:
                self._ended[told.key] = told.state
                click.echo(f"{self._number(told.key)} {self._result(told)}")

    def _number(self, key: str) -> str:
        return f"#{self._numbers.setdefault(key, len(self._numbers) + 1)}"

    def _result(self, step: Step) -> str:
        state = click.style(step.state, fg=_COLOURS[step.state])
        took = step.seconds(self._now())
        said = state if step.state is StepState.CACHED or took is None else f"{state}, {lasting(took)}"
        return f"{said}: {step.reason}" if step.reason else said


def _ending(record: BuildRecord, now: datetime) -> str:
    parts: Sequence[str] = (record.name or "a build", *record.platforms)
    took = record.seconds(now)
    lasted = "" if took is None else f", {lasting(took)}"
    return f"{', '.join(parts)} on {record.node}: {record.outcome}{lasted}"
