"""The dashboard at work: keys, questions, toasts, and a world that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from textual.filter import NoColor

from fleet.applying.report import Event
from fleet.builds import BuildRecord, Outcome, Step, StepState, Written
from fleet.errors import Busy, HostError, VaultError
from fleet.logs import Line
from fleet.model.facts import Down, Stage
from fleet.model.health import Health
from fleet.model.snapshot import Snapshot
from fleet.model.spec import FleetSpec
from fleet.observing.recording import Recorder, Recording, Replay
from fleet.parallel import Stop
from tests.support.canned import SMALL, Canned, day, many, sighting, taken, through_gateways, up
from tests.support.values import NOW, fleet, host
from tests.tui.driving import Hand, Recorded, build, builds, driving, records, step
from tui.app import Dashboard
from tui.cells import plain
from tui.grid import Grid
from tui.log import Log
from tui.outside import Outside, Watching
from tui.screens.fleet import FleetPage
from tui.screens.node import NodePage
from tui.screens.tables import CertificatesPage
from tui.themes import fitting


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(test())


def test_the_first_screen_is_there_before_anything_was_heard() -> None:
    async def test() -> None:
        async with driving() as hand:
            assert hand.text().count("… asking") == len(SMALL.hosts) + 1
            await hand.press("j", "enter")
            assert isinstance(hand.app.screen, NodePage)

    run(test)


def test_nodes_with_health_and_reason() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            text = hand.text()
            assert "acme  ● 3 ready  ✗ 1 down  ○ 1 drained  builds 8  cert 21d" in text
            assert "amd-3   ✗ down" in text
            await hand.press("j", "j")
            assert "try: fleet up --host amd-3" in hand.text()

    run(test)


PAGES = {
    "routes": ["linux/amd64", "● amd-1", "amd-2"],
    "certificates": ["operator", "◐ renew", "21d"],
    "plan": ["amd-2  because the image changes", "+ create fleet.acme.amd-2", "✓ as wanted"],
    "builds": ["▸ running", "acme/shop", "7/19", "✗ failed"],
    "logs": ["level=info msg=arm-2-2", "amd-1: SSH: the connection was lost"],
    "node amd-3": ["✗ container", "Exited (137) 4 minutes ago", "✗ TCP", "refused the connection", "fleet up: done"],
    "help": ["everywhere", "drain", "quit"],
}


@pytest.mark.parametrize(("typed", "said"), PAGES.items(), ids=PAGES)
def test_every_screen_by_its_command(typed: str, said: Sequence[str]) -> None:
    async def test() -> None:
        async with driving(day(), size=(120, 40)) as hand:
            await hand.type(typed)
            await hand.until(lambda: all(part in hand.text() for part in said))
            await hand.press("escape")
            assert isinstance(hand.app.screen, FleetPage)

    run(test)


@pytest.mark.parametrize("word", ["builds", "routes", "certificates", "plan", "logs"])
def test_a_screen_that_is_asked_for_again_is_left_in_one_step(word: str) -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            for _ in range(2):
                await hand.type(word)
            assert not isinstance(hand.app.screen, FleetPage)
            await hand.press("escape")
            assert isinstance(hand.app.screen, FleetPage)

    run(test)


KEYS = {"l": "Logs", "c": "Certificates", "b": "Builds", "o": "Routes", "question_mark": "everywhere", "enter": "Node"}


@pytest.mark.parametrize(("key", "title"), KEYS.items(), ids=KEYS)
def test_screens_by_key(key: str, title: str) -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press(key)
            await hand.until(lambda: title in hand.text())

    run(test)


CHANGES = {
    "d": ("drain", ("amd-1",), "No new builds come there"),
    "r": ("resume", ("amd-1",), "Builds come there again"),
    "R": ("restart", ("amd-1",), "Each daemon is replaced"),
    "p": ("prune", ("amd-1",), "of 84 GB"),
    "u": ("up", tuple(one.name for one in SMALL.hosts), "amd-2: 4 steps"),
}


@pytest.mark.parametrize(("key", "expected"), CHANGES.items(), ids=CHANGES)
def test_what_changes_something_says_what_it_disturbs_and_does_it_only_after_a_yes(
    key: str, expected: tuple[str, tuple[str, ...], str]
) -> None:
    word, nodes, sentence = expected

    async def test() -> None:
        async with driving(day()) as hand:
            for answer in ("escape", "n", "enter"):
                await hand.press(key)
                assert sentence in hand.text()
                await hand.press(answer)
                assert hand.world.done == []
                await hand.press("escape")
            await hand.press(key, "y")
            await hand.until(lambda: hand.world.done == [(word, nodes)])
            await hand.until(lambda: f"{nodes[0]}: {word} done" in hand.text())
            assert "✓" in hand.text()

    run(test)


def test_marked_nodes_are_acted_on_together() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("space", "j", "space", "d")
            assert "drain amd-1, amd-3?" in hand.text()
            await hand.press("y")
            await hand.until(lambda: hand.world.done == [("drain", ("amd-1", "amd-3"))])

    run(test)


def test_taking_the_last_node_of_a_platform_away_is_said() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.type("drain arm-1")
            assert "Nobody else builds arm v6 v7, arm64 meanwhile." in hand.text()

    run(test)


@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "joined"])
def test_there_is_no_way_to_change_what_must_not_be_changed(read_only: bool) -> None:
    async def test() -> None:
        given: dict[str, Any] = {} if read_only else {"deeds": {}, "logs": None, "shell": None, "history": None}
        async with driving(day(), read_only=read_only, **given) as hand:
            assert ("READ-ONLY" in hand.text()) is read_only
            for key in ("d", "r", "R", "u", "p", "s"):
                await hand.press(key)
                assert isinstance(hand.app.screen, FleetPage)
            for word in ("drain amd-1", "up", "prune amd-1", "shell amd-1"):
                await hand.type(word)
            assert hand.notes() == [f"{word} cannot be done here" for word in ("drain", "up", "prune", "shell")]
            await hand.press("question_mark")
            assert "restart" not in hand.text()
            assert hand.world.done == []

    run(test)


def test_a_filter_while_it_is_typed_kept_and_taken_back() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("slash", "!", "a", "r", "m")
            assert "arm-1" not in hand.text()
            await hand.press("enter")
            assert "/!arm (2 hidden)" in hand.text()
            await hand.press("escape")
            assert "arm-1" in hand.text()
            await hand.press("slash", "z", "z")
            assert "nothing matches 'zz'" in hand.text()
            await hand.press("escape")
            assert "arm-1" in hand.text()

    run(test)


def test_rows_sort_by_any_column_in_sight_by_key_and_by_mouse() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("right", "right")
            assert "HEALTH▲" in hand.text()
            assert first_row(hand).startswith("amd-3")
            await hand.press("minus")
            assert first_row(hand).startswith(("amd-1", "arm"))
            await hand.pilot.click("#nodes", offset=(3, 0))
            assert "NODE▲" in hand.text() or "NODE▼" in hand.text()

    run(test)


def first_row(hand: Hand) -> str:
    return hand.text().splitlines()[3].lstrip("› ")


def test_the_cursor_stays_with_its_node_when_the_order_changes() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("j", "j", "right", "right")
            assert first_row(hand).startswith("amd-3")
            assert "fleet up --host amd-3" in hand.text()

    run(test)


def changed(before: Snapshot, name: str, after: Snapshot) -> Snapshot:
    seen = {**before.sightings, name: after.sightings[name]}
    return replace(taken(SMALL, seen), taken=NOW)


def test_a_node_that_goes_down_and_comes_back_is_told() -> None:
    whole = taken(SMALL, {one.name: sighting(up(SMALL, one.name)) for one in SMALL.hosts})
    broken = changed(whole, "amd-3", day())

    async def test() -> None:
        async with driving(whole, broken, whole) as hand:
            await hand.until(lambda: len(hand.notes()) == 2)
            assert hand.notes() == [
                "✗ amd-3 is down: container: fleet.acme.amd-3: Exited (137) 4 minutes ago",
                "● back: amd-3 is ready again",
            ]

    run(test)


def test_a_gateway_that_dies_and_comes_back_is_told() -> None:
    broken = through_gateways()
    whole = replace(broken, gates=tuple(replace(gate, health=Health.READY, reason=None) for gate in broken.gates))
    alone = replace(broken, gates=(*whole.gates[:3], broken.gates[3]))

    async def test() -> None:
        async with driving(whole, alone, whole) as hand:
            await hand.until(lambda: len(hand.notes()) == 2)
            assert hand.notes() == [
                "✗ the gateway on amd-2 for arm64 is down: container: fleet.acme.gateway: Exited (137) 4 minutes ago",
                "● back: the gateway on amd-2 for arm64 is ready again",
            ]

    run(test)


def test_the_first_snapshot_is_no_news() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            assert hand.notes() == []

    run(test)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Busy("amd-1 is being changed: bob", "wait for it"), "amd-1 is being changed: bob"),
        (ZeroDivisionError("oh"), "unexpected ZeroDivisionError: oh"),
    ],
)
def test_a_deed_that_fails_says_why_and_the_screens_go_on(error: Exception, said: str) -> None:
    def fail(nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
        tell(Event(nodes[0], "begin"))
        raise error

    async def test() -> None:
        async with driving(day(), deeds={"drain": fail}) as hand:
            await hand.press("d", "y")
            await hand.until(lambda: said in hand.text())
            await hand.press("escape")
            assert isinstance(hand.app.screen, FleetPage)

    run(test)


def test_nobody_leaves_while_something_would_be_left_half_done() -> None:
    go_on = threading.Event()

    def slow(nodes: Sequence[str], tell: Callable[[Event], None]) -> Sequence[str]:
        tell(Event(nodes[0], "begin"))
        go_on.wait(30)
        return ["over"]

    async def test() -> None:
        async with driving(day(), deeds={"drain": slow}) as hand:
            await hand.press("d", "y")
            for way in ("q", "ctrl+c"):
                await hand.press(way)
            await hand.type("quit")
            assert hand.app.is_running
            assert set(hand.notes()) == {"drain amd-1 is under way: leave when it has ended"}
            go_on.set()
            await hand.until(lambda: "over" in hand.text())
            await hand.press("q")
            await hand.until(lambda: not hand.app.is_running)

    run(test)


def test_builds_of_the_node_that_is_looked_at() -> None:
    async def test() -> None:
        async with driving(day(), size=(120, 40)) as hand:
            await hand.press("j", "enter", "b")
            await hand.until(lambda: "acme/shop" in hand.text())
            assert "Builds of amd-2" in hand.text()
            assert "amd-1" not in hand.text()

    run(test)


def test_a_node_whose_builds_cannot_be_read_does_not_hide_the_others() -> None:
    def fails(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, BuildRecord | Down | None]]:
        yield nodes[0], Down(Stage.TCP, "refused")
        yield from builds(nodes[1:], stop)

    async def test() -> None:
        async with driving(day(), builds=fails) as hand:
            await hand.press("b")
            await hand.until(lambda: "amd-1: its builds are not known: TCP: refused" in hand.text())
            await hand.until(lambda: hand.text().count("acme/shop") > 3)

    run(test)


def test_a_build_is_opened_its_steps_and_its_log_and_left_again() -> None:
    async def test() -> None:
        async with driving(day(), size=(120, 40)) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("RUN go test")
            assert "Build of acme/shop on amd-1, following" in hand.text()
            assert "linux/amd64" in hand.text()
            # The newest step that runs is looked at.
            assert "acme/shop/pay 1.020s" in hand.text()
            await hand.press("k")
            assert "CC   src/part29.c" in hand.text()
            assert "following" not in hand.text()
            await hand.press("enter")
            await hand.shows("CC   src/part00.c")
            assert "held" in hand.text()
            await hand.press("escape", "l")
            await hand.shows("Log of acme/shop on amd-1: following")
            await hand.press("escape", "escape", "escape")
            assert isinstance(hand.app.screen, FleetPage)

    run(test)


def test_a_build_that_goes_on_is_followed_until_its_end() -> None:
    go_on = threading.Event()

    def goes_on(node: str, *_: object) -> Iterator[BuildRecord | Step | Written]:
        began = records(node)[0]
        yield began
        yield step("a", "[1/2] RUN one", StepState.RUNNING, 1)
        go_on.wait(30)
        yield step("a", "[1/2] RUN one", StepState.DONE, 1, 2)
        yield step("b", "[2/2] RUN two", StepState.FAILED, 2, 3, "exit code: 2")
        yield replace(began, completed=NOW, outcome=Outcome.FAILED, reason="exit code: 2")

    async def test() -> None:
        async with driving(day(), build=goes_on) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("0 of 1 steps")
            go_on.set()
            await hand.shows("✗ failed")
            assert current(hand) == "b"
            assert "following" not in hand.text()

    run(test)


def current(hand: Hand) -> str:
    return hand.app.screen.query_one(Grid).chosen()[0]


def test_a_build_that_cannot_be_read_says_why() -> None:
    def fails(node: str, *_: object) -> Iterator[BuildRecord | Step | Written]:
        yield records(node)[0]
        raise HostError(Stage.TCP, "connection reset", "fleet status")

    async def test() -> None:
        async with driving(day(), build=fails) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("connection reset; try: fleet status")

    run(test)


def test_a_build_that_is_told_no_further_is_unknown_until_it_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.screens.build.AGAIN", 0.1)
    monkeypatch.setattr("tui.app.TICK", 0.05)
    lost, answers = threading.Event(), threading.Event()

    def falls_silent(node: str, ref: str, stop: Stop) -> Iterator[BuildRecord | Step | Written]:
        if answers.is_set():
            yield from build(node, ref, stop)
        elif not lost.is_set():
            yield records(node)[0]
            yield step("a", "[1/2] RUN one", StepState.RUNNING, 1)
            lost.wait(30)
        raise HostError(Stage.TLS, "no handshake", "fleet status")

    async def test() -> None:
        async with driving(day(), build=falls_silent, size=(120, 40)) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("▸ running   [1/2] RUN one")
            await hand.press("l")
            await hand.shows("Log of acme/shop on amd-1: following")
            lost.set()
            await hand.shows("Log of acme/shop on amd-1: unknown since 12:00:00 UTC")
            await hand.shows("no handshake; try: fleet status")
            await hand.press("escape")
            await hand.shows("Build of acme/shop on amd-1, unknown since 12:00:00 UTC")
            assert "? unknown   [1/2] RUN one" in hand.text()
            assert "▸ running" not in hand.text()
            assert "following" not in hand.text()
            answers.set()
            await hand.shows("▸ running   [test 1/1] RUN go test")
            assert "RUN one" not in hand.text()
            assert "unknown since" not in hand.text()
            assert "no handshake" not in hand.text()

    run(test)


def test_a_build_of_which_nothing_is_told_is_not_asked_for_for_ever() -> None:
    def fails(*_: object) -> Iterator[BuildRecord | Step | Written]:
        raise HostError(Stage.API, "amd-1 does not remember a build", "fleet builds")
        yield

    async def test() -> None:
        async with driving(day(), build=fails) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("nothing is known of its steps")
            assert "asking" not in hand.text()

    run(test)


def test_steps_that_a_filter_hides_are_counted() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("enter")
            await hand.shows("RUN go test")
            await hand.press("slash", *"make", "enter")
            await hand.shows("Build of acme/shop on amd-1")
            await hand.shows(" /make (6 hidden)")

    run(test)


def test_keys_of_the_builds_are_for_the_build_under_the_cursor() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            builds_page = hand.app.screen
            await hand.press("b")
            assert hand.app.screen is builds_page
            await hand.press("l")
            await hand.shows("Log of acme/shop on amd-1: following")
            await hand.shows("pay 1.020s")
            await hand.press("escape")
            await hand.shows("Build of acme/shop on amd-1, following")
            await hand.press("escape")
            assert hand.app.screen is builds_page

    run(test)


def test_what_runs_on_nodes_that_fall_silent_is_unknown_and_all_of_them_are_counted() -> None:
    silent = threading.Event()

    def fall_silent(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, BuildRecord | Down | None]]:
        for node in nodes:
            yield node, None
            yield node, records(node)[0]
        silent.wait(30)
        for node in nodes:
            yield node, Down(Stage.TLS, "no handshake " * 8)
        stop.wait(30)

    async def test() -> None:
        nodes = len(SMALL.hosts)
        down = sum(node.health is Health.DOWN for node in day().nodes)
        assert down
        async with driving(day(), builds=fall_silent, size=(80, 30)) as hand:
            await hand.press("b")
            # Of a node that is down by the Snapshot nothing is known either.
            await hand.until(lambda: hand.text().count("▸ running") == nodes - down + 1)
            silent.set()
            await hand.until(lambda: hand.text().count("? unknown") == nodes + 1)
            assert "▸ running" not in hand.text()
            shown = hand.text().count("its builds are not known: TLS")
            assert 0 < shown < nodes
            assert f"and {nodes - shown} more" in hand.text()

    run(test)


REFUSED = Down(Stage.TCP, "refused")
NOT_KNOWN: dict[str, tuple[Sequence[Down | None], str]] = {
    "nobody has answered yet": ((), "asking the nodes"),
    "one has": ((None,), "asking the nodes"),
    "none answers": ((REFUSED,) * len(SMALL.hosts), "no node answers"),
    "one answers": ((None, *(REFUSED,) * (len(SMALL.hosts) - 1)), "no build is known"),
}


@pytest.mark.parametrize(("told", "said"), NOT_KNOWN.values(), ids=NOT_KNOWN)
def test_that_no_build_is_known_is_said_only_when_nodes_have_answered(told: Sequence[Down | None], said: str) -> None:
    all_told = threading.Event()

    def tell(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, BuildRecord | Down | None]]:
        yield from zip(nodes, told, strict=False)
        all_told.set()
        stop.wait(30)

    async def test() -> None:
        async with driving(day(), builds=tell) as hand:
            await hand.press("b")
            await hand.until(all_told.is_set)
            await hand.pilot.pause(0.3)
            await hand.shows(said)

    run(test)


def test_a_build_on_a_node_that_is_down_is_how_it_was() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("b")
            await hand.shows("arm-2")
            await hand.press("slash", *"amd-3", "enter", "enter")
            await hand.shows("amd-3 is down, this is how it was: container: fleet.acme.amd-3")

    run(test)


# ---------------------------------------------------------------------------------------------------- logs


def long_log(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, Line | Down | None]]:
    for second in range(100):
        for node in nodes:
            words = f"{'error: ' * (second % 30 == 7)}{node}-{second} {'x' * 60}"
            yield node, Line(NOW + timedelta(seconds=second), words)
    stop.wait(30)


@asynccontextmanager
async def reading() -> AsyncIterator[Hand]:
    async with driving(day(), logs=long_log) as hand:
        await hand.type("logs")
        await hand.shows("arm-2-99")
        yield hand


def test_a_log_is_searched_as_in_less() -> None:
    async def test() -> None:
        async with reading() as hand:
            await hand.press("slash")
            await hand.type_into("ERROR")
            # What is typed is looked for at once: the first in sight is what is meant.
            await hand.shows("/ERROR: 16 of 20 lines")
            await hand.press("enter", "n", "n")
            assert "following, /ERROR: 18 of 20 lines" in hand.text()
            await hand.press("n", "n", "n")
            assert "error: amd-1-7" in hand.text()
            assert "held, /ERROR: 1 of 20 lines" in hand.text()
            await hand.press("N")
            assert "20 of 20 lines" in hand.text()
            await hand.press("escape")
            assert "ERROR" not in hand.text()
            await hand.press("slash")
            await hand.type_into("zz")
            await hand.press("enter")
            assert "/zz: not found" in hand.text()
            await hand.press("n", "escape", "escape")
            assert isinstance(hand.app.screen, FleetPage)

    run(test)


def test_a_log_is_filtered_and_of_one_node_alone() -> None:
    async def test() -> None:
        async with reading() as hand:
            await hand.press("ampersand")
            await hand.type_into("error")
            await hand.press("enter")
            assert "&error (480 hidden)" in hand.text()
            assert "arm-2-98" not in hand.text()
            await hand.press("tab")
            assert "Logs of amd-1 &error (96 hidden)" in hand.text()
            assert "arm-2-97" not in hand.text()
            await hand.press("shift+tab", "escape")
            assert "Logs of all nodes: following" in hand.text()
            assert "arm-2-98" in hand.text()

    run(test)


def test_a_log_is_wrapped_held_and_followed() -> None:
    async def test() -> None:
        async with reading() as hand:
            assert "xx…" in hand.text()
            await hand.press("w")
            await hand.shows("following, wrapped")
            assert "xx…" not in hand.text()
            await hand.press("k")
            await hand.shows("held, wrapped")
            await hand.press("G")
            await hand.shows("following, wrapped")
            await hand.press("f")
            await hand.shows("held, wrapped")
            await hand.press("f")
            await hand.shows("following, wrapped")
            await hand.press("f", "G")
            await hand.shows("following, wrapped")

    run(test)


HELD = {"it is left": (False, 61, "line-61 "), "wrapped": (True, 141, "  x x"), "it falls out": (False, 11, "line-40 ")}


@pytest.mark.parametrize(("wrap", "row", "then"), HELD.values(), ids=HELD)
def test_a_log_that_is_held_stays_where_it_is_while_old_lines_fall_out(
    monkeypatch: pytest.MonkeyPatch, wrap: bool, row: int, then: str
) -> None:
    monkeypatch.setattr("tui.screens.logs.KEPT", 100)
    go_on = threading.Event()

    def overflows(nodes: Sequence[str], stop: Stop) -> Iterator[tuple[str, Line | Down | None]]:
        for second in range(140):
            if second == 100:
                go_on.wait(30)
            yield nodes[0], Line(NOW + timedelta(seconds=second), f"line-{second} {'x ' * 50}")
        stop.wait(30)

    async def test() -> None:
        async with driving(day(), logs=overflows) as hand:
            await hand.type("logs amd-1")
            await hand.shows("line-99")
            log = hand.app.screen.query_one(Log)
            if wrap:
                await hand.press("w")
            log.scroll_to(y=row, animate=False, immediate=True)
            await hand.shows("held")
            before = [line.text for line in map(log.render_line, range(9))]
            go_on.set()
            await hand.until(lambda: "line-139" in plain(log._given[-1]))
            await hand.pilot.pause()
            after = [line.text for line in map(log.render_line, range(9))]
            assert then in after[0]
            assert (before == after) is (then in before[0])

    run(test)


def test_watching_that_breaks_is_told_and_does_not_end_the_app() -> None:
    @contextmanager
    def broken() -> Iterator[Watching]:
        raise VaultError("client.pem is torn", "fleet up")
        yield Canned([])

    async def test() -> None:
        app = Dashboard(Outside(SMALL, broken, lambda: NOW))
        async with app.run_test() as pilot:
            hand = Hand(app, pilot, Recorded())
            await hand.until(lambda: bool(hand.notes()))
            assert hand.notes() == ["the fleet is not watched any more: client.pem is torn\ntry: fleet up"]
        app.end_watching()

    run(test)


def test_no_thread_is_left_behind() -> None:
    async def test() -> None:
        before = set(threading.enumerate())
        async with driving(day()) as hand:
            await hand.press("b")
            await hand.press("escape", "l")
            await hand.until(lambda: "level=info" in hand.text())
        for thread in set(threading.enumerate()) - before:
            if not thread.name.startswith("asyncio"):
                thread.join(2)
                assert not thread.is_alive(), thread

    run(test)


def test_a_terminal_that_changes_its_size() -> None:
    async def test() -> None:
        async with driving(day(), size=(200, 60)) as hand:
            assert "BUILDKIT" in hand.text()
            for size in ((80, 24), (20, 5), (1, 1), (120, 40)):
                await hand.pilot.resize_terminal(*size)
                await hand.pilot.pause()
                # However low it is, there are rows.
                assert "amd-1" in hand.text() or size == (1, 1)
            assert "DRIFT" in hand.text()
            assert "BUILDKIT" not in hand.text()

    run(test)


FLEETS = {
    "none": (replace(SMALL, hosts=()), "this fleet has no nodes"),
    "wide": (fleet(host("amd-1"), host("日本-语")), "日本-语  ● ready"),
    "thousand": (many(1000)[0], "1000 ready"),
}


@pytest.mark.parametrize(("spec", "said"), FLEETS.values(), ids=FLEETS)
def test_fleets_of_all_sizes(spec: FleetSpec, said: str) -> None:
    async def test() -> None:
        seen = {one.name: sighting(up(spec, one.name)) for one in spec.hosts}
        async with driving(taken(spec, seen), spec=spec) as hand:
            assert said in hand.text()
            await hand.press("end", "pageup", "home", "G", "g", "enter")

    run(test)


def test_the_palette_has_every_command_that_can_be_done() -> None:
    async def test() -> None:
        async with driving(day(), deeds={}) as hand:
            await hand.press("ctrl+p")
            await hand.type_into("certific")
            await hand.until(lambda: "certificates and how long they last" in hand.text())
            await hand.press("enter")
            await hand.until(lambda: isinstance(hand.app.screen, CertificatesPage))
            assert not any(word.title == "drain" for word in hand.app.get_system_commands(hand.app.screen))

    run(test)


def test_a_recording_is_paused_stepped_and_sped_up(tmp_path: Path) -> None:
    with Recorder(tmp_path / "day.gz", SMALL) as recorder:
        for second in (0, 3600, 7200):
            recorder.write(replace(day(), taken=NOW + timedelta(seconds=second)))
    replay = Replay(Recording.open(tmp_path / "day.gz"))
    put = Outside(
        SMALL, lambda: nullcontext(replay), lambda: replay.now or NOW, sign=lambda: replay.sign, player=replay
    )

    async def test() -> None:
        app = Dashboard(put, read_only=True)
        async with app.run_test(size=(120, 30)) as pilot:
            hand = Hand(app, pilot, Recorded())
            await hand.until(lambda: "REPLAY 1× 2030-05-01 12:00:00 UTC" in hand.text())
            await hand.press("z")
            assert "REPLAY paused" in hand.text()
            await hand.press("greater_than_sign", "full_stop")
            await hand.until(lambda: "13:00:00" in hand.text())
            await hand.press("full_stop")
            await hand.until(lambda: "REPLAY the end 2030-05-01 14:00:00 UTC" in hand.text())
            assert "READ-ONLY" in hand.text()
        assert app.end_watching()

    run(test)


def test_themes_one_after_the_other() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            seen = []
            for _ in range(3):
                seen.append(hand.app.theme)
                await hand.press("t")
            assert seen == ["fleet-dark", "fleet-light", "fleet-ansi"]
            assert hand.app.theme == "fleet-dark"

    run(test)


TERMINALS = {
    "true colour": ({"COLORTERM": "truecolor", "TERM": "xterm"}, "fleet-dark"),
    "256 colours": ({"TERM": "screen-256color"}, "fleet-dark"),
    "light": ({"TERM": "xterm-256color", "COLORFGBG": "0;15"}, "fleet-light"),
    "light, of rxvt": ({"TERM": "rxvt-256color", "COLORFGBG": "0;default;15"}, "fleet-light"),
    "sixteen": ({"TERM": "linux"}, "fleet-ansi"),
    "no colour": ({"COLORTERM": "truecolor", "NO_COLOR": ""}, "fleet-ansi"),
}


@pytest.mark.parametrize(("environment", "theme"), TERMINALS.values(), ids=TERMINALS)
def test_the_theme_fits_the_terminal(environment: Mapping[str, str], theme: str) -> None:
    assert fitting(environment) == theme


def test_without_colour_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("j", "space")
            assert hand.app.theme == "fleet-ansi"
            assert any(isinstance(one, NoColor) for one in hand.app._filters)
            assert "✗ down" in hand.text()

    run(test)


def test_names_are_copied() -> None:
    async def test() -> None:
        async with driving(day()) as hand:
            await hand.press("space", "space", "y")
            assert hand.app.clipboard == "amd-1 amd-2"

    run(test)


def test_the_app_ends_by_its_keys() -> None:
    async def test() -> None:
        feed = Canned([day()])
        app = Dashboard(Outside(SMALL, feed.open, lambda: NOW))
        async with app.run_test() as pilot:
            await pilot.press("q")
        assert app.end_watching()

    run(test)
