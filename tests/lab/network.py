"""The bridge that joins the machine and its hosts, and the cables to it."""

from pathlib import Path

from tests.lab.settings import BRIDGE, GATEWAY, Host
from tests.lab.shell import LabError, run, succeeds

# With br_netfilter loaded, a machine that forwards nothing would also cut the hosts off from each other.
_BRIDGED = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_RULE = ("FORWARD", "-i", BRIDGE, "-o", BRIDGE, "-j", "ACCEPT")
# Left to itself, a bridge takes the lowest address of its ports: the death of one host would then leave all
# others with a stale entry for the machine.
_BRIDGE_MAC = "02:f1:ee:7a:00:01"


def exists(link: str) -> bool:
    """Whether the machine has this network link."""
    return Path("/sys/class/net", link).exists()


def up() -> None:
    """Make the bridge, or mend it."""
    if not exists(BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "replace", f"{GATEWAY}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "address", _BRIDGE_MAC, "up")
    if _BRIDGED.exists() and _BRIDGED.read_text().strip() == "1" and not succeeds("iptables", "-C", *_RULE):
        run("iptables", "-I", *_RULE)


def down() -> None:
    """Remove the bridge; idempotent."""
    while succeeds("iptables", "-C", *_RULE):
        run("iptables", "-D", *_RULE)
    if exists(BRIDGE):
        run("ip", "link", "delete", BRIDGE)


def healthy() -> bool:
    """Whether the bridge is up with its address."""
    return exists(BRIDGE) and f" {GATEWAY}/24 " in run("ip", "-4", "address", "show", "dev", BRIDGE, "up")


def plug_namespace(host: Host, pid: int) -> None:
    """Give the network namespace of a process its eth0."""
    unplug(host)
    run("ip", "link", "add", host.link, "type", "veth", "peer", "name", "eth0", "address", host.mac, "netns", str(pid))
    _connect(host)


def plug_machine(host: Host) -> None:
    """Make the tap that a virtual machine opens as its network card."""
    if not Path("/dev/net/tun").exists():
        raise LabError("/dev/net/tun is missing: `modprobe tun`, or run without the arm64 host")
    unplug(host)
    run("ip", "tuntap", "add", host.link, "mode", "tap")
    _connect(host)


def unplug(host: Host) -> None:
    """Remove the host's cable; idempotent."""
    # that of a dying namespace may go by itself at this very moment
    if not succeeds("ip", "link", "delete", host.link) and exists(host.link):
        raise LabError(f"network link {host.link} cannot be removed")
    _forget_neighbour(host)


def blackhole(host: Host) -> None:
    """Let all packets from and to the host vanish.

    The fixed neighbour entry keeps the machine sending: without it, it would soon report the host unreachable.
    """
    run("ip", "neighbour", "replace", host.address, "lladdr", host.mac, "dev", BRIDGE, "nud", "permanent")
    run("ip", "link", "set", host.link, "down")


def restore(host: Host) -> None:
    """Undo blackhole, or the loss of the bridge; idempotent."""
    _connect(host)
    _forget_neighbour(host)


def _forget_neighbour(host: Host) -> None:
    run("ip", "neighbour", "flush", "to", host.address, "nud", "all")


def _connect(host: Host) -> None:
    run("ip", "link", "set", host.link, "master", BRIDGE)
    run("ip", "link", "set", host.link, "up")
