"""`fleet build`: which builder buildx is given, what is refused before anything is sent, and what is begun again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fleet import notes
from fleet.adapters.reservations import Reservations
from fleet.builds import BuildRecord, Outcome
from fleet.dispatching import candidates as candidates_module
from fleet.dispatching import dispatch as dispatch_module
from fleet.dispatching import vigil as vigil_module
from fleet.dispatching.build_arguments import parse
from fleet.dispatching.dispatch import Dispatched, Dispatcher, Share
from fleet.dispatching.spread import order
from fleet.errors import RoutingError, UsageError
from fleet.model.facts import ApiFacts, Down, Stage
from fleet.model.platforms import Platform
from fleet.model.spec import HostSpec
from tests.support.fakes import FakeBuilder, FakeRun
from tests.support.values import NOW, OPTIONS, WORKER_PLATFORMS, fleet, host, platforms

SPEC = fleet(host("amd-1"), host("amd-2"), host("arm-1"))
AMD, ARM = WORKER_PLATFORMS["x86_64"], WORKER_PLATFORMS["aarch64"]
DEAD = Down(Stage.TCP, "refused the connection")


@dataclass
class Answers:
    """A prober that knows what each node says, and which builds it remembers."""

    by_name: dict[str, ApiFacts | Down]
    asked: list[str] = field(default_factory=list)
    history: dict[str, list[BuildRecord]] = field(default_factory=dict)

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        assert timeout <= candidates_module.LATE_TIMEOUT
        self.asked.append(host.name)
        return self.by_name[host.name]

    def builds(self, host: HostSpec, *, refs: Sequence[str]) -> Iterator[BuildRecord]:
        return (known for known in self.history.get(host.name, ()) if known.ref in refs)


def api(*reported: str, builds: int | None = 0, most: int | None = None) -> ApiFacts:
    return ApiFacts("v0.32.2", "worker", platforms(*reported), 1.0, active_builds=builds, max_builds=most)


@dataclass
class Bench:
    """A fleet build about to be typed."""

    folder: Path
    prober: Answers
    builder: FakeBuilder = field(default_factory=FakeBuilder)
    told: list[str] = field(default_factory=list)
    owners: dict[Platform, str] = field(default_factory=dict)

    begun: list[tuple[int, int]] = field(default_factory=list)
    """How much was told and run whenever others were let begin."""

    def decided(self) -> None:
        self.begun.append((len(self.told), len(self.builder.ran)))

    def build(self, *arguments: str) -> int:
        return self.dispatch(*arguments).code

    def dispatch(self, *arguments: str) -> Dispatched:
        return Dispatcher(
            spec=SPEC,
            prober=self.prober,
            builder=self.builder,
            driver_options=OPTIONS,
            owners=self.owners,
            reservations=Reservations(self.folder),
            narrate=self.told.append,
            decided=self.decided,
        ).build(parse(arguments, os.environ.get("DOCKER_DEFAULT_PLATFORM", "")), "project")

    @property
    def pins(self) -> dict[str, tuple[str, ...]]:
        """Node -> platforms of the builder that the last build was given."""
        return self.all_pins[-1]

    @property
    def all_pins(self) -> list[dict[str, tuple[str, ...]]]:
        """The same of every build, in order."""
        return [
            {
                node.name: tuple(map(str, node.platforms))
                for node in self.builder.read(ran[ran.index("--builder") + 1]).nodes
            }
            for ran in self.builder.ran
            if ran[0] == "build"
        ]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("DOCKER_DEFAULT_PLATFORM", raising=False)
    monkeypatch.setattr(candidates_module, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(vigil_module, "EVERY", 0.01)
    return Bench(tmp_path / "reserved", Answers({"amd-1": api(*AMD), "amd-2": api(*AMD), "arm-1": api(*ARM)}))


FIRST, SECOND = order("project", {"amd-1": 4, "amd-2": 4})
"""The amd64 nodes as the project of these builds prefers them."""


# ------------------------------------------------------------------------------------------------- choosing


def test_a_build_does_not_wait_for_nodes_that_it_does_not_need(bench: Bench) -> None:
    release = threading.Event()

    class Slow(Answers):
        def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            if host.name != FIRST:
                assert release.wait(30)
            return super().probe(host, timeout=timeout)

    bench.prober = Slow(bench.prober.by_name)
    bench.owners = {Platform("linux", "arm64"): "arm-1"}
    try:
        assert bench.build("--platform", "linux/amd64", ".") == 0
    finally:
        release.set()
    assert bench.pins == {FIRST: ("linux/amd64",)}


def test_a_builder_of_exactly_the_chosen_nodes_is_used(bench: Bench) -> None:
    assert bench.build("--platform", "linux/arm64,linux/amd64", "--push", "--affinity", "x", ".") == 0
    assert bench.pins == {"arm-1": ("linux/arm64",), FIRST: ("linux/amd64",)}
    assert bench.begun == [(0, 0)]
    assert bench.builder.ran[-1][3:] == ("--platform", "linux/arm64,linux/amd64", "--push", ".")


@pytest.mark.parametrize(
    ("says", "chosen"),
    [
        pytest.param({}, FIRST, id="idle"),
        pytest.param({FIRST: api(*AMD, builds=1)}, FIRST, id="a little busy"),
        pytest.param({FIRST: api(*AMD, builds=4)}, SECOND, id="busy beyond its share"),
        pytest.param({FIRST: api(*AMD, builds=1, most=1)}, SECOND, id="full"),
        pytest.param({FIRST: DEAD}, SECOND, id="dead"),
        pytest.param({FIRST: api(*AMD, builds=None)}, FIRST, id="how busy is unknown"),
    ],
)
def test_a_project_is_built_where_its_cache_is_unless_that_node_cannot(
    bench: Bench, says: Mapping[str, ApiFacts | Down], chosen: str
) -> None:
    bench.prober.by_name |= says
    bench.build("--platform", "linux/amd64", ".")
    assert bench.pins == {chosen: ("linux/amd64",)}


def test_what_this_machine_has_just_begun_counts_before_the_nodes_know(bench: Bench) -> None:
    nested = list[int]()

    def again() -> None:
        if len(nested) < 3:
            nested.append(1)
            bench.builder.runs.append(FakeRun(begins=again))
            bench.build("--platform", "linux/amd64", ".")

    bench.builder.runs.append(FakeRun(begins=again))
    bench.build("--platform", "linux/amd64", ".")
    assert [next(iter(pins)) for pins in bench.all_pins] == [FIRST, FIRST, SECOND, FIRST]
    bench.build("--platform", "linux/amd64", ".")
    assert bench.pins == {FIRST: ("linux/amd64",)}


# ------------------------------------------------------------------------------------------------- room


def full(bench: Bench) -> None:
    bench.prober.by_name |= {name: api(*AMD, builds=2, most=2) for name in ("amd-1", "amd-2")}


@pytest.mark.parametrize("option", [["--no-queue"], ["--wait-at-most", "0.01s"]])
def test_a_full_fleet_is_refused_by_those_who_do_not_wait(bench: Bench, option: list[str]) -> None:
    full(bench)
    with pytest.raises(RoutingError, match="no room for linux/amd64: amd-1, amd-2 have all builds that they may have"):
        bench.build(*option, "--platform", "linux/amd64,linux/arm64", ".")
    assert bench.builder.ran == []
    assert list(bench.folder.glob("a*")) == []


def test_the_first_node_with_room_is_taken_and_waiting_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch_module, "ROOM_EVERY", 0.01)
    full(bench)

    class Clearing(Answers):
        def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            if self.asked.count(SECOND) == 3:
                self.by_name[SECOND] = api(*AMD, builds=1, most=2)
            return super().probe(host, timeout=timeout)

    bench.prober = Clearing(bench.prober.by_name)
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert bench.pins == {SECOND: ("linux/amd64",)}
    assert bench.told == ["waiting for room for linux/amd64: amd-1, amd-2 have all builds that they may have"]
    assert bench.begun[0] == (0, 0)


def test_room_that_a_build_of_this_machine_leaves_is_seen_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "ROOM_EVERY", 60.0)
    # What they said before it ended is not asked for again.
    bench.prober.by_name |= {name: api(*AMD, builds=1, most=1) for name in ("amd-1", "amd-2")}
    others = [Reservations(bench.folder) for _ in range(2)]
    for other, name in zip(others, ("amd-1", "amd-2"), strict=True):
        with other.choosing():
            other.reserve([name])
    bench.told = Hook(others[0].release)
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert bench.pins == {"amd-1": ("linux/amd64",)}


def test_nodes_are_asked_again_however_often_builds_of_this_machine_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch_module, "ROOM_EVERY", 0.1)
    monkeypatch.setattr(dispatch_module, "LOOK_EVERY", 0.001)
    bench.prober.by_name |= {name: api(*AMD, builds=200, most=1) for name in ("amd-1", "amd-2")}
    others = [Reservations(bench.folder) for _ in range(100)]
    for other in others:
        with other.choosing():
            other.reserve([FIRST])

    def end_one_after_the_other() -> None:
        bench.prober.by_name[SECOND] = api(*AMD, builds=0, most=1)
        while others:
            others.pop().release()
            time.sleep(0.02)

    ending = threading.Thread(target=end_one_after_the_other)

    def begin() -> None:
        if not ending.ident:
            ending.start()

    bench.told = Hook(begin)
    assert bench.build("--platform", "linux/amd64", ".") == 0
    left = len(others)
    others.clear()
    ending.join()
    assert (bench.pins, left > 0) == ({SECOND: ("linux/amd64",)}, True)


def test_what_is_told_of_a_build_holds_up_nobody_who_waits_for_its_room(bench: Bench) -> None:
    held = list[Mapping[str, int]]()

    class Looking(Answers):
        def builds(self, host: HostSpec, *, refs: Sequence[str]) -> Iterator[BuildRecord]:
            held.append(Reservations(bench.folder).counts())
            return super().builds(host, refs=refs)

    bench.prober = Looking(bench.prober.by_name)
    bench.builder.runs.append(FakeRun(asked={FIRST: ("ref",)}))
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert held == [{}]


class Hook(list[str]):
    """Does something when it is told something."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def append(self, text: str) -> None:
        super().append(text)
        self._act()


# ------------------------------------------------------------------------------------------------- loss


def record(node: str, outcome: Outcome) -> BuildRecord:
    return BuildRecord(node, "ref", NOW, NOW, outcome)


def dies(bench: Bench, name: str) -> FakeRun:
    """A run during which this node goes down."""
    return FakeRun(1, asked={name: ("ref",)}, begins=lambda: bench.prober.by_name.update({name: DEAD}))


def test_when_a_node_dies_its_platform_goes_on_on_the_next(bench: Bench) -> None:
    bench.builder.runs.append(dies(bench, FIRST))
    assert bench.build("--platform", "linux/amd64,linux/arm64", ".") == 0
    assert bench.all_pins == [
        {FIRST: ("linux/amd64",), "arm-1": ("linux/arm64",)},
        {SECOND: ("linux/amd64",), "arm-1": ("linux/arm64",)},
    ]
    assert bench.told == [f"{FIRST} is lost (TCP: refused the connection): linux/amd64 goes on on {SECOND}"]


def test_a_daemon_that_has_forgotten_the_build_was_killed_and_another_goes_on(bench: Bench) -> None:
    bench.builder.runs.append(FakeRun(1, asked={FIRST: ("ref",)}))
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert bench.all_pins == [{FIRST: ("linux/amd64",)}, {SECOND: ("linux/amd64",)}]
    assert "its daemon has started anew" in bench.told[0]


def test_without_another_node_the_same_one_goes_on(bench: Bench) -> None:
    bench.builder.runs.append(FakeRun(1, asked={"arm-1": ("ref",)}))
    assert bench.build("--platform", "linux/arm64", ".") == 0
    assert bench.all_pins == [{"arm-1": ("linux/arm64",)}] * 2


@pytest.mark.parametrize(
    ("asked", "history"),
    [
        pytest.param({FIRST: ("ref",)}, {FIRST: [Outcome.FAILED]}, id="a step that fails"),
        pytest.param({FIRST: ("ref",)}, {FIRST: [Outcome.DONE]}, id="a tag that cannot be pushed"),
        pytest.param({FIRST: ("ref",)}, {FIRST: [Outcome.CANCELED]}, id="a context that cannot be read"),
        pytest.param({}, {}, id="a Dockerfile that is missing"),
        pytest.param(
            {FIRST: ("ref",), "arm-1": ("ref",)},
            {FIRST: [Outcome.FAILED], "arm-1": [Outcome.CANCELED]},
            id="a step of one platform",
        ),
    ],
)
def test_a_build_that_fails_by_its_own_fault_is_tried_once(
    bench: Bench, asked: Mapping[str, tuple[str, ...]], history: Mapping[str, list[Outcome]]
) -> None:
    bench.prober.history = {name: [record(name, outcome) for outcome in said] for name, said in history.items()}
    bench.builder.runs.append(FakeRun(17, asked=asked))
    assert bench.build("--platform", "linux/amd64,linux/arm64", ".") == 17
    assert len(bench.all_pins) == 1
    assert bench.told == []


@pytest.mark.parametrize(("option", "runs"), [((), 3), (("--retries", "0"), 1), (("--retries=4",), 5)])
def test_retries_have_an_end(bench: Bench, option: tuple[str, ...], runs: int) -> None:
    bench.builder.runs += [FakeRun(1, asked=dict.fromkeys(("amd-1", "amd-2"), ("ref",))) for _ in range(9)]
    assert bench.build(*option, "--platform", "linux/amd64", ".") == 1
    assert len(bench.all_pins) == runs
    assert bench.told[-1].endswith("given up")


def test_a_context_from_a_pipe_is_built_once(bench: Bench) -> None:
    bench.builder.runs.append(dies(bench, FIRST))
    assert bench.build("--platform", "linux/amd64", "-") == 1
    assert len(bench.all_pins) == 1


def test_an_interrupted_build_is_not_begun_again(bench: Bench) -> None:
    run = dies(bench, FIRST)
    bench.builder.runs.append(replace(run, interrupted=True, code=130))
    assert bench.build("--platform", "linux/amd64", ".") == 130
    assert len(bench.all_pins) == 1


SILENT = Down(Stage.TLS, "has not shaken hands within 1.5 s", late=True, silent=True)


def test_a_node_that_falls_silent_ends_the_run_that_would_hang(bench: Bench) -> None:
    bench.builder.runs.append(FakeRun(hangs=True, begins=lambda: bench.prober.by_name.update({FIRST: SILENT})))
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert bench.all_pins == [{FIRST: ("linux/amd64",)}, {SECOND: ("linux/amd64",)}]
    assert bench.told == [f"{FIRST} is lost (TLS: has not shaken hands within 1.5 s): linux/amd64 goes on on {SECOND}"]


@pytest.mark.parametrize(("asked", "runs"), [({}, 2), ({FIRST: ("ref",)}, 1)], ids=["not yet", "already"])
def test_a_node_that_refuses_is_left_if_buildx_has_not_got_there_yet(
    bench: Bench, asked: Mapping[str, tuple[str, ...]], runs: int
) -> None:
    beats = threading.Event()

    class Counting(Answers):
        def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            if self.asked.count(FIRST) > 3:
                beats.set()
            return super().probe(host, timeout=timeout)

    bench.prober = Counting(bench.prober.by_name, history={FIRST: [record(FIRST, Outcome.DONE)]})
    run = FakeRun(hangs=True, asked=asked, begins=lambda: bench.prober.by_name.update({FIRST: DEAD}))
    if runs == 1:
        # It lets its builds end, as a daemon does that is stopped.
        run = replace(run, hangs=False, waits=lambda: beats.wait(30))
    bench.builder.runs.append(run)
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert len(bench.all_pins) == runs
    assert run.ended.is_set() is (runs == 2)


def test_a_node_that_was_only_late_goes_on_with_its_build(bench: Bench) -> None:
    """As on a machine that is busy itself: when another node has answered, the first is asked once more."""
    beats = threading.Event()

    class Late(Answers):
        def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
            self.asked.append(host.name)
            late = host.name == FIRST and timeout == vigil_module.TIMEOUT
            if late and self.asked.count(FIRST) > 8:
                beats.set()
            return SILENT if late else self.by_name[host.name]

    bench.prober = Late(bench.prober.by_name)
    run = FakeRun(waits=lambda: beats.wait(30))
    bench.builder.runs.append(run)
    assert bench.build("--platform", "linux/amd64", ".") == 0
    assert not run.ended.is_set()
    assert bench.told == []


def test_a_silent_node_that_nobody_stands_in_for_is_given_time(bench: Bench) -> None:
    run = FakeRun(hangs=True, begins=lambda: bench.prober.by_name.update({"arm-1": SILENT}))
    bench.builder.runs.append(run)
    bench.told = Hook(run.end)
    assert bench.build("--platform", "linux/arm64", "--retries", "0", ".") == 1
    assert bench.told[0].endswith("no other node runs linux/arm64, so it is waited for")


PASSING = replace(api(*ARM), notes={notes.DRAIN: notes.Drain("anna@laptop", NOW, passing=True).text()})
DRAINED = replace(api(*ARM), notes={notes.DRAIN: notes.Drain("anna@laptop", NOW).text()})


@dataclass
class InTurn(Answers):
    """arm-1 says one thing after the other, the last for good."""

    says: list[ApiFacts | Down] = field(default_factory=list)

    def probe(self, host: HostSpec, *, timeout: float) -> ApiFacts | Down:
        if host.name != "arm-1":
            return super().probe(host, timeout=timeout)
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


ARM_1 = {Platform("linux", "arm64"): "arm-1"}


@pytest.mark.parametrize(
    "before",
    [pytest.param([DEAD, DEAD], id="restarting"), pytest.param([PASSING, DEAD, PASSING], id="being replaced")],
)
def test_a_node_that_comes_back_is_waited_for_when_nobody_else_runs_it(
    bench: Bench, before: list[ApiFacts | Down]
) -> None:
    bench.owners = ARM_1
    bench.prober = InTurn(bench.prober.by_name, says=[*before, api(*ARM)])
    assert bench.build("--platform", "linux/arm64", ".") == 0
    assert bench.pins == {"arm-1": ("linux/arm64",)}
    assert len(bench.told) == 1
    assert bench.told[0].startswith("waiting for arm-1: ")


def test_a_node_that_is_lost_is_waited_for_when_nobody_else_runs_it(bench: Bench) -> None:
    bench.prober = InTurn(bench.prober.by_name, says=[api(*ARM)])
    says: list[ApiFacts | Down] = [DEAD, DEAD, DEAD, api(*ARM)]
    bench.builder.runs.append(FakeRun(1, begins=lambda: setattr(bench.prober, "says", says)))
    assert bench.build("--platform", "linux/arm64", ".") == 0
    assert bench.all_pins == [{"arm-1": ("linux/arm64",)}] * 2
    assert bench.told[0].startswith("waiting for arm-1: ")
    assert bench.told[1].endswith("linux/arm64 goes on on arm-1")


def test_a_node_that_is_being_replaced_may_be_gone_for_longer_than_a_restart(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "SILENT_TIMEOUT", 0.0)
    bench.owners = ARM_1
    bench.prober = InTurn(bench.prober.by_name, says=[PASSING, DEAD, DEAD, api(*ARM)])
    assert bench.build("--platform", "linux/arm64", ".") == 0
    assert bench.pins == {"arm-1": ("linux/arm64",)}


@pytest.mark.parametrize(
    ("answer", "owners"),
    [
        pytest.param(DEAD, ARM_1, id="a dead owner"),
        pytest.param(PASSING, {}, id="a replacement that does not end"),
    ],
)
def test_waiting_has_an_end(
    bench: Bench, answer: ApiFacts | Down, owners: dict[Platform, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("SILENT_TIMEOUT", "PASSING_TIMEOUT"):
        monkeypatch.setattr(candidates_module, limit, 0.01)
    bench.owners = owners
    bench.prober.by_name["arm-1"] = answer
    with pytest.raises(RoutingError, match="no healthy node runs linux/arm64"):
        bench.build("--platform", "linux/arm64", ".")
    assert len(bench.told) == 1
    assert bench.builder.ran == []


def test_a_drained_node_is_not_waited_for(bench: Bench) -> None:
    bench.owners = ARM_1
    bench.prober.by_name["arm-1"] = DRAINED
    with pytest.raises(RoutingError, match="drained: by anna@laptop"):
        bench.build("--platform", "linux/arm64", ".")
    assert bench.told == []


# ------------------------------------------------------------------------------------- what is given to buildx


def test_the_same_choice_is_the_same_builder_and_is_made_once(bench: Bench) -> None:
    bench.build("--platform", "linux/amd64", ".")
    made = len(bench.builder.ran)
    bench.build("--platform", "linux/amd64", ".")
    assert len(bench.builder.ran) == made + 1


def test_the_exit_code_is_that_of_buildx(bench: Bench) -> None:
    bench.builder.exit_code = 17
    assert bench.build(".") == 17


@pytest.mark.parametrize(
    "answers",
    [{"arm-1": DEAD}, {"arm-1": api(*AMD)}, {"arm-1": api("linux/amd64", "linux/arm64")}],
    ids=["dead", "another machine", "would emulate"],
)
def test_a_platform_that_no_node_runs_natively_is_refused_with_every_nodes_reason(
    bench: Bench, answers: Mapping[str, ApiFacts | Down]
) -> None:
    bench.prober.by_name |= answers
    with pytest.raises(RoutingError) as refused:
        bench.build("--platform", "linux/amd64,linux/arm64", ".")
    assert "no healthy node runs linux/arm64 natively" in refused.value.message
    assert all(f"  {name}: " in refused.value.message for name in ("amd-1", "amd-2", "arm-1"))
    assert bench.builder.ran == []


@pytest.mark.parametrize("owners", [{}, ARM_1 | {Platform.parse(os.uname().machine): "amd-1"}])
def test_without_a_platform_the_machines_own_is_built_and_said(bench: Bench, owners: dict[Platform, str]) -> None:
    bench.owners = owners
    bench.build(".")
    (platform,) = bench.pins.values()
    own = Platform.parse(os.uname().machine)
    assert platform == (str(own),)
    assert bench.told == [f"no --platform given: building for {own}"]
    assert ("--platform", str(own)) == bench.builder.ran[-1][3:5]


def test_the_environments_default_platform_counts_as_for_buildx(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    bench.build(".")
    assert bench.pins == {"arm-1": ("linux/arm64",)}
    assert bench.told == []
    bench.build("--platform", "linux/amd64", ".")
    assert bench.pins == {FIRST: ("linux/amd64",)}


@pytest.mark.parametrize("arguments", [("--builder", "other", "."), ("--builder=other", ".")])
def test_a_builder_named_by_the_user_is_refused(bench: Bench, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="chooses the nodes itself"):
        bench.build(*arguments)
    assert bench.builder.ran == []


def test_no_node_at_all_is_said(bench: Bench) -> None:
    bench.prober.by_name = dict.fromkeys(("amd-1", "amd-2", "arm-1"), DEAD)
    with pytest.raises(RoutingError, match="no node answers"):
        bench.build(".")
    assert bench.builder.ran == []


# ------------------------------------------------------------------------------------------------- what is told


def test_who_built_what_is_told_of_a_build_that_succeeded(bench: Bench) -> None:
    done = record("arm-1", Outcome.DONE)
    bench.prober.history = {"arm-1": [done]}
    bench.builder.runs.append(FakeRun(asked={FIRST: ("ref",), "arm-1": ("ref",)}))
    assert bench.dispatch("--platform", "linux/amd64,linux/arm64", ".").shares == (
        Share(FIRST, platforms("linux/amd64"), emulated=False, record=None),
        Share("arm-1", platforms("linux/arm64"), emulated=False, record=done),
    )


def test_of_a_question_nothing_is_told(bench: Bench) -> None:
    assert bench.dispatch("--check", "--platform", "linux/amd64", ".").shares == ()


def test_emulation_is_asked_for_and_told(bench: Bench) -> None:
    bench.prober.by_name["arm-1"] = replace(api(*ARM, "linux/riscv64"), arch="arm64", emulated=("riscv64",))
    bench.builder.runs.append(FakeRun(asked={"arm-1": ("ref",)}))
    with pytest.raises(RoutingError, match="no healthy node runs linux/riscv64 natively"):
        bench.build("--platform", "linux/riscv64", ".")
    (share,) = bench.dispatch("--allow-emulation", "--platform", "linux/riscv64", ".").shares
    assert (share.node, share.emulated) == ("arm-1", True)
