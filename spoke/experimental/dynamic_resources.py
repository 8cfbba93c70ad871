"""Names of `ray.experimental.dynamic_resources`."""

from __future__ import annotations

from typing import NoReturn

from spoke import absent


def set_resource(resource_name: str, capacity: float, node_id: str | None = None) -> NoReturn:
    """Resources of a running node cannot be changed.

    Raises:
        DeprecationWarning: always, as in Ray.
    """
    raise DeprecationWarning(
        f"Dynamic custom resources ({resource_name!r}) are deprecated: use placement groups, or give the "
        "node its resources when it starts."
    )


__getattr__ = absent.getter(__name__)
