"""Counting the resources of one node, or of one bundle of a group, in fixed point.

Rules of this module: amounts are integers in units of 1/10000, so that a thousand takes and gives
end exactly where they began.  GPUs are devices with an index: a request for whole GPUs takes whole
devices, close to each other where that is known, a fraction takes a share of exactly one device (GANG-1).
What is free of a device that a process nobody answers for holds is withheld: it counts as taken, by no
one (GANG-3).  Nothing here knows about nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spoke.core.topology import NO_DOMAINS, Domains, pick

UNIT: Final = 10_000
GPU: Final = "GPU"
CPU: Final = "CPU"

Amounts = dict[str, int]


def to_units(resources: Mapping[str, Any]) -> Amounts:
    """Float amounts by name -> units, without zeros.

    Raises:
        ValueError: a name that is not text, an amount that is negative, not finite or not a number,
            or more than one GPU with a fraction.
    """
    amounts: Amounts = {}
    for name, value in resources.items():
        if type(name) is not str or type(value) not in (int, float):
            raise ValueError(f"resource {name!r}: {value!r} is not an amount")
        if not 0 <= value < 1e15:
            raise ValueError(f"resource {name!r}: {value!r} is out of range")
        units = round(value * UNIT)
        if units:
            amounts[name] = units
    gpus = amounts.get(GPU, 0)
    if gpus > UNIT and gpus % UNIT:
        raise ValueError(f"more than one GPU must be a whole number, not {gpus / UNIT}")
    return amounts


def to_floats(amounts: Mapping[str, int]) -> dict[str, float]:
    """Units -> floats by name."""
    return {name: units / UNIT for name, units in amounts.items()}


def show(amounts: Mapping[str, int]) -> str:
    """Readable amounts, as error texts show them: ``{CPU: 1, GPU: 0.5}``."""
    return "{" + ", ".join(f"{name}: {units / UNIT:g}" for name, units in amounts.items()) + "}"


class Share:
    """What one taker took from a ledger; give exactly this back."""

    __slots__ = ("amounts", "devices")

    def __init__(self, amounts: Amounts, devices: tuple[tuple[int, int], ...]) -> None:
        self.amounts = amounts
        self.devices = devices  # (index, units) per GPU

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        return tuple(index for index, _ in self.devices)


class Ledger:
    """Total and free amounts.  `free` may go below zero for CPUs only, by `overdraw`."""

    __slots__ = ("device_free", "device_total", "domains", "free", "name", "stale", "total", "withheld")

    def __init__(
        self, total: Amounts, devices: Mapping[int, int] | None = None, domains: Domains = NO_DOMAINS
    ) -> None:
        if devices is None:
            devices = dict.fromkeys(range(total.get(GPU, 0) // UNIT), UNIT)
            if GPU in total:
                total = {**total, GPU: len(devices) * UNIT}  # part of a device is no device
        self.total = total
        self.free = dict(total)
        self.device_total = dict(devices)
        self.device_free = dict(devices)
        self.domains = domains  # of the devices
        self.withheld: dict[int, int] = {}  # units of devices that are free but must not be taken
        self.stale: dict[bytes, bool] | None = None  # where a change is noted
        self.name = b""

    def watch(self, stale: dict[bytes, bool], name: bytes) -> None:
        """Note every change from now on as ``stale[name]``."""
        self.stale = stale
        self.name = name

    def copy(self) -> Ledger:
        twin = Ledger.__new__(Ledger)
        twin.total = self.total
        twin.device_total = self.device_total
        twin.free = dict(self.free)
        twin.device_free = dict(self.device_free)
        twin.domains = self.domains
        twin.withheld = dict(self.withheld)
        twin.stale = None
        return twin

    def empty_copy(self) -> Ledger:
        """The same node with nothing taken."""
        return Ledger(self.total, self.device_total, self.domains)

    def _devices(self, units: int) -> tuple[tuple[int, int], ...] | None:
        if units < UNIT:
            best = -1
            for index, free in self.device_free.items():  # tightest fit keeps whole devices whole
                if free >= units and (best < 0 or free < self.device_free[best]):
                    best = index
            return None if best < 0 else ((best, units),)
        whole = [index for index, free in self.device_free.items() if free >= UNIT]
        count = units // UNIT
        if len(whole) < count:
            return None
        return tuple((index, UNIT) for index in sorted(pick(whole, count, self.domains)))

    def fits(self, need: Amounts) -> bool:
        """Whether `take` would succeed now."""
        free = self.free
        for name, units in need.items():
            if free.get(name, 0) < units:
                return False
        gpus = need.get(GPU)
        if gpus is None:
            return True
        if gpus < UNIT:
            return any(free >= gpus for free in self.device_free.values())
        return sum(free >= UNIT for free in self.device_free.values()) >= gpus // UNIT

    def take(self, need: Amounts, devices: tuple[tuple[int, int], ...] = ()) -> Share | None:
        """All of `need` (of these free devices, if given), or None and nothing changed."""
        free = self.free
        for name, units in need.items():
            if free.get(name, 0) < units:
                return None
        gpus = need.get(GPU)
        if gpus is not None:
            picked = devices or self._devices(gpus)
            if picked is None:
                return None
            devices = picked
            for index, units in devices:
                self.device_free[index] -= units
        for name, units in need.items():
            free[name] -= units
        if self.stale is not None:
            self.stale[self.name] = True
        return Share(need, devices)

    def give(self, share: Share) -> None:
        """Return a share."""
        for name, units in share.amounts.items():
            self.free[name] += units
        for index, units in share.devices:
            if index in self.withheld:
                self.withheld[index] += units
                self.free[GPU] -= units
            else:
                self.device_free[index] += units
        if self.stale is not None:
            self.stale[self.name] = True

    def withhold(self, index: int) -> None:
        """Nobody gets what is free of this device, nor what comes back of it, until it is readmitted."""
        units = self.device_free.get(index)
        if units is None or index in self.withheld:
            return
        self.withheld[index] = units
        self.device_free[index] = 0
        self.free[GPU] -= units
        if self.stale is not None:
            self.stale[self.name] = True

    def readmit(self, index: int) -> None:
        """A withheld device may be taken again."""
        units = self.withheld.pop(index, None)
        if units is None:
            return
        self.device_free[index] += units
        self.free[GPU] += units
        if self.stale is not None:
            self.stale[self.name] = True

    def lend(self, units: int) -> None:
        """The holder of `units` of CPU sleeps: others may use them meanwhile."""
        self.free[CPU] += units
        if self.stale is not None:
            self.stale[self.name] = True

    def overdraw(self, units: int) -> None:
        """The holder woke up and takes its CPUs back at once, even below zero."""
        self.free[CPU] -= units
        if self.stale is not None:
            self.stale[self.name] = True

    def subtract(self, amounts: Amounts) -> None:
        """Hide amounts from takers (of a trial copy)."""
        for name, units in amounts.items():
            if name in self.free:
                self.free[name] -= units

    def idle(self) -> bool:
        """Whether everything was given back."""
        if not self.withheld:
            return self.free == self.total and self.device_free == self.device_total
        back = self.copy()
        for index in self.withheld:
            back.readmit(index)
        return back.idle()

    def utilisation(self) -> float:
        """Share in use of the scarcest of CPU, GPU and memory, 0 to 1."""
        worst = 0.0
        for name in (CPU, GPU, "memory"):
            total = self.total.get(name, 0)
            if total:
                used = 1 - self.free[name] / total
                if used > worst:
                    worst = used
        return worst

    def validate(self) -> None:
        assert self.free.keys() == self.total.keys()
        for name, units in self.free.items():
            assert units <= self.total[name], f"{name}: {units} free of {self.total[name]}"
            assert units >= 0 or name == CPU, f"GANG-1: {name} oversold: {units}"
        for index, units in self.device_free.items():
            kept = self.withheld.get(index, 0)
            assert 0 <= units + kept <= self.device_total[index], f"GANG-1: device {index}: {units}"
            assert not units or index not in self.withheld, f"GANG-3: device {index} is withheld"
        gpus_free = self.free.get(GPU, 0)
        assert sum(self.device_free.values()) == gpus_free, "GPU devices and amount disagree"
