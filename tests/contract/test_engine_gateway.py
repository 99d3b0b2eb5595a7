"""What every Engine keeps of a gateway's container: the fake, and Docker over SSH."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from certs.authority import create_authority
from fleet.adapters.ssh import connect
from fleet.containers.proxy import DIRECTORY, ProxySpec, proxy_spec
from fleet.errors import EngineError
from fleet.model.spec import FleetSpec, GatewaySpec, pull_mark
from tests.support.fakes import FakeEngine, Machine
from tests.support.lab import eventually, have_image, host_spec
from tests.support.values import fleet, host, vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet.model.spec import HostSpec
    from fleet.ports import Engine
    from tests.lab import Lab

PORTS_FROM = 100
"""Beside the ports of the other tests."""


@dataclass(frozen=True, slots=True)
class Site:
    """An Engine with a gateway's image, and a gateway that could be made on it."""

    engine: Engine
    wanted: ProxySpec
    trust: bytes

    def create(self) -> str:
        return self.engine.create_proxy(self.wanted, self.wanted.files(self.trust))

    def states(self) -> dict[str, str]:
        return {one.name: one.state for one in self.engine.survey(self.wanted.fleet).proxies}


def wanted(name: str, on: HostSpec, image: str, port: int) -> ProxySpec:
    gateway = GatewaySpec((on.name,), image, {"amd64": port})
    spec: FleetSpec = replace(fleet(on, name=name), gateway=gateway)
    return proxy_spec(spec, gateway, on, vault())


@pytest.fixture(scope="module")
def trust() -> bytes:
    return create_authority("contract CA", now=datetime.now(UTC)).certificate


@pytest.fixture(params=["fake", "ssh"])
def ground(request: pytest.FixtureRequest, fleet_name: str, port: int, trust: bytes) -> Iterator[Site]:
    if request.param == "fake":
        machine = Machine("10.0.0.1", images={"haproxy:3.2"})
        yield Site(FakeEngine(machine), wanted(fleet_name, host("amd-1"), "haproxy:3.2", 1250), trust)
        return
    lab: Lab = request.getfixturevalue("lab")
    on = host_spec(lab, "amd-1", port=port)
    connection = connect(on)
    engine, image = connection.engine(), lab.env()["LAB_GATEWAY_IMAGE"]
    have_image(engine, fleet_name, image)
    ready = Site(engine, wanted(fleet_name, on, image, port + PORTS_FROM), trust)
    yield ready
    for left in engine.survey(fleet_name).proxies:
        engine.remove(left.id, grace=0)
    engine.remove_image(image, pull_mark(fleet_name, image))
    connection.close()


def test_it_is_surveyed_apart_from_daemons_and_as_it_was_made(ground: Site) -> None:
    made = ground.create()
    survey = ground.engine.survey(ground.wanted.fleet)
    [found] = survey.proxies
    assert (found.id, found.name, found.state) == (made, ground.wanted.name, "created")
    assert found.settings == ground.wanted.settings
    assert found.certificate is None
    assert ground.wanted.name not in {*survey.volumes, *survey.foreign, *(daemon.name for daemon in survey.daemons)}
    assert ground.wanted.name in ground.engine.survey("contract-stranger").foreign


def test_docker_does_for_it_what_is_wanted_and_its_files_are_what_was_put_there(ground: Site) -> None:
    ground.create()
    [found] = ground.engine.survey(ground.wanted.fleet, {ground.wanted.name: DIRECTORY}).proxies
    assert found.enforced
    assert {name: found.enforced[name] for name in ground.wanted.enforced} == ground.wanted.enforced
    assert found.changed == ()


def test_a_name_that_is_taken_is_an_error(ground: Site) -> None:
    ground.create()
    with pytest.raises(EngineError):
        ground.create()


def test_an_image_that_is_not_there_is_an_error(ground: Site) -> None:
    absent = replace(ground.wanted, image="172.30.0.1:5000/nowhere:1")
    with pytest.raises(EngineError):
        ground.engine.create_proxy(absent, absent.files(ground.trust))


def test_a_successor_runs_beside_it_and_it_ends_when_told(ground: Site) -> None:
    former = ground.create()
    ground.engine.start(former)
    ground.engine.rename(former, f"{ground.wanted.name}.aside")
    ground.engine.start(ground.create())
    both = {ground.wanted.name: "running", f"{ground.wanted.name}.aside": "running"}
    assert eventually(lambda: True if ground.states() == both else None)
    ground.engine.remove(former, grace=20)
    assert ground.states() == {ground.wanted.name: "running"}
