"""What a machine that has joined a fleet keeps: ca.pem and client.pem as an operator does, and no CA.

membership.json    the nodes and the certificate's dates; it is there first and goes last, and marks the folder
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fleet import membership
from fleet.adapters import lock, pem_files
from fleet.adapters.authorities import AUTHORITY
from fleet.adapters.client_files import CLIENT, MEMBERSHIP, TRUST, described, has_joined, home
from fleet.adapters.vault import FileVault
from fleet.errors import UsageError, VaultError
from fleet.model.facts import CertificateFacts
from fleet.model.vault import VaultFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from certs.bundle import Bundle
    from fleet.membership import Membership
    from fleet.model.spec import FleetSpec


def load(fleet: str) -> FleetSpec:
    """A fleet that this machine has joined; raises VaultError."""
    kept = MemberVault(home() / fleet).membership()
    if kept is None:
        raise VaultError(f"there is no {described(fleet)} any more", "fleet join BUNDLE")
    return kept.spec


class MemberVault(FileVault):
    """A vault whose client certificate came with a bundle; it cannot issue anything."""

    def has_client(self) -> bool:
        """Whether there is something to speak mutual TLS with; exposed files raise VaultError."""
        with pem_files.translated():
            self._refuse_exposed(MEMBERSHIP, CLIENT)
        return super().has_client()

    def _refuse_exposed(self, *files: str) -> None:
        """Raise VaultError for what others could read, in terms of one who has no CA."""
        known = "ask the fleet's operator to take this access away, and for a new bundle"
        for path, mode in ((self.directory, 0o700), *((self.directory / file, 0o600) for file in files)):
            if path.exists():
                pem_files.refuse_exposed(path, mode, known=known)

    def membership(self) -> Membership | None:
        """What the bundle said; None: this machine has not joined. Raises VaultError for what join did not write."""
        path = self.directory / MEMBERSHIP
        with pem_files.translated():
            self._refuse_exposed(MEMBERSHIP)
            content = pem_files.read(path)
        if content is None:
            return None
        try:
            kept = membership.parse(content.decode())
            if kept.fleet != self.directory.name:
                raise ValueError("it is another fleet's")
        except ValueError as error:
            name = self.directory.name
            raise VaultError(
                f"{path} cannot be read: {error}", f"fleet join the bundle again, or fleet leave {name}"
            ) from error
        return kept

    @pem_files.translated()
    def read(self) -> VaultFacts:
        """The certificate and whom it trusts; raises VaultError for files that are torn, exposed or do not fit."""
        files = [self.directory / name for name in (MEMBERSHIP, TRUST, CLIENT)]
        return pem_files.steadily(files, self._look)

    def _look(self) -> VaultFacts:
        from certs.certificate import Role, describe, read_credential, split_pem
        from certs.checks import check_leaf
        from certs.keys import CertificateError

        kept = self.membership()
        remedy = f"fleet join the bundle again, or fleet leave {self.directory.name}"
        if kept is None or not self.has_client():
            raise VaultError(f"the keys in {self.directory} are not complete", remedy)
        with pem_files.named(self.directory / CLIENT, remedy):
            client = read_credential((self.directory / CLIENT).read_bytes())
            described = describe(client.certificate)
        trust = (self.directory / TRUST).read_bytes()
        with pem_files.named(self.directory / TRUST, remedy):
            fingerprints = tuple(describe(one).fingerprint for one in split_pem(trust))
        with pem_files.named(self.directory / CLIENT, remedy):
            check_leaf(client, Role.CLIENT, trust, described.not_before)
            if described.serial != kept.serial:
                raise CertificateError(f"it is not the certificate that {MEMBERSHIP} tells of")
        return VaultFacts(None, None, CertificateFacts.of(described), self.client_files, trust=fingerprints)

    def check(self, bundle: Bundle, *, force: bool) -> Membership:
        """What the bundle gives; raises UsageError when it must not be stored here. See `membership.refuse_bundle`.

        Raises VaultError for a folder in which others could read the key.
        """
        from certs.certificate import describe, split_pem
        from certs.keys import CertificateError

        new = membership.membership(bundle)
        trusted: set[str] = set()
        with pem_files.translated():
            self._refuse_exposed()
            operators = (AUTHORITY,) if has_joined(bundle.fleet) else (AUTHORITY, CLIENT, TRUST)
            if any((self.directory / name).exists() for name in operators):
                raise UsageError(
                    f"{self.directory} is the vault of an operator of {bundle.fleet}, who needs no bundle",
                    "to try the bundle out here, give it a folder of its own: FLEET_HOME=DIR fleet join …",
                )
            # Torn files are no reason to refuse what mends them.
            with suppress(FileNotFoundError, CertificateError):
                trusted = {describe(one).fingerprint for one in split_pem((self.directory / TRUST).read_bytes())}
        stored = None
        with suppress(VaultError):
            stored = self.membership()
        trust = {describe(one).fingerprint for one in split_pem(bundle.trust)}
        membership.refuse_bundle(new, trust, stored, trusted, force=force)
        return new

    @pem_files.translated()
    def store(self, bundle: Bundle) -> None:
        """Put the bundle in place of what is there; interrupted at any point, joining again completes it."""
        credential = bundle.credential
        pem_files.write(self.directory / MEMBERSHIP, membership.dump(membership.membership(bundle)).encode())
        pem_files.write(self.directory / TRUST, bundle.trust)
        pem_files.write(self.directory / CLIENT, credential.certificate + credential.key.reveal())

    @pem_files.translated()
    def settle(self, answer: Callable[[Mapping[str, str]], bool]) -> None:
        """Trust the newest of several CAs alone, if all nodes `answer` to client files that do.

        A bundle of an exchange of the CA names the old one, too, and nobody comes to take it away.
        """
        from certs.certificate import split_pem

        known = split_pem(pem_files.read(self.directory / TRUST) or b"")
        if len(known) < 2:
            return
        # Named so that the lock's next holder removes what is left of a run that was killed.
        alone = self.directory / f".{TRUST}.alone.new"
        pem_files.write(alone, known[-1])
        try:
            if answer({**self.client_files, "cacert": str(alone)}):
                alone.replace(self.directory / TRUST)
                pem_files.settle(self.directory)
        finally:
            alone.unlink(missing_ok=True)

    @pem_files.translated()
    def forget_keys(self) -> None:
        """Remove what can be used, the key first; the folder goes on being one that `forget` has to finish."""
        for name in (CLIENT, TRUST):
            (self.directory / name).unlink(missing_ok=True)

    @pem_files.translated()
    def forget(self) -> None:
        """Remove what joining has put there; what else is there stays. The lock goes last: nothing is held after it."""
        self.forget_keys()
        for name in (MEMBERSHIP, lock.FOLLOWED, lock.FILE):
            (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()
