"""What an inventory may say about certificates: `tls` of the fleet and of a host, and what of it goes together."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo

from fleet.inventory.strict import File, Strict, Text
from fleet.inventory.yamltree import dotted
from fleet.model.spec import KeyPair, KeyType, TlsSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fleet.errors import Problem
    from fleet.inventory.yamltree import Tree

_NO_SECRETS = (
    "does not belong in a file that is shared: use tls.ca_passphrase_command, FLEET_CA_PASSPHRASE or the prompt"
)

REFUSED: Mapping[tuple[str, ...], str] = MappingProxyType(
    {("ca_passphrase",): _NO_SECRETS, ("passphrase",): _NO_SECRETS, ("ca", "passphrase"): _NO_SECRETS}
)
"""Keys under `tls` that would be taken for possible, and why they are not."""

_DEFAULT = TlsSpec()
_LONGEST = 3650
"""Days that fleet's own CA lasts, and so the most that what it signs can."""


def _command(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    # Unlike other messages it does not quote: somebody may have put the passphrase itself here.
    raise ValueError("must be a program and its arguments as a list, such as [pass, show, fleet/ca]")


def _less_than_lifetimes(days: int, given: ValidationInfo) -> int:
    lifetimes = {name: given.data[name] for name in ("node_days", "client_days") if name in given.data}
    for name, lifetime in lifetimes.items():
        if days >= lifetime:
            raise ValueError(f"must be less than {name} ({lifetime}), else every fleet up would renew; it is {days}")
    return days


_Days = Annotated[int, Field(ge=1, le=_LONGEST)]


class Credential(Strict):
    """A certificate that somebody else issued, and its key: two PEM files, or one that holds both."""

    cert: File = Field(description="The certificate, then its issuers; relative to the inventory's folder.")
    key: File = Field(description="Its private key; may be the same file.")


class _Authority(Strict):
    cert: File = Field(description="The certificate that signs, then its issuers; relative to the inventory's folder.")
    key: File | None = Field(default=None, description="Its private key; not needed where nothing is to be signed.")


class Tls(Strict):
    """Where certificates come from, and how the ones are that fleet issues."""

    model_config = ConfigDict(json_schema_extra={"dependentRequired": {"client": ["ca"]}})

    ca: _Authority | None = Field(default=None, description="An existing CA; fleet makes its own if left out.")
    ca_passphrase_command: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_command)] | None = Field(
        default=None, description="Program and arguments that print the passphrase of the CA's key."
    )
    client: Credential | None = Field(
        default=None, description="The operator's certificate, issued by somebody else; needs ca."
    )
    key_type: KeyType = Field(default=_DEFAULT.key_type, description="Kind of the keys that fleet makes.")
    node_days: _Days = Field(default=_DEFAULT.node_days, description="Days that nodes' certificates last.")
    client_days: _Days = Field(default=_DEFAULT.client_days, description="Days that clients' certificates last.")
    renew_days: Annotated[int, Field(ge=1, le=365), AfterValidator(_less_than_lifetimes)] = Field(
        default=_DEFAULT.renew_days,
        validate_default=True,
        description="Days before its end from which a certificate is warned of and renewed.",
    )

    def spec(self) -> TlsSpec:
        """The same, as the rest of fleet knows it."""
        return TlsSpec(
            ca=key_pair(self.ca),
            ca_passphrase_command=self.ca_passphrase_command or (),
            client=key_pair(self.client),
            key_type=self.key_type,
            node_days=self.node_days,
            client_days=self.client_days,
            renew_days=self.renew_days,
        )


def key_pair(files: Credential | _Authority | None) -> KeyPair | None:
    """The same, as the rest of fleet knows it."""
    return KeyPair(files.cert, files.key) if files else None


def problems(tree: Tree) -> Iterator[Problem]:
    """Certificates that nobody could check or sign; skips what is malformed in other ways."""
    tls, hosts = tree.value.get("tls", {}), tree.value.get("hosts")
    if not isinstance(tls, dict):
        return
    named = hosts.items() if isinstance(hosts, dict) else ()
    brought: dict[tuple[str, ...], bool] = {
        ("hosts", name, "tls"): "tls" in host for name, host in named if isinstance(host, dict)
    }
    brought[("tls", "client")] = "client" in tls
    if "ca" not in tls:
        for path in (path for path, given in brought.items() if given):
            other = "nodes" if path == ("tls", "client") else "clients"
            yield tree.problem(path, f"needs tls.ca, its issuer: without that, {other} would not know whom to trust")
    elif isinstance(tls["ca"], dict) and "key" not in tls["ca"]:
        missing = ", ".join(dotted(path) for path, given in brought.items() if not given)
        if missing:
            yield tree.problem(("tls", "ca"), f"has no key to sign with: give it, or what it would sign: {missing}")
