"""The `fleet` command. Nothing but click is imported before a command runs: `fleet --help` has to be immediate."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fleet.errors import UsageError

EXIT_CODES = """\b
Exit codes:
  0  done
  1  failed
  2  usage or inventory; nothing was touched
  3  partly done: some hosts failed
  4  `fleet plan --exit-code` found something to do
"""

_inventory = click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=True),
    envvar="FLEET_INVENTORY",
    default="inventory.yaml",
    show_default=True,
    show_envvar=True,
    help="The hosts and what they are to run.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Tell every step on stderr.")
_hosts = click.option("--host", "only", multiple=True, metavar="NAME", help="Only this host; may be repeated.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EXIT_CODES)
@click.version_option(package_name="fleet", message="%(prog)s %(version)s")
def fleet() -> None:
    """One native multi-platform builder from your own hosts.

    An inventory of amd64 and arm64 machines becomes one docker buildx builder, on which every platform is built by a
    machine that runs it natively.
    """


@fleet.command()
@_inventory
@_hosts
@click.option("--exit-code", is_flag=True, help="Exit with 4 when there is something to do.")
@_json
@_verbose
def plan(inventory: Path, only: tuple[str, ...], *, exit_code: bool, as_json: bool, verbose: bool) -> None:
    """Show what `up` would do and why; changes nothing."""
    from fleet.cli import commands

    sys.exit(commands.plan(inventory, only, exit_code=exit_code, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@_hosts
@_json
@_verbose
def up(inventory: Path, only: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Make certificates, deploy the daemons and register the builder; a second run changes nothing."""
    from fleet.cli import commands

    sys.exit(commands.up(inventory, only, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@_json
@_verbose
def status(inventory: Path, *, as_json: bool, verbose: bool) -> None:
    """Show every node's health, and the stage and reason where it is not ready."""
    from fleet.cli import commands

    started: float = click.get_current_context().obj
    sys.exit(commands.status(inventory, started=started, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@_hosts
@click.option("--volumes", is_flag=True, help="Remove the build caches, and images that fleet pulled, too.")
@click.option("--any-vault", is_flag=True, help="Also what was made with another vault than this one.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_json
@_verbose
def down(
    inventory: Path, only: tuple[str, ...], *, volumes: bool, any_vault: bool, yes: bool, as_json: bool, verbose: bool
) -> None:
    """Remove the daemons and the builder. Certificates stay in the vault, caches on the hosts unless asked for."""
    from fleet.cli import commands

    sys.exit(
        commands.down(inventory, only, volumes=volumes, any_vault=any_vault, yes=yes, as_json=as_json, verbose=verbose)
    )


@fleet.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[-i FILE]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ANY ARGUMENT OF docker buildx build]")
def build(arguments: tuple[str, ...]) -> None:
    """Build with docker buildx, every platform on a node that runs it natively.

    A platform that no healthy node runs natively is refused before anything is sent; otherwise the exit code is
    buildx's own. Example: fleet build --platform linux/amd64,linux/arm64 -t registry/app --push .
    """
    if any(word in {"-h", "--help"} for word in arguments):
        click.echo(click.get_current_context().get_help())
        click.echo("\nAll else is for buildx: docker buildx build --help")
        return
    from fleet.cli import build

    sys.exit(build.build(arguments))


@fleet.command()
def schema() -> None:
    """Print the JSON Schema of the inventory, for editors and CI."""
    from fleet.cli import commands

    sys.exit(commands.schema())


def run(started: float) -> None:
    """Run what the command line says; raises SystemExit, and FleetError for the caller to tell."""
    try:
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        fleet(standalone_mode=False, obj=started, color=False if plain else None)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None
