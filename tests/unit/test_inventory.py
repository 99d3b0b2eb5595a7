"""The inventory: what is accepted, what is refused where and in which words, and that nothing else can happen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, provisional
from hypothesis import strategies as st

from fleet.errors import InventoryError, UsageError
from fleet.inventory.parse import json_schema, load, parse
from fleet.model.platforms import Platform
from fleet.model.spec import BuildkitSpec, Connection, Delivery, FleetSpec, HostSpec, Limits, SshSpec

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "inventory.example.yaml").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs/inventory.md").read_text(encoding="utf-8")
SCHEMA = jsonschema.Draft202012Validator(json_schema())
ONE_HOST = "hosts: {a: {address: 10.0.0.1}}"


def everything_exists(_: Path) -> bool:
    return True


def nothing_exists(_: Path) -> bool:
    return False


def problems(text: str) -> list[str]:
    """What is wrong with an inventory, as it is printed."""
    with pytest.raises(InventoryError) as caught:
        parse(text, check_files=everything_exists)
    return [str(problem) for problem in caught.value.problems]


# ------------------------------------------------------------------------------------------- accepted


def test_smallest() -> None:
    assert parse(f"fleet: acme\n{ONE_HOST}") == FleetSpec(
        "acme", BuildkitSpec("moby/buildkit:v0.32.2", {}), (HostSpec("a", "10.0.0.1"),)
    )


def test_hosts_keep_their_order_and_merge_ssh_key_by_key() -> None:
    spec = parse(
        """
        fleet: acme
        ssh: {user: build, port: 22, identity_file: keys/id, sudo: true}
        hosts:
          z: {address: z.example, ssh: {port: 2222, sudo: false}}
          mini: {connection: local}
          a: {address: "2001:DB8:0::1", port: 1235, platforms: [arm64, linux/arm/v7]}
        """,
        "/etc/fleet/inventory.yaml",
        check_files=everything_exists,
    )
    key = "/etc/fleet/keys/id"
    assert spec.hosts == (
        HostSpec("z", "z.example", ssh=SshSpec("build", 2222, key, sudo=False)),
        HostSpec("mini", "127.0.0.1", connection=Connection.LOCAL),
        HostSpec(
            "a",
            "2001:db8::1",
            1235,
            ssh=SshSpec("build", 22, key, sudo=True),
            platforms=(Platform("linux", "arm64"), Platform("linux", "arm", "v7")),
        ),
    )


def test_what_a_host_says_of_limits_and_builds_comes_before_the_fleets() -> None:
    spec = parse(
        """
        fleet: acme
        limits: {cpus: 4, memory: 8GiB}
        max_builds: 4
        buildkit: {config: {debug: true}}
        hosts:
          a: {address: a}
          b: {address: b, limits: {memory: 16GB}, max_builds: 8}
          c: {address: c, limits: {cpus: 2}, buildkit: {config: {log: {level: warn}}}}
        """
    )
    assert [host.limits for host in spec.hosts] == [Limits(4, 8 << 30), Limits(4, 16 * 10**9), Limits(2, 8 << 30)]
    assert [host.max_builds for host in spec.hosts] == [4, 8, 4]
    assert [host.config for host in spec.hosts] == [{}, {}, {"log": {"level": "warn"}}]
    assert spec.buildkit.config == {"debug": True}


def test_a_host_gets_the_image_as_the_fleet_says_unless_it_says_so_itself() -> None:
    spec = parse(
        """
        fleet: acme
        buildkit: {delivery: stream}
        hosts:
          a: {address: a}
          b: {address: b, buildkit: {delivery: registry}}
        """
    )
    assert [host.delivery for host in spec.hosts] == [Delivery.STREAM, Delivery.REGISTRY]
    assert parse(f"fleet: acme\n{ONE_HOST}").hosts[0].delivery is Delivery.REGISTRY


def test_files_for_registries_are_this_machines() -> None:
    spec = parse(
        f"fleet: acme\nbuildkit: {{config: {{registry: {{r.example: {{ca: [certs/ca.pem], "
        f"keypair: [{{key: /k.pem, cert: ~/c.pem}}]}}}}}}}}\n{ONE_HOST}",
        "/etc/fleet/inventory.yaml",
        check_files=everything_exists,
    )
    assert spec.buildkit.config["registry"]["r.example"] == {
        "ca": ("/etc/fleet/certs/ca.pem",),
        "keypair": ({"key": "/k.pem", "cert": str(Path.home() / "c.pem")},),
    }


def test_files_are_looked_for_beside_the_inventory_and_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    looked_for: list[Path] = []

    def exists(path: Path) -> bool:
        looked_for.append(path)
        return True

    ssh = "ssh: {identity_file: ~/.ssh/fleet, known_hosts_file: ../known_hosts}"
    spec = parse(f"fleet: acme\n{ssh}\n{ONE_HOST}", "site/inventory.yaml", check_files=exists)
    beside = Path.cwd() / "site/../known_hosts"  # `..` is the operating system's to follow: site may be a link
    assert looked_for == [Path("/home/ada/.ssh/fleet"), beside]
    assert spec.hosts[0].ssh == SshSpec(identity_file="/home/ada/.ssh/fleet", known_hosts_file=str(beside))


@pytest.mark.parametrize(
    "image",
    [
        "moby/buildkit:master",
        "mirror.example:5000/moby/buildkit:v0.32.2",
        f"moby/buildkit@sha256:{'0' * 64}",
        f"localhost:5000/b:v1@sha256:{'a' * 64}",
    ],
)
def test_images(image: str) -> None:
    assert parse(f"fleet: acme\nbuildkit: {{image: '{image}'}}\n{ONE_HOST}").buildkit.image == image


# -------------------------------------------------------------------------------------------- refused

HEAD = "fleet: acme\nhosts:\n  a: {address: 10.0.0.1}\n"  # three lines: what follows stands in line 4
NAME_RULE = (
    "is not a name: a lower-case letter, then lower-case letters, digits and -, not ending in -, at most 40 characters"
)


def platforms(*items: object) -> str:
    """A host from line 4 on whose platforms begin in line 7."""
    return f"{HEAD}  b:\n    address: b\n    platforms:\n" + "".join(f"    - {item}\n" for item in items)


REFUSED: dict[str, tuple[str, list[str]]] = {
    "unknown key": (f"{HEAD}hots: 1", ["4:hots: unknown key (did you mean 'hosts'?)"]),
    "unlike any key": (
        f"{HEAD}  b: {{address: b, zz: 1}}",
        [
            (
                "4:hosts.b.zz: unknown key; possible here: "
                "connection, address, port, ssh, platforms, tls, limits, max_builds, emulation, buildkit"
            )
        ],
    ),
    "key given twice": (f"{HEAD}fleet: other", ["4:fleet: given twice, first in line 1"]),
    "host given twice": (f"{HEAD}  a: {{address: b}}", ["4:hosts.a: given twice, first in line 3"]),
    "nothing required": (
        "ssh: {}",
        ["1:fleet: required, but missing", "1:hosts: required, but missing"],
    ),
    "no host": ("fleet: acme\nhosts: {}", ["2:hosts: must not be empty"]),
    "host without a value": (f"{HEAD}  b:", ["4:hosts.b: has no value: give one or remove the key"]),
    "hosts a list": (
        "fleet: acme\nhosts: [a]",
        ["2:hosts: must be a mapping of keys to values, not a list"],
    ),
    "host a text": (f"{HEAD}  b: x", ["4:hosts.b: must be a mapping of keys to values, not 'x'"]),
    "fleet name": (f"fleet: Acme\n{ONE_HOST}", [f"1:fleet: 'Acme' {NAME_RULE}"]),
    "fleet a number": (
        f"fleet: 123\n{ONE_HOST}",
        ["1:fleet: must be text, not the number 123 (text needs quotes here)"],
    ),
    "host name": (f"{HEAD}  b_1: {{address: b}}", [f"4:hosts.b_1: 'b_1' {NAME_RULE}"]),
    "host called on": (
        f"{HEAD}  on: {{address: b}}",
        ['4:hosts.on: YAML does not read on as text: write "on"'],
    ),
    "no address": (
        f"{HEAD}  b: {{port: 1}}",
        ["4:hosts.b.address: required, but missing (only `connection: local` needs none)"],
    ),
    "address": (
        f"{HEAD}  b: {{address: 10.0.0.300}}",
        ["4:hosts.b.address: '10.0.0.300' is no IP address or host name"],
    ),
    "address with port": (
        f"{HEAD}  b: {{address: 'b:22'}}",
        ["4:hosts.b.address: 'b:22' is no IP address or host name: ports go to `port` (BuildKit) and `ssh.port`"],
    ),
    "address with user": (
        f"{HEAD}  b: {{address: root@b}}",
        ["4:hosts.b.address: 'root@b' is no IP address or host name: give the bare name; the user goes to ssh.user"],
    ),
    "address in brackets": (
        f"{HEAD}  b: {{address: '[::1]'}}",
        ["4:hosts.b.address: '[::1]' is no IP address or host name: write IPv6 without brackets"],
    ),
    "address of nobody": (
        f"{HEAD}  b: {{address: 0.0.0.0}}",
        ["4:hosts.b.address: 0.0.0.0 is not the address of one machine that others can reach"],
    ),
    "port range": (
        f"{HEAD}  b: {{address: b, port: 65536}}\n  c: {{address: c, port: 0}}",
        [
            "4:hosts.b.port: must be at most 65535, not 65536",
            "5:hosts.c.port: must be at least 1, not 0",
        ],
    ),
    "port types": (
        f"{HEAD}  b: {{address: b, port: '1234'}}\n  c: {{address: c, port: true}}\n  d: {{address: d, port: 1.5}}",
        [
            "4:hosts.b.port: must be a whole number, not '1234' (remove the quotes)",
            "5:hosts.c.port: must be a whole number, not true",
            "6:hosts.d.port: must be a whole number, not a number with a fraction",
        ],
    ),
    "port octal": (
        f"{HEAD}  b: {{address: b, port: 0123}}",
        ["4:hosts.b.port: is not a plain decimal number of at most 18 digits (text needs quotes)"],
    ),
    "platforms": (
        platforms("windows/amd64", 386, "linux/vax", "arm64", "linux/arm64/v8"),
        [
            "7:hosts.b.platforms[0]: 'windows/amd64': buildkitd nodes build for linux only",
            "8:hosts.b.platforms[1]: must be text, not the number 386 (text needs quotes here)",
            "9:hosts.b.platforms[2]: 'linux/vax': unknown architecture 'vax'",
            "11:hosts.b.platforms[4]: linux/arm64/v8 is the same platform as arm64 before it",
        ],
    ),
    "platform alone": (
        f"{HEAD}  b: {{address: b, platforms: [linux/arm/v9]}}",
        ["4:hosts.b.platforms[0]: 'linux/arm/v9': arm has no variant 'v9'"],
    ),
    "platforms empty": (
        f"{HEAD}  b: {{address: b, platforms: []}}",
        ["4:hosts.b.platforms: must not be empty"],
    ),
    "platforms a text": (
        f"{HEAD}  b: {{address: b, platforms: arm64}}",
        ["4:hosts.b.platforms: must be a list, such as [a, b], not 'arm64'"],
    ),
    "one endpoint": (
        f"{HEAD}  b: {{address: B.example}}\n  c: {{address: b.EXAMPLE}}\n  d: {{address: 10.0.0.1, port: 1234}}",
        [
            "5:hosts.c: has the same address and port as b",
            "6:hosts.d: has the same address and port as a",
        ],
    ),
    "local by ssh": (
        f"{HEAD}  b: {{connection: local, ssh: {{user: x}}}}",
        ["4:hosts.b.ssh: a local host is not reached by SSH: remove this key or `connection: local`"],
    ),
    "connection": (
        f"{HEAD}  b: {{connection: telnet, address: b}}",
        ["4:hosts.b.connection: must be 'ssh' or 'local', not 'telnet'"],
    ),
    "ssh types": (
        f"{HEAD}ssh:\n  sudo: yes-string\n  user: -oProxyCommand=x\n  port: [22]",
        [
            "5:ssh.sudo: must be true or false, not 'yes-string'",
            "6:ssh.user: '-oProxyCommand=x' is not a user name",
            "7:ssh.port: must be a whole number, not a list",
        ],
    ),
    "yes": (
        f"{HEAD}ssh: {{sudo: yes}}",
        ['4:ssh.sudo: YAML reads yes as true: write true, or "yes" for text'],
    ),
    "image": (
        f"{HEAD}buildkit: {{image: 'mirror:5000/moby/buildkit'}}",
        ["4:buildkit.image: 'mirror:5000/moby/buildkit' needs a tag or a digest, as in moby/buildkit:v0.32.2"],
    ),
    "image syntax": (
        f"{HEAD}buildkit: {{image: 'https://x/y:z'}}",
        ["4:buildkit.image: 'https://x/y:z' is not an image reference such as moby/buildkit:v0.32.2"],
    ),
    "image rootless": (
        f"{HEAD}buildkit: {{image: 'moby/buildkit:v0.32.2-rootless'}}",
        ["4:buildkit.image: rootless images are not supported: they read their configuration elsewhere"],
    ),
    "daemon's key": (
        f"{HEAD}buildkit: {{config: {{worker: {{oci: {{gckeepstorage: 1, gcpolicies: []}}}}, root: /x}}}}",
        [
            "4:buildkit.config.worker.oci.gckeepstorage: is the old name: use reservedSpace",
            "4:buildkit.config.worker.oci.gcpolicies: unknown key (did you mean 'gcpolicy'?)",
            "4:buildkit.config.root: is set by fleet: the state is the node's volume",
        ],
    ),
    "daemon's key in a list": (
        f"{HEAD}buildkit: {{config: {{worker: {{oci: {{gcpolicy: [{{filter: []}}]}}}}}}}}",
        ["4:buildkit.config.worker.oci.gcpolicy[0].filter: unknown key (did you mean 'filters'?)"],
    ),
    "daemon's key in a registry": (
        f"{HEAD}buildkit: {{config: {{registry: {{docker.io: {{mirror: m}}}}}}}}",
        ["4:buildkit.config.registry.\"docker.io\".mirror: unknown key (did you mean 'mirrors'?)"],
    ),
    "no CPUs": (f"{HEAD}limits: {{cpus: 0}}", ["4:limits.cpus: must be at least 1, not 0"]),
    "part of a CPU": (
        f"{HEAD}limits: {{cpus: 1.5}}",
        ["4:limits.cpus: must be a whole number, not a number with a fraction"],
    ),
    "memory without a unit": (
        f"{HEAD}limits: {{memory: 8}}",
        ["4:limits.memory: must be text, not the number 8 (text needs quotes here)"],
    ),
    "memory that is no size": (
        f"{HEAD}limits: {{memory: lots}}",
        ["4:limits.memory: 'lots' is not a size such as 10GB or 512MiB"],
    ),
    "too little memory": (
        f"{HEAD}limits: {{memory: 63MB}}",
        ["4:limits.memory: 63MB is less than BuildKit itself needs: give it 64 MB or more"],
    ),
    "no builds": (f"{HEAD}max_builds: 0", ["4:max_builds: must be at least 1, not 0"]),
    "a host's own image": (
        f"{HEAD}  b: {{address: b, buildkit: {{image: x}}}}",
        ["4:hosts.b.buildkit.image: unknown key; possible here: delivery, config"],
    ),
    "a host's own root": (
        f"{HEAD}  b: {{address: b, buildkit: {{config: {{root: /x}}}}}}",
        ["4:hosts.b.buildkit.config.root: is set by fleet: the state is the node's volume"],
    ),
    "a delivery that there is not": (
        f"{HEAD}buildkit: {{delivery: ssh}}",
        ["4:buildkit.delivery: must be 'registry' or 'stream', not 'ssh'"],
    ),
    "invisible": (
        f'{HEAD}ssh: {{user: "a\\u202eb"}}\n"x\\x07y": 1',
        [
            "4:ssh.user: has line breaks or characters that cannot be seen",
            '5:"x\\x07y": a key has characters that cannot be seen',
        ],
    ),
    "date": (
        f"fleet: 2026-01-01\n{ONE_HOST}",
        ['1:fleet: YAML does not read 2026-01-01 as text: write "2026-01-01"'],
    ),
    "merge key": (f"{HEAD}<<: {{}}", ['4:"<<": merge keys (<<) are not supported: write the keys out']),
    "key no text": (f"{HEAD}? [a]\n: b", ['4:"?": a key must be text, not a list or a mapping']),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


SYNTAX = "this is not valid YAML: check indentation, quotes and brackets"
ALIASES = "anchors and aliases (&, *) are not supported: write the value out"

UNREADABLE: dict[str, tuple[str, str]] = {
    "empty": ("", "1: the file is empty: copy inventory.example.yaml and edit it"),
    "comments": ("# fleet\n", "1: the file is empty: copy inventory.example.yaml and edit it"),
    "null": ("---\n~\n", "1: the file is empty: copy inventory.example.yaml and edit it"),
    "text": ("acme", "1: the file must be a mapping with the keys fleet and hosts"),
    "list": ("\n- acme", "2: the file must be a mapping with the keys fleet and hosts"),
    "two documents": (f"{HEAD}---\n{HEAD}", "4: only one YAML document is allowed: remove the line '---'"),
    "anchor": ("fleet: acme\nhosts: &h {}", f"2: {ALIASES}"),
    "alias": ("fleet: acme\nhosts: *h", f"2: {ALIASES}"),
    "python": (
        "fleet: !!python/object:os.system x",
        "1: tags are not supported: remove !!python/object:os.system",
    ),
    "tab": ("hosts:\n\ta: {}", "2: a tab: YAML is indented with spaces"),
    "colon": ("fleet: acme\n hosts: {}", "2: a ':' where none may stand: check indentation and quotes"),
    "key alone": ("fleet: acme\nhosts\n", "3: a key without ':' after it"),
    "quotes": ("fleet: 'acme\n", "2: the file ends inside quotes"),
    "brackets": ("fleet: [\n}", f"2: {SYNTAX} (expected the node content, but found '}}')"),
    "control character": ("fleet: acme\n\x1b", "2: a control character (0x1b) is not allowed"),
    "surrogate": ("fleet: \ud800", "1: a control character (0xd800) is not allowed"),
    "absurd escape": ('fleet: acme\nx: "\\UFFFFFFFF"', f"2: {SYNTAX}"),
    "absurd version": (f"%YAML {'9' * 5000}.1\n---\n", f"1: {SYNTAX}"),
    "deep list": ("[" * 10_000, "1: nested more than 20 levels deep"),
    "deep mapping": ("".join(f"{' ' * n}a:\n" for n in range(50)), "20: nested more than 20 levels deep"),
    "large": ("#" * (1 << 20) + "\n", "the file is larger than 1024 KiB"),
}


@pytest.mark.parametrize(("text", "expected"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_missing_files_are_reported_where_they_are_named() -> None:
    long = "k" * 300
    text = f"{HEAD}    \nssh:\n  identity_file: id\n  known_hosts_file: {long}"
    with pytest.raises(InventoryError) as caught:
        parse(text, check_files=nothing_exists)
    assert [str(problem)[:50] for problem in caught.value.problems] == [
        "6:ssh.identity_file: there is no file 'id'",
        "7:ssh.known_hosts_file: there is no file 'kkkkkkkk",
    ]
    with pytest.raises(InventoryError, match="there is no file"):  # the operating system refuses such a name
        parse(text)


def test_everything_wrong_is_told_at_once_in_the_order_of_the_file() -> None:
    text = "fleet: Acme\nssh: {prot: 1}\nhosts:\n  b: {adress: b}\n  b: {}\nbuildkit: {image: x}\n"
    assert [(problem.line, problem.path) for problem in refusal(text).problems] == [
        (1, "fleet"),
        (2, "ssh.prot"),
        (4, "hosts.b.address"),
        (4, "hosts.b.adress"),
        (5, "hosts.b"),
        (6, "buildkit.image"),
    ]
    assert "\n  site.yaml:2:ssh.prot: unknown key (did you mean 'port'?)\n" in str(refusal(text))


def refusal(text: str) -> InventoryError:
    with pytest.raises(InventoryError) as caught:
        parse(text, "site.yaml", check_files=everything_exists)
    return caught.value


# ------------------------------------------------------------------------------------------- the file


def test_load_resolves_files_beside_the_inventory(tmp_path: Path) -> None:
    (tmp_path / "id").touch()
    path = tmp_path / "inventory.yaml"
    path.write_text(f"\ufefffleet: acme\nssh: {{identity_file: id}}\n{ONE_HOST}", encoding="utf-8")
    assert load(path).hosts[0].ssh.identity_file == str(tmp_path / "id")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.yaml", "there is no inventory"),
        ("", "is a directory"),
        ("a\0b", "cannot read the inventory"),
    ],
)
def test_load_says_what_to_do_without_a_file(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path / name)
    assert "inventory.example.yaml" in str(caught.value.remedy)
    assert "FLEET_INVENTORY" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"fleet: acme\nhosts: \xff", "2: the file is not UTF-8 text"),
        ("ü".encode() * (1 << 20), "the file is larger than 1024 KiB"),
    ],
)
def test_load_refuses(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "inventory.yaml"
    path.write_bytes(content)
    with pytest.raises(InventoryError) as caught:
        load(path)
    assert [str(problem) for problem in caught.value.problems] == [expected]


# ------------------------------------------------------------------------ example, schema and reference


def keys(schema: dict[str, Any]) -> set[str]:
    """Every key that a JSON Schema knows."""
    tables = [schema, *schema["$defs"].values()]
    return {key for table in tables for key in table.get("properties", {})}


def keys_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_in, value.values()))
    return set().union(*map(keys_in, value)) if isinstance(value, list) else set()


def test_example_shows_every_key() -> None:
    parse(EXAMPLE, check_files=everything_exists)
    assert keys(json_schema()) <= keys_in(yaml.safe_load(EXAMPLE))


def test_example_fits_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    SCHEMA.validate(yaml.safe_load(EXAMPLE))


def test_committed_schema_is_current() -> None:
    committed = (ROOT / "docs/inventory.schema.json").read_text(encoding="utf-8")
    assert committed == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def test_every_schema_key_is_described() -> None:
    schema = json_schema()
    for table in (schema, *schema["$defs"].values()):
        assert all(entry.get("description") for entry in table.get("properties", {}).values())


@pytest.mark.parametrize("key", sorted(keys(json_schema())))
def test_reference_mentions(key: str) -> None:
    assert f"`{key}`" in REFERENCE or f".{key}`" in REFERENCE or f'."{key}".' in REFERENCE or f"`{key}." in REFERENCE


@pytest.mark.parametrize("text", REFERENCE.split("```yaml\n")[1:])
def test_reference_examples_are_accepted(text: str) -> None:
    example = text.partition("```")[0]
    for required in ("fleet: acme\n", f"{ONE_HOST}\n"):
        example += "" if required.split(":")[0] in yaml.safe_load(example) else required
    parse(example, check_files=everything_exists)


# --------------------------------------------------------------------------------------------- laws

words = st.sampled_from([*sorted(keys(json_schema())), "10.0.0.1", "linux/arm64", "10GB", "~", "on", "0755", ""])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | words
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=4), inner, max_size=5),
    max_leaves=20,
)
hosts = st.fixed_dictionaries(
    {"address": st.ip_addresses().map(str) | provisional.domains()},
    optional={
        "port": st.integers(1, 65535),
        "ssh": st.fixed_dictionaries({}, optional={"user": st.just("build"), "sudo": st.booleans()}),
        "platforms": st.sampled_from([["linux/amd64"], ["arm64", "linux/arm/v7"]]),
        "limits": st.fixed_dictionaries({}, optional={"cpus": st.integers(1, 64), "memory": st.just("8GB")}),
        "max_builds": st.integers(1, 64),
        "emulation": st.sampled_from(["refuse", "allow"]),
        "buildkit": st.sampled_from([{}, {"config": {"debug": True}}]),
    },
)
names = st.from_regex(r"[a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z]", fullmatch=True)


def accepted(text: str) -> FleetSpec | None:
    """The fleet, or None when the text was refused with at least one problem; anything else is a failure."""
    try:
        return parse(text, check_files=everything_exists)
    except InventoryError as error:
        refused = error
    assert refused.problems
    assert str(refused).encode()
    return None


@given(st.text() | st.text(alphabet="ab1:-[]{}\"'&*!|>%@`#,?\\ \n\t~<=."))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    accepted(text)
    accepted(f"{HEAD}{text}")


@given(st.dictionaries(words, trees, max_size=5), st.booleans())
def test_any_tree_is_accepted_or_refused(tree: dict[str, Any], flow: bool) -> None:
    accepted(yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True))
    accepted(yaml.safe_dump({"fleet": "acme", "hosts": {"a": tree}, "buildkit": {"config": tree}}))


@given(
    st.integers(0, len(EXAMPLE) - 1),
    st.integers(0, 40),
    st.sampled_from(["", " ", "\n", ":", "- ", "x", "'", "\t"]),
)
def test_a_damaged_example_is_accepted_or_refused(at: int, length: int, patch: str) -> None:
    accepted(EXAMPLE[:at] + patch + EXAMPLE[at + length :])


@given(names, st.dictionaries(names, hosts, min_size=1, max_size=5))
def test_what_is_accepted_fits_the_schema(fleet: str, machines: dict[str, Any]) -> None:
    tree = {"fleet": fleet, "hosts": machines}
    spec = accepted(json.dumps(tree))
    if spec:
        SCHEMA.validate(tree)
        assert [host.name for host in spec.hosts] == list(machines)
        assert [host.port for host in spec.hosts] == [host.get("port", 1234) for host in machines.values()]
