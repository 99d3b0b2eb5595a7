"""`fleet route`: what it says is what `fleet build` does, and every node has its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import route
from fleet.cli.route import _json, _show
from fleet.dispatching import spread
from fleet.dispatching.explain import Route, known_platforms, routes
from fleet.model.health import Health, NodeHealth
from fleet.model.platforms import Platform
from tests.support.values import platforms
from tests.unit.test_spread import AMD, ARM, KEYS, NODES, A, B, node

C = node("arm-1", ARM)
FIRST, SECOND = spread.order("app", {"amd-1": 4, "amd-2": 4})


def test_every_node_has_its_reason() -> None:
    busy = {FIRST: 3}
    (found,) = routes([AMD], [A, B, C], busy, "app")
    assert found == Route(
        AMD,
        SECOND,
        f"next in turn: {FIRST} is busy (3)",
        {FIRST: "could, as number 1 in turn; 3 builds", "arm-1": "runs linux/arm64 natively"},
    )


def test_a_platform_that_nobody_may_build() -> None:
    down = replace(C, health=Health.DOWN, reason="TCP: refused")
    (found,) = routes([ARM], [A, down], {}, "app")
    assert (found.node, found.why, found.refused) == (None, "no healthy node runs it natively", True)
    assert found.others == {"amd-1": "runs linux/amd64 natively", "arm-1": "down: TCP: refused"}


def test_nodes_that_are_full_are_waited_for() -> None:
    full = [replace(one, max_builds=1) for one in (A, B)]
    (found,) = routes([AMD], full, {"amd-1": 1, "amd-2": 1}, "app")
    assert (found.node, found.refused) == (None, False)
    assert found.others == {
        FIRST: "could, as number 1 in turn; 1 of 1 builds",
        SECOND: "could, as number 2 in turn; 1 of 1 builds",
    }


@pytest.mark.parametrize(
    ("nodes", "pinned", "expected"),
    [
        ([A, C], [], (AMD, ARM)),
        ([C, A, B], [AMD], (ARM, AMD)),
        ([], [ARM], (ARM,)),
        ([node("amd-1")], [], ()),
    ],
)
def test_platforms_are_those_that_somebody_runs_or_the_builder_pins(
    nodes: list[NodeHealth], pinned: list[Platform], expected: tuple[Platform, ...]
) -> None:
    assert known_platforms(nodes, pinned) == expected


def test_what_is_emulated_is_told_as_such() -> None:
    qemu = replace(A, emulated=(ARM,))
    assert not routes([ARM], [qemu], {}, "app")[0].emulated
    (found,) = routes([ARM], route.with_emulation([ARM], [qemu, B], lambda _: True), {}, "app")
    assert (found.node, found.emulated) == ("amd-1", True)
    assert found.why.startswith("emulated; ")


def test_the_table_and_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = routes([AMD, ARM], [A, B], {}, "app")
    _show(found, explained=True)
    assert capsys.readouterr().out.splitlines() == [
        "platform     node   why",
        f"linux/amd64  {FIRST}  its turn: here this project's cache is warm",
        f"  {SECOND}: could, as number 2 in turn; 0 builds",
        "linux/arm64  –      no healthy node runs it natively",
        "  amd-1: runs linux/amd64 natively",
        "  amd-2: runs linux/amd64 natively",
    ]
    assert _json(found[0]) == {
        "platform": "linux/amd64",
        "node": FIRST,
        "why": "its turn: here this project's cache is warm",
        "refused": False,
        "emulated": False,
        "others": [{"name": SECOND, "why": "could, as number 2 in turn; 0 builds"}],
    }


@given(NODES, KEYS, st.data())
def test_route_and_build_never_disagree(nodes: list[NodeHealth], key: str, data: st.DataObject) -> None:
    load = data.draw(st.fixed_dictionaries({}, optional={one.name: st.integers(0, 9) for one in nodes}))
    for found in routes(platforms("linux/amd64", "linux/arm64"), nodes, load, key):
        assert {*found.others, *([found.node] if found.node else [])} == {one.name for one in nodes}
        assert found.refused == bool(route.refusals([found.platform], nodes))
        if found.refused:
            assert found.node is None
            continue
        chosen = spread.choose(found.platform, nodes, load, key)
        assert found.node == (None if isinstance(chosen, spread.Full) else chosen.node)
