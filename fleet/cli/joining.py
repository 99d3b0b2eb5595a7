"""Taking up the access that an operator handed out: `fleet join`, `fleet leave`."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from fleet import notes
from fleet.cli import output
from fleet.cli.build import OWN_BUILDERS
from fleet.cli.progress import progress
from fleet.cli.world import world_of
from fleet.errors import BuilderError, HostError, UsageError, VaultError
from fleet.model.facts import ApiFacts, Facts, NodeFacts
from fleet.model.spec import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from certs.bundle import Bundle
    from fleet.adapters.membership import MemberVault
    from fleet.applying.report import Outcome
    from fleet.cli.progress import Progress
    from fleet.membership import Membership
    from fleet.model.facts import BuilderFacts, Down
    from fleet.model.snapshot import Snapshot
    from fleet.model.spec import FleetSpec, HostSpec
    from fleet.ports import Prober, World


def join(source: str, *, force: bool, as_json: bool, verbose: bool) -> int:
    """`fleet join`."""
    bundle = _unpacked(source)
    from fleet.adapters.client_files import home
    from fleet.adapters.membership import MemberVault
    from fleet.planning.plan import builder_problem

    vault = MemberVault(home() / bundle.fleet)
    new = vault.check(bundle, force=force)
    world = world_of(new.spec, certificates=True)
    registered = world.builder.read(bundle.fleet)
    if foreign := builder_problem(bundle.fleet, registered, vault.client_files):
        raise UsageError(foreign.reason, f"docker buildx rm {bundle.fleet}")
    with vault.locked():
        # Once more, now that nobody else is at work on it.
        vault.check(bundle, force=force)
        vault.store(bundle)
        with progress(verbose=verbose) as show:
            outcome, taken = _take_up(new, world, registered, show)
            if all(node.health.usable for node in taken.nodes):
                _settle(vault, new.spec)
    if as_json:
        output.as_json(output.snapshot_json(taken))
    else:
        output.show_snapshot(taken)
    if outcome.failure:
        raise BuilderError(outcome.failure.reason, outcome.failure.remedy)
    usable = [node.health.usable for node in taken.nodes]
    if not as_json and any(usable):
        name = bundle.fleet
        click.echo(f"builder {name}: docker buildx build --builder {name} …, or fleet build …", err=True)
        if source != "-":
            click.echo(f"{source} still holds the key: keep it as one, or delete it", err=True)
    return output.exit_code(usable)


def _unpacked(source: str) -> Bundle:
    from certs.bundle import LIMIT, BundleError, is_sealed_bundle, unpack
    from fleet.cli.passphrase import bundle_passphrase

    name = "stdin" if source == "-" else source
    try:
        if source == "-":
            packed = sys.stdin.buffer.read(LIMIT + 1) if sys.stdin else b""
        else:
            with open(source, "rb") as file:
                packed = file.read(LIMIT + 1)
    except OSError as error:
        raise UsageError(
            f"{name} cannot be read: {error.strerror}", "fleet join FILE, or fleet join - < FILE"
        ) from error
    if not packed:
        raise UsageError(f"{name} is empty", "fleet join FILE, or fleet join - < FILE")
    passphrase = bundle_passphrase() if is_sealed_bundle(packed) else None
    now = datetime.now(UTC)
    try:
        return unpack(packed, passphrase, now=now)
    except BundleError as error:
        refusal = str(error)
    doubt = "is the passphrase right? else " if passphrase else ""
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    raise UsageError(refusal, f"{doubt}ask the fleet's operator for another one; {clock}")


def _take_up(new: Membership, world: World, registered: BuilderFacts, show: Progress) -> tuple[Outcome, Snapshot]:
    """Ask the nodes, register them, and leave a note at each that this bundle was taken."""
    from fleet.applying.apply import Applier
    from fleet.containers.proxy import gates
    from fleet.fleet_health import snapshot
    from fleet.membership import able
    from fleet.observing.observe import PROBE_TIMEOUT, Connections
    from fleet.parallel import Gathering, gather
    from fleet.planning.gateway import ways
    from fleet.planning.plan import builder_steps

    spec = new.spec
    show.waiting("asking the nodes")
    through = {key: partial(world.prober.probe, gate, timeout=PROBE_TIMEOUT) for key, gate in gates(spec).items()}
    passing = Gathering(through)
    answers = gather({host.name: partial(world.prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})
    noting = Gathering({host.name: partial(_note, world.prober, host, answers[host.name], new) for host in spec.hosts})
    nodes = {name: NodeFacts(api=answer) for name, answer in answers.items()}
    found = Facts(nodes, registered, world.vault.read(), gates=passing.results())
    with Connections(world.connect) as none:
        steps = builder_steps(spec, able(spec, answers), registered, found.vault, ways(spec, found))
        outcome = Applier(spec, world, none, show.event).register(*steps)
    noting.results()
    return outcome, snapshot(spec, replace(found, builder=world.builder.read(spec.name)), world.now())


def settle(spec: FleetSpec) -> None:
    """Drop a CA that was exchanged since this machine has joined, once every node proves itself by the newer one."""
    from fleet.adapters.client_files import home
    from fleet.adapters.membership import MemberVault

    vault = MemberVault(home() / spec.name)
    # Whoever is at work on it may exchange the files just now; there will be another time.
    with suppress(VaultError), vault.locked():
        _settle(vault, spec)


def _settle(vault: MemberVault, spec: FleetSpec) -> None:
    def answer(files: Mapping[str, str]) -> bool:
        from fleet.adapters.buildkit import BuildkitProber
        from fleet.observing.observe import PROBE_TIMEOUT
        from fleet.parallel import gather

        prober = BuildkitProber(files)
        answers = gather({host.name: partial(prober.probe, host, timeout=PROBE_TIMEOUT) for host in spec.hosts})
        return all(isinstance(one, ApiFacts) for one in answers.values())

    vault.settle(answer)


def _note(prober: Prober, host: HostSpec, answer: ApiFacts | Down, new: Membership) -> None:
    """Tell operators, who wait for it before an old CA goes; a node that takes no note still builds."""
    if not isinstance(answer, ApiFacts):
        return
    key = notes.client_key(new.joined.client)
    if (answer.notes or {}).get(key) == new.serial:
        return
    try:
        prober.note(host, key, new.serial)
    except HostError as error:
        click.echo(f"{host.name}: {error.message}", err=True)


def leave(name: str | None, *, as_json: bool) -> int:
    """`fleet leave`; what is not there any more is no error."""
    from fleet import buildx
    from fleet.adapters.builder import BuildxBuilder
    from fleet.adapters.client_files import home, joined
    from fleet.adapters.membership import MemberVault
    from fleet.planning.plan import builder_problem

    known = joined()
    fleet = name or os.environ.get("FLEET_NAME") or (known[0] if known else "")
    if not (name or os.environ.get("FLEET_NAME")) and len(known) > 1:
        raise UsageError(f"this machine has joined several fleets: {', '.join(known)}", "fleet leave NAME")
    if fleet and not NAME.fullmatch(fleet):
        raise UsageError(f"{fleet!r} is not the name of a fleet")
    removed: list[str] = []
    failure: BuilderError | None = None
    if fleet in known:
        vault = MemberVault(home() / fleet)
        with vault.locked():
            builder = BuildxBuilder()
            try:
                registered = builder.read(fleet)
                if registered.registered and not builder_problem(fleet, registered, vault.client_files):
                    builder.run(buildx.arguments(fleet, buildx.RemoveBuilder()))
                    removed.append(f"the builder {fleet}")
            except BuilderError as error:
                failure = error
            shutil.rmtree(vault.directory / OWN_BUILDERS, ignore_errors=True)
            if failure:
                # Keys are to go even where docker has gone before; what is left is for the next `leave` to know.
                vault.forget_keys()
                removed.append(f"the keys of {fleet} in {vault.directory}")
            else:
                vault.forget()
                removed.append(f"the keys and nodes of {fleet} in {vault.directory}")
    elif fleet and (home() / fleet).exists():
        raise UsageError(f"{home() / fleet} is an operator's vault, not a bundle's", "fleet down")
    if as_json:
        output.as_json({"fleet": fleet or None, "removed": removed})
    else:
        click.echo(
            "\n".join(f"removed {one}" for one in removed) or f"this machine has not joined {fleet or 'a fleet'}"
        )
    if failure:
        again = f"then fleet leave {fleet}, which still has to remove the builder {fleet}"
        raise BuilderError(failure.message, f"{failure.remedy}; {again}" if failure.remedy else again)
    return 0
