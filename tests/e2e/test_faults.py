"""What goes wrong on hosts, and what `fleet up` makes of it: whom it names, what it leaves alone, where it ends.

Held here: a daemon that was stopped, renamed, updated, edited, taken off its network or deleted by hand; strangers of
its name; a host that was reinstalled or renumbered; an image that cannot be pulled; a daemon that crashes; a damaged
cache; a full disk; Docker, the login or the host gone while a daemon is replaced.

Held elsewhere:
- fleet killed at every boundary, and what that leaves in the history: test_kills;
- a second operator, a dead owner, a host that is frozen, black-holed or without Docker, one that is of another
  architecture now: arm64/test_story;
- a lock that its dead holder frees: tests/contract/test_host.py;
- a disk that fills while an image is sent: test_delivery; keys and logins that are refused: test_logins;
- a successor that does not come up, an interrupt while a daemon is replaced: test_rolling;
- an interrupt at every other stage, --timeout and --no-wait: test_patience;
- a vault that is torn: tests/unit/test_cli.py, test_vault.py;
- every state of containers, names that move to machines of another architecture: tests/unit/test_plan_law.py;
- each thing that Docker can be told by hand: tests/contract/test_engine.py.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.conftest import Operator
from tests.lab import Lab
from tests.lab.hosts import LabHost

PORT = 1281
AMD = ("amd-1", "amd-2")


@dataclass(slots=True)
class Scene:
    """Two nodes at work, of which amd-2 is struck."""

    operator: Operator
    changes: Iterator[int] = field(default_factory=lambda: itertools.count(21))

    @property
    def host(self) -> LabHost:
        return self.operator.lab.hosts["amd-2"]

    def shell(self, command: str, name: str = "amd-2") -> str:
        """What the host's shell says; DAEMON is the name of this fleet's daemon there, and BASE an image."""
        text = command.replace("DAEMON", f"fleet.{self.operator.name}.{name}")
        return self.operator.lab.hosts[name].ssh(text.replace("BASE", self.operator.lab.env()["LAB_BASE_IMAGE"]))

    def edit(self, change: Callable[[Any], None]) -> None:
        """Change the inventory."""
        path = self.operator.home / "inventory.yaml"
        wanted = json.loads(path.read_text())
        change(wanted)
        path.write_text(json.dumps(wanted))

    def change(self) -> None:
        """Want another setting of BuildKit on amd-2, which makes no difference here."""
        self.configure({"max-parallelism": next(self.changes)})

    def configure(self, worker: Mapping[str, Any]) -> None:
        """Want this of BuildKit's worker on amd-2."""
        self.edit(lambda wanted: wanted["hosts"]["amd-2"].update(buildkit={"config": {"worker": {"oci": worker}}}))

    def caches(self) -> dict[str, str]:
        return {name: self.shell("docker volume inspect -f '{{.CreatedAt}}' DAEMON", name) for name in AMD}

    def containers(self) -> dict[str, list[str]]:
        ask = "docker ps -a --filter name=DAEMON --format '{{.Names}} {{.State}} {{.ID}}'"
        return {name: self.shell(ask, name).splitlines() for name in AMD}

    def up(self, *, expect: int) -> dict[str, Any]:
        """Node -> what `fleet up` says of it."""
        return {node["name"]: node for node in self.operator.json("up", expect=expect)["nodes"]}

    def is_settled(self) -> None:
        """As it is wanted, every node ready, nothing left over on hosts and in the builder."""
        assert self.operator.json("plan", "--exit-code")["empty"] is True
        assert {name: [line.split()[:2] for line in lines] for name, lines in self.containers().items()} == {
            name: [[f"fleet.{self.operator.name}.{name}", "running"]] for name in AMD
        }
        status = self.operator.settled_status()
        assert {node["name"]: node["health"] for node in status["nodes"]} == dict.fromkeys(AMD, "ready"), status
        stored = json.loads((self.operator.home / "buildx/instances" / self.operator.name).read_text())
        assert [node["Name"] for node in stored["Nodes"]] == list(AMD)


@pytest.fixture(scope="module")
def scene(operator: Operator) -> Scene:
    operator.inventory(AMD)
    operator.fleet("up")
    return Scene(operator)


# ------------------------------------------------------------------------------------------- found by the next run


@dataclass(frozen=True, slots=True)
class Found:
    """What somebody has done on amd-2 between two runs, and what the next one makes of it."""

    sentence: str
    strike: str
    """What they typed."""
    code: int
    said: str = ""
    """Why it cannot be mended, if so."""
    mend: str = "true"
    """What a person then does there."""
    keeps_cache: bool = True
    why: tuple[str, ...] = ()
    """What `fleet plan` finds and wants, where the case is about that."""


FOUND = [
    Found("a daemon that somebody stopped is started", "docker stop -t 1 DAEMON", 0),
    Found(
        "a daemon that somebody renamed is made anew",
        "docker rename DAEMON mine",
        0,
        why=("name: mine → fleet.faults.amd-2",),
    ),
    Found(
        "limits, restart policy and files that somebody changed are as they were",
        "docker update --memory 256m --memory-swap 512m --restart no DAEMON; "
        "docker exec DAEMON sh -c 'echo debug = true >> /etc/buildkit/buildkitd.toml; rm /etc/buildkit/tls/ca.pem'",
        0,
        why=(
            "limits: memory=268435456 → none",
            "restart: no → unless-stopped",
            "/etc/buildkit/buildkitd.toml was changed by hand",
            "/etc/buildkit/tls/ca.pem was changed by hand",
        ),
    ),
    Found(
        "a daemon that somebody took off its network is made anew",
        "docker network disconnect bridge DAEMON",
        0,
        why=("network: none → bridge",),
    ),
    Found(
        "a daemon that was deleted with its cache is made anew",
        "docker rm -f DAEMON; docker volume rm DAEMON",
        0,
        keeps_cache=False,
    ),
    Found(
        "a container of somebody else with the node's name is left alone",
        "docker rm -f DAEMON; docker run -d --name DAEMON BASE sleep 1000",
        3,
        "is not fleet's (it lacks fleet's label)",
        "docker rm -f DAEMON",
    ),
    Found(
        "a volume of somebody else with the node's name is left alone",
        "docker rm -f DAEMON; docker volume rm DAEMON; docker volume create DAEMON",
        3,
        "is not fleet's (it lacks fleet's label)",
        "docker volume rm DAEMON",
        keeps_cache=False,
    ),
]


@pytest.mark.parametrize("case", FOUND, ids=lambda case: case.sentence)
def test_what_the_next_run_finds(scene: Scene, case: Found) -> None:
    kept = scene.caches()
    scene.shell(case.strike)
    before = (scene.containers(), scene.shell("docker volume ls -q --filter name=DAEMON"))
    if case.why:
        assert scene.operator.json("plan", "--host", "amd-2")["nodes"][0]["why"] == list(case.why)
    nodes = scene.up(expect=case.code)
    assert nodes["amd-1"]["result"] == "unchanged"
    if case.code:
        assert nodes["amd-2"]["result"] == "blocked"
        assert case.said in nodes["amd-2"]["failure"]["reason"]
        assert nodes["amd-2"]["failure"]["remedy"]
        assert (scene.containers(), scene.shell("docker volume ls -q --filter name=DAEMON")) == before
        scene.shell(case.mend)
        nodes = scene.up(expect=0)
    assert nodes["amd-2"]["result"] == "done"
    scene.is_settled()
    assert (scene.caches() == kept) is case.keeps_cache


def test_a_host_that_was_reinstalled_is_refused_until_its_new_key_is_accepted(lab: Lab, scene: Scene) -> None:
    lines = lab.home.known_hosts.read_text().splitlines()
    keys = {line.split()[0]: line.partition(" ")[2] for line in lines}
    addresses = {name: lab.hosts[name].host.address for name in AMD}
    # As seen from here: known is a key that it does not have any more.
    former = scene.operator.home / "known_hosts"
    former.write_text(
        f"{addresses['amd-1']} {keys[addresses['amd-1']]}\n{addresses['amd-2']} {keys[addresses['amd-1']]}\n"
    )
    scene.shell("docker rm -f DAEMON; docker volume rm DAEMON")
    scene.edit(lambda wanted: wanted["ssh"].update(known_hosts_file=str(former)))
    nodes = scene.up(expect=3)
    assert nodes["amd-1"]["result"] == "unchanged"
    assert f"the host key of {addresses['amd-2']} has changed" in nodes["amd-2"]["failure"]["reason"]
    assert f"ssh-keygen -R '{addresses['amd-2']}'" in nodes["amd-2"]["failure"]["remedy"]
    scene.edit(lambda wanted: wanted["ssh"].update(known_hosts_file=str(lab.home.known_hosts)))
    assert scene.up(expect=0)["amd-2"]["result"] == "done"
    scene.is_settled()


def test_a_host_that_was_renumbered_gets_a_certificate_of_its_new_address(lab: Lab, scene: Scene) -> None:
    known = {line.split()[0]: line.partition(" ")[2] for line in lab.home.known_hosts.read_text().splitlines()}
    old = scene.host.host.address
    new = f"{old.rpartition('.')[0]}.212"
    keys = scene.operator.home / "renumbered"
    keys.write_text("".join(f"{address} {key}\n" for address, key in {**known, new: known[old]}.items()))
    kept = scene.caches()
    before = (scene.operator.home / "inventory.yaml").read_text()
    link = scene.shell("ip -o -4 addr show to ADDRESS | cut -d' ' -f2".replace("ADDRESS", old)).split()[0]
    scene.shell(f"ip addr add {new}/24 dev {link}")
    try:
        scene.edit(lambda wanted: wanted["ssh"].update(known_hosts_file=str(keys)))
        scene.edit(lambda wanted: wanted["hosts"]["amd-2"].update(address=new))
        assert {name: node["result"] for name, node in scene.up(expect=0).items()} == {
            "amd-1": "unchanged",
            "amd-2": "done",
        }
        scene.is_settled()
        stored = (scene.operator.home / "buildx/instances" / scene.operator.name).read_text()
        assert (f"tcp://{new}:{PORT}" in stored, f"tcp://{old}:{PORT}" in stored) == (True, False)
    finally:
        (scene.operator.home / "inventory.yaml").write_text(before)
        scene.up(expect=0)
        scene.shell(f"ip addr del {new}/24 dev {link}")
    scene.is_settled()
    assert scene.caches() == kept


def test_a_cache_that_is_damaged_shows_in_the_last_lines_and_can_be_begun_anew(scene: Scene) -> None:
    volume = "$(docker volume inspect -f '{{.Mountpoint}}' DAEMON)"
    scene.shell(f"docker stop -t 1 DAEMON; for file in {volume}/runc-*/containerdmeta.db; do echo torn > $file; done")
    failure = scene.up(expect=3)["amd-2"]["failure"]
    print(f"| a damaged cache | {failure['reason']} |")  # noqa: T201 - the table to quote
    assert "does not stay up" in failure["reason"]
    assert failure["reason"].endswith("buildkitd: invalid database")
    assert "fleet down --volumes --host amd-2" in failure["remedy"]
    scene.operator.fleet("down", "--volumes", "--host", "amd-2", "--yes")
    assert scene.up(expect=0)["amd-2"]["result"] == "done"
    scene.is_settled()


def test_another_snapshotter_does_not_know_what_was_noted_and_is_a_change_like_any_other(scene: Scene) -> None:
    for snapshotter in ("native", "overlayfs"):
        scene.configure({"snapshotter": snapshotter})
        assert scene.up(expect=0)["amd-2"]["result"] == "done"
        scene.is_settled()
        drained = scene.operator.json("drain", "amd-2")
        assert [node["health"] for node in drained["nodes"]] == ["ready", "drained"]
        scene.operator.json("resume", "amd-2")
        scene.is_settled()


# ----------------------------------------------------------------------------------------- wanted, and impossible


def test_an_image_that_cannot_be_pulled_leaves_all_as_it_was(lab: Lab, scene: Scene) -> None:
    before, inventory = scene.containers(), (scene.operator.home / "inventory.yaml").read_text()
    image = f"{lab.env()['LAB_REGISTRY']}/moby/buildkit:none"
    scene.edit(lambda wanted: wanted["buildkit"].update(image=image))
    nodes = scene.up(expect=1)
    assert [node["result"] for node in nodes.values()] == ["failed", "blocked"]
    assert nodes["amd-1"]["failure"]["stage"] == "image"
    assert image in nodes["amd-1"]["failure"]["remedy"]
    assert scene.containers() == before
    (scene.operator.home / "inventory.yaml").write_text(inventory)
    scene.is_settled()


def test_a_daemon_that_does_not_stay_up_shows_its_last_lines_and_the_former_one_is_put_back(scene: Scene) -> None:
    before, kept = scene.containers(), scene.caches()
    inventory = (scene.operator.home / "inventory.yaml").read_text()
    scene.configure({"binary": "nonesuch"})
    failure = scene.up(expect=3)["amd-2"]["failure"]
    assert "does not stay up" in failure["reason"]
    assert "failed to find nonesuch binary" in failure["reason"], failure["reason"]
    assert failure["reason"].endswith("the former daemon is back")
    assert (scene.containers(), scene.caches()) == (before, kept)
    (scene.operator.home / "inventory.yaml").write_text(inventory)
    scene.is_settled()


# ------------------------------------------------------------------------------------- while a daemon is replaced


@dataclass(frozen=True, slots=True)
class Struck:
    """What happens to amd-2 when fleet has told that line."""

    sentence: str
    line: str
    strike: Callable[[LabHost], object]
    stage: str
    """Where the run fails."""
    remedy: str = ""
    """Of what is to be tried next."""


STRUCK = [
    Struck(
        "the disk is full",
        "fleet: asking",
        lambda host: host.fill_disk(),
        "API",
        "only 0 B of 8.4 GB are free where Docker keeps its files: fleet ssh amd-2 docker system df",
    ),
    Struck(
        "Docker is restarted", "amd-2: create", lambda host: host.ssh("lab-docker stop; lab-docker start"), "Docker"
    ),
    Struck("the SSH session is killed", "amd-2: create", lambda host: host.ssh("pkill -KILL -u build"), "SSH"),
    Struck("the host dies", "amd-2: create", lambda host: host.kill(), "SSH"),
]


@pytest.mark.parametrize("case", STRUCK, ids=lambda case: case.sentence)
def test_what_happens_while_a_daemon_is_replaced(scene: Scene, case: Struck) -> None:
    kept = scene.caches()
    scene.change()
    run = scene.operator.at("up", "--json", lines=[case.line], do=lambda _: case.strike(scene.host))
    scene.host.heal()
    said = f"{run.stdout}\n{run.stderr}"
    assert "Traceback" not in said
    nodes = {node["name"]: node for node in json.loads(run.stdout)["nodes"]}
    assert nodes["amd-1"]["result"] == "unchanged", said
    failure = nodes["amd-2"]["failure"]
    print(f"| {case.sentence} | {failure['reason']} | {failure['remedy']} |")  # noqa: T201 - the table to quote
    assert (run.returncode, nodes["amd-2"]["result"]) == (3, "failed"), said
    assert failure["stage"] == case.stage
    assert case.remedy in (failure["remedy"] or "")
    scene.up(expect=0)
    scene.is_settled()
    assert scene.caches() == kept
