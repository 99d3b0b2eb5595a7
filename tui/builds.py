"""Builds and their steps as rows, lines and words, without a terminal."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from fleet.builds import BuildRecord, Outcome, Step, StepState
from fleet.model.facts import Down
from tui.cells import UNKNOWN, Cell, Column, Tone, bar, fitted, plain, toned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fleet.builds import Account, Written

DOUBT = 3.0
"""Seconds in which a node that answers again has to tell of what ran there before: a killed daemon has forgotten it."""

_SIGNS: dict[Outcome, tuple[str, Tone]] = {
    Outcome.RUNNING: ("▸", "accent"),
    Outcome.DONE: ("✓", "good"),
    Outcome.FAILED: ("✗", "bad"),
    Outcome.CANCELED: ("○", "calm"),
}
_STEP_SIGNS: dict[StepState, tuple[str, Tone]] = {
    StepState.WAITING: ("·", "dim"),
    StepState.RUNNING: ("▸", "accent"),
    StepState.CACHED: ("=", "calm"),
    StepState.DONE: ("✓", "good"),
    StepState.FAILED: ("✗", "bad"),
    StepState.CANCELED: ("○", "calm"),
}


class Known:
    """The builds of several nodes, as far as they have been told, and why some nodes tell nothing."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], BuildRecord] = {}
        self._doubted: dict[tuple[str, str], float] = {}
        self.silent: dict[str, Down] = {}
        self.answering: set[str] = set()
        """Nodes that have told all that they know, and tell what is new."""

    def add(self, node: str, said: BuildRecord | Down | None, at: float) -> None:
        """Take up what came at a moment, in seconds; see `fleet.observing.building.follow`."""
        match said:
            case BuildRecord():
                place = node, said.ref
                before = self._records.get(place)
                self._doubted.pop(place, None)
                if before is None or said.completed or (said.steps and not before.completed):
                    self._records[place] = said
            case Down():
                self.silent[node] = said
                self.answering.discard(node)
            case None:
                self.silent.pop(node, None)
                self.answering.add(node)
                self._doubted |= {place: at for place, one in self._records.items() if place[0] == node and _runs(one)}

    def rows(self, at: float, most: int) -> list[BuildRecord]:
        """What runs, then what ran, the newest first, so many of that."""
        for place in [place for place, since in self._doubted.items() if at - since > DOUBT]:
            del self._doubted[place], self._records[place]
        records = sorted(self._records.values(), key=lambda one: one.created, reverse=True)
        running = [one for one in records if _runs(one)]
        ran = [one for one in records if not _runs(one)]
        for one in ran[most:]:
            del self._records[one.node, one.ref]
        return [*running, *ran[:most]]


def _runs(record: BuildRecord) -> bool:
    return record.outcome is Outcome.RUNNING


def duration(seconds: float | None) -> str:
    """In at most two units; unknown is a dash."""
    if seconds is None:
        return plain(UNKNOWN)
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


# --------------------------------------------------------------------------------------------------- builds


Since = datetime | None
"""Since when nothing is known of what runs; None: it is known."""


def unknown_since(since: datetime) -> str:
    """In words."""
    return f"unknown since {since:%H:%M:%S} UTC"


def _result(record: BuildRecord, since: Since = None) -> Cell:
    if since and _runs(record):
        return toned("? unknown", "stale")
    sign, tone = _SIGNS[record.outcome]
    return toned(f"{sign} {record.outcome}", tone)


def _steps(record: BuildRecord, since: Since) -> Cell:
    steps = record.steps
    if steps is None or not steps.total:
        return UNKNOWN
    tone = "stale" if since and _runs(record) else _SIGNS[record.outcome][1]
    return (*bar(steps.done / steps.total, 8, tone), (" ", ""), *fitted(((f"{steps.done}/{steps.total}", ""),), 7))


def _share(record: BuildRecord) -> float | None:
    return record.steps.cached_share if record.steps else None


def _cached(record: BuildRecord) -> Cell:
    share = _share(record)
    return UNKNOWN if share is None else toned(f"{share:.0%}")


def build_words(record: BuildRecord) -> str:
    """What a filter looks at."""
    return f"{record.name or ''} {' '.join(record.platforms)} {record.node} {record.outcome} {record.reason or ''}"


def _platforms(record: BuildRecord) -> Cell:
    return toned(", ".join(record.platforms)) if record.platforms else toned("its own", "dim")


def _or_unknown(text: str | None) -> Cell:
    return toned(text) if text else UNKNOWN


def build_columns(
    now: Callable[[], datetime], unknown_since: Callable[[str], Since]
) -> tuple[Column[BuildRecord], ...]:
    """What is said of a build; how long one runs is asked of the clock as it is drawn.

    `unknown_since`: since when a node has told nothing.
    """

    def seconds(record: BuildRecord) -> float | None:
        return record.seconds(unknown_since(record.node) or now())

    def took(record: BuildRecord) -> Cell:
        return toned(duration(seconds(record)), "stale" if unknown_since(record.node) and _runs(record) else "")

    def began(record: BuildRecord) -> Cell:
        return toned(f"{record.created:%m-%d %H:%M:%S}", "dim")

    return (
        Column(
            "RESULT",
            lambda one: _result(one, unknown_since(one.node)),
            lambda record: list(Outcome).index(record.outcome),
            10,
        ),
        Column("PROJECT", lambda record: _or_unknown(record.name), lambda record: record.name, 16, grows=True),
        Column("PLATFORM", _platforms, lambda record: record.platforms, 14, rank=2),
        Column("NODE", lambda record: toned(record.node), lambda record: record.node, 8),
        Column(
            "STEPS",
            lambda record: _steps(record, unknown_since(record.node)),
            lambda record: record.steps.done if record.steps else None,
            16,
            rank=1,
        ),
        Column("CACHED", _cached, _share, 6, rank=3, right=True),
        Column("TOOK", took, seconds, 8, right=True),
        Column("BEGAN (UTC)", began, lambda record: record.created, 14, rank=4),
        Column("BY", lambda record: _or_unknown(record.asked_by), lambda record: record.asked_by, 14, rank=5),
    )


def build_lines(record: BuildRecord, now: datetime, since: Since = None) -> list[Cell]:
    """One build in a few lines; `since`: nothing is known of it any more, if it ran."""
    where = "  ".join(filter(None, (f"  on {record.node}", ", ".join(record.platforms))))
    steps = record.steps
    said = [f"{record.created:%Y-%m-%d %H:%M:%S} UTC", duration(record.seconds(since or now))]
    said += [f"{steps.done} of {steps.total} steps", f"{steps.cached} cached"] if steps else []
    said += [f"asked for by {record.asked_by}"] if record.asked_by else []
    result = toned(f"? {unknown_since(since)}", "stale") if since and _runs(record) else _result(record)
    return [
        ((record.name or "a build", "title"), ("  ", ""), *result, (where, "dim")),
        toned(", ".join((*said, f"ref {record.ref}")), "dim"),
        *([toned(record.reason, "bad")] if record.reason else []),
    ]


# ---------------------------------------------------------------------------------------------------- steps


def _state(step: Step, since: Since) -> Cell:
    if since and not step.state.over:
        return toned("? unknown", "stale")
    sign, tone = _STEP_SIGNS[step.state]
    return toned(f"{sign} {step.state}", tone)


def _took(step: Step, now: datetime) -> Cell:
    return () if step.began is None or step.state is StepState.CACHED else toned(duration(step.seconds(now)))


def _name(step: Step) -> Cell:
    return toned(step.name, "dim" if step.name.startswith("[internal]") else "")


def step_columns(now: Callable[[], datetime], unknown_since: Callable[[], Since]) -> tuple[Column[Step], ...]:
    """What is said of a step; `unknown_since`: since when nothing has been told of the build."""

    def until() -> datetime:
        return unknown_since() or now()

    return (
        Column("STATE", lambda step: _state(step, unknown_since()), lambda step: list(StepState).index(step.state), 10),
        Column("STEP", _name, lambda step: step.name, 20, grows=True),
        Column("TOOK", lambda step: _took(step, until()), lambda step: step.seconds(until()), 8, right=True),
    )


def step_words(step: Step) -> str:
    """What a filter looks at."""
    return f"{step.name} {step.state} {step.reason or ''}"


def steps_in_order(account: Account) -> list[Step]:
    """As they began; what waits comes last."""
    steps = list(account.steps.values())
    return [*sorted((s for s in steps if s.began), key=lambda s: (s.began, s.name)), *(s for s in steps if not s.began)]


def telling(account: Account) -> str | None:
    """The step to look at: one that failed, else the newest that runs, else the last that wrote; None: any."""
    states = (StepState.FAILED, StepState.RUNNING)
    steps = steps_in_order(account)
    found = (step.key for state in states for step in reversed(steps) if step.state is state)
    return next(found, account.written[-1].step if account.written else None)


def log_line(said: Written) -> Cell:
    """A line that a step has written."""
    return ((f"{said.line.at:%H:%M:%S}  ", "dim"), *toned(said.line.text))


def log_lines(account: Account, now: datetime, cell: Callable[[Written], Cell]) -> tuple[list[Cell], dict[str, int]]:
    """What the steps have written, step by step; and at which line each begins.

    `cell`: what is shown of a line: always the same of the same line, by which a log that is held knows it again.
    """
    texts: dict[str, list[Cell]] = {}
    for said in account.written:
        texts.setdefault(said.step, []).append(cell(said))
    lines: list[Cell] = []
    begin: dict[str, int] = {}
    for step in steps_in_order(account):
        if step.state is StepState.WAITING and step.key not in texts:
            continue
        begin[step.key] = len(lines)
        sign, tone = _STEP_SIGNS[step.state]
        took = _took(step, now)
        lines.append(((f"{sign} ", tone), (step.name, "title"), *((("  ", ""), *took) if took else ())))
        lines += [toned("older lines of it are not kept", "dim")] if step.key in account.shortened else []
        lines += texts.get(step.key, ())
        lines += [toned(step.reason, "bad")] if step.reason else []
    return lines, begin


def last_lines(account: Account, key: str, most: int) -> Sequence[Cell]:
    """What a step has written last."""
    texts = [said.line.text for said in account.written if said.step == key]
    return [toned(text) for text in texts[-most:]]
