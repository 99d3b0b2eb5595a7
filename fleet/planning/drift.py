"""What of a container is not as fleet made it, or would make it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fleet.model.facts import Image
from fleet.model.spec import pull_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fleet.containers.daemon import DaemonSpec
    from fleet.containers.proxy import ProxySpec
    from fleet.model.facts import DaemonFacts


def drift(
    daemon: DaemonFacts, wanted: DaemonSpec | ProxySpec, image: Image, *, but: Collection[str] = ()
) -> tuple[str, ...]:
    """Each difference as a reason to replace it; `image`: whether the host has it; `but`: settings that may differ.

    First what it was made from, as its label says. Where that is as it is wanted, what Docker does for it has been
    changed by hand if it differs; so have been files that are not what was put there.
    """
    settings = {name: value for name, value in wanted.settings.items() if name not in but}
    reasons = _differences(daemon.settings, settings)
    if not reasons and daemon.enforced is not None:
        enforced = dict(daemon.enforced)
        loaded = enforced.get("image") == pull_mark(wanted.fleet, wanted.image)  # it is not known by its digest
        nameless = has_other_image(daemon) and image is Image.ABSENT
        if loaded or nameless:
            enforced["image"] = wanted.image
        reasons = _differences(enforced, wanted.enforced)
    return (*reasons, *(f"{path} was changed by hand" for path in daemon.changed))


def has_other_image(daemon: DaemonFacts) -> bool:
    """Whether the name of its image means another one by now, or none."""
    return (daemon.enforced or {}).get("image", "").startswith("sha256:")


def _differences(has: Mapping[str, str], wanted: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {has.get(name, 'unset') or 'none'} → {value or 'none'}"
        for name, value in wanted.items()
        if has.get(name) != value
    )
