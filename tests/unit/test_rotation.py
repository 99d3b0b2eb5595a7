"""Exchanging the CA: what each step waits for, and that whoever is killed anywhere can go on."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from certs.certificate import describe, is_issued_by
from fleet import notes
from fleet.applying.apply import Applier
from fleet.applying.report import Event
from fleet.applying.rotation import Exchange, Rotator, Step, live, revoked_but_trusted
from fleet.certificates import problems
from fleet.containers import buildkitd
from fleet.errors import VaultError
from fleet.model.facts import ApiFacts, Facts
from fleet.model.spec import FleetSpec, object_name
from fleet.model.vault import Asked, ClientFacts, Rotation
from fleet.observing.observe import Connections
from fleet.planning.plan import plan
from tests.support.fakes import Machine
from tests.support.values import CA, NOW, OTHER_CA, certificate, fleet, host
from tests.support.world import FakeWorld, Killed, at_once, await_others

SPEC = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)

BeforeChange = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FakeBundles:
    """A file holds the serial number of its certificate."""

    folder: Path
    world: FakeWorld
    before_change: BeforeChange = lambda _: None

    def make(self, client: str, asked: Asked, facts: Facts) -> Path:
        assert set(facts.nodes) >= {host.name for host in SPEC.hosts}
        vault = self.world.ports(self.before_change).vault
        credential, _ = vault.issue_bundle_credential(
            client, self.world.now, lifetime=asked.lifetime, until=asked.until, coming=vault.read().taught
        )
        self.before_change("bundle")
        (self.folder / client).write_text(describe(credential.certificate).serial)
        return self.folder / client

    def find(self, client: ClientFacts) -> Path | None:
        path = self.folder / client.name
        return path if path.exists() and path.read_text() == client.certificate.serial else None

    def keep(self, clients: Iterable[ClientFacts]) -> tuple[Path, ...]:
        kept = {self.find(client) for client in clients}
        removed = tuple(path for path in sorted(self.folder.iterdir()) if path not in kept)
        for path in removed:
            path.unlink()
        return removed


def run(
    world: FakeWorld,
    folder: Path,
    *,
    spec: FleetSpec = SPEC,
    force: bool = False,
    before_change: BeforeChange = lambda _: None,
    on: Callable[[Event, Applier], None] = lambda _event, _applier: None,
) -> Exchange:
    """`fleet certs rotate ca`, a minute after what was before."""
    world.now += MINUTE
    ports, threads = world.ports(before_change), set(threading.enumerate())

    def emit(event: Event) -> None:
        on(event, applier)

    with at_once(), Connections(ports.connect) as connections:
        applier = Applier(spec, ports, connections, emit)
        try:
            bundles = FakeBundles(folder, world, before_change)
            return Rotator(spec, applier, bundles).exchange(force=force)
        finally:
            await_others(threads)


def join(world: FakeWorld, folder: Path, name: str, node: str = "amd-1") -> None:
    """What `fleet join` leaves at a node."""
    world.prober().note(SPEC.host(node), notes.client_key(name), (folder / name).read_text())


def another(world: FakeWorld) -> FakeWorld:
    """The same once more; keys cannot be copied, and need not be."""
    vault = copy.copy(world.vault)
    vault.entries = list(vault.entries)
    return FakeWorld(copy.deepcopy(world.machines), copy.deepcopy(world.builder), vault, world.now)


@pytest.fixture(scope="module")
def deployed() -> FakeWorld:
    world = FakeWorld.of(
        Machine("amd-1.example"), Machine("amd-2.example"), Machine("arm-1.example", "aarch64"), Machine("new.example")
    )
    assert world.apply(SPEC) == {}
    return world


@pytest.fixture
def world(deployed: FakeWorld, tmp_path: Path) -> FakeWorld:
    """A fleet with a client that has joined."""
    fresh = another(deployed)
    FakeBundles(tmp_path, fresh).make("ci", Asked(90 * DAY, fresh.now + 90 * DAY), fresh.facts(SPEC))
    join(fresh, tmp_path, "ci")
    return fresh


def is_settled(world: FakeWorld, spec: FleetSpec = SPEC) -> None:
    """One CA, which every node serves a certificate of and trusts alone; nothing is left over."""
    facts = world.facts(spec)
    assert facts.vault.rotation is Rotation.SETTLED
    authority, operator = world.vault.authority, world.vault.client
    assert authority
    assert operator
    assert is_issued_by(operator.certificate, authority.certificate)
    for one in spec.hosts:
        [container] = world.machines[one.address].containers
        assert (container.name, container.state) == (object_name(spec.name, one.name), "running")
        assert container.files[buildkitd.CA_PATH][0] == authority.certificate
        assert is_issued_by(container.files[buildkitd.CERT_PATH][0], authority.certificate)
        api = facts.nodes[one.name].api
        assert isinstance(api, ApiFacts), api
        assert notes.drain(api) is None
    assert plan(spec, facts, world.now).empty


# ------------------------------------------------------------------------------------------------- steps


def test_an_exchange_waits_for_clients_and_then_goes_on(world: FakeWorld, tmp_path: Path) -> None:
    first = world.vault.authority
    old = (tmp_path / "ci").read_text()
    waits = run(world, tmp_path)
    assert (waits.step, waits.waiting, waits.bundles) == (Step.HAND_OUT, ("ci",), {"ci": tmp_path / "ci"})
    made = (tmp_path / "ci").read_text()
    assert made != old
    keys = world.vault.read()
    assert keys.client_authority == keys.coming_fingerprint
    # Asked again, it hands out the same.
    assert (run(world, tmp_path), (tmp_path / "ci").read_text()) == (waits, made)
    assert world.vault.authority == first
    assert plan(SPEC, world.facts(SPEC), world.now).empty
    join(world, tmp_path, "ci", "arm-1")
    assert run(world, tmp_path) == Exchange(None, removed=(tmp_path / "ci",))
    assert not (tmp_path / "ci").exists()
    assert world.vault.authority != first
    assert [one.certificate.serial for one in world.vault.clients()] == [made]
    is_settled(world)


def test_forced_it_says_who_has_lost_access(world: FakeWorld, tmp_path: Path) -> None:
    assert run(world, tmp_path, force=True) == Exchange(None, bundles={"ci": tmp_path / "ci"})
    [entry] = world.vault.clients()
    assert entry.certificate.serial == (tmp_path / "ci").read_text()
    is_settled(world)


def test_an_exchange_does_not_prolong_access(world: FakeWorld, tmp_path: Path) -> None:
    run(world, tmp_path)
    old, new = world.vault.clients()
    assert new.certificate.issued != old.certificate.issued
    assert new.certificate.expires == old.certificate.expires == NOW + 90 * DAY
    world.now += 60 * DAY
    run(world, tmp_path, force=True)
    [last] = world.vault.clients()
    assert last.certificate.expires == NOW + 90 * DAY
    renew_clients(world, tmp_path)
    assert world.vault.clients()[-1].certificate.expires == world.now + 90 * DAY


def test_what_an_old_ca_had_no_time_for_the_new_one_gives(world: FakeWorld, tmp_path: Path) -> None:
    world.now = NOW + 3600 * DAY
    assert world.apply(SPEC) == {}
    FakeBundles(tmp_path, world).make("ada", Asked(90 * DAY, world.now + 90 * DAY), world.facts(SPEC))
    end, (clipped,) = world.now + 90 * DAY, [one for one in world.vault.clients() if one.name == "ada"]
    assert clipped.certificate.expires < end
    run(world, tmp_path, force=True)
    assert [one.certificate.expires for one in world.vault.clients() if one.name == "ada"] == [end]


@pytest.mark.parametrize("step", [Step.TEACH, Step.RENEW])
def test_a_node_that_nobody_reaches_is_waited_for_and_named(world: FakeWorld, tmp_path: Path, step: Step) -> None:
    gone = world.machines["arm-1.example"]

    def leave(event: Event, _: Applier) -> None:
        if event.subject == "CA":
            gone.login = gone.network = event.text != step

    waits = run(world, tmp_path, force=True, on=leave)
    assert waits.step is step
    assert waits.report
    assert waits.report.exit_code in {1, 3}
    state = {Step.TEACH: Rotation.OVERLAP, Step.RENEW: Rotation.SWITCHED}[step]
    assert world.vault.read().rotation is state
    again = run(world, tmp_path, force=True)
    assert (again.step, again.waiting) == (step, ("arm-1",))
    gone.login = gone.network = True
    assert run(world, tmp_path, force=True).step is None
    is_settled(world)


def test_without_clients_it_is_done_at_once(world: FakeWorld, tmp_path: Path) -> None:
    world.vault.entries.clear()
    (tmp_path / "ci").unlink()
    assert run(world, tmp_path) == Exchange(None)
    is_settled(world)


def test_a_host_may_come_in_the_middle(world: FakeWorld, tmp_path: Path) -> None:
    assert run(world, tmp_path).step is Step.HAND_OUT
    larger = replace(SPEC, hosts=(*SPEC.hosts, host("new")))
    assert run(world, tmp_path, spec=larger, force=True).step is None
    is_settled(world, larger)


def test_an_interrupt_leaves_every_host_fit_and_goes_on_later(world: FakeWorld, tmp_path: Path) -> None:
    def interrupt(event: Event, applier: Applier) -> None:
        if event.text.startswith("create fleet.acme.amd-1"):
            applier.stop.set()

    stopped = run(world, tmp_path, on=interrupt)
    assert stopped.step is Step.TEACH
    assert stopped.report
    assert stopped.report.exit_code == 130
    assert "amd-2" in stopped.waiting
    assert all(isinstance(node.api, ApiFacts) for node in world.facts(SPEC).nodes.values())
    assert run(world, tmp_path, force=True).step is None
    is_settled(world)


# --------------------------------------------------------------------------------- killed before any change


def killed(world: FakeWorld, folder: Path, after: int) -> bool:
    """Whether an exchange was killed, after so many changes."""
    left = [after]

    def before_change(_: str) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    try:
        run(world, folder, force=True, before_change=before_change)
    except Killed:
        return True
    return False


def changes(world: FakeWorld, folder: Path) -> int:
    """Of a whole exchange."""
    seen: list[str] = []
    run(world, folder, force=True, before_change=seen.append)
    assert {"vault", "bundle", *(one.name for one in SPEC.hosts)} <= set(seen)
    return len(seen)


@pytest.mark.parametrize("between", ["nothing", "fleet up"])
def test_wherever_it_is_killed_an_exchange_can_be_resumed(world: FakeWorld, tmp_path: Path, between: str) -> None:
    before = another(world)
    total = changes(world, tmp_path)
    assert total > 40
    for after in range(total):
        trial = another(before)
        assert killed(trial, tmp_path, after), after
        state = trial.vault.read().rotation
        if between == "fleet up":
            assert trial.apply(SPEC) == {}
            facts = trial.facts(SPEC)
            assert (facts.vault.rotation, plan(SPEC, facts, trial.now).empty) == (state, True)
        done = run(trial, tmp_path, force=True)
        assert done.step is None
        is_settled(trial)
        # Whoever has lost access has a bundle to get it back.
        assert done.bundles == {"ci": tmp_path / "ci"}
        assert (tmp_path / "ci").read_text() == live(trial.vault.clients(), trial.now)["ci"].certificate.serial


# -------------------------------------------------------------------------------------------- nodes, clients


def serials(world: FakeWorld) -> dict[str, str]:
    daemons = {name: machine.containers for name, machine in world.machines.items()}
    return {name: one.certificate.serial for name, ours in daemons.items() for one in ours if one.certificate}


def rotate_nodes(world: FakeWorld, folder: Path, before_change: BeforeChange = lambda _: None) -> None:
    world.now += MINUTE
    ports = world.ports(before_change)
    with at_once(), Connections(ports.connect) as connections:
        Rotator(SPEC, Applier(SPEC, ports, connections, lambda _: None), FakeBundles(folder, world)).nodes()


def test_every_node_gets_a_new_certificate_each_time(world: FakeWorld, tmp_path: Path) -> None:
    seen = [serials(world)]
    for _ in range(2):
        rotate_nodes(world, tmp_path)
        seen.append(serials(world))
        assert plan(SPEC, world.facts(SPEC), world.now).empty
    assert len({serial for one in seen for serial in one.values()}) == 3 * len(SPEC.hosts)


def test_renewing_the_nodes_goes_on_where_it_was_killed(world: FakeWorld, tmp_path: Path) -> None:
    def before_change(subject: str) -> None:
        if subject == "amd-2":
            raise Killed

    before, threads = serials(world), set(threading.enumerate())
    with pytest.raises(Killed):
        rotate_nodes(world, tmp_path, before_change)
    await_others(threads)
    halfway = serials(world)
    assert halfway["amd-1.example"] != before["amd-1.example"]
    assert halfway["amd-2.example"] == before["amd-2.example"]
    rotate_nodes(world, tmp_path)
    after = serials(world)
    assert after["amd-1.example"] == halfway["amd-1.example"]
    assert not set(after.values()) & set(before.values())


def renew_clients(world: FakeWorld, folder: Path) -> Mapping[str, Path]:
    """`fleet certs rotate clients`, a minute after what was before."""
    world.now += MINUTE
    ports = world.ports()
    with Connections(ports.connect) as connections:
        rotator = Rotator(SPEC, Applier(SPEC, ports, connections, lambda _: None), FakeBundles(folder, world))
        return rotator.clients()


def test_every_client_and_this_machine_get_new_certificates(world: FakeWorld, tmp_path: Path) -> None:
    mine, theirs = world.vault.client, (tmp_path / "ci").read_text()
    assert renew_clients(world, tmp_path) == {"ci": tmp_path / "ci"}
    assert world.vault.client != mine
    assert (tmp_path / "ci").read_text() != theirs


def test_what_is_issued_in_the_middle_is_of_a_ca_that_every_node_lets_in(world: FakeWorld, tmp_path: Path) -> None:
    world.machines["arm-1.example"].login = False
    assert run(world, tmp_path).step is Step.TEACH
    for taught in (False, True):
        renew_clients(world, tmp_path)
        facts = world.vault.read()
        let_in = facts.coming_fingerprint if taught else facts.authority_fingerprint
        assert (facts.taught, facts.client_authority) == (taught, let_in)
        assert live(world.vault.clients(), world.now)["ci"].authority == let_in
        world.machines["arm-1.example"].login = True
        assert run(world, tmp_path).step is Step.HAND_OUT


def test_bundles_that_were_not_joined_come_before_another_exchange(world: FakeWorld, tmp_path: Path) -> None:
    run(world, tmp_path, force=True)
    before = world.vault.authority
    assert run(world, tmp_path) == Exchange(Step.BEGIN, ("ci",), {"ci": tmp_path / "ci"})
    assert (world.vault.authority, world.vault.read().rotation) == (before, Rotation.SETTLED)
    join(world, tmp_path, "ci")
    assert run(world, tmp_path).step is Step.HAND_OUT


@pytest.mark.parametrize("joins", [False, True])
def test_bundles_that_nobody_needs_are_removed(world: FakeWorld, tmp_path: Path, joins: bool) -> None:
    for name in ("ada", "eve", "gone"):
        lasting = DAY if name == "gone" else 90 * DAY
        FakeBundles(tmp_path, world).make(name, Asked(lasting, world.now + lasting), world.facts(SPEC))
    world.vault.revoke("eve", world.now)
    world.now += 2 * DAY
    if joins:
        join(world, tmp_path, "ada")
    rotate_nodes(world, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ([] if joins else ["ada"])


def test_a_moment_that_is_still_to_come_renews_nothing_until_it_is_mended(world: FakeWorld, tmp_path: Path) -> None:
    world.vault.renew_nodes(NOW + 300 * DAY)
    facts = world.facts(SPEC)
    assert plan(SPEC, facts, world.now).empty
    [problem] = problems(SPEC, facts.vault, world.now)
    assert "2031-02-25 12:00 UTC" in problem.reason
    assert "still to come" in problem.reason
    before = serials(world)
    rotate_nodes(world, tmp_path)
    assert not set(serials(world).values()) & set(before.values())
    assert problems(SPEC, world.facts(SPEC).vault, world.now) == ()


@pytest.mark.parametrize(
    ("skews", "refused"), [((0, 0, 0), False), ((0, 0, 90), False), ((90, 91, 90), True), ((-40, -41, 0), True)]
)
def test_a_clock_that_is_wrong_renews_nothing(
    world: FakeWorld,
    tmp_path: Path,
    skews: tuple[float, ...],
    refused: bool,
) -> None:
    for one, skew in zip(SPEC.hosts, skews, strict=True):
        world.machines[one.address].ahead = skew
    before = serials(world)
    if refused:
        with pytest.raises(VaultError, match=r"disagree by \d\d s"):
            rotate_nodes(world, tmp_path)
        assert world.vault.read().nodes_since is None
    else:
        rotate_nodes(world, tmp_path)
    assert (serials(world) == before) is refused


# ------------------------------------------------------------------------------------------------- who is who


def client(name: str, days: int = 90, *, issued: int = 1, authority: str = CA, revoked: bool = False) -> ClientFacts:
    known = replace(certificate(days, serial=f"{name}-{issued}"), issued=NOW - issued * DAY)
    return ClientFacts(name, known, authority, Asked((days + issued) * DAY, known.expires), revoked)


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        pytest.param([], {}, id="nobody"),
        pytest.param([client("ci")], {"ci": "ci-1"}, id="one"),
        pytest.param([client("ci"), client("ci", issued=9)], {"ci": "ci-1"}, id="the newest counts"),
        pytest.param([client("ci", days=0), client("ada", days=-1)], {}, id="ended"),
        pytest.param([client("ci", revoked=True), client("ci", issued=9)], {"ci": "ci-9"}, id="one of two revoked"),
    ],
)
def test_who_may_use_the_fleet(clients: list[ClientFacts], expected: dict[str, str]) -> None:
    assert {name: one.certificate.serial for name, one in live(clients, NOW).items()} == expected


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        pytest.param([client("ci")], (), id="not revoked"),
        pytest.param([client("ci", revoked=True)], ("ci",), id="trusted"),
        pytest.param([client("ci", revoked=True), client("ci", issued=9, revoked=True)], ("ci",), id="twice"),
        pytest.param([client("ci", authority=OTHER_CA, revoked=True)], (), id="of a CA that nobody trusts"),
        pytest.param([client("ci", days=0, revoked=True)], (), id="ended"),
    ],
)
def test_who_is_revoked_and_still_let_in(clients: list[ClientFacts], expected: tuple[str, ...]) -> None:
    assert revoked_but_trusted(clients, (CA,), NOW) == expected
