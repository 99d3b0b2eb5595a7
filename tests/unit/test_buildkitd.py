"""The daemon's configuration: every key of buildkitd is decided upon, and the file's text is exact."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fleet.containers.buildkitd import (
    CA_PATH,
    CERT_PATH,
    CONFIG_PATH,
    DIRECTORY,
    KEY_PATH,
    KEYS_DIRECTORY,
    SPACE,
    merged,
    placed,
    render,
)
from fleet.inventory.buildkitd_keys import REFUSED, DaemonConfig
from fleet.inventory.schema import StrictJsonSchema
from fleet.inventory.strict import Files

FILES = Files(Path("/"), lambda path: path.name != "lost.pem")

BUILDKIT_KEYS = """
cache
cdi autoAllowed disabled specDirs
debug
dns nameservers options searchDomains
frontend dockerfile.v0 gateway.v0
frontend/dockerfile.v0 enabled
frontend/gateway.v0 allowedRepositories enabled
grpc
history maxAge maxEntries
insecure-entitlements
log format level
otel
provenanceEnvDir
proxyNetwork
registry/* ca http insecure keypair mirrors tlsconfigdir
registry/*/keypair cert key
root
system maxRegistryConcurrency platformsCacheMaxAge
trace
worker containerd oci
worker/oci apparmor-profile binary bridgeName bridgeSubnet cniBinaryPath cniConfigPath cniPoolSize
worker/oci defaultCgroupParent enabled gc gckeepstorage gcpolicy labels max-parallelism maxUsedSpace minFreeSpace
worker/oci networkMode noProcessSandbox platforms proxySnapshotterPath reservedSpace rootless selinux snapshotter
worker/oci stargzSnapshotter userRemapUnsupported
worker/oci/gcpolicy all filters keepBytes keepDuration maxUsedSpace minFreeSpace reservedSpace
"""
"""The `toml` tags of moby/buildkit v0.32.2, cmd/buildkitd/config/config.go and util/resolver/config/config.go."""

FULL: dict[str, Any] = {
    "insecure-entitlements": ("network.host",),
    "worker": {
        "oci": {
            "labels": {"b": "2", "a": "1"},
            "reservedSpace": 10_000_000_000,
            "maxUsedSpace": "60%",
            "gcpolicy": ({"keepDuration": "48h", "filters": ("type==source.local",)}, {"all": True}),
        }
    },
    "registry": {
        "mirror.example:5000": {"http": True},
        "docker.io": {"mirrors": ("mirror.example:5000",), "keypair": ({"key": "/k", "cert": "/c"},)},
    },
}


def upstream() -> set[tuple[str, ...]]:
    """The path of every key that buildkitd knows."""
    paths = set()
    for line in BUILDKIT_KEYS.split("\n"):
        table, *names = line.split() or [""]
        path = tuple(table.split("/"))
        paths |= {(*path, name) for name in names} or {path}
    return {path[:end] for path in paths for end in range(1, len(path) + 1) if path[0] and path[end - 1] != "*"}


def settable() -> set[tuple[str, ...]]:
    """The path of every key that an inventory may set."""
    schema = DaemonConfig.model_json_schema(schema_generator=StrictJsonSchema)

    def walk(table: dict[str, Any], path: tuple[str, ...]) -> set[tuple[str, ...]]:
        if "items" in table:
            return walk(table["items"], path)
        table = schema["$defs"][table["$ref"].split("/")[-1]] if "$ref" in table else table
        found = {(*path, key) for key in table.get("properties", {})}
        for key, inner in table.get("properties", {}).items():
            found |= walk(inner, (*path, key))
        inner = table.get("additionalProperties")
        return found | walk(inner, (*path, "*")) if isinstance(inner, dict) else found

    return walk(schema, ())


def test_every_key_of_buildkitd_is_settable_or_refused_with_a_reason() -> None:
    assert settable() | set(REFUSED) == upstream()
    assert not settable() & set(REFUSED)


@pytest.mark.parametrize("path", REFUSED)
def test_refused(path: tuple[str, ...]) -> None:
    tree: Any = {path[-1]: "x"}
    for key in reversed(path[:-1]):
        tree = {key: (tree,) if key == "gcpolicy" else tree}
    with pytest.raises(ValidationError, match="extra_forbidden"):
        DaemonConfig.model_validate(tree)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (
            ("worker", "oci", "maxUsedSpace"),
            [0, 1, 2**63 - 1, "0", "10GB", "1.5 GiB", "512m", "7b", "0%", "100%"],
            [-1, 2**63, True, 1.5, "", "10 parsecs", "-1GB", "10GBB", "101%", "5.5%", "1 000"],
        ),
        (
            ("history", "maxAge"),
            [0, 172800, "48h", "1h30m", "1.5h", "100ms", "10µs"],
            [-1, 2**63, False, "", "7d", "48", "h", "48 h", "-1h", "9999999h"],
        ),
        (("history", "maxEntries"), [0, 50], [-1, "50", True, 2**31]),
        (("worker", "oci", "max-parallelism"), [0, 4], [-1, "4", True]),
        (("worker", "oci", "gc"), [True, False], ["true", 1]),
        (("worker", "oci", "labels"), [{}, {"a.b": ""}], [{"a": 1}, {"": "x"}, ("a=b",)]),
        (("worker", "oci", "bridgeSubnet"), ["10.10.0.0/16"], ["10.10.0.0", "10.10.0.1/16", "x/8"]),
        (("worker", "oci", "networkMode"), ["auto", "host", "bridge", "cni"], ["none", ""]),
        (("dns", "nameservers"), [("1.1.1.1", "::1")], [("dns.example",), "1.1.1.1", ("1.1.1.1:53",)]),
        (("log", "level"), ["warn"], ["warning", "INFO"]),
        (("insecure-entitlements",), [("device",), ()], ["device", ("everything",)]),
        (("system", "maxRegistryConcurrency"), [1], [0, -1]),
        (("registry", "docker.io", "mirrors"), [("m:5000/hub",)], [("https://m",), ("",)]),
        (("registry", "docker.io", "ca"), [("/etc/ca.pem",)], [("lost.pem",), "/etc/ca.pem"]),
        (("registry", "docker.io", "keypair"), [({"key": "/k", "cert": "/c"},)], [({"key": "/k"},)]),
        (("registry", "https://docker.io"), [], [{}]),
        (("registry", "docker.io/library"), [], [{}]),
        (("frontend", "gateway.v0", "allowedRepositories"), [("docker.io/docker/dockerfile",)], ["x"]),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_values(key: tuple[str, ...], good: list[Any], bad: list[Any]) -> None:
    def tree(value: Any) -> Any:
        for name in reversed(key):
            value = {name: value}
        return value

    for value in good:
        checked = DaemonConfig.model_validate(tree(value), context=FILES)
        assert checked.model_dump(by_alias=True, exclude_unset=True) == tree(value)
    for value in bad:
        with pytest.raises(ValidationError):
            DaemonConfig.model_validate(tree(value), context=FILES)


def test_files_of_registries_have_a_place_in_the_container() -> None:
    config = {
        "debug": True,
        "registry": {
            "r.example:5000": {"ca": ("/here/a.pem", "/here/b.pem"), "http": True},
            "q.example": {"keypair": ({"key": "/here/k.pem", "cert": "/here/c.pem"},), "ca": ("/here/a.pem",)},
        },
    }
    there, places = placed(config)
    first, second = "/etc/buildkit/registries/r.example_5000", "/etc/buildkit/registries/q.example"
    keys = "/etc/buildkit-keys/registries/q.example"
    assert places == {
        f"{first}/ca-0.pem": "/here/a.pem",
        f"{first}/ca-1.pem": "/here/b.pem",
        f"{second}/ca-0.pem": "/here/a.pem",
        f"{keys}/key-0.pem": "/here/k.pem",
        f"{keys}/cert-0.pem": "/here/c.pem",
    }
    assert tomllib.loads(render(there))["registry"] == {
        "r.example:5000": {"ca": [f"{first}/ca-0.pem", f"{first}/ca-1.pem"], "http": True},
        "q.example": {
            "ca": [f"{second}/ca-0.pem"],
            "keypair": [{"key": f"{keys}/key-0.pem", "cert": f"{keys}/cert-0.pem"}],
        },
    }


def test_without_files_nothing_is_placed() -> None:
    config = {"registry": {"r.example": {"http": True}}, "debug": True}
    assert placed(config) == (config, {})
    assert placed({}) == ({}, {})


def test_render_without_settings() -> None:
    assert render({}) == (
        "# Written by fleet from the inventory: edits are lost.\n"
        "[grpc]\n"
        'address = [\n    "unix:///run/buildkit/buildkitd.sock",\n    "tcp://0.0.0.0:1234",\n]\n'
        "\n[grpc.tls]\n"
        'ca = "/etc/buildkit/tls/ca.pem"\n'
        'cert = "/etc/buildkit/tls/cert.pem"\n'
        'key = "/etc/buildkit-keys/key.pem"\n'
        '\n[system]\nplatformsCacheMaxAge = "24h"\n'
        "\n[worker.containerd]\nenabled = false\n"
        '\n[worker.oci]\nenabled = true\nmaxUsedSpace = "80%"\nminFreeSpace = "20%"\nreservedSpace = "10%"\n'
    )


@pytest.mark.parametrize(
    ("oci", "space"),
    [
        ({}, SPACE),
        ({"gc": True, "max-parallelism": 4}, SPACE),
        ({"minFreeSpace": "5%"}, {"minFreeSpace": "5%"}),
        ({"gcpolicy": ({"all": True},)}, {}),
    ],
)
def test_space_has_defaults_unless_an_inventory_says_something_of_it(
    oci: dict[str, Any], space: dict[str, str]
) -> None:
    written = tomllib.loads(render({"worker": {"oci": oci}}))["worker"]["oci"]
    assert {key: value for key, value in written.items() if key in SPACE} == space


@pytest.mark.parametrize(
    ("fleet", "own", "both"),
    [
        ({}, {}, {}),
        ({"debug": True}, {"debug": False}, {"debug": False}),
        ({"log": {"level": "info"}}, {"log": {"format": "json"}}, {"log": {"level": "info", "format": "json"}}),
        ({"dns": {"options": ("a", "b")}}, {"dns": {"options": ("c",)}}, {"dns": {"options": ("c",)}}),
        (
            {"registry": {"a": {"http": True}, "b": {}}},
            {"registry": {"a": {"insecure": True}, "c": {}}},
            {"registry": {"a": {"http": True, "insecure": True}, "b": {}, "c": {}}},
        ),
    ],
)
def test_a_hosts_own_tables_are_merged_and_its_lists_stand_alone(
    fleet: dict[str, Any], own: dict[str, Any], both: dict[str, Any]
) -> None:
    assert merged(fleet, own) == both


def test_render_adds_fleets_own_part_to_the_settings() -> None:
    assert tomllib.loads(render(FULL)) == {
        "insecure-entitlements": ["network.host"],
        "system": {"platformsCacheMaxAge": "24h"},
        "grpc": {
            "address": ["unix:///run/buildkit/buildkitd.sock", "tcp://0.0.0.0:1234"],
            "tls": {"ca": CA_PATH, "cert": CERT_PATH, "key": KEY_PATH},
        },
        "worker": {
            "containerd": {"enabled": False},
            "oci": {
                "enabled": True,
                "labels": {"a": "1", "b": "2"},
                "reservedSpace": 10_000_000_000,
                "maxUsedSpace": "60%",
                "gcpolicy": [{"keepDuration": "48h", "filters": ["type==source.local"]}, {"all": True}],
            },
        },
        "registry": {
            "docker.io": {"mirrors": ["mirror.example:5000"], "keypair": [{"key": "/k", "cert": "/c"}]},
            "mirror.example:5000": {"http": True},
        },
    }


def reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return tuple(map(reversed_keys, value)) if isinstance(value, tuple) else value


def test_render_does_not_depend_on_the_order_of_keys() -> None:
    assert list(reversed_keys(FULL)) != list(FULL)
    assert render(reversed_keys(FULL)) == render(FULL)


@given(st.dictionaries(st.text(min_size=1).filter(str.isprintable), st.text().filter(str.isprintable)))
def test_render_keeps_any_label(labels: dict[str, str]) -> None:
    checked = DaemonConfig.model_validate({"worker": {"oci": {"labels": labels}}})
    text = render(checked.model_dump(by_alias=True, exclude_unset=True))
    assert tomllib.loads(text)["worker"]["oci"]["labels"] == labels


def test_paths() -> None:
    assert CONFIG_PATH == "/etc/buildkit/buildkitd.toml"
    assert all(path.startswith(f"{DIRECTORY}/") for path in (CONFIG_PATH, CA_PATH, CERT_PATH))


def test_no_key_is_in_the_directory_that_is_read_back() -> None:
    _, places = placed({"registry": {"r.example": {"keypair": ({"key": "/here/both.pem", "cert": "/here/both.pem"},)}}})
    for path in (KEY_PATH, *places):
        assert path.startswith(f"{KEYS_DIRECTORY}/")
        assert not path.startswith(f"{DIRECTORY}/")
