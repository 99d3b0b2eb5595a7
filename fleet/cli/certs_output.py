"""`fleet certs` on stdout: the table of certificates, and how far an exchange of the CA has come."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from fleet.applying.rotation import Step
from fleet.cli import INTERRUPTED
from fleet.cli.output import report_json, show_report
from fleet.model.vault import Rotation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fleet.applying.rotation import Exchange
    from fleet.certificates import Entry


def show_certificates(entries: Sequence[Entry]) -> None:
    """A row a certificate; what is near its end or past it stands out."""
    titles = ("role", "name", "state", "days", "issued", "expires", "serial", "in use", "subject, names")
    rows = [_certificate_row(entry) for entry in entries]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    click.secho("  ".join(f"{title:<{width}}" for title, width in zip(titles, widths, strict=True)).rstrip(), bold=True)
    for entry, row in zip(entries, rows, strict=True):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        click.secho(line, fg=_STATES.get(entry.state))


_STATES = {"renew": "yellow", "expired": "red", "not yet valid": "red", "revoked": "bright_black"}


def _certificate_row(entry: Entry) -> tuple[str, ...]:
    certificate = entry.certificate
    return (
        entry.role,
        entry.name,
        entry.state,
        "–" if entry.days_left is None else str(entry.days_left),
        f"{certificate.issued:%Y-%m-%d}" if certificate and certificate.issued else "–",
        _moment(certificate.expires, certificate.issued) if certificate else "–",
        certificate.serial[:8] if certificate else "–",
        entry.in_use,
        ", ".join(dict.fromkeys((certificate.subject, *certificate.names))) if certificate else "",
    )


def _moment(expires: datetime, issued: datetime | None) -> str:
    """The day, and for what does not last for days the time, too."""
    brief = issued is not None and expires - issued < timedelta(days=3)
    return f"{expires:%Y-%m-%d %H:%M}" if brief else f"{expires:%Y-%m-%d}"


def certificates_json(fleet: str, entries: Sequence[Entry]) -> dict[str, Any]:
    """The shape that docs/commands.md gives; times RFC 3339, serials in hex."""
    return {
        "fleet": fleet,
        "certificates": [
            {
                "role": entry.role,
                "name": entry.name,
                "subject": entry.certificate and entry.certificate.subject,
                "state": entry.state,
                "serial": entry.certificate and entry.certificate.serial,
                "names": list(entry.certificate.names) if entry.certificate else [],
                "issued": entry.certificate and entry.certificate.issued and entry.certificate.issued.isoformat(),
                "expires": entry.certificate and entry.certificate.expires.isoformat(),
                "days_left": entry.days_left,
                "in_use": entry.in_use,
            }
            for entry in entries
        ],
    }


def show_bundles(bundles: Mapping[str, Path]) -> None:
    """What is to be handed out, a line each."""
    for name, path in bundles.items():
        click.echo(f"{name}: hand over {path}; there: fleet join {path.name}")


def show_exchange(fleet: str, done: Exchange, revoked: str | None) -> None:
    """How far the exchange of the CA is, as a list of its steps, and what it waits for."""
    show_bundles(done.bundles)
    for path in done.removed:
        click.echo(f"removed {path}: its client needs it no more, and it held a key")
    steps = list(Step)
    at = len(steps) if done.step is None else steps.index(done.step)
    for number, step in enumerate(steps):
        mark, colour = ("✓", "green") if number < at else ("▸", "yellow") if number == at else ("·", None)
        click.secho(f"{mark} {step}", fg=colour)
        if number == at and done.waiting:
            click.echo(f"  waits for {', '.join(done.waiting)}")
    if done.report:
        show_report(done.report)
    again = f"fleet certs revoke {revoked}" if revoked else "fleet certs rotate ca"
    match done.step:
        case None if revoked:
            click.echo(f"{revoked} is let in no more")
        case None:
            pass
        case _ if done.report and done.report.exit_code == INTERRUPTED:
            click.echo(f"  stopped here; {again} goes on")
        case Step.BEGIN:
            click.echo(
                "  try: hand out these bundles of the present CA first, remove those that nobody needs; then", nl=False
            )
            click.echo(f" {again}; without waiting for them: {again} --force")
        case Step.HAND_OUT:
            click.echo("  try: hand out the bundles; once they have joined:", nl=False)
            click.echo(f" {again}; without waiting for them: {again} --force")
        case _:
            click.echo(f"  try: mend them, or take them out of the inventory; then {again}")
            click.echo(
                "  a node that is left out goes on trusting the old CA, and lets in whoever has a certificate of it:"
            )
            click.echo("  once it is back, name it in the inventory again: fleet down --host NAME")
    if done.step is None and done.bundles:
        click.echo(f"{', '.join(done.bundles)}: no access to {fleet} until they join with their new bundles")


WHERE = {
    Rotation.SETTLED: "no exchange of the CA is under way",
    Rotation.OVERLAP: "there is a new CA beside the old one; nobody has lost access",
    Rotation.SWITCHED: "the new CA has taken over; nodes are being given certificates of it",
}
"""Where the exchange stands, for whoever has interrupted it."""


def exchange_json(fleet: str, done: Exchange) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "fleet": fleet,
        "done": done.step is None,
        "step": done.step and done.step.name.lower().replace("_", " "),
        "waiting": list(done.waiting),
        "bundles": {name: str(path) for name, path in done.bundles.items()},
        "removed": list(map(str, done.removed)),
        "report": done.report and report_json(fleet, done.report),
    }
