"""One node in full, the routes, the certificates, the plan: as lines and rows, without a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.health import not_native
from fleet.model.facts import ApiFacts, Down, HostFacts, Stage
from fleet.model.health import Health
from fleet.model.spec import object_name
from fleet.quantities import size
from tui.cells import UNKNOWN, Cell, Tone, age, toned
from tui.view import NodeRow, certificate_days, gate_cell, health_cell, short_platforms, used_share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fleet.applying.history import Entry as Done
    from fleet.model.health import NodeHealth
    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec

LABEL = 12
"""Cells of what stands before a fact."""


def _fact(label: str, *value: Cell) -> Cell:
    return ((f"{label:<{LABEL}}", "dim"), *(span for cell in value for span in cell))


def _head(text: str) -> list[Cell]:
    return [(), toned(text, "title")]


# --------------------------------------------------------------------------------------------------- one node

_SIGNS: dict[str, tuple[str, Tone]] = {
    "ok": ("✓", "good"),
    "failed": ("✗", "bad"),
    "skipped": ("·", "dim"),
    "unknown": ("?", "dim"),
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One stage on the way to a native build: ok, failed, skipped (an earlier one failed) or unknown."""

    stage: str
    state: str
    said: str = ""
    took: float | None = None
    """Milliseconds; None: unknown, or not measured."""


def probes(spec: FleetSpec, row: NodeRow) -> list[Probe]:
    """The stages in the order of the way, first over SSH, then over mutual TLS."""
    facts = row.seen.facts if row.seen else None
    host, api = (facts.host, facts.api) if facts else (None, None)
    found: list[Probe] = []
    if isinstance(host, HostFacts):
        name = object_name(spec.name, row.node.name)
        daemon = next((one for one in host.daemons if one.name == name), None)
        skew = f", its clock {host.clock_skew:+.0f} s" if abs(host.clock_skew) >= 5 else ""
        found.append(Probe("SSH", "ok", f"{host.machine}{skew}", host.took.get(Stage.SSH)))
        found.append(Probe("Docker", "ok", f"Engine {host.engine}", host.took.get(Stage.DOCKER)))
        running = "ok" if daemon and daemon.state == "running" else "failed"
        found.append(Probe("container", running, (daemon.detail or daemon.state) if daemon else "there is none"))
    else:
        found += _until((Stage.SSH, Stage.DOCKER, Stage.CONTAINER), host)
    if isinstance(api, ApiFacts):
        problem = not_native(
            spec.host(row.node.name), api, host if isinstance(host, HostFacts) else None, row.node.platforms
        )
        served = f"its certificate ends {api.certificate.expires:%Y-%m-%d}" if api.certificate else ""
        found.append(Probe("TCP", "ok", "", api.took.get(Stage.TCP)))
        found.append(Probe("TLS", "ok", served, api.took.get(Stage.TLS)))
        found.append(Probe("API", "ok", f"BuildKit {row.node.buildkit}" if row.node.buildkit else "", api.latency_ms))
        native = short_platforms(row.node.platforms)
        found.append(Probe("native", "failed" if problem else "ok", problem.reason if problem else native))
    else:
        found += _until((Stage.TCP, Stage.TLS, Stage.API, Stage.NATIVE), api)
    return found


def _until(stages: Sequence[Stage], why: Down | None) -> list[Probe]:
    names = {Stage.NATIVE: "native"}
    if why is None:
        return [Probe(names.get(stage, stage), "unknown") for stage in stages]
    at = stages.index(why.stage) if why.stage in stages else 0
    states = ["ok"] * at + ["failed"] + ["skipped"] * (len(stages) - at - 1)
    return [
        Probe(names.get(stage, stage), state, why.reason if state == "failed" else "")
        for stage, state in zip(stages, states, strict=True)
    ]


def node_lines(spec: FleetSpec, snapshot: Snapshot, row: NodeRow) -> list[Cell]:
    """Everything that is known of a node, and how old that is."""
    node, seen = row.node, row.seen
    heard = f"daemon asked {age(seen.heard if seen else None, row.now)} ago"
    looked = f"host looked at {age(seen.looked if seen else None, row.now)} ago"
    lines: list[Cell] = [
        ((node.name, "title"), ("  ", ""), (node.address, "dim"), ("  ", ""), *health_cell(row)),
        ((heard, "stale" if row.stale else "dim"), ("  ", ""), (looked, "stale" if row.host_stale else "dim")),
    ]
    if node.reason:
        lines.append(toned(node.reason))
    if node.remedy:
        lines.append((("try: ", "dim"), *toned(node.remedy, "accent")))
    lines += _head("On the way to a native build")
    for probe in probes(spec, row):
        sign, tone = _SIGNS[probe.state]
        said: Cell = toned(probe.said, "" if probe.state == "failed" else "dim")
        took = f"{_milliseconds(probe.took):>7}  "
        lines.append(((f"{sign} ", tone), (f"{probe.stage:<{LABEL - 2}}", tone), (took, "dim"), *said))
    lines += _head("Builds")
    lines.append(_fact("owns", toned(_owns(snapshot, node))))
    lines.append(_fact("runs", toned(short_platforms(node.platforms)) if node.platforms else UNKNOWN))
    most = "" if node.max_builds is None else f" of at most {node.max_builds}"
    builds = UNKNOWN if node.active_builds is None else toned(f"{node.active_builds}{most}")
    lines.append(_fact("under way", builds))
    lines.append(_fact("cache", UNKNOWN if node.cache_bytes is None else toned(size(node.cache_bytes))))
    share = used_share(node)
    disk = (
        UNKNOWN
        if share is None
        else toned(f"{share:.0%} of {size(node.disk_bytes)} used, {size(node.free_bytes)} free")
    )
    lines.append(_fact("disk", disk))
    lines.append(_fact("BuildKit", UNKNOWN if node.buildkit is None else toned(node.buildkit)))
    expires = node.certificate.expires if node.certificate else None
    lines.append(_fact("certificate", certificate_days(expires, row.now)))
    if gates := [gate for gate in snapshot.gates if gate.host == node.name]:
        lines += (*_head("Gateway"), *map(gate_cell, gates))
    lines += _drift_lines(row)
    return lines


def _milliseconds(took: float | None) -> str:
    return "" if took is None else f"{took:.1f} ms" if took < 10 else f"{took:.0f} ms"


def _owns(snapshot: Snapshot, node: NodeHealth) -> str:
    if node.owns:
        return f"{short_platforms(node.owns)}: pinned to it in this machine's builder"
    if not snapshot.builder.registered:
        return "nothing: this machine has no builder"
    owners = sorted({other.name for other in snapshot.nodes for p in other.owns if p in node.platforms})
    gates = [gate.host for gate in snapshot.gates if set(gate.owns) & set(node.platforms)]
    if gates:
        return f"nothing: builds for what it runs come through the gateway on {', '.join(gates)}"
    return f"nothing: {', '.join(owners)} has what it runs; it stands by" if owners else "nothing"


def _drift_lines(row: NodeRow) -> list[Cell]:
    drift = row.seen.drift if row.seen else None
    if drift is None:
        return [*_head("Drift"), toned("unknown: its host has not told of it", "dim")]
    if drift.blocked:
        remedy: list[Cell] = (
            [(("try: ", "dim"), *toned(drift.blocked.remedy, "accent"))] if drift.blocked.remedy else []
        )
        return [*_head("fleet up cannot do anything there"), toned(drift.blocked.reason, "bad"), *remedy]
    if not drift.actions:
        return [*_head("Drift"), toned("none: it is as it is wanted", "dim")]
    why = f", because {'; '.join(drift.why)}" if drift.why else ""
    return [*_head(f"fleet up would{why}"), *((("+ ", "warn"), *toned(action)) for action in drift.actions)]


def history_lines(done: Sequence[Done]) -> list[Cell]:
    """What was done on a host, the newest first."""
    shown: list[Cell] = []
    for entry in sorted(done, key=lambda entry: entry.at, reverse=True):
        tone: Tone = "good" if entry.result in {"done", "unchanged"} else "bad"
        what = f"fleet {entry.command}: {entry.outcome}"
        shown.append(((f"{entry.at:%Y-%m-%d %H:%M}  ", "dim"), (f"{entry.by}  ", ""), (what, tone)))
    return shown or [toned("nothing is noted there", "dim")]


# ------------------------------------------------------------------------------------------------------- plan


def plan_lines(snapshot: Snapshot) -> list[Cell]:
    """Drift, host by host: what differs first, then what is unknown; the rest is counted."""
    lines: list[Cell] = []
    same: list[str] = []
    for node in snapshot.nodes:
        seen = snapshot.sightings.get(node.name)
        drift = seen.drift if seen else None
        if drift is None:
            lines += [(), ((node.name, "title"), ("  ? unknown: its host has not told of it", "dim"))]
        elif drift.blocked:
            lines += [(), ((node.name, "title"), ("  ✗ nothing can be done: ", "bad"), *toned(drift.blocked.reason))]
            if drift.blocked.remedy:
                lines.append((("  try: ", "dim"), *toned(drift.blocked.remedy, "accent")))
        elif drift.actions:
            lines += [(), ((node.name, "title"), ("  because ", "dim"), *toned("; ".join(drift.why)))]
            lines += ((("  + ", "warn"), *toned(action)) for action in drift.actions)
        else:
            same.append(node.name)
    if same:
        lines += [(), ((", ".join(same), "title"), ("  ✓ as wanted", "good"))]
    return lines[1:] or [toned("this fleet has no nodes", "dim")]


def disturbed(snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """What taking these nodes away from builds means for those who build, in sentences."""
    chosen = [node for node in snapshot.nodes if node.name in names]
    said = []
    if running := sum(node.active_builds or 0 for node in chosen):
        said.append(f"{running} build{'s run' if running != 1 else ' runs'} there now.")
    if unknown := [node.name for node in chosen if node.active_builds is None]:
        said.append(f"Whether builds run on {', '.join(unknown)} is not known.")
    others = [node for node in snapshot.nodes if node.name not in names]
    at_work = {p for node in others if node.health in {Health.READY, Health.DEGRADED} for p in node.platforms}
    if lost := {p for node in chosen for p in node.platforms} - at_work:
        said.append(f"Nobody else builds {short_platforms(sorted(lost))} meanwhile.")
    return said


def consequences(word: str, snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """What doing it will disturb, in the words of the question before it."""
    match word:
        case "drain":
            stays = "No new builds come there, for every operator and client, until somebody resumes them."
            return [stays, "Builds that run go on.", *disturbed(snapshot, names)]
        case "resume":
            return ["Builds come there again, from every operator and client."]
        case "restart":
            turns = "Each daemon is replaced once its builds have ended, one of an architecture at a time."
            return [turns, "The cache stays.", *disturbed(snapshot, names)]
        case "prune":
            caches = [size(node.cache_bytes) for node in snapshot.nodes if node.name in names]
            return [
                f"All build cache that no build uses goes: of {', '.join(caches)}.",
                "Everybody who builds there shares it; what it held is built anew.",
            ]
        case _:
            return _changes(snapshot, names)


def _changes(snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    drifts = {name: seen.drift for name, seen in snapshot.sightings.items() if name in names}
    steps = {name: len(drift.actions) for name, drift in drifts.items() if drift and drift.actions}
    unknown = [name for name in names if drifts.get(name) is None]
    said = [f"{', '.join(f'{name}: {count} steps' for name, count in steps.items())}."] if steps else []
    said = said or ["As far as is known, nothing differs from what is wanted."]
    if steps:
        said.append("A daemon that is replaced gets no builds meanwhile, and its builds end first.")
        said += disturbed(snapshot, list(steps))
    return [*said, *([f"Not looked at yet: {', '.join(unknown)}."] if unknown else [])]
