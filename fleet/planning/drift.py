"""What of a container is not as fleet made it, or would make it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.model.spec import pull_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fleet.containers.daemon import DaemonSpec
    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import DaemonFacts


def drift(daemon: DaemonFacts, wanted: DaemonSpec | ProxySpec, *, but: Collection[str] = ()) -> tuple[str, ...]:
    """Each difference as a reason to replace it; `but`: settings that may differ.

    First what it was made from, as its label says. Where that is as it is wanted, what Docker does for it has been
    changed by hand if it differs; so have been files that are not what was put there.
    """
    settings = {name: value for name, value in wanted.settings.items() if name not in but}
    reasons = _differences(daemon.settings, settings)
    if not reasons and daemon.enforced is not None:
        enforced = dict(daemon.enforced)
        if enforced.get("image") == pull_mark(wanted.fleet, wanted.image):
            enforced["image"] = wanted.image  # one that was loaded is not known by its digest
        reasons = _differences(enforced, wanted.enforced)
    return (*reasons, *(f"{path} was changed by hand" for path in daemon.changed))


def _differences(has: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {has.get(name, 'unset') or 'none'} → {value or 'none'}"
        for name, value in wanted.items()
        if has.get(name) != value
    )
