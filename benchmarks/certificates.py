"""Certificates for a large fleet on one core, beside the openssl commands that make the same; joining the lab's fleet.

Prints a table; with --write it also goes into README. Both make a P-256 key and a signed server certificate with the
same extensions for each node; openssl does it for fewer nodes, which is scaled up. Each bundle is joined for the first
time, on a machine that has nothing yet.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from certs.authority import create_authority, issue_node
from certs.keys import KeyType

README = Path(__file__).parent.parent / "README.md"
MARK = "<!-- bench:certificates -->\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--openssl-nodes", type=int, default=100, help="as many as openssl makes a round")
    parser.add_argument("--write", action="store_true", help="put the table into README")
    options = parser.parse_args()
    joined = _joined(options.rounds)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    table = _table(options.rounds, options.nodes, options.openssl_nodes)
    table += (
        f"| `fleet join` with three nodes, one of them emulated | {statistics.median(joined):.2f} s | under 2 s |\n"
    )
    print(table)
    if options.write:
        before, _, rest = README.read_text().partition(MARK)
        README.write_text(before + MARK + table + rest[rest.index("<!-- /bench -->") :])


def _table(rounds: int, nodes: int, openssl_nodes: int) -> str:
    ours, stock = [], []
    for _ in range(rounds):
        ours.append(_ours(nodes))
        stock.append(_openssl(openssl_nodes) * nodes / openssl_nodes)
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, stock, strict=True))
    return (
        "| what | median | to reach |\n|---|---|---|\n"
        f"| keys and certificates for {nodes:,} nodes, on one core | {statistics.median(ours):.2f} s | under 5 s |\n"
        f"| the same with `openssl`, two commands a node ({openssl_nodes} made, scaled) "
        f"| {statistics.median(stock):.1f} s, {ratio:.0f} × | |\n"
    )


def _joined(rounds: int) -> list[float]:
    """Seconds of each `fleet join`; the lab's fleet is up afterwards."""
    subprocess.run(("fleet", "up"), check=True, capture_output=True)
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            bundle = f"{folder}/bundle"
            issue = ("fleet", "certs", "issue", "bench", "--hours", "1", "-o", bundle)
            subprocess.run(issue, check=True, capture_output=True)
            elsewhere = {"FLEET_HOME": f"{folder}/vault", "BUILDX_CONFIG": f"{folder}/buildx"}
            started = time.perf_counter()
            subprocess.run(("fleet", "join", bundle), check=True, capture_output=True, env=os.environ | elsewhere)
            seconds.append(time.perf_counter() - started)
    return seconds


def _ours(nodes: int) -> float:
    now = datetime.now(UTC)
    authority = create_authority("bench CA", now=now, key_type=KeyType.P256)
    started = time.perf_counter()
    for number in range(nodes):
        address = f"10.0.{number // 250}.{number % 250}"
        issue_node(authority, f"node-{number}", names=(address, f"node-{number}", "amd64.bench"), now=now)
    return time.perf_counter() - started


def _openssl(nodes: int) -> float:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    with tempfile.TemporaryDirectory() as folder:
        ca = ("req", "-x509", *curve, "-subj", "/O=fleet/CN=bench CA", "-days", "3650")
        _run(folder, *ca, "-keyout", "ca.key", "-out", "ca.pem")
        started = time.perf_counter()
        for number in range(nodes):
            address = f"10.0.{number // 250}.{number % 250}"
            (Path(folder) / "extensions").write_text(
                "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
                f"authorityKeyIdentifier=keyid\nsubjectAltName=IP:{address},DNS:node-{number},DNS:amd64.bench\n"
            )
            _run(folder, "req", *curve, "-subj", f"/O=fleet/CN=node-{number}", "-keyout", "node.key", "-out", "request")
            _run(
                folder,
                *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "365"),
                *("-set_serial", f"0x{os.urandom(19).hex()}", "-extfile", "extensions", "-out", "node.pem"),
            )
        return time.perf_counter() - started


def _run(folder: str, *arguments: str) -> None:
    subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
