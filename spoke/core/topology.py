"""How the devices of one node are connected, and which of them to take together.

Rules of this module: a domain is a set of GPUs that share something, of one of the kinds in `KINDS`, the
closest first; every two GPUs of an NVLink domain are linked.  A node that reported nothing has no domains,
and then devices are taken in the order of their indices.  Reports come from peers: anything malformed
raises `ValueError`.

The report of an agent::

    gpus   [{uuid, name, pci, numa, memory, links: [indices of GPUs that NVLink connects it to]}, ...]
    nics   [{name, pci, numa, up, net: [interfaces]}, ...]
    cpus   {NUMA node: [CPUs]}
    variable  the one that limits a process to its GPUs
    visible  names of the GPUs for that variable, by index; empty: their indices
    noset    workers are not given that variable
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

KINDS: Final = ("nvlink", "numa")
Domains = tuple[tuple[tuple[int, ...], ...], ...]  # for each of KINDS, its domains as GPU indices
NO_DOMAINS: Final[Domains] = ()
DEVICES_MAX: Final = 1024


class Topology:
    """One node's report, checked."""

    __slots__ = ("cpus", "domains", "gpus", "nics", "noset", "variable", "visible")

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.gpus = [_gpu(row) for row in _rows(report, "gpus")]
        self.nics = [_nic(row) for row in _rows(report, "nics")]
        cpus = report.get("cpus") or {}
        if not isinstance(cpus, Mapping):
            raise ValueError("cpus must be listed by NUMA node")
        self.cpus: dict[str, list[int]] = {str(node): list(listed) for node, listed in cpus.items()}
        self.visible: list[str] = list(report.get("visible") or [])
        if not all(type(name) is str for name in self.visible):
            raise ValueError("visible must list the names of the GPUs")
        self.noset = bool(report.get("noset"))
        self.variable = _text(report, "variable") or "CUDA_VISIBLE_DEVICES"
        by_numa: dict[int, list[int]] = {}
        for index, gpu in enumerate(self.gpus):
            if gpu["numa"] >= 0:
                by_numa.setdefault(gpu["numa"], []).append(index)
        linked = _cliques([gpu["links"] for gpu in self.gpus])
        self.domains: Domains = (linked, tuple(tuple(one) for one in by_numa.values()))
        if not any(self.domains):
            self.domains = NO_DOMAINS

    def plain(self) -> dict[str, Any]:
        """The report, as far as it was understood, for displays."""
        return {"gpus": self.gpus, "nics": self.nics, "cpus": self.cpus}

    def shown(self, indices: Iterable[int]) -> list[int | str]:
        """What a program calls these GPUs: by number, or as the variable that the node was given does."""
        return [self.visible[index] if index < len(self.visible) else index for index in indices]

    def domain_of(self, kind: str, index: int) -> int | None:
        """The number of the domain of one kind that a GPU is in."""
        if not self.domains:
            return None
        groups = self.domains[KINDS.index(kind)]
        return next((number for number, group in enumerate(groups) if index in group), None)

    def nearest_nic(self, indices: Sequence[int], turn: int) -> str:
        """Name of a NIC for these GPUs: active, on their NUMA node if one is, in turns; "" without any."""
        usable = [nic for nic in self.nics if nic["up"]] or self.nics
        nodes = [self.gpus[index]["numa"] for index in indices if index < len(self.gpus)]
        near = [nic for nic in usable if nic["numa"] >= 0 and nic["numa"] in nodes] or usable
        return str(near[turn % len(near)]["name"]) if near else ""


def _rows(report: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = report.get(name, [])
    if not isinstance(rows, list) or len(rows) > DEVICES_MAX:
        raise ValueError(f"{name} must be a list of at most {DEVICES_MAX} devices")
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"{name}: a device is described by a table")
    return rows


def _gpu(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _text(row, name) for name in ("uuid", "name", "pci")}
    links = row.get("links") or []
    if not isinstance(links, list) or not all(type(other) is int for other in links):
        raise ValueError("the links of a GPU are indices of others")
    return {**found, "numa": _whole(row, "numa", -1), "memory": _whole(row, "memory", 0), "links": links}


def _nic(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: _text(row, name) for name in ("name", "pci")}
    net = row.get("net") or []
    return {**found, "numa": _whole(row, "numa", -1), "up": bool(row.get("up")), "net": list(net)}


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    if type(value) is not str:
        raise ValueError(f"{name} of a device must be text, not {value!r}")
    return value


def _whole(row: Mapping[str, Any], name: str, default: int) -> int:
    value = row.get(name, default)
    if type(value) is not int:
        raise ValueError(f"{name} of a device must be a whole number, not {value!r}")
    return value


def _cliques(links: list[list[int]]) -> tuple[tuple[int, ...], ...]:
    """Sets of devices of which every two are linked, two of them at least; each device is in one at most."""
    groups: list[list[int]] = []
    for index, mine in enumerate(links):
        for group in groups:
            if all(other in mine and index in links[other] for other in group):
                group.append(index)
                break
        else:
            groups.append([index])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def shared(domains: Domains, indices: Iterable[int]) -> str:
    """The closest kind of domain that holds all these GPUs, "" if none does."""
    wanted = list(indices)
    for kind, groups in zip(KINDS, domains, strict=False):
        if wanted and any(all(index in group for index in wanted) for group in groups):
            return kind
    return ""


def largest(all_domains: Iterable[Domains]) -> dict[str, int]:
    """How many GPUs the largest domain of each kind has; empty where nothing is known."""
    found: dict[str, int] = {}
    for domains in all_domains:
        for kind, groups in zip(KINDS, domains, strict=False):
            for group in groups:
                found[kind] = max(found.get(kind, 0), len(group))
    return found


def groups_of(domains: Domains, kind: str) -> tuple[tuple[int, ...], ...]:
    """The domains of one kind."""
    return domains[KINDS.index(kind)] if domains else ()


def pick(free: Sequence[int], count: int, domains: Domains) -> list[int]:
    """`count` of the free GPUs, in as few domains as possible, and from those that this leaves fullest.

    The answer has `count` entries if `free` has as many.
    """
    if count <= 0:
        return []
    if not domains or len(free) <= count:
        return list(free[:count])
    groups, finer = domains[0], domains[1:]
    parts = [part for part in ([index for index in free if index in group] for group in groups) if part]
    inside = [index for part in parts for index in part]
    loose = [index for index in free if index not in inside]
    if count == 1 and loose:
        return pick(loose, 1, finer)
    chosen: list[int] = []
    while parts:
        left = count - len(chosen)
        fitting = [part for part in parts if len(part) >= left]
        if fitting:
            return chosen + pick(min(fitting, key=len), left, finer)
        largest = max(parts, key=len)
        parts.remove(largest)
        chosen += largest
    return chosen + pick(loose, count - len(chosen), finer)
