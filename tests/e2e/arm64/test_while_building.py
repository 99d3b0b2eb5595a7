"""Builds of every platform in a loop while nodes are replaced, and certificates exchanged: none of them fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import HOSTS, Operator
from tests.e2e.test_rolling import caches, change, containers, is_settled, kind
from tests.e2e.test_rotation import handed_out, join, joined, refused, trusted_by
from tests.e2e.test_rotation import is_settled as one_ca_is_trusted
from tests.support.building import Loops, build
from tests.support.lab import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab import Lab

PORT = 1245


@pytest.fixture(scope="module", autouse=True)
def _deployed(operator: Operator) -> None:
    operator.inventory(HOSTS)
    operator.fleet("up")


UNDER_WAY = (*2 * (("docker", "linux/amd64"), ("fleet", "linux/amd64")), ("fleet", "linux/arm64"))
"""Plain buildx gives up on a node after 20 s, and an emulated one may take longer to start: where no other node can
take over, it is `fleet build` that waits."""


@pytest.mark.timeout(900)
def test_a_change_replaces_node_by_node_and_no_build_fails(operator: Operator, context: Path) -> None:
    before, kept = containers(operator), caches(operator)
    lanes = [[kind(operator, *which)] for which in UNDER_WAY]
    with Loops(context, operator.lab.env()["LAB_BASE_IMAGE"], lanes) as loops:
        eventually(lambda: all(loops.counts.values()) or None, seconds=120)
        change(operator, parallelism=11, image=operator.lab.env()["LAB_UPGRADE_IMAGE"])
        run = operator.fleet("up", "-v", expect=None)
        eventually(lambda: len(loops.done) >= 100 or None, seconds=300)
    print(f"{len(loops.done)} builds, {len(loops.failed)} failed", loops.counts)  # noqa: T201 - the figure to quote
    evidence = "\n\n".join([*map(str, loops.failed), run.stderr])
    assert (run.returncode, loops.failed) == (0, []), evidence
    after = containers(operator)
    assert not {text.split()[1] for text in before.values()} & {text.split()[1] for text in after.values()}
    assert caches(operator) == kept
    is_settled(operator)


@pytest.mark.timeout(900)
def test_no_build_fails_while_nodes_and_ca_are_rotated(
    lab: Lab, operator: Operator, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    member = joined(operator, "ci", tmp_path_factory.mktemp("ci"))
    both = build(context, lab.env()["LAB_BASE_IMAGE"], kind(member, "fleet", "linux/amd64,linux/arm64"))
    assert both.code == 0, both
    before, old = trusted_by(operator), operator.home / "old.pem"
    old.write_bytes((operator.vault / "client.pem").read_bytes())
    lanes = [
        [kind(person, command, platform) for person in (operator, member) for command in ("docker", "fleet")]
        for platform in ("linux/amd64", "linux/arm64")
    ]
    # Another one, so that two connect to a node of amd64 at the same time.
    lanes.append([kind(member, "docker", "linux/amd64")])
    told = []
    with Loops(context, lab.env()["LAB_BASE_IMAGE"], lanes) as loops:
        eventually(lambda: all(loops.counts.values()) or None, seconds=180)
        for command, code in (("nodes", 0), ("ca", 3)):
            told.append(operator.fleet("certs", "rotate", command, "-v", expect=code))
        assert "waits for ci" in told[-1].stdout
        join(member, handed_out(operator, "ci"))
        told.append(operator.fleet("certs", "rotate", "ca", "-v"))
        done = len(loops.done)
        eventually(lambda: len(loops.done) >= max(50, done + len(lanes)) or None, seconds=240)
    print(f"{len(loops.done)} builds, {len(loops.failed)} failed", loops.counts)  # noqa: T201 - the figure to quote
    log = "\n".join(run.stderr for run in told)
    assert not loops.failed, "\n\n".join(map(str, loops.failed)) + f"\n{log}"
    assert min(loops.counts.values()) > 1
    assert one_ca_is_trusted(operator, HOSTS) != before
    assert not handed_out(operator, "ci").exists()
    assert refused(operator, old, operator.vault / "ca.pem", HOSTS) == list(HOSTS)
