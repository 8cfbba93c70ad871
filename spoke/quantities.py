"""Amounts of resources as users write them: for jobs and pools by one parser, for calls number by number.

``{"CPU": 2, "GPU": 0.5, "memory": "2GB", "licence": 1}``: memory in bytes, or text with a suffix (k, m,
g, t, with or without "b" or "ib"; powers of 1024); an empty text and "0" are zero, and zeros are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spoke.config import parse_bytes
from spoke.limits import RESOURCE_UNIT

_MISSPELT = {"cpu": "CPU", "cpus": "CPU", "num_cpus": "CPU", "gpu": "GPU", "gpus": "GPU", "num_gpus": "GPU",
             "mem": "memory", "Memory": "memory", "MEMORY": "memory"}  # fmt: skip


def amounts(resources: Mapping[str, Any] | None) -> dict[str, float]:
    """Amounts by name, as numbers, without zeros.

    Raises:
        TypeError: `resources` is not a mapping of names.
        ValueError: an amount is negative, not finite or not a number, memory is no size, or a name is a
            misspelling of CPU, GPU or memory.
    """
    if resources is None:
        return {}
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources is a mapping such as {{'CPU': 1}}, not {type(resources).__name__}")
    found: dict[str, float] = {}
    for name, amount in resources.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a resource is a text, not {name!r}")
        if name in _MISSPELT:
            raise ValueError(f"unknown resource {name!r}: write {_MISSPELT[name]!r}")
        value = _amount(name, amount)
        if value:
            found[name] = value
    return found


def _amount(name: str, amount: Any) -> float:
    if name == "memory" and isinstance(amount, str):
        try:
            return float(parse_bytes(amount)) if amount.strip() else 0.0
        except ValueError:
            raise ValueError(f"memory {amount!r} is not a size: write bytes, or text such as '2GB'") from None
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise ValueError(f"the amount of {name!r} is a number, not {amount!r}")
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f"the amount of {name!r} is finite and not negative, not {amount!r}")
    return float(amount)


def actor_options(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """The same amounts as options of `remote`: num_cpus, num_gpus, memory, resources."""
    found = amounts(resources)
    return {
        "num_cpus": found.pop("CPU", 0),
        "num_gpus": found.pop("GPU", 0),
        "memory": int(found.pop("memory", 0)) or None,
        "resources": found or None,
    }


# -- of tasks, actors, bundles and nodes ---------------------------------------------------------------


def check_quantity(name: str, value: Any) -> float:
    """An amount of a resource as a float.

    Raises:
        TypeError: not a number.
        ValueError: negative, not a number (NaN), or finer than 0.0001.
        OverflowError: infinite.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"The quantity of resource {name} must be a number, but received {type(value)}")
    if math.isnan(value):
        raise ValueError(f"The quantity of resource {name} cannot be NaN")
    if math.isinf(value):
        raise OverflowError(f"The quantity of resource {name} cannot be infinite")
    if value < 0:
        raise ValueError(f"The quantity of resource {name} cannot be negative")
    if 0 < value < RESOURCE_UNIT:
        raise ValueError(
            f"The precision of the fractional quantity of resource {name} cannot go beyond {RESOURCE_UNIT}"
        )
    return float(value)


def check_whole_gpus(amount: float) -> None:
    """ValueError for more than one GPU and no whole number of them."""
    if amount > 1 and amount != int(amount):
        raise ValueError(f"num_gpus: quantities above 1 must be whole numbers, {amount} is not")


def check_node_quantity(name: str, value: Any) -> float:
    """An amount that a node or a bundle has: `check_quantity`, and GPUs above one are whole."""
    amount = check_quantity(name, value)
    if name in ("num_gpus", "GPU"):
        check_whole_gpus(amount)
    return amount
