"""The CAs of a vault: one, or two while one takes over from the other.

    authority.pem   the CA that issues: certificate and key; not there when the inventory names it (tls.ca)
    next.pem        the one that is to take over, likewise; there during the overlap
    previous.pem    certificate of the one that was taken over from; there from the switch to the end
    ca.pem          what this machine trusts

What these files say together is the state of a rotation, and there is no other record of it. It changes with one rename
or removal each: next.pem appears (overlap), becomes authority.pem (switched), previous.pem goes (settled). Whatever is
written before or after that, a run that was killed leaves in a form that is one of the states, and that the next run
completes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fleet.adapters import pem_files
from fleet.adapters.client_files import CLIENT, TRUST
from fleet.errors import VaultError
from fleet.model.vault import Rotation

if TYPE_CHECKING:
    from pathlib import Path

    from certs.certificate import Credential
    from fleet.model.spec import KeyPair, TlsSpec

AUTHORITY, NEXT, PREVIOUS = "authority.pem", "next.pem", "previous.pem"
CLIENTS = "clients"
"""Beside the operator's own, what a CA has issued, which without one cannot be."""


@dataclass(frozen=True, slots=True)
class Authorities:
    """The CAs there are; certificates in PEM."""

    issuing: Credential
    coming: Credential | None = None
    leaving: bytes | None = None

    @property
    def rotation(self) -> Rotation:
        """Where the exchange stands: at the switch, the old certificate is stored before the coming CA moves up."""
        if self.coming:
            return Rotation.OVERLAP
        return Rotation.SWITCHED if self.leaving else Rotation.SETTLED

    @property
    def nodes_trust(self) -> bytes:
        """What nodes are to trust."""
        return _anchor(self.issuing) + (_anchor(self.coming) if self.coming else b"")

    @property
    def clients_trust(self) -> bytes:
        """What clients are to trust: all whose certificates nodes may have now."""
        match self.rotation:
            case Rotation.SWITCHED:
                return (self.leaving or b"") + _anchor(self.issuing)
            case _:
                return self.nodes_trust

    @property
    def trusts(self) -> tuple[bytes, ...]:
        """What ca.pem may hold: a run may have been killed before it added a CA, or after it took one away."""
        return self.clients_trust, _anchor(self.issuing)

    @property
    def leaving_fingerprint(self) -> str | None:
        """Of the CA that was taken over from."""
        from certs.certificate import describe

        return describe(self.leaving).fingerprint if self.leaving and not self.coming else None

    def issuer_of(self, certificate: bytes) -> str | None:
        """Fingerprint of the one of these that issued it."""
        from certs.certificate import describe, is_issued_by, split_pem

        known = split_pem(self.clients_trust)
        return next((describe(one).fingerprint for one in known if is_issued_by(certificate, one)), None)


def _anchor(authority: Credential) -> bytes:
    from certs.certificate import anchor

    return anchor(authority.certificate)


def own(directory: Path) -> Authorities | None:
    """The CAs that fleet made, whether or not ca.pem is written yet; None: there are none. Raises VaultError."""
    issuing, coming = _read_own(directory / AUTHORITY), _read_own(directory / NEXT)
    leaving = _read_previous(directory / PREVIOUS)
    if issuing is None:
        return None
    if coming and coming.certificate == issuing.certificate:
        raise VaultError(f"{directory / NEXT} is the CA of {AUTHORITY}", f"restore {directory} from a backup")
    if leaving and (leaving == issuing.certificate) is not bool(coming):
        where = "not the CA" if coming else "the CA"
        raise VaultError(f"{directory / PREVIOUS} is {where} of {AUTHORITY}", f"restore {directory} from a backup")
    return Authorities(issuing, coming, leaving)


def external(files: KeyPair) -> Authorities:
    """The CA that the inventory names, its public part checked; raises VaultError."""
    from certs.certificate import describe
    from certs.checks import check_authority

    issuing = pem_files.read_pair(files, "tls.ca")
    with pem_files.named(files.cert, "see tls.ca in the inventory"):
        # Whether it has begun or ended is for those to say who know the time.
        check_authority(issuing, describe(issuing.certificate).not_before)
    return Authorities(issuing)


def trusted(directory: Path, known: Authorities | None, tls: TlsSpec) -> Authorities | None:
    """The same as far as this machine trusts them; None: nothing was made here, or ca.pem is still to be written.

    Raises VaultError when files of the vault, or the inventory and the vault, do not go together.
    """
    authority, trust = directory / AUTHORITY, directory / TRUST
    anew = f"move {directory} away, fleet up"
    if tls.ca and (kept := _first(authority, directory / NEXT)):
        raise VaultError(
            f"{kept} is a CA of this fleet's own, and the inventory names another (tls.ca)",
            f"take tls.ca out of the inventory; to change over, do so, fleet down, {anew} with it",
        )
    dependent = _first(*(directory / name for name in (CLIENT, NEXT, PREVIOUS, CLIENTS)))
    content = pem_files.read(trust)
    if known is None:
        if left := dependent or _first(trust):
            raise VaultError(
                f"{left} is there but {AUTHORITY} is not",
                f"restore {authority} from a backup, or tls.ca in the inventory; else fleet down, {anew}",
            )
    elif content is None:
        if dependent:
            raise VaultError(f"{trust} is missing, and {dependent.name} is there", f"restore {trust} from a backup")
    elif content in known.trusts:
        return known
    elif tls.ca:
        raise VaultError(
            f"{trust} is another CA than {tls.ca.cert} (tls.ca)",
            f"restore the inventory's, or to change over: fleet down with the former one, {anew} with the new one",
        )
    else:
        raise VaultError(f"{trust} is not what {AUTHORITY} says", f"restore {directory} from a backup")
    return None


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _read_own(path: Path) -> Credential | None:
    credential = pem_files.read_credential(path, sealed=True)
    if credential:
        _check_own(path, credential.certificate)
    return credential


def _read_previous(path: Path) -> bytes | None:
    from certs.certificate import split_pem

    content = pem_files.read(path)
    if content is None:
        return None
    with pem_files.named(path, f"restore {path} from a backup"):
        certificate = b"".join(split_pem(content))
    _check_own(path, certificate)
    return certificate


def _check_own(path: Path, certificate: bytes) -> None:
    from certs.certificate import Role, describe, is_issued_by, split_pem

    if len(split_pem(certificate)) != 1 or describe(certificate).role is not Role.AUTHORITY:
        raise VaultError(f"{path} is not the certificate of one CA", f"restore {path} from a backup")
    if not is_issued_by(certificate, certificate):
        raise VaultError(f"{path} cannot be used: its certificate was changed", f"restore {path} from a backup")
