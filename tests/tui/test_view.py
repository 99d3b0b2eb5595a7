"""What is said of a fleet: every state has a word, every figure an age, and what is unknown is never zero."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from fleet.model.facts import ApiFacts, Down, HostFacts, NodeFacts, Stage
from fleet.model.health import Health
from fleet.model.snapshot import Drift, Sighting, Snapshot
from tests.support.canned import GB, SMALL, day, sighting, taken, through_gateways, up
from tests.support.values import NOW, fleet, host
from tui.cells import plain
from tui.listings import route_lines, routes
from tui.view import NODE_COLUMNS, NodeRow, Trends, about, builder_line, certificate_days, headline, rows, summary

ONE = fleet(host("amd-1"))


def row(snapshot: Snapshot, name: str = "amd-1") -> NodeRow:
    return next(one for one in rows(snapshot, NOW, Trends()) if one.node.name == name)


def shown(one: NodeRow) -> dict[str, str]:
    return {column.title: plain(column.cell(one)) for column in NODE_COLUMNS}


def test_a_node_at_work() -> None:
    assert shown(row(day())) == {
        "NODE": "amd-1",
        "HEALTH": "● ready",
        "ARCH": "amd64",
        "OWNS": "amd64, 386",
        "BUILDS": "3/4",
        "TREND": " " * 10,
        "DISK": "━━━──  61%",
        "CACHE": "84 GB",
        "BUILDKIT": "0.32.2",
        "CERT": "365d",
        "MS": "8",
        "DRIFT": "none",
        "AGE": "1s",
        "WHY": "",
    }


def test_a_node_that_is_down_has_no_figures_but_what_its_host_says() -> None:
    down = shown(row(day(), "amd-3"))
    assert down["HEALTH"] == "✗ down"
    assert (down["BUILDS"], down["CACHE"], down["MS"], down["BUILDKIT"]) == ("–",) * 4
    assert down["WHY"] == "container: fleet.acme.amd-3: Exited (137) 4 minutes ago"
    assert down["DISK"].endswith("18%")


def test_a_node_that_has_not_been_heard_is_being_asked_and_nothing_else() -> None:
    unseen = shown(row(taken(ONE, {"amd-1": Sighting(NodeFacts())})))
    assert unseen["HEALTH"] == "… asking"
    assert (unseen["BUILDS"], unseen["CERT"], unseen["ARCH"]) == ("…",) * 3
    assert (unseen["AGE"], unseen["DISK"], unseen["DRIFT"], unseen["WHY"]) == ("–", "–", "–", "")


@pytest.mark.parametrize(("seconds", "stale"), [(9, False), (11, True)])
def test_what_is_old_says_so_in_words(seconds: int, stale: bool) -> None:
    one = row(taken(ONE, {"amd-1": sighting(up(ONE, "amd-1"), ago=timedelta(seconds=seconds))}))
    assert one.stale is stale
    assert shown(one)["AGE"].endswith("!") is stale
    assert ("stale" in one.words) is stale
    assert any("how it was then" in plain(line) for line in about(one)) is stale


@pytest.mark.parametrize(
    ("drift", "text", "order"),
    [
        (None, "–", None),
        (Drift(), "none", 0),
        (Drift(("start",)), "1 step", 1),
        (Drift(("create", "start")), "2 steps", 2),
        (Drift(blocked=Down(Stage.DOCKER, "no Docker")), "blocked", 1000),
    ],
)
def test_drift(drift: Drift | None, text: str, order: int | None) -> None:
    one = row(taken(ONE, {"amd-1": sighting(up(ONE, "amd-1"), drift=drift)}))
    assert shown(one)["DRIFT"] == text
    assert next(column for column in NODE_COLUMNS if column.title == "DRIFT").order(one) == order


@pytest.mark.parametrize(
    ("left", "text", "tone"),
    [
        (timedelta(days=365), "365d", ""),
        (timedelta(days=30), "30d", "warn"),
        (timedelta(hours=47), "47h", "bad"),
        (timedelta(0), "expired", "bad"),
        (timedelta(days=-3), "expired", "bad"),
    ],
)
def test_how_long_a_certificate_lasts(left: timedelta, text: str, tone: str) -> None:
    assert certificate_days(NOW + left, NOW) == ((text, tone),)


def test_each_health_has_a_sign_and_a_word_of_its_own() -> None:
    seen = {plain(next(iter(NODE_COLUMNS[1:2])).cell(row_of(health))) for health in Health}
    assert len(seen) == len(Health)
    assert len({text[0] for text in seen}) == len(Health)


def row_of(health: Health) -> NodeRow:
    one = row(day())
    return replace(one, node=replace(one.node, health=health))


def test_the_line_on_top_adds_up_what_is_known() -> None:
    assert plain(headline(day(), NOW)) == "acme  ● 3 ready  ✗ 1 down  ○ 1 drained  builds 8  cert 21d"
    assert plain(builder_line(day())) == "builder registered"


def test_the_line_on_top_has_the_worst_of_the_ways_through_the_gateway() -> None:
    broken = through_gateways()
    assert plain(headline(broken, NOW)).endswith("cert 21d  gateway ✗ 2 down")
    assert plain(headline(replace(broken, gates=broken.gates[:2]), NOW)).endswith("gateway ● 2 ready")


def test_what_comes_through_the_gateway_has_it_as_its_owner() -> None:
    broken = through_gateways()
    shown = {str(route.platform): route for route in routes(broken)}
    assert (shown["linux/amd64"].owner, shown["linux/amd64"].owner_fails) == ("gateway amd-1", None)
    assert shown["linux/amd64"].stand_by == ("amd-1", "amd-2")
    assert [plain(line) for line in route_lines(shown["linux/amd64"])][2:4] == [
        "gateway on amd-1 for amd64  amd-1.example:1250  ● ready  builds for amd64, 386 go through it",
        f"gateway on amd-2 for amd64  amd-2.example:1250  ✗ down  {broken.gates[2].reason}",
    ]
    dead = replace(broken, gates=(replace(broken.gates[0], health=Health.DOWN, reason="TCP: refused"),))
    assert {str(route.platform): route.owner_fails for route in routes(dead)}["linux/386"] == "TCP: refused"


def test_when_nobody_has_said_anything_there_are_no_zeroes() -> None:
    unseen = taken(SMALL, {one.name: Sighting(NodeFacts()) for one in SMALL.hosts})
    assert summary(unseen, NOW).builds is None
    assert plain(headline(replace(unseen, vault=None), NOW)) == "acme  … 5 asking  builds –  cert –"


def test_a_fleet_without_nodes_says_so() -> None:
    empty = replace(SMALL, hosts=())
    assert "no nodes" in plain(headline(taken(empty, {}), NOW))


def test_trends_remember_what_was_known_and_where_nothing_was() -> None:
    trends = Trends()
    for builds in (1, 4):
        trends.add(taken(ONE, {"amd-1": sighting(up(ONE, "amd-1", builds=builds))}))
    trends.add(taken(ONE, {"amd-1": sighting(NodeFacts(None, Down(Stage.TCP, "refused")))}))
    [one] = rows(taken(ONE, {"amd-1": sighting(up(ONE, "amd-1"))}), NOW, trends)
    assert one.trend == (1, 4, None)


def test_the_node_under_the_cursor_is_told_with_what_to_try() -> None:
    lines = [plain(line) for line in about(row(day(), "amd-3"))]
    assert lines == [
        "amd-3  amd-3.example  ✗ down",
        "container: fleet.acme.amd-3: Exited (137) 4 minutes ago",
        "try: fleet up --host amd-3",
        "fleet up would: start fleet.acme.amd-3; wait until amd-3 is ready",
    ]


def test_a_disk_whose_size_is_unknown_shows_what_is_free() -> None:
    facts = up(ONE, "amd-1")
    assert isinstance(facts.host, HostFacts)
    assert isinstance(facts.api, ApiFacts)
    odd = replace(facts, host=replace(facts.host, disk_bytes=None, free_bytes=3 * GB))
    assert shown(row(taken(ONE, {"amd-1": sighting(odd)})))["DISK"] == "3.0 GB free"
