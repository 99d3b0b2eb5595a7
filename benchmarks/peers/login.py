"""The least that a Python can do with the libraries of fleet: log in to every host at once, and run `true` there.

Arguments: known_hosts, the key, and ADDRESS:PORT of each host.
"""

from __future__ import annotations

import sys
import threading

import docker  # noqa: F401 - what asks Docker has to be loaded
import paramiko

known, key, *places = sys.argv[1:]
done: list[int] = []


def log_in(place: str) -> None:
    """One host."""
    address, _, port = place.rpartition(":")
    client = paramiko.SSHClient()
    client.load_host_keys(known)
    client.connect(address, int(port), username="build", key_filename=key, allow_agent=False, look_for_keys=False)
    _, said, _ = client.exec_command("true")
    done.append(said.channel.recv_exit_status())


threads = [threading.Thread(target=log_in, args=(place,)) for place in places]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert done == [0] * len(places)
