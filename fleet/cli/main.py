"""The `fleet` command. Nothing but click is imported before a command runs: `fleet --help` has to be immediate."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fleet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_CODES = """\b
Exit codes:
  0  done
  1  failed
  2  usage or inventory; nothing was touched
  3  partly done: some hosts failed
  4  `fleet plan --exit-code` found something to do
"""


_FILE = click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, dir_okay=True),
    help="The hosts and what they are to run.  [env var: FLEET_INVENTORY; default: inventory.yaml]",
)
_FLEET = click.option("--fleet", "joined", metavar="NAME", help="A fleet that was joined.  [env var: FLEET_NAME]")


def _inventory(command: Callable[..., None]) -> Callable[..., None]:
    """-i and --fleet; the command gets where the fleet is described that is meant."""

    @_FILE
    @_FLEET
    @wraps(command)
    def located(inventory: Path | None, joined: str | None, **given: Any) -> None:
        from fleet.cli.world import described_by

        command(inventory=described_by(inventory, joined), **given)

    return located


_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
_verbose = click.option("-v", "--verbose", is_flag=True, help="Tell every step on stderr.")
_nodes = click.argument("nodes", nargs=-1, metavar="[NODE]...")
_hosts = click.option("--host", "only", multiple=True, metavar="NAME", help="Only this host; may be repeated.")


def _deadline(ctx: click.Context, _: click.Parameter, timeout: str | None) -> float | None:
    """The moment of time.monotonic() at which a run's time is over."""
    from fleet.quantities import parse_duration

    started: float = ctx.obj
    try:
        return started + parse_duration(timeout).total_seconds() if timeout else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_timeout = click.option(
    "--timeout",
    "deadline",
    metavar="DURATION",
    callback=_deadline,
    help="Begin nothing more after that time, such as 30m, and finish or undo what was begun.",
)
_no_wait = click.option(
    "--no-wait",
    is_flag=True,
    help="Do not wait for builds before their daemon is replaced: they have 10 s to end.",
)


OVERVIEW = {
    "Build": {
        "build": "docker buildx build, each platform where it is native",
        "bake": "docker buildx bake, likewise",
        "route": "Which node would build what, and why",
        "builds": "What runs and what ran, of all clients",
        "inspect": "What a registry has under a name, checked",
    },
    "Deploy": {
        "check": "What stands in the way; changes nothing",
        "plan": "What `up` would do, and why; changes nothing",
        "up": "Make the fleet what the inventory says",
        "down": "Remove daemons and builder again",
    },
    "Look": {
        "status": "Every node's health, with stage and reason",
        "tui": "The fleet in a full screen, or a browser",
        "logs": "What the daemons write, merged by time",
        "history": "Who changed what on the hosts, and when",
        "du": "Build caches and disks",
    },
    "Operate": {
        "drain": "Keep new builds away from nodes",
        "resume": "Let builds come to them again",
        "restart": "Replace nodes' daemons, one at a time",
        "prune": "Remove build cache that no build uses",
        "watch": "Let this machine's builder follow the fleet",
        "emulation": "Binfmt handlers of the hosts",
        "ssh": "Log in to a node's host",
    },
    "Give access": {
        "certs": "Certificates: list, issue, rotate, revoke, seal",
        "join": "Use a fleet that somebody else runs",
        "leave": "Undo `join`",
    },
    "Other": {"schema": "JSON Schema of the inventory"},
}
"""Of `fleet --help`: the commands by what they are for; each one's own help says more."""


class _Overview(click.Group):
    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Instead of one list in the order of the alphabet, whose sentences are cut off."""
        longest = max(len(name) for commands in OVERVIEW.values() for name in commands)
        for purpose, commands in OVERVIEW.items():
            with formatter.section(purpose):
                formatter.write_dl([(name.ljust(longest), what) for name, what in commands.items()])


@click.group(
    cls=_Overview,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="fleet", message="%(prog)s %(version)s")
def fleet() -> None:
    """One native multi-platform builder from your own hosts.

    An inventory of amd64 and arm64 machines becomes one docker buildx builder, on which every platform is built by a
    machine that runs it natively.
    """


@fleet.command()
@_inventory
@_nodes
@_json
@click.option("-v", "--verbose", is_flag=True, help="Show what is in order, too.")
def check(inventory: Path, nodes: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Look whether hosts, network and this machine are fit for `up`: every problem at once; changes nothing."""
    from fleet.cli import check

    sys.exit(check.check(inventory, nodes, as_json=as_json, verbose=verbose))


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
@click.option("--only-new", is_flag=True, help="Only hosts that have no daemon; the others stay as they are.")
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many daemons of an architecture to replace at a time, never all of them.",
)
@_no_wait
@_timeout
@_json
@_verbose
def up(inventory: Path, only: tuple[str, ...], **options: Any) -> None:
    """Make certificates, deploy the daemons and register the builder; a second run changes nothing."""
    from fleet.cli import commands

    sys.exit(commands.up(inventory, only, **options))


@fleet.command()
@_inventory
@click.option(
    "-w", "--watch", is_flag=True, help="Go on, until ctrl-C; elsewhere than on a terminal, when health changes."
)
@_json
@_verbose
def status(inventory: Path, *, watch: bool, as_json: bool, verbose: bool) -> None:
    """Show every node's health, and the stage and reason where it is not ready."""
    from fleet.cli import commands

    if watch:
        from fleet.cli import watching

        sys.exit(watching.watch(inventory, as_json=as_json))
    started: float = click.get_current_context().obj
    sys.exit(commands.status(inventory, started=started, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@click.option("--json", "as_json", is_flag=True, help="Print each change as a JSON object.")
def watch(inventory: Path, *, as_json: bool) -> None:
    """Let this machine's builder follow the fleet, until ctrl-C: for who types `docker buildx build` without a gateway.

    When the owner of a platform is down or drained, the next node gets it within seconds, and it gets it back when it
    has been well for half a minute. Each change is told with its reason. No host is changed.
    """
    from fleet.cli import watch

    sys.exit(watch.watch(inventory, as_json=as_json))


@fleet.command()
@_FILE
@_FLEET
@click.option("--read-only", is_flag=True, help="Leave no way to change anything.")
@click.option("--bell", is_flag=True, help="Ring the terminal's bell when a node goes down or comes back.")
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE", help="Keep what is seen in a new file.")
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="FILE", help="Show what was recorded; no fleet is needed."
)
@click.option("--web", is_flag=True, help="Serve it to a browser on this machine instead, read-only.")
@click.option("--port", type=click.IntRange(0, 65535), help="Of --web; 0: any that is free.  [default: 8000]")
@click.option("--listen", metavar="ADDRESS", help="Of --web: have other machines reach it, too.  [default: 127.0.0.1]")
@click.option("--allow-changes", is_flag=True, help="Of --web: let the browser do what a terminal could.")
def tui(
    inventory: Path | None,
    joined: str | None,
    *,
    read_only: bool,
    bell: bool,
    record: Path | None,
    replay: Path | None,
    web: bool,
    port: int | None,
    listen: str | None,
    allow_changes: bool,
) -> None:
    """The fleet in a full screen: watch it, and do by a key what the other commands do."""
    from fleet.cli import tui
    from fleet.cli.world import described_by

    if replay and record:
        raise UsageError("--record and --replay cannot go together", "say one of them")
    if web:
        if record or bell or (read_only and allow_changes):
            wrong = "--record" if record else "--bell" if bell else "--read-only with --allow-changes"
            raise UsageError(f"--web cannot have {wrong}", "leave it out")
        from fleet.cli.web import serve

        shown = replay or described_by(inventory, joined)
        how: dict[str, Any] = {"address": listen or "127.0.0.1", "port": 8000 if port is None else port}
        sys.exit(serve(shown, recorded=bool(replay), changes=allow_changes, **how))
    if port is not None or listen or allow_changes:
        raise UsageError("--port, --listen and --allow-changes say how --web is to do it", "say --web, too")
    if replay:
        sys.exit(tui.replay(replay))
    sys.exit(tui.tui(described_by(inventory, joined), read_only=read_only, bell=bell, record=record))


@fleet.command()
@_inventory
@_nodes
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until ctrl-C.")
@click.option("--since", metavar="TIME", help="Only what is later: 10m, 2h, 2026-05-01T12:00 (local time).")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines of each node.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a JSON object.")
@_verbose
def logs(
    inventory: Path,
    nodes: tuple[str, ...],
    *,
    follow: bool,
    since: str | None,
    tail: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Show what the daemons of NODEs have written, all nodes' when none is named, in the order of time."""
    from fleet.cli import logs

    sys.exit(logs.logs(inventory, nodes, follow=follow, since=since, tail=tail, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@_nodes
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="Only the last N entries.")
@_json
@click.option("-v", "--verbose", is_flag=True, help="Show each step, too.")
def history(inventory: Path, nodes: tuple[str, ...], *, last: int | None, as_json: bool, verbose: bool) -> None:
    """Show who changed what on the hosts, when, and how it ended: each host notes it."""
    from fleet.cli import history

    sys.exit(history.history(inventory, nodes, last=last, as_json=as_json, verbose=verbose))


@fleet.command(context_settings={"allow_interspersed_args": False})
@_inventory
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(inventory: Path, node: str, command: tuple[str, ...]) -> None:
    """Log in to NODE's host with OpenSSH, as the inventory says, or run COMMAND there."""
    from fleet.cli import login

    login.ssh(inventory, node, command)


@fleet.command()
@_inventory
@_nodes
@_json
@_verbose
def du(inventory: Path, nodes: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Show how large the nodes' build caches are, and how full their disks."""
    from fleet.cli import cache

    sys.exit(cache.du(inventory, nodes, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@_nodes
@click.option("--keep", metavar="SIZE", help="Cache of this size may stay, the most recently used: 10GB, 512MiB.")
@click.option("--older", metavar="DURATION", help="Only what was not used for so long: 12h, 7d.")
@click.option("--all", "everything", is_flag=True, help="Frontends and BuildKit's own images, too.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_json
@_verbose
def prune(
    inventory: Path,
    nodes: tuple[str, ...],
    *,
    keep: str | None,
    older: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Remove build cache that no build uses, from NODEs or all nodes; BuildKit does so by itself as a disk fills."""
    from fleet.cli import cache

    options = {"keep": keep, "older": older}
    sys.exit(cache.prune(inventory, nodes, **options, everything=everything, yes=yes, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@click.argument("nodes", nargs=-1, required=True, metavar="NODE…")
@click.option("--wait", is_flag=True, help="Wait until their builds have ended.")
@_json
@_verbose
def drain(inventory: Path, nodes: tuple[str, ...], *, wait: bool, as_json: bool, verbose: bool) -> None:
    """Let no new builds come to these nodes, for every operator and client, until `fleet resume`.

    It is noted at the daemon itself and outlives its restart and replacement. Builds that run go on.
    """
    from fleet.cli import drain

    sys.exit(drain.drain(inventory, nodes, wait=wait, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@click.argument("nodes", nargs=-1, required=True, metavar="NODE…")
@_json
@_verbose
def resume(inventory: Path, nodes: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Let builds come to these nodes again."""
    from fleet.cli import drain

    sys.exit(drain.resume(inventory, nodes, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@click.argument("nodes", nargs=-1, required=True, metavar="NODE…")
@_no_wait
@_timeout
@_json
@_verbose
def restart(inventory: Path, nodes: tuple[str, ...], **options: Any) -> None:
    """Replace these nodes' daemons, one of an architecture at a time, once their builds have ended.

    As `fleet up` does it when something has changed: the cache stays, another node takes over meanwhile, and a daemon
    whose successor does not come up is put back.
    """
    from fleet.cli import commands

    sys.exit(commands.up(inventory, nodes, restart=nodes, **options))


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


@fleet.command()
@_inventory
@click.argument("context", default=".")
@click.option("--platform", "asked", multiple=True, metavar="LIST", help="Exactly these, as for a build.")
@click.option("--affinity", metavar="KEY", help="For this project, in place of the one that CONTEXT belongs to.")
@click.option("--allow-emulation", is_flag=True, help="As of a build with this option.")
@click.option("--explain", "explained", is_flag=True, help="Say why each of the other nodes would not.")
@_json
@_verbose
def route(
    inventory: Path,
    context: str,
    asked: tuple[str, ...],
    *,
    affinity: str | None,
    allow_emulation: bool,
    explained: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Show which node `fleet build` would take now for which platform, and why; builds nothing.

    CONTEXT is what would be built: a project is sent to where its cache is warm. Exits with 1 when no node may build
    a platform that was asked for.
    """
    from fleet.cli import route

    sys.exit(
        route.show(
            inventory,
            context,
            asked,
            affinity=affinity,
            allow_emulation=allow_emulation,
            explained=explained,
            as_json=as_json,
            verbose=verbose,
        )
    )


@fleet.command()
@_inventory
@_nodes
@click.option("-f", "--follow", is_flag=True, help="Go on with builds as they begin and end, until ctrl-C.")
@click.option("-n", "--last", type=click.IntRange(min=0), metavar="N", help="Of what ran, the last N only.")
@click.option("--steps", "ref", metavar="REF", help="The steps and the log of one build, to its end if it runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout; with -f an object a line.")
@_verbose
def builds(
    inventory: Path,
    nodes: tuple[str, ...],
    *,
    follow: bool,
    last: int | None,
    ref: str | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Show what runs where now, of all clients, and what ran, as far back as BuildKit remembers."""
    from fleet.cli import builds

    sys.exit(builds.builds(inventory, nodes, goes_on=follow, last=last, ref=ref, as_json=as_json, verbose=verbose))


@fleet.command()
@_inventory
@click.argument("image")
@_json
def inspect(inventory: Path, image: str, *, as_json: bool) -> None:
    """Show what a registry has as IMAGE: platforms, digests, sizes, attestations.

    Exits with 1 when an image is for another platform than it is listed for.
    """
    from fleet.cli import inspect

    sys.exit(inspect.inspect(inventory, image, as_json=as_json))


@fleet.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ANY ARGUMENT OF docker buildx build]")
def build(arguments: tuple[str, ...]) -> None:
    r"""Build with docker buildx, every platform on a node that runs it natively.

    A platform that no healthy node runs natively is refused before anything is sent; otherwise the exit code is
    buildx's own. Example: fleet build --platform linux/amd64,linux/arm64 -t registry/app --push .

    \b
    fleet's own options, anywhere among buildx's:
      -i, --inventory FILE     which fleet
      --fleet NAME             the same, of those that this machine has joined
      --affinity KEY           builds of one KEY go to one node, for its cache (default: git remote and folder)
      --retries N              how often to go on elsewhere when a node is lost (default: 2)
      --no-queue               fail when all nodes have their max_builds, instead of waiting
      --wait-at-most DURATION  wait only so long: 90s, 10m
      --allow-emulation        where nobody runs a platform natively, let a node emulate it
      --split                  a buildx a platform: each goes on by itself when its node is lost
      --cache REPOSITORY       keep caches there, one a branch and platform
      --json                   who built what, on stdout
    """
    _run_buildx("build", arguments)


@fleet.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    options_metavar="[OPTIONS]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ANY ARGUMENT OF docker buildx bake]")
def bake(arguments: tuple[str, ...]) -> None:
    """Bake with docker buildx, every platform of the targets on a node that runs it natively.

    A target that names no platform is built for this machine's own. Takes the options of `fleet build`, but for --split
    and --cache.
    """
    _run_buildx("bake", arguments)


def _run_buildx(command: str, arguments: tuple[str, ...]) -> None:
    if any(word in {"-h", "--help"} for word in arguments):
        click.echo(click.get_current_context().get_help())
        click.echo(f"\nAll else is for buildx: docker buildx {command} --help")
        return
    from fleet.cli import build

    sys.exit(build.build(command, arguments))


class _ListFirst(click.Group):
    """Without a command it is `list`; which fleet is meant may be said before the command, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        first = 0
        while args[first : first + 1] and args[first].startswith("-") and args[first] not in {"-h", "--help"}:
            first += 2 if args[first] in {"-i", "--inventory", "--fleet"} else 1
        options, rest = args[:first], args[first:]
        return super().parse_args(ctx, [*(rest[:1] or ["list"]), *options, *rest[1:]])


_image = click.option("--image", metavar="REF", help="What does it.  [default: tonistiigi/binfmt:latest]")


@fleet.group(cls=_ListFirst)
def emulation() -> None:
    """Binfmt handlers of the hosts, with which they would emulate; alone it is `fleet emulation list`.

    fleet builds natively, and refuses what no node runs, unless `emulation: allow` in the inventory or
    `fleet build --allow-emulation` say otherwise.
    """


@emulation.command("list")
@_inventory
@_nodes
@_json
@_verbose
def emulation_list(inventory: Path, nodes: tuple[str, ...], *, as_json: bool, verbose: bool) -> None:
    """Show what the hosts' kernels would emulate, and whether builds may make use of it."""
    from fleet.cli import emulation

    sys.exit(emulation.show(inventory, nodes, as_json=as_json, verbose=verbose))


@emulation.command("install")
@_inventory
@click.argument("node")
@click.argument("architectures", nargs=-1, metavar="[ARCH]...")
@_image
@_json
@_verbose
def emulation_install(
    inventory: Path, node: str, architectures: tuple[str, ...], *, image: str | None, as_json: bool, verbose: bool
) -> None:
    """Have NODE's kernel run programs of these architectures through QEMU, of all there are when none is named.

    It holds for everything on that host, until it restarts.
    """
    from fleet.applying.emulation import INSTALL, of
    from fleet.cli import emulation

    sys.exit(emulation.change(inventory, node, of(INSTALL, architectures, image), as_json=as_json, verbose=verbose))


@emulation.command("remove")
@_inventory
@click.argument("node")
@click.argument("architectures", nargs=-1, metavar="[ARCH]...")
@_image
@_json
@_verbose
def emulation_remove(
    inventory: Path, node: str, architectures: tuple[str, ...], *, image: str | None, as_json: bool, verbose: bool
) -> None:
    """Take NODE's handlers for these architectures away, all when none is named.

    Those of packages such as qemu-user-static come back when the host restarts.
    """
    from fleet.applying.emulation import REMOVE, of
    from fleet.cli import emulation

    sys.exit(emulation.change(inventory, node, of(REMOVE, architectures, image), as_json=as_json, verbose=verbose))


@fleet.group(cls=_ListFirst)
def certs() -> None:
    """Certificates, and who has access; alone it is `fleet certs list`."""


@certs.command("list")
@_inventory
@_json
@_verbose
def certs_list(inventory: Path, *, as_json: bool, verbose: bool) -> None:
    """Show the CA's, the nodes' and the clients' certificates, how long they last and where they are in use.

    Exits with 1 when one has expired that the fleet needs: the CA's, a node's, this machine's.
    """
    from fleet.cli import certs

    started: float = click.get_current_context().obj
    sys.exit(certs.show(inventory, started=started, as_json=as_json, verbose=verbose))


@certs.command()
@_inventory
@click.argument("what", type=click.Choice(["nodes", "clients", "ca"]))
@click.option("--force", is_flag=True, help="ca: do not wait for clients to join with their new bundles.")
@_no_wait
@_timeout
@_json
@_verbose
def rotate(inventory: Path, what: str, **options: Any) -> None:
    """Renew the certificates of all nodes or clients, or exchange the CA by overlap, without failing a build.

    Nodes are restarted one of an architecture at a time, once their builds have ended. Exchanging the CA goes as far
    as it can, says what it waits for, and goes on when it is run again.
    """
    from fleet.cli import certs

    sys.exit(certs.rotate(inventory, what, **options))


@certs.command()
@_inventory
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_json
@_verbose
def revoke(inventory: Path, name: str, *, yes: bool, as_json: bool, verbose: bool) -> None:
    """Take a client's access away: BuildKit knows no revocation, so the CA is exchanged for everybody else.

    The other clients get new bundles, and have no access until they have joined with them.
    """
    from fleet.cli import certs

    sys.exit(certs.revoke(inventory, name, yes=yes, as_json=as_json, verbose=verbose))


@certs.command()
@_inventory
@click.option("--remove", is_flag=True, help="Store the key in the clear again.")
def seal(inventory: Path, *, remove: bool) -> None:
    """Seal the CA's key with a passphrase; all that does not sign goes on without it.

    The passphrase is asked for on the terminal, or taken from FLEET_CA_PASSPHRASE or tls.ca_passphrase_command; to
    change it, the new one from FLEET_CA_NEW_PASSPHRASE.
    """
    from fleet.cli import certs

    sys.exit(certs.seal(inventory, remove=remove))


@certs.command()
@_inventory
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 36500), help="How long it is good for.  [default: tls.client_days, 365]")
@click.option("--hours", type=click.IntRange(1, 36500), help="The same in hours.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: FLEET-NAME.fleet-bundle]")
@click.option("--seal", is_flag=True, help="Ask for a passphrase, without which nobody can open the file.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@_json
def issue(
    inventory: Path,
    name: str,
    *,
    days: int | None,
    hours: int | None,
    output: Path | None,
    seal: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Give a person or a CI job access: one file, with which another machine can join the fleet.

    Who has it may build on every node, prune it, and read what others have built there: BuildKit has no roles.
    With --seal the passphrase is asked for on the terminal, or taken from FLEET_BUNDLE_PASSPHRASE.
    """
    from fleet.cli import access

    if days and hours:
        raise UsageError("--days and --hours each say how long", "say one of them")
    lifetime = timedelta(days=days or 0, hours=hours or 0) or None
    sys.exit(access.issue(inventory, name, lifetime=lifetime, output=output, seal=seal, force=force, as_json=as_json))


@fleet.command()
@click.argument("bundle")
@click.option("--force", is_flag=True, help="Also a bundle that is older than the one before.")
@_json
@_verbose
def join(bundle: str, *, force: bool, as_json: bool, verbose: bool) -> None:
    """Use a fleet that somebody else runs, with the BUNDLE that `fleet certs issue` made; - reads it from stdin.

    A passphrase is asked for on the terminal, or taken from FLEET_BUNDLE_PASSPHRASE.
    """
    from fleet.cli import joining

    sys.exit(joining.join(bundle, force=force, as_json=as_json, verbose=verbose))


@fleet.command()
@click.argument("name", required=False, metavar="[FLEET]")
@_json
def leave(name: str | None, *, as_json: bool) -> None:
    """Undo `fleet join`: remove the fleet's builder and keys from this machine. The nodes are not touched."""
    from fleet.cli import joining

    sys.exit(joining.leave(name, as_json=as_json))


@fleet.command()
def schema() -> None:
    """Print the JSON Schema of the inventory, for editors and CI."""
    from fleet.cli import commands

    sys.exit(commands.schema())


def run(started: float) -> int:
    """Run what the command line says, and its exit code; raises FleetError for the caller to tell."""
    try:
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        fleet(standalone_mode=False, obj=started, color=False if plain else None)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        return ended.code or 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except click.Abort as abort:
        # The interrupt itself knows where it was.
        raise (abort.__cause__ if isinstance(abort.__cause__, KeyboardInterrupt) else KeyboardInterrupt()) from None
    return 0
