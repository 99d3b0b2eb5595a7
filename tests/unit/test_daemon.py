"""A node's container: what its settings say, what it is given, and what its log says when it does not start."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certs.certificate import Credential
from certs.keys import PrivateKey
from fleet.containers import buildkitd
from fleet.containers.daemon import EMULATORS, RECIPE, DaemonSpec, Delivered, in_use, last_words
from fleet.model.spec import Limits
from tests.support.values import CA, OTHER_CA

SPEC = DaemonSpec(
    fleet="acme",
    node="amd-1",
    image="moby/buildkit:v0.32.2",
    port=1234,
    bind="",
    config=buildkitd.render({}),
    names=("10.0.0.11", "amd-1"),
    authority=CA,
    trust=(CA, OTHER_CA),
)


def test_settings_are_what_drift_is_seen_by() -> None:
    assert SPEC.settings | {"config": "…"} == {
        "recipe": RECIPE,
        "image": "moby/buildkit:v0.32.2",
        "port": ":1234",
        "config": "…",
        "names": "10.0.0.11 amd-1",
        "authority": CA[:16],
        "trust": f"{CA[:16]} {OTHER_CA[:16]}",
        "brought": "",
        "limits": "",
    }


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        (replace(SPEC, image="moby/buildkit:v0.33.0"), "image"),
        (replace(SPEC, trust=(CA,)), "trust"),
        (replace(SPEC, brought="5e"), "brought"),
        (replace(SPEC, limits=Limits(cpus=4)), "limits"),
        (replace(SPEC, limits=Limits(memory=8_000_000_000)), "limits"),
        (replace(SPEC, port=1235), "port"),
        (replace(SPEC, bind="127.0.0.1"), "port"),
        (replace(SPEC, config=buildkitd.render({"debug": True})), "config"),
        (replace(SPEC, names=("10.0.0.12", "amd-1")), "names"),
        (replace(SPEC, authority=OTHER_CA), "authority"),
    ],
)
def test_every_change_shows_in_one_setting_and_the_fingerprint(changed: DaemonSpec, setting: str) -> None:
    differing = {key for key, value in changed.settings.items() if SPEC.settings[key] != value}
    assert differing == {setting}
    assert changed.fingerprint != SPEC.fingerprint


def test_the_emulators_are_those_of_the_official_image() -> None:
    assert all(path.startswith("/usr/bin/buildkit-qemu-") for path in EMULATORS)
    assert len(EMULATORS) == 10


PARSE_ERROR = """\
time="2030-05-01T12:00:00Z" level=info msg="auto snapshotter: using overlayfs"
toml: incomplete number
failed to parse config
github.com/moby/buildkit/cmd/buildkitd/config.Load
\tgithub.com/moby/buildkit@v0.32.2/cmd/buildkitd/config/load.go:15
main.main
\tgithub.com/moby/buildkit@v0.32.2/cmd/buildkitd/main.go:137
"""


@pytest.mark.parametrize(
    ("log", "words"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("buildkitd: no", "buildkitd: no", id="one line"),
        pytest.param("1\n2\n3\n4\n5\n6\n7", "3\n4\n5\n6\n7", id="the last five"),
        pytest.param(PARSE_ERROR, "\n".join(PARSE_ERROR.splitlines()[:3]), id="a stack trace"),
        pytest.param(2 * PARSE_ERROR, "\n".join(PARSE_ERROR.splitlines()[:3]), id="a stack trace a restart"),
        pytest.param(
            PARSE_ERROR + "level=info msg=starting\n" * 9,
            "\n".join(PARSE_ERROR.splitlines()[:3]),
            id="the next start has begun",
        ),
        pytest.param(
            "".join(f"{at} starting\n{at} warning\n{at} still\nbuildkitd: no\n" for at in range(3)),
            "1 still\n2 starting\n2 warning\n2 still\nbuildkitd: no",
            id="the same end after lines with times",
        ),
        pytest.param(
            PARSE_ERROR + "level=info msg=starting\nbuildkitd: invalid database\nlevel=info msg=again",
            "\n".join((*PARSE_ERROR.splitlines()[:3], "level=info msg=starting", "buildkitd: invalid database")),
            id="an end without a stack trace after one with it",
        ),
        pytest.param("\tcut/off.go:1\nbuildkitd: no", "buildkitd: no", id="a stack trace that is cut off"),
    ],
)
def test_the_last_words_of_a_daemon(log: str, words: str) -> None:
    assert last_words(log) == words


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENING = (
    "   0: 00000000000000000000000000000000:04D2 00000000000000000000000000000000:0000 0A 00000000:00000000 "
    "00:00000000 00000000     0        0 795676 2 0000000039a50371 100 0 0 10 0\n"
)
CONNECTED = (
    "   1: 0000000000000000FFFF0000020011AC:04D2 0000000000000000FFFF000001001EAC:CF08 01 00000000:00000000 "
    "02:000004D2 00000000     0        0 795701 2 0000000039a50372 20 4 30 10 -1\n"
)


@pytest.mark.parametrize(
    ("tables", "used"),
    [
        pytest.param("", False, id="not to be seen"),
        pytest.param(HEADER, False, id="nothing"),
        pytest.param(HEADER + LISTENING, False, id="listening"),
        pytest.param(HEADER + LISTENING + CONNECTED, True, id="a client"),
        pytest.param(CONNECTED.replace("795701", "0"), False, id="a client that was not let in yet"),
        pytest.param(CONNECTED.replace(" 01 ", " 06 "), False, id="a client that has gone"),
        pytest.param(CONNECTED.replace("04D2 ", "CF08 ", 1).replace(":CF08 01", ":04D2 01"), False, id="from here"),
    ],
)
def test_whether_a_client_is_connected(tables: str, used: bool) -> None:
    assert in_use(tables) is used


DELIVERED = (Delivered("/etc/buildkit/registries/r/ca-0.pem", "/here/ca.pem", "aa"),)


def test_a_daemon_without_files_for_registries_has_no_setting_for_them() -> None:
    assert "registries" not in SPEC.settings


def test_another_content_of_a_file_shows_in_the_settings() -> None:
    with_file = replace(SPEC, delivered=DELIVERED)
    other = replace(SPEC, delivered=(replace(DELIVERED[0], digest="bb"),))
    assert with_file.settings["registries"] != other.settings["registries"]


def test_files_for_registries_are_delivered_and_what_may_be_a_key_is_closed_to_others() -> None:
    credential = Credential(b"certificate", PrivateKey(b"key"))
    pair = Delivered("/etc/buildkit-keys/registries/r/key-0.pem", "/here/key.pem", "bb")
    contents = {"/here/ca.pem": b"authority", "/here/key.pem": b"key"}
    files = replace(SPEC, delivered=(*DELIVERED, pair)).files(credential, b"", contents)
    assert files[DELIVERED[0].path] == (b"authority", 0o644)
    assert files[pair.path] == (b"key", 0o600)
