"""What a host says of itself: the very script run by a real shell, its answers read, failures kept as facts."""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fleet.adapters.local import LocalHost
from fleet.errors import BuilderError, HostError, Unreachable, VaultError
from fleet.model.facts import ApiFacts, Down, HostFacts, Image, Stage
from fleet.model.spec import Connection, HostSpec, SshSpec
from fleet.observing.observe import _SCRIPT, Connections, binfmt_arch, observe, observe_host
from fleet.parallel import gather
from fleet.ports import Completed
from tests.support.fakes import Container, FakeEngine, FakeHost, Machine
from tests.support.values import IMAGE, NOW, fleet, host
from tests.support.world import FakeWorld

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fleet.model.spec import FleetSpec
    from fleet.ports import Host

# ------------------------------------------------------------------------------------------------- binfmt

LITTLE, BIG = "01", "02"


def magic(bits: str, order: str, machine: str) -> str:
    """The first twenty bytes of an ELF program, as qemu-binfmt-conf.sh registers them; `machine` in file order."""
    kind = "0002" if order == BIG else "0200"
    return f"7f454c46{bits}{order}01{'00' * 9}{kind}{machine}"


QEMU = {
    "qemu-x86_64": (magic("02", LITTLE, "3e00"), "amd64"),
    "qemu-i386": (magic("01", LITTLE, "0300"), "386"),
    "qemu-aarch64": (magic("02", LITTLE, "b700"), "arm64"),
    "qemu-aarch64_be": (magic("02", BIG, "00b7"), "arm64"),
    "qemu-arm": (magic("01", LITTLE, "2800"), "arm"),
    "qemu-armeb": (magic("01", BIG, "0028"), "arm"),
    "qemu-s390x": (magic("02", BIG, "0016"), "s390x"),
    "qemu-ppc64le": (magic("02", LITTLE, "1500"), "ppc64le"),
    "qemu-riscv64": (magic("02", LITTLE, "f300"), "riscv64"),
    "qemu-loongarch64": (magic("02", LITTLE, "0201"), "loong64"),
    "qemu-mips64": (magic("02", BIG, "0008"), None),
    "qemu-sh4": (magic("01", LITTLE, "2a00"), None),
    "qemu-hppa": (magic("01", BIG, "000f"), None),
}


@pytest.mark.parametrize(("given", "arch"), QEMU.values(), ids=QEMU)
def test_the_architecture_that_a_handler_emulates(given: str, arch: str | None) -> None:
    assert binfmt_arch(given) == arch


@pytest.mark.parametrize(
    "given",
    [
        pytest.param("", id="a handler by file extension"),
        pytest.param("cafebabe", id="java"),
        pytest.param("6d7a", id="mono"),
        pytest.param("7f454c46", id="any program"),
        pytest.param("7f454c460201010000000000000000000200b7", id="cut short"),
        pytest.param("not hexadecimal", id="no number"),
        pytest.param("4d5a" + "00" * 30, id="windows"),
    ],
)
def test_what_is_no_handler_for_foreign_programs(given: str) -> None:
    assert binfmt_arch(given) is None


# ------------------------------------------------------------------------------------------------- script


def handler(folder: Path, name: str, first: str, given: str) -> None:
    text = f"{first}\ninterpreter /usr/bin/{name}-static\nflags: OCF\noffset 0\nmagic {given}\nmask ffffffffffffff00\n"
    (folder / name).write_text(text)


def run_script(folder: Path) -> list[str]:
    """The lines that the script prints when these are the host's binfmt handlers and Docker's socket."""
    script = _SCRIPT.replace("/proc/sys/fs/binfmt_misc", str(folder / "binfmt"))
    script = script.replace("/var/run/docker.sock", str(folder / "docker.sock"))
    script = script.replace("/var/lib/docker", str(folder))
    assert script.count(str(folder)) >= 4
    done = LocalHost().run(("sh", "-c", script))
    assert (done.status, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_shell_answers_the_script(tmp_path: Path) -> None:
    fields = dict(line.partition(" ")[::2] for line in run_script(tmp_path))
    assert fields["machine"] == os.uname().machine
    assert abs(int(fields["clock"]) - time.time()) < 60
    assert int(fields["df"].split()[10]) > 0
    assert fields["docker"] == "absent"


def test_a_socket_that_may_be_written_to_is_ok(tmp_path: Path) -> None:
    (tmp_path / "docker.sock").touch()
    assert "docker ok" in run_script(tmp_path)


def test_enabled_handlers_are_listed_with_their_magic(tmp_path: Path) -> None:
    binfmt = tmp_path / "binfmt"
    binfmt.mkdir()
    for name, (given, _) in QEMU.items():
        handler(binfmt, name, "enabled", given)
    handler(binfmt, "off", "disabled", magic("02", LITTLE, "b700"))
    (binfmt / "python").write_text("enabled\ninterpreter /usr/bin/python3\nflags:\nextension .py\n")
    (binfmt / "register").write_text("")
    (binfmt / "status").write_text("enabled\n")
    listed = [line.removeprefix("binfmt").strip() for line in run_script(tmp_path) if line.startswith("binfmt")]
    assert sorted(filter(None, listed)) == sorted(given for given, _ in QEMU.values())


def test_a_host_without_handlers_lists_none(tmp_path: Path) -> None:
    (tmp_path / "binfmt").mkdir()
    assert not [line for line in run_script(tmp_path) if line.startswith("binfmt")]


def test_this_machine_can_be_observed_as_a_local_host() -> None:
    here = HostSpec("here", "127.0.0.1", connection=Connection.LOCAL)
    seen = observe_host(fleet(here), here, Connections(lambda _: LocalHost()))
    if isinstance(seen, HostFacts):
        assert seen.machine == os.uname().machine
        assert abs(seen.clock_skew) < 5
    else:
        assert seen.stage is Stage.DOCKER
        assert seen.remedy


# ------------------------------------------------------------------------------------------------- answers


class Saying(FakeHost):
    """A host that answers the script with fixed text."""

    def __init__(self, stdout: str, stderr: str = "") -> None:
        super().__init__(Machine("x"))
        self._said = Completed(0, stdout, stderr)

    def run(self, argv: Sequence[str], *, timeout: float = 30.0) -> Completed:
        assert (argv[0], timeout > 0) == ("sh", True)
        return self._said


def read(stdout: str, stderr: str = "", *, ssh: SshSpec | None = None) -> HostFacts | Down:
    spec = HostSpec("amd-1", "10.0.0.11", ssh=ssh or SshSpec())
    return observe_host(fleet(spec), spec, Connections(lambda _: Saying(stdout, stderr)))


def df(available: str) -> str:
    return f"Filesystem 1024-blocks Used Available Capacity Mounted on /dev/sda1 4000 3000 {available} 75% /"


def report(**changed: str) -> str:
    fields = {"machine": "x86_64", "clock": f"{time.time():.0f}", "df": df("1000"), "docker": "ok"}
    return "".join(f"{key} {value}\n" for key, value in (fields | changed).items())


def test_what_a_host_says_becomes_facts() -> None:
    seen = read(report())
    assert isinstance(seen, HostFacts)
    assert (seen.machine, seen.arch, seen.engine) == ("x86_64", "amd64", "26.1.5")
    assert (seen.free_bytes, seen.disk_bytes) == (1024 * 1000, 1024 * 4000)
    assert abs(seen.clock_skew) < 3
    assert (seen.emulated, seen.daemons, seen.volumes, seen.foreign) == ((), (), (), ())
    assert seen.image is Image.ABSENT


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_clock_that_is_wrong_is_measured_with_its_sign(ahead: int) -> None:
    seen = read(report(clock=f"{time.time() + ahead:.0f}"))
    assert isinstance(seen, HostFacts)
    assert abs(seen.clock_skew - ahead) < 3


@pytest.mark.parametrize(
    ("machine", "names", "emulated"),
    [
        ("x86_64", ("qemu-aarch64", "qemu-s390x", "qemu-arm"), ("arm", "arm64", "s390x")),
        ("x86_64", ("qemu-x86_64",), ()),
        ("aarch64", ("qemu-x86_64", "qemu-aarch64", "qemu-i386"), ("386", "amd64")),
        ("aarch64", ("qemu-arm",), ("arm",)),
        ("x86_64", ("qemu-mips64", "qemu-hppa"), ()),
    ],
)
def test_handlers_of_other_architectures_are_emulation(
    machine: str, names: tuple[str, ...], emulated: tuple[str, ...]
) -> None:
    lines = "".join(f"binfmt {QEMU[name][0]}\n" for name in names)
    seen = read(report(machine=machine) + lines)
    assert isinstance(seen, HostFacts)
    assert seen.emulated == emulated


def test_a_host_that_does_not_say_the_time_has_the_right_one() -> None:
    seen = read("machine arm64\ndocker ok\n")
    assert isinstance(seen, HostFacts)
    assert (seen.arch, seen.clock_skew, seen.free_bytes) == ("arm64", 0.0, None)


@pytest.mark.parametrize("printed", ["", "df: no such file", df("-")])
def test_unknown_free_space_is_unknown(printed: str) -> None:
    seen = read(report(df=printed))
    assert isinstance(seen, HostFacts)
    assert seen.free_bytes is None


SAYS: dict[str, tuple[str, str, SshSpec, Stage, str, str]] = {
    "no Docker": (report(docker="absent"), "", SshSpec(), Stage.DOCKER, "there is no Docker Engine", "install"),
    "no access to Docker": (
        report(docker="denied"),
        "",
        SshSpec(user="build"),
        Stage.DOCKER,
        "the user may not use Docker",
        "usermod -aG docker build",
    ),
    "no shell": (
        "",
        "This account is currently not available.\n",
        SshSpec(),
        Stage.SSH,
        "the host has no working shell: This account is currently not available.",
        "log in by hand",
    ),
    "silence": ("", "", SshSpec(), Stage.SSH, "the host has no working shell: no output", "log in by hand"),
}


@pytest.mark.parametrize(("out", "err", "ssh", "stage", "reason", "remedy"), SAYS.values(), ids=SAYS)
def test_what_is_wrong_with_a_host_is_told_with_its_remedy(
    out: str, err: str, ssh: SshSpec, stage: Stage, reason: str, remedy: str
) -> None:
    seen = read(out, err, ssh=ssh)
    assert isinstance(seen, Down)
    assert (seen.stage, reason in seen.reason) == (stage, True)
    assert remedy in (seen.remedy or "")


def test_a_banner_before_the_answer_is_of_no_account() -> None:
    assert isinstance(read(f"Welcome to Debian!\n\n{report()}"), HostFacts)


# -------------------------------------------------------------------------------------------- the Engine's


def test_containers_and_volumes_are_told_apart_by_label_and_name() -> None:
    spec = fleet(host("amd-1"))
    machine = Machine("amd-1.example", images={IMAGE})
    machine.containers = [
        Container("1", "fleet.acme.amd-1", "acme", "amd-1", "running", {"image": IMAGE}),
        Container("2", "fleet.acme.old", "acme", "old", "exited"),
        Container("3", "registry"),
        Container("4", "fleet.other.amd-1", "other", "amd-1"),
    ]
    machine.volumes = {"fleet.acme.amd-1": "acme", "data": None, "fleet.other.amd-1": "other"}
    seen = FakeWorld.of(machine).facts(spec).nodes["amd-1"].host
    assert isinstance(seen, HostFacts)
    assert [(daemon.name, daemon.node, daemon.state) for daemon in seen.daemons] == [
        ("fleet.acme.amd-1", "amd-1", "running"),
        ("fleet.acme.old", "old", "exited"),
    ]
    assert seen.volumes == ("fleet.acme.amd-1",)
    assert seen.foreign == ()
    assert seen.image is Image.FOUND


@pytest.mark.parametrize("name", ["fleet.acme.amd-1", "fleet.acme.amd-1.aside"])
@pytest.mark.parametrize("kind", ["container", "volume"])
def test_an_unlabelled_thing_of_the_nodes_name_is_foreign(kind: str, name: str) -> None:
    spec, machine = fleet(host("amd-1")), Machine("amd-1.example")
    if kind == "container":
        machine.containers.append(Container("1", name))
    else:
        machine.volumes[name] = None
    seen = FakeWorld.of(machine).facts(spec).nodes["amd-1"].host
    assert isinstance(seen, HostFacts)
    assert seen.foreign == (name,)


# ---------------------------------------------------------------------------------------------- all at once


def three() -> tuple[FleetSpec, FakeWorld]:
    """A healthy host, one that refuses logins, and one whose Docker is gone; the vault is complete."""
    spec = fleet(host("a"), host("b"), host("c"))
    world = FakeWorld.of(Machine("a.example"), Machine("b.example", login=False), Machine("c.example", docker=False))
    world.vault.create_authority("acme", NOW)
    world.vault.issue_client("operator", NOW)
    return spec, world


def test_every_host_and_every_daemon_is_asked_and_none_spoils_the_others() -> None:
    spec, world = three()
    ports = world.ports()
    with Connections(ports.connect) as connections:
        seen = observe(spec, ports, connections)
    assert list(seen.nodes) == ["a", "b", "c"]
    a, b, c = (node.host for node in seen.nodes.values())
    assert isinstance(a, HostFacts)
    assert isinstance(b, Down)
    assert isinstance(c, Down)
    assert (b.stage, c.stage) == (Stage.SSH, Stage.DOCKER)
    assert [node.api.stage for node in seen.nodes.values() if isinstance(node.api, Down)] == [Stage.TCP] * 3
    alone = world.facts(spec)
    assert [node.api for node in seen.nodes.values()] == [node.api for node in alone.nodes.values()]
    assert (seen.builder, seen.vault) == (alone.builder, alone.vault)


def test_only_the_chosen_hosts_are_logged_in_to_but_all_daemons_are_asked() -> None:
    spec, world = three()
    ports, asked = world.ports(), []

    def connect(wanted: HostSpec) -> Host:
        asked.append(wanted.name)
        return ports.connect(wanted)

    with Connections(connect) as connections:
        seen = observe(spec, ports, connections, only=["a"])
    assert asked == ["a"]
    assert [node.host is None for node in seen.nodes.values()] == [False, True, True]
    assert all(isinstance(node.api, Down) for node in seen.nodes.values())


def test_who_is_logged_in_to_beforehand_is_dialled_once_whatever_comes_of_it() -> None:
    spec, world = three()
    ports, dialled, go = world.ports(), list[str](), threading.Event()

    def connect(wanted: HostSpec) -> Host:
        dialled.append(wanted.name)
        assert go.wait(10)
        return ports.connect(wanted)

    with Connections(connect) as connections:
        connections.open(spec.hosts)
        threading.Timer(0.05, go.set).start()
        for _ in range(2):
            assert connections.get(spec.host("a")) is connections.get(spec.host("a"))
            connections.get(spec.host("c"))
            with pytest.raises(HostError):
                connections.get(spec.host("b"))
    assert sorted(dialled) == ["a", "b", "c"]


def test_an_engine_is_asked_for_its_version_beside_what_is_done_first(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, world = three()
    ports, asked, version = world.ports(), queue.SimpleQueue[str](), FakeEngine.version

    def told(engine: FakeEngine) -> str:
        asked.put(engine.machine.address)
        return version(engine)

    monkeypatch.setattr(FakeEngine, "version", told)
    with Connections(ports.connect) as connections:
        connections.open(spec.hosts)
        assert {asked.get(timeout=10), asked.get(timeout=10)} == {"a.example", "c.example"}
        # That its Docker is gone is told to whoever needs it.
        connections.get(spec.host("c"))


def test_a_machine_that_has_joined_logs_in_to_nobody_and_waits_for_nobody() -> None:
    spec, world = three()
    hosts = tuple(replace(host, connection=Connection.NONE) for host in spec.hosts)

    def connect(wanted: HostSpec) -> Host:
        raise AssertionError(f"{wanted.name} was logged in to")

    with Connections(connect) as connections:
        seen = observe(replace(spec, hosts=hosts), world.ports(), connections)
    assert [node.host for node in seen.nodes.values()] == [None, None, None]
    assert all(isinstance(node.api, Down) for node in seen.nodes.values())


def test_without_a_client_certificate_no_daemon_is_asked() -> None:
    spec, world = three()
    world.vault.client = None
    ports = world.ports()
    with Connections(ports.connect) as connections:
        seen = observe(spec, ports, connections)
    assert [node.api for node in seen.nodes.values()] == [None] * 3


def test_a_host_that_is_late_is_left_unknown() -> None:
    spec, world = three()
    ports, late = world.ports(), threading.Event()

    def connect(wanted: HostSpec) -> Host:
        if wanted.name == "b":
            late.wait(30)
        return ports.connect(wanted)

    with Connections(connect) as connections:
        seen = observe(spec, ports, connections, deadline=time.monotonic() + 0.3)
    late.set()
    assert isinstance(seen.nodes["a"].host, HostFacts)
    assert seen.nodes["b"].host is None
    assert isinstance(seen.nodes["b"].api, Down)


def test_a_broken_vault_is_an_error_and_not_a_fact() -> None:
    spec, world = three()
    world.vault.authority = None
    ports = world.ports()
    with pytest.raises(VaultError), Connections(ports.connect) as connections:
        observe(spec, ports, connections)


def test_an_unreadable_builder_is_an_error_and_not_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, world = three()

    def refuse(_: str) -> None:
        raise BuilderError("torn", "docker buildx inspect")

    monkeypatch.setattr(world.builder.__class__, "read", lambda _, name: refuse(name))
    ports = world.ports()
    with pytest.raises(BuilderError), Connections(ports.connect) as connections:
        observe(spec, ports, connections)


def test_a_daemon_that_answers_is_a_fact() -> None:
    spec, world = three()
    world.machines = {"a.example": world.machines["a.example"]}
    alone = fleet(spec.hosts[0])
    world.apply(alone)
    answer = world.facts(alone).nodes["a"].api
    assert isinstance(answer, ApiFacts)
    assert answer.platforms


# -------------------------------------------------------------------------------------------- connections


def test_a_host_is_logged_in_to_once_whoever_asks() -> None:
    opened: list[FakeHost] = []
    barrier = threading.Barrier(8)

    def connect(_: HostSpec) -> FakeHost:
        opened.append(FakeHost(Machine("a.example")))
        return opened[-1]

    with Connections(connect) as connections:

        def use() -> Host:
            barrier.wait(10)
            return connections.get(host("a"))

        given = gather(dict.fromkeys(range(8), use))
        assert len(opened) == 1
        assert set(map(id, given.values())) == {id(opened[0])}
    assert not opened[0].open


def test_a_login_that_failed_is_tried_again() -> None:
    tries = []

    def connect(_: HostSpec) -> FakeHost:
        tries.append(1)
        if len(tries) == 1:
            raise Unreachable(Stage.SSH, "no answer")
        return FakeHost(Machine("a.example"))

    with Connections(connect) as connections:
        with pytest.raises(HostError):
            connections.get(host("a"))
        assert connections.get(host("a")).engine().version() == "26.1.5"


def test_closing_goes_on_when_one_connection_is_already_dead() -> None:
    class Dead(FakeHost):
        def close(self) -> None:
            raise EOFError

    dead, alive = Dead(Machine("a")), FakeHost(Machine("b"))
    with Connections(lambda wanted: dead if wanted.name == "a" else alive) as connections:
        connections.get(host("a"))
        connections.get(host("b"))
    assert not alive.open
