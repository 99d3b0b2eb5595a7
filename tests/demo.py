"""`make demo`: from an inventory to a native build for two platforms, on the lab's real hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import pushed

PLATFORMS = ("linux/amd64", "linux/arm64")
REPOSITORY = "demo/app"
DOCKERFILE = """\
ARG BASE=scratch
FROM $BASE
ARG STARTED
RUN echo "$STARTED" > /started && uname -m > /machine
"""


def main() -> None:
    """Bring the fleet up, build, and show who built what."""
    _say("fleet up: certificates, daemons, builder")
    _run("fleet", "up")
    _say(f"fleet build --platform {','.join(PLATFORMS)} --push")
    with tempfile.TemporaryDirectory() as context:
        (Path(context) / "Dockerfile").write_text(DOCKERFILE)
        started = time.monotonic()
        told = _build(context)
        seconds = time.monotonic() - started
    nodes = _owners()
    _say("done: every platform was built by a machine that runs it")
    row = "{:<12}  {:<6}  {:<8}  {:<19}  {}"
    print(row.format("platform", "node", "uname -m", "digest", "seconds"))
    for platform, image in pushed.read(os.environ["LAB_REGISTRY"], REPOSITORY, "latest").items():
        machine = image.files["machine"].decode().strip()
        print(row.format(platform, nodes[platform], machine, image.digest[:19], f"{told.get(platform, seconds):.1f}"))
    print("""
The lab stays up. Try things by hand:
  source .lab/env
  fleet status
  fleet build --platform linux/arm64 .
  make lab-down""")


def _build(context: str) -> dict[str, float]:
    """Build and push with plain progress, passed on as it comes; the seconds of each platform's RUN step."""
    output = f"type=image,name={os.environ['LAB_REGISTRY']}/{REPOSITORY}:latest,push=true,registry.insecure=true"
    arguments = {"BASE": os.environ["LAB_BASE_IMAGE"], "STARTED": str(time.time())}
    command = [
        *("fleet", "build", "--progress", "plain", "--platform", ",".join(PLATFORMS), "--output", output),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        context,
    ]
    steps: dict[str, str] = {}
    seconds: dict[str, float] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            sys.stderr.write(line)
            if begun := re.match(r"#(\d+) \[(linux/\S+) .*\] RUN ", line):
                steps[begun[1]] = begun[2]
            elif (ended := re.match(r"#(\d+) DONE ([\d.]+)s", line)) and ended[1] in steps:
                seconds[steps[ended[1]]] = float(ended[2])
    if process.returncode != 0:
        sys.exit(process.returncode)
    return seconds


def _owners() -> dict[str, str]:
    import json

    status = json.loads(subprocess.run(("fleet", "status", "--json"), capture_output=True, check=False).stdout)
    return {platform: node["name"] for node in status["nodes"] for platform in node["owns"]}


def _run(*command: str) -> None:
    if (status := subprocess.run(command, check=False).returncode) != 0:
        sys.exit(status)


def _say(text: str) -> None:
    print(f"\n== {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
