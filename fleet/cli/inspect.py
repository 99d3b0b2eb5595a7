"""`fleet inspect`: what a registry has under an image's name, and whether each image is what it is listed as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fleet.adapters.builder import BuildxBuilder
from fleet.adapters.registry import BuildxRegistry
from fleet.cli import output
from fleet.cli.world import load_any
from fleet.quantities import size

if TYPE_CHECKING:
    from pathlib import Path

    from fleet.manifests import Published


def inspect(inventory: Path, image: str, *, as_json: bool) -> int:
    """`fleet inspect`; 1 where an image is not what it is listed as."""
    spec = load_any(inventory)
    BuildxBuilder().check()
    found = BuildxRegistry(spec.buildkit.config.get("registry", {})).published(image)
    if as_json:
        output.as_json(published_json(found))
    else:
        show(found)
    wrong = [one for one in found.images if one.mismatched]
    for one in wrong:
        click.echo(f"{one.platform}: this image is for {one.actual} ({one.digest})", err=True)
    if wrong:
        click.echo("    try: build it again with fleet build, which emulates and mislabels nothing", err=True)
    return 1 if wrong else 0


def show(found: Published) -> None:
    """A row an image."""
    click.echo(f"{found.reference}  {found.digest}")
    titles = ("platform", "size", "digest", "attestations")
    rows = [
        (one.platform, size(one.size), one.digest, ", ".join(map(_short, one.attestations)) or "–")
        for one in found.images
    ]
    first, second, third, _ = (max(map(len, column)) for column in zip(titles, *rows, strict=True))
    for bold, row in zip((True, *[False] * len(rows)), (titles, *rows), strict=True):
        click.secho(f"{row[0]:<{first}}  {row[1]:>{second}}  {row[2]:<{third}}  {row[3]}", bold=bold or None)


def _short(predicate: str) -> str:
    """`https://slsa.dev/provenance/v1` without the host that everybody has."""
    return predicate.partition("://")[2] or predicate


def published_json(found: Published) -> dict[str, Any]:
    """The shape that docs/commands.md gives."""
    return {
        "image": found.reference,
        "digest": found.digest,
        "images": [
            {
                "platform": one.platform,
                "actual_platform": one.actual,
                "matches": not one.mismatched,
                "digest": one.digest,
                "size_bytes": one.size,
                "attestations": list(one.attestations),
            }
            for one in found.images
        ],
    }
