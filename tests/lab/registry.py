"""Two registries on one store: plain http, and TLS under a CA of the lab's own."""

import json
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.lab.images import Layout
from tests.lab.processes import Service
from tests.lab.settings import GATEWAY, REGISTRY, TLS_REGISTRY, Home
from tests.lab.shell import LabError, run, tail, write
from tests.lab.waiting import wait_for


@dataclass(frozen=True, slots=True)
class Registry:
    """Debian's docker-registry on one address of the machine."""

    name: str
    address: str
    home: Home
    tls: bool

    @property
    def service(self) -> Service:
        """Its process."""
        return Service(self.home.run / f"{self.name}.json", self.home.logs / f"{self.name}.log")

    @property
    def healthy(self) -> bool:
        """Whether it runs and takes connections."""
        return self.service.pid() is not None and answers(self.address)

    def start(self, programs: Path) -> None:
        """Start it unless it is healthy."""
        if self.healthy:
            return
        self.service.stop()
        http: dict[str, object] = {"addr": self.address, "secret": "lab"}
        if self.tls:
            certificate, key = make_certificate(self.home.keys / "tls")
            http["tls"] = {"certificate": str(certificate), "key": str(key)}
        storage = {"filesystem": {"rootdirectory": str(self.home.registry)}, "delete": {"enabled": True}}
        config = self.home.run / f"{self.name}.yml"
        log = {"level": "warn", "accesslog": {"disabled": True}}
        write(config, json.dumps({"version": 0.1, "log": log, "storage": storage, "http": http}))  # JSON is YAML
        self.service.start((programs / "usr/bin/docker-registry", "serve", config))
        wait_for(lambda: self.healthy or self.service.pid() is None, 10, self.name)
        if not self.healthy:
            raise LabError(f"{self.name} ended at once ({self.service.log}):\n{tail(self.service.log)}")


def registries(home: Home) -> tuple[Registry, Registry]:
    """The lab's registries, the plain one first."""
    plain = Registry("registry", REGISTRY, home, tls=False)
    return plain, Registry("tls-registry", TLS_REGISTRY, home, tls=True)


def push(layout: Layout, reference: str) -> None:
    """Bring an image with all its platforms into the plain registry, unless that very image is there."""
    target = f"docker://{REGISTRY}/{reference}"
    try:
        # of a multi-platform image skopeo shows the digest of the index
        present = run("skopeo", "inspect", "--tls-verify=false", "--format={{.Digest}}", target).strip()
    except LabError:
        present = ""
    if present != layout.digest:
        run("skopeo", "copy", "--all", "--quiet", "--dest-tls-verify=false", f"oci:{layout.path}", target)


def answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """The TLS registry's certificate and key under `ca.pem`, made once."""
    certificate, key = folder / "registry.pem", folder / "registry-key.pem"
    if not certificate.exists():
        folder.mkdir(parents=True, exist_ok=True)
        ca, ca_key, draft = folder / "ca.pem", folder / "ca-key.pem", folder / "registry.draft"
        new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        run(*new, "-days", "825", "-subj", "/CN=lab registry CA", "-keyout", ca_key, "-out", ca)
        signed = ("-CA", ca, "-CAkey", ca_key, "-addext", f"subjectAltName=IP:{GATEWAY}")
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth")
        run(*new, "-days", "825", "-subj", f"/CN={GATEWAY}", *signed, *leaf, "-keyout", key, "-out", draft)
        draft.rename(certificate)
    return certificate, key
