"""Bundles: what comes out is what went in, and whatever else comes in is one clear line and nothing more."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import bundle as bundles
from certs.authority import create_authority, issue_client, issue_node
from certs.bundle import LIMIT, Bundle, BundleError, BundleGateway, BundleNode, is_sealed_bundle, pack, unpack
from certs.certificate import Credential, is_pair
from certs.keys import Passphrase, PrivateKey, seal_key
from tests.support.tls import CA, NOW, forge

DAY = timedelta(days=1)
WORD = Passphrase("correct horse")
AUTHORITY = create_authority("acme CA", now=NOW)
NEXT = create_authority("acme CA", now=NOW)
CLIENT = issue_client(AUTHORITY, "ada", now=NOW)
NODES = (
    BundleNode("amd-1", "10.0.0.11", 1234, ("10.0.0.11", "amd-1", "amd64.acme.fleet.internal"), ("linux/amd64",)),
    BundleNode("arm-1", "fd00::1", 8372, ("fd00::1",), ("linux/arm64", "linux/arm/v7")),
    BundleNode("spare", "builder_3.corp.example", 1, (), ()),
)
BUNDLE = Bundle("acme", "ada", NOW, AUTHORITY.certificate, CLIENT, NODES)
PACKED = pack(BUNDLE)
SEALED = pack(BUNDLE, WORD)
CONTENT = PACKED.partition(b'"bundle":')[2].rpartition(b',"checksum":')[0]
SECRETS = [line for line in CLIENT.key.reveal().decode().splitlines() if "-----" not in line]


def refused(packed: bytes, passphrase: Passphrase | None = None, *, now: datetime = NOW) -> str:
    """What is said of a bundle that is refused: one line, nothing of the key, no other error hanging on."""
    with pytest.raises(BundleError) as caught:
        unpack(packed, passphrase, now=now)
    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert not [line for line in SECRETS if line[:20] in shown]
    text = str(error)
    assert text.isprintable()
    assert len(text) < 200
    return text


def checked(covered: bytes) -> bytes:
    """With a checksum that fits: somebody meant it."""
    return covered + b',"checksum":"%s"}\n' % hashlib.sha256(covered).hexdigest().encode()


def content(packed: bytes = PACKED) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(packed)["bundle"]
    return loaded


def written(value: Any, *, separators: tuple[str, str] = (",", ":"), sort_keys: bool = False) -> bytes:
    """A bundle of this content, whatever it is."""
    text = json.dumps(value, separators=separators, sort_keys=sort_keys, ensure_ascii=False)
    return raw(text.encode(errors="surrogatepass"))


def raw(value: bytes) -> bytes:
    return checked(b'{"format":"fleet-bundle","version":1,"bundle":' + value)


# ----------------------------------------------------------------------------------------------- round trip


def test_these_tests_write_bundles_as_fleet_does() -> None:
    assert raw(CONTENT) == written(content()) == PACKED


@pytest.mark.parametrize("passphrase", [None, WORD], ids=["open", "sealed"])
def test_what_was_packed_is_unpacked(passphrase: Passphrase | None) -> None:
    packed = pack(BUNDLE, passphrase)
    assert unpack(packed, passphrase, now=NOW) == BUNDLE
    assert is_sealed_bundle(packed) is (passphrase is not None)
    assert packed.count(b"\n") == 1
    assert packed.endswith(b"}\n")


def test_a_bundle_tells_of_a_gateway() -> None:
    bundle = replace(BUNDLE, gateway=BundleGateway(("amd-1",), {"amd64": 1250, "arm64": 1251}))
    packed = pack(bundle)
    assert unpack(packed, now=NOW) == bundle
    assert content(packed)["gateway"] == {"hosts": ["amd-1"], "ports": {"amd64": 1250, "arm64": 1251}}


@pytest.mark.parametrize(
    ("gateway", "where"),
    [
        ({"hosts": ["amd-9"], "ports": {"amd64": 1}}, "its content"),
        ({"hosts": [], "ports": {"amd64": 1}}, "gateway.hosts"),
        ({"hosts": ["../x"], "ports": {"amd64": 1}}, "gateway.hosts.0"),
        ({"hosts": ["amd-1"], "ports": {}}, "gateway.ports"),
        ({"hosts": ["amd-1"], "ports": {"amd64": 0}}, "gateway.ports.amd64"),
        ({"hosts": ["amd-1"], "ports": {"amd64": "1"}}, "gateway.ports.amd64"),
        ({"hosts": ["amd-1"], "ports": {"amd64": 1}, "image": "x"}, "gateway"),
    ],
)
def test_a_gateway_that_fleet_does_not_write_is_refused(gateway: object, where: str) -> None:
    text = refused(written(content() | {"gateway": gateway}))
    assert text == f"the bundle holds what fleet does not write: {where} is not as it must be"


def test_no_gateway_is_not_written() -> None:
    assert "is not in the one form" in refused(written(content() | {"gateway": None}))


def test_an_open_bundle_is_json_with_a_key_that_scanners_for_secrets_find() -> None:
    assert list(json.loads(PACKED)) == ["format", "version", "bundle", "checksum"]
    assert b"-----BEGIN PRIVATE KEY-----" in PACKED
    assert list(content()) == ["fleet", "client", "issued", "trust", "certificate", "key", "nodes"]
    assert content()["issued"] == "2030-05-01T12:00:00Z"


def test_a_sealed_bundle_shows_nothing_of_its_content() -> None:
    assert list(json.loads(SEALED)) == ["format", "version", "sealed", "checksum"]
    opaque = base64.b64decode(json.loads(SEALED)["sealed"])
    # Words long enough not to stand in random bytes by chance.
    known = (b"amd64.acme.fleet", b"linux/amd64", b"10.0.0.11", b"PRIVATE KEY", CLIENT.certificate[100:110])
    assert not [word for word in known if word in opaque or word in SEALED]
    assert all(word in PACKED for word in known)
    assert pack(BUNDLE, WORD) != SEALED


def test_white_space_around_it_is_ignored() -> None:
    for packed in (PACKED.strip(), b"\r\n " + PACKED + b"\r\n\r\n"):
        assert unpack(packed, now=NOW) == BUNDLE
    assert is_sealed_bundle(b"\n" + SEALED)


def test_a_passphrase_that_is_not_needed_is_ignored() -> None:
    assert unpack(PACKED, WORD, now=NOW) == BUNDLE


def test_during_a_rotation_two_authorities_are_trusted() -> None:
    both = replace(BUNDLE, trust=NEXT.certificate + AUTHORITY.certificate)
    assert unpack(pack(both), now=NOW) == both


def test_a_chain_is_kept() -> None:
    issuing = forge("Issuing CA", CA, at=NOW, signer=forge("Root", CA, at=NOW))
    ours = replace(BUNDLE, trust=issuing.certificate, credential=issue_client(issuing, "ada", now=NOW))
    assert ours.credential.certificate.count(b"BEGIN CERTIFICATE") == 2
    assert unpack(pack(ours), now=NOW) == ours


def test_a_thousand_nodes_fit_three_times() -> None:
    nodes = tuple(
        BundleNode(
            f"amd-{number}",
            f"10.0.0.{number % 250}",
            1234,
            (f"amd-{number}", "amd64.acme.fleet.internal"),
            ("linux/amd64", "linux/386"),
        )
        for number in range(1000)
    )
    assert len(pack(replace(BUNDLE, nodes=nodes))) < LIMIT / 3


names = st.from_regex(r"([a-z][a-z0-9-]{0,38}[a-z0-9]|[a-z])", fullmatch=True)
addresses = st.one_of(
    st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z][a-z0-9-]{0,20}[a-z])?", fullmatch=True)
)
nodes = st.builds(
    BundleNode,
    name=names,
    address=addresses,
    port=st.integers(1, 65535),
    names=st.lists(addresses, max_size=4).map(tuple),
    platforms=st.lists(st.sampled_from(["linux/amd64", "linux/arm/v7", "linux/arm64"]), max_size=3).map(tuple),
)
made = st.builds(
    Bundle,
    fleet=names,
    client=names,
    issued=st.datetimes(NOW.replace(tzinfo=None), (NOW + 300 * DAY).replace(tzinfo=None), timezones=st.just(UTC)),
    trust=st.sampled_from([AUTHORITY.certificate, NEXT.certificate + AUTHORITY.certificate]),
    credential=st.just(CLIENT),
    nodes=st.lists(nodes, max_size=4, unique_by=lambda node: node.name).map(tuple),
)


@given(made)
def test_any_bundle_comes_out_as_it_went_in(bundle: Bundle) -> None:
    assert unpack(pack(bundle), now=bundle.issued) == bundle


@settings(max_examples=5)
@given(made, st.text(min_size=1, alphabet=st.characters(codec="utf-8")))
def test_any_sealed_bundle_comes_out_as_it_went_in(bundle: Bundle, word: str) -> None:
    assert unpack(pack(bundle, Passphrase(word)), Passphrase(word), now=bundle.issued) == bundle


# -------------------------------------------------------------------------------------------------- mishaps

flips = given(st.sampled_from([PACKED, SEALED]), st.data())


@settings(max_examples=500)
@flips
def test_any_other_byte_is_noticed(packed: bytes, data: st.DataObject) -> None:
    # The last byte is the newline after it.
    at = data.draw(st.integers(0, len(packed) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != packed[at]))
    refused(packed[:at] + bytes((byte,)) + packed[at + 1 :], WORD)


@settings(max_examples=300)
@flips
def test_any_loss_is_noticed(packed: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(packed) - 2))
    end = data.draw(st.integers(start + 1, len(packed)))
    if end < len(packed) - 1:
        assert "is cut off" in refused(packed[:end]) or end < 40
    refused(packed[:start] + packed[end:])


@settings(max_examples=300)
@given(st.one_of(st.binary(), st.text().map(str.encode), st.binary().map(raw), st.text().map(str.encode).map(raw)))
def test_arbitrary_bytes_are_refused(packed: bytes) -> None:
    refused(packed)
    is_sealed_bundle(packed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.sampled_from(list(content())), json_values)
def test_any_other_value_is_refused(key: str, value: object) -> None:
    # A fleet without nodes and another name are as good as the ones before.
    if (key != "nodes" or value != []) and (key not in {"fleet", "client"} or not isinstance(value, str)):
        refused(written(content() | {key: value}))


@pytest.mark.parametrize(
    ("packed", "complaint"),
    [
        pytest.param(b"", "the file is no bundle, or its beginning is missing", id="nothing"),
        pytest.param(CLIENT.certificate, "the file is no bundle", id="a certificate"),
        pytest.param(PACKED[1:], "the file is no bundle", id="without its first byte"),
        pytest.param(b"\xff\xfe" + PACKED, "the file is no bundle", id="a byte order mark"),
        pytest.param(PACKED.replace(b'version":1', b'version":0'), "the file is no bundle", id="version 0"),
        pytest.param(PACKED.replace(b'version":1', b'version":2'), "is of version 2, and .* upgrade", id="newer"),
        pytest.param(PACKED.replace(b'version":1', b'version":31'), "is of version 31", id="much newer"),
        pytest.param(PACKED[:-2], "the bundle is cut off", id="without its last byte"),
        pytest.param(PACKED[:60], "the bundle is cut off", id="its beginning"),
        pytest.param(SEALED[:-20], "the bundle is cut off", id="a sealed one's beginning"),
        pytest.param(PACKED.replace(b"amd-1", b"amd-2"), "was changed after it was made", id="edited"),
        pytest.param(SEALED.replace(b"sealed", b"bundle"), "was changed after it was made", id="sealed made open"),
        pytest.param(PACKED.replace(b"BEGIN", b"BEG\r\nIN"), "was changed after it was made", id="wrapped lines"),
        pytest.param(b" " * LIMIT + PACKED, "the bundle is larger than 1 MiB", id="huge"),
        pytest.param(b"[" * (LIMIT + 1), "the bundle is larger than 1 MiB", id="huge and deep"),
        pytest.param(SEALED, "the bundle is sealed: it needs its passphrase", id="sealed"),
        pytest.param(
            checked(b'{"format":"fleet-bundle","version":1,"other":1'), "the file is no bundle: it has no", id="empty"
        ),
    ],
)
def test_what_happened_to_a_bundle_is_said(packed: bytes, complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        unpack(packed, now=NOW)
    refused(packed)


def test_a_wrong_passphrase_opens_nothing() -> None:
    assert "passphrase does not open" in refused(SEALED, Passphrase("Correct horse"))


def reseal(change: Callable[[bytes], bytes]) -> bytes:
    """A sealed bundle whose content somebody changed, checksum and all."""
    opaque = base64.b64encode(change(base64.b64decode(json.loads(SEALED)["sealed"])))
    return checked(b'{"format":"fleet-bundle","version":1,"sealed":"%s"' % opaque)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(reseal(lambda old: bytes((old[0] ^ 1,)) + old[1:]), id="its salt"),
        pytest.param(reseal(lambda old: old[:16] + bytes((old[16] ^ 1,)) + old[17:]), id="its nonce"),
        pytest.param(reseal(lambda old: old[:99] + bytes((old[99] ^ 1,)) + old[100:]), id="its content"),
        pytest.param(reseal(lambda old: old[:-1] + bytes((old[-1] ^ 1,))), id="its tag"),
        pytest.param(reseal(lambda old: old[:30]), id="cut off"),
        pytest.param(reseal(lambda old: old[:10]), id="cut off in the salt"),
        pytest.param(reseal(lambda _: b""), id="empty"),
        pytest.param(checked(b'{"format":"fleet-bundle","version":1,"sealed":"?"'), id="no base64"),
        pytest.param(checked(b'{"format":"fleet-bundle","version":1,"sealed":{"n":1}'), id="no text"),
    ],
)
def test_tampering_with_a_sealed_bundle_is_noticed(packed: bytes) -> None:
    assert "the passphrase does not open the bundle, or somebody tampered with it" in refused(packed, WORD)


def test_resealing_without_a_change_changes_nothing() -> None:
    assert unpack(reseal(lambda old: old), WORD, now=NOW) == BUNDLE


# --------------------------------------------------------------------------------------------- bad contents

BAD_NAMES = ("", "A", "1a", "a-", "-a", "../x", "a/b", "a\n", "a\x1b[31m", "a" * 41, "a b", ".", "ä", "a\0")
BAD_ADDRESSES = (
    *("", " ", "a b", "10.0.0.300", "010.0.0.1", "1", "a..b", "a/b", "a:1", "[::1]", "fe80::1%eth0", "FD00::1"),
    *("a\n", "$(id)", "x" * 64, f"{'a.' * 130}a", "http://a", "user@a", "ä.example"),
)
BAD_PLATFORMS = ("", "linux", "linux/", "Linux/amd64", "linux/amd64\n", "a/b/c/d", "linux/../etc", "linux/" + "a" * 17)


def node(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = content()["nodes"][0] | changes
    return made


BAD: dict[str, tuple[dict[str, Any], str]] = {
    **{f"fleet {name!r}": ({"fleet": name}, "fleet") for name in BAD_NAMES},
    **{f"client {name!r}": ({"client": name}, "client") for name in BAD_NAMES},
    **{f"node {name!r}": ({"nodes": [node(name=name)]}, "nodes.0.name") for name in BAD_NAMES},
    **{f"address {name!r}": ({"nodes": [node(address=name)]}, "nodes.0.address") for name in BAD_ADDRESSES},
    **{f"names {name!r}": ({"nodes": [node(names=["a", name])]}, "nodes.0.names.1") for name in BAD_ADDRESSES},
    **{f"platform {name!r}": ({"nodes": [node(platforms=[name])]}, "nodes.0.platforms.0") for name in BAD_PLATFORMS},
    **{
        f"port {port!r}": ({"nodes": [node(port=port)]}, "nodes.0.port")
        for port in (0, -1, 65536, "1234", 1.0, True, None, 10**400)
    },
    "too many names": ({"nodes": [node(names=["a"] * 33)]}, "nodes.0.names"),
    "too many platforms": ({"nodes": [node(platforms=["linux/arm64"] * 33)]}, "nodes.0.platforms"),
    "a node twice": ({"nodes": [node(), node(port=9)]}, "its content"),
    "too many nodes": ({"nodes": [node(name=f"n{n}", names=[]) for n in range(2001)]}, "nodes"),
    "an unknown key": ({"x\x1b[2J\n": 1}, "its content"),
    "an unknown key of a node": ({"nodes": [node(**{"\x1b": 1})]}, "nodes.0"),
    "a date without a zone": ({"issued": "2030-05-01T12:00:00"}, "issued"),
    "a date as a number": ({"issued": 1}, "issued"),
    "a torn trust": ({"trust": AUTHORITY.certificate.decode()[:200]}, "trust"),
    "no trust": ({"trust": ""}, "trust"),
    "a torn certificate": ({"certificate": CLIENT.certificate.decode()[:200]}, "certificate"),
    "a key that is none": ({"key": 1}, "key"),
}


@pytest.mark.parametrize(("changes", "where"), BAD.values(), ids=list(BAD))
def test_a_content_that_fleet_does_not_write_is_refused_with_its_place(changes: dict[str, Any], where: str) -> None:
    text = refused(written(content() | changes))
    assert text == f"the bundle holds what fleet does not write: {where} is not as it must be"


def test_a_missing_part_is_refused_with_its_place() -> None:
    for key in content():
        left = {name: value for name, value in content().items() if name != key}
        assert f": {key} is not" in refused(written(left))


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(raw(CONTENT.replace(b'"fleet":"acme"', b'"fleet":"acme","fleet":"acme"')), id="a key twice"),
        pytest.param(
            raw(CONTENT.replace(b'"fleet":"acme"', b'"fleet":"evil","fleet":"acme"')), id="a key twice, unlike"
        ),
        pytest.param(written(content(), separators=(", ", ": ")), id="spaces"),
        pytest.param(written(content(), sort_keys=True), id="another order"),
        pytest.param(raw(CONTENT.replace(b"acme", b"\\u0061cme", 1)), id="an escape"),
        pytest.param(written(content() | {"trust": f"note\n{content()['trust']}"}), id="a comment in the trust"),
    ],
)
def test_another_form_of_the_same_content_is_refused(packed: bytes) -> None:
    assert "its JSON is not in the one form that is used" in refused(packed)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(raw(b"[" * 500_000), id="open brackets"),
        pytest.param(raw(b"[" * 100_000 + b"]" * 100_000), id="lists in lists"),
        pytest.param(raw(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), id="mappings in mappings"),
        pytest.param(written(content() | {"nodes": json.loads("[" * 500 + "]" * 500)}), id="in its place"),
        pytest.param(raw(b'{"fleet":"\xff\xfe"}'), id="no UTF-8"),
        pytest.param(raw(b"9" * 100_000), id="a long number"),
        pytest.param(raw(b"NaN"), id="no number"),
    ],
)
def test_hostile_json_is_refused(packed: bytes) -> None:
    assert "the bundle holds what fleet does not write" in refused(packed)


# ------------------------------------------------------------------------------------------ bad certificates

OTHER = create_authority("other CA", now=NOW)
NODE = issue_node(AUTHORITY, "n", names=["n"], now=NOW)
BOTH = AUTHORITY.certificate + NODE.certificate

UNUSABLE = {
    "another's key": (
        replace(BUNDLE, credential=Credential(CLIENT.certificate, NODE.key)),
        "its key does not belong to its certificate",
    ),
    "a torn key": (
        replace(BUNDLE, credential=Credential(CLIENT.certificate, PrivateKey(CLIENT.key.reveal()[:90]))),
        "not a private key",
    ),
    "a sealed key": (
        replace(BUNDLE, credential=Credential(CLIENT.certificate, seal_key(CLIENT.key, WORD))),
        "its key is sealed with a passphrase",
    ),
    "someone else's certificate": (
        replace(BUNDLE, credential=issue_client(OTHER, "ada", now=NOW)),
        "it was not issued by a trusted CA",
    ),
    "a node's certificate": (replace(BUNDLE, credential=NODE), "it is a node's certificate"),
    "the CA's own": (replace(BUNDLE, credential=AUTHORITY), "it is a certificate authority"),
    "a trust that is no CA": (replace(BUNDLE, trust=BOTH), "the bundle's trust holds a certificate that is no CA's"),
}


@pytest.mark.parametrize(("bundle", "complaint"), UNUSABLE.values(), ids=UNUSABLE)
def test_certificates_that_would_not_work_are_neither_packed_nor_unpacked(bundle: Bundle, complaint: str) -> None:
    with pytest.raises(BundleError, match=complaint):
        pack(bundle)
    text = {
        "trust": bundle.trust,
        "certificate": bundle.credential.certificate,
        "key": bundle.credential.key.reveal(),
    }
    assert complaint in refused(written(content() | {name: value.decode() for name, value in text.items()}))


@pytest.mark.parametrize(
    ("at", "complaint"),
    [
        pytest.param(NOW + 365 * DAY, "it expired on 2031-05-01 12:00 UTC", id="expired"),
        pytest.param(NOW - DAY, "it is not valid before 2030-05-01 11:55 UTC", id="not yet valid"),
    ],
)
def test_a_bundle_out_of_its_time_is_refused(at: datetime, complaint: str) -> None:
    assert complaint in refused(PACKED, now=at)


@pytest.mark.parametrize(
    ("bundle", "where"),
    [
        pytest.param(replace(BUNDLE, fleet="../x"), "fleet", id="its fleet"),
        pytest.param(replace(BUNDLE, nodes=(NODES[0], NODES[0])), "its content", id="a node twice"),
        pytest.param(replace(BUNDLE, nodes=(replace(NODES[0], address="a b"),)), "nodes.0.address", id="an address"),
        pytest.param(replace(BUNDLE, trust=b"\xff"), "trust", id="its trust"),
    ],
)
def test_what_would_be_refused_is_not_packed(bundle: Bundle, where: str) -> None:
    with pytest.raises(BundleError, match=f"^no bundle can be made: {where} is not as a bundle has it$"):
        pack(bundle)


def test_what_is_too_large_is_not_packed() -> None:
    many = tuple(
        BundleNode(f"n{number}", "a", 1, tuple(f"{'x' * 50}.{n}.example" for n in range(30)), ())
        for number in range(700)
    )
    with pytest.raises(BundleError, match="larger than 1 MiB"):
        pack(replace(BUNDLE, nodes=many))


# -------------------------------------------------------------------------------------------------- secrecy


def test_a_bundle_shows_no_key() -> None:
    shown = repr(unpack(PACKED, now=NOW)) + repr(BUNDLE)
    assert "PrivateKey(…)" in shown
    assert not [line for line in SECRETS if line in shown]
    assert is_pair(unpack(PACKED, now=NOW).credential)


def test_the_model_that_reads_it_shows_no_key() -> None:
    parsed = bundles._Content.model_validate_json(json.dumps(content()))
    assert not [line for line in SECRETS if line in repr(parsed)]


def test_pydantic_is_imported_for_bundles_alone() -> None:
    code = "import sys, certs.authority, certs.checks, certs.lifetimes; print('pydantic' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=True, capture_output=True).stdout == b"False\n"


def test_dates_need_no_cryptography() -> None:
    code = "import sys, certs.lifetimes; print('cryptography' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), check=True, capture_output=True).stdout == b"False\n"
