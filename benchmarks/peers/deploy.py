"""A BuildKit daemon with mutual TLS on every host, with what pyinfra brings."""

from pyinfra import host
from pyinfra.operations import docker, files, server

data = host.data
folder = files.directory(name="Folder", path=data.folder, mode="700")
changed = [
    files.put(name=file, src=f"{data.certificates}/{file}", dest=f"{data.folder}/{file.rpartition('/')[2]}", mode="600")
    for file in ("buildkitd.toml", "ca.pem", f"{host.name}/cert.pem", f"{host.name}/key.pem")
]
container = docker.container(
    name="Container",
    container=data.container,
    image=data.image,
    ports=[f"{data.port}:1234"],
    volumes=[f"{data.container}:/var/lib/buildkit", f"{data.folder}:/etc/buildkit:ro"],
    privileged=True,
    restart_policy="unless-stopped",
    extra_args=["--init"],
)
server.shell(
    name="Configuration",
    commands=[f"docker restart {data.container}"],
    _if=lambda: any(file.did_change() for file in changed) and not container.did_change(),
)
server.shell(
    name="Daemon",
    commands=[f"docker exec {data.container} buildctl --wait debug workers"],
    _if=lambda: container.did_change() or any(file.did_change() for file in changed),
)
