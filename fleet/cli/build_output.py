"""What is told of a build that is done: who built what, how much of it was cached, how long it took."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fleet.errors import FleetError
from fleet.quantities import lasting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fleet.dispatching.dispatch import Share


def lines(shares: Sequence[Share]) -> Iterator[str]:
    """One line a node, in columns."""
    rows = [_row(share) for share in shares]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(share: Share) -> tuple[str, ...]:
    record = share.record
    steps, digest = (record.steps, record.digest) if record else (None, None)
    return (
        ",".join(map(str, share.platforms)),
        share.node,
        "emulated" if share.emulated else "native",
        f"{steps.cached} of {steps.done} steps cached" if steps else "–",
        "–" if (took := _seconds(share)) is None else lasting(took),
        digest or "–",
    )


def _seconds(share: Share) -> float | None:
    return share.record.seconds(share.record.completed or share.record.created) if share.record else None


def as_json(fleet: str, code: int, shares: Sequence[Share]) -> dict[str, Any]:
    """The shape of `--json`; what a daemon does not say is null."""
    return {"fleet": fleet, "exit_code": code, "builds": [_share_json(share) for share in shares]}


def _share_json(share: Share) -> dict[str, Any]:
    record = share.record
    steps = record.steps if record else None
    return {
        "platforms": list(map(str, share.platforms)),
        "node": share.node,
        "native": not share.emulated,
        "steps": steps and {"done": steps.done, "total": steps.total, "cached": steps.cached},
        "seconds": None if (took := _seconds(share)) is None else round(took, 3),
        "digest": record.digest if record else None,
        "ref": record.ref if record else None,
    }


def add_metadata(path: Path, told: dict[str, Any], digest: str | None = None) -> None:
    """Put it under `fleet` in the file that buildx has written, whose content stays; raises FleetError.

    With a `digest` there were several runs of buildx: then that is all that there is to keep.
    """
    try:
        content = {"containerimage.digest": digest} if digest else json.loads(path.read_text(encoding="utf-8"))
        beside = path.with_name(f"{path.name}.fleet")
        beside.write_text(json.dumps(content | {"fleet": told}, indent=2), encoding="utf-8")
        beside.replace(path)
    except (OSError, ValueError, TypeError) as error:
        raise FleetError(f"the metadata file {path} cannot be written: {error}") from error
