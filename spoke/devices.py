"""What devices this machine has and how they are connected: GPUs by NVML, or where there are none by the
kernel's list of AMD's; NICs, CPUs and NUMA nodes by sysfs.

Rules of this module: read only, and never an error: what cannot be told is left out (a text "", a number
-1).  `pynvml` (package nvidia-ml-py) is imported by the first question about a GPU, and only where there
is a driver or SPOKE_NVML names a directory to import it from; the daemon runs without the user's site.
A GPU's index is its place among the devices that this process may use (CUDA_VISIBLE_DEVICES, or
HIP_VISIBLE_DEVICES), in PCI order otherwise.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from spoke import config
from spoke.machine import known_address, read_text

UNKNOWN: Final = -1
CUDA: Final = "CUDA_VISIBLE_DEVICES"
HIP: Final = "HIP_VISIBLE_DEVICES"
# The knob that holds the variable's value, and the one that leaves it alone.
KNOBS: Final = {
    CUDA: ("cuda_visible_devices", "noset_visible_devices"),
    HIP: ("hip_visible_devices", "noset_hip_visible_devices"),
}
_VIDEO_MEMORY: Final = ("1", "2")  # kinds of memory in the list of AMD's GPUs
_LABEL_WORDS: Final = ("NVIDIA", "Tesla", "GeForce", "Quadro", "RTX", "GRID")

_nvml: Any = None  # the module once it is initialised, False when there is none


def nvml() -> Any:
    """`pynvml`, initialised; None without the package, a driver, or the user's leave (SPOKE_NVML=off)."""
    global _nvml
    if _nvml is None:
        _nvml = _load() or False
    return _nvml or None


def _load() -> Any:
    wanted = config.get("nvml")
    if wanted == "off" or (wanted == "auto" and not os.path.exists("/dev/nvidiactl")):
        return None
    searched = wanted != "auto"
    if searched:
        sys.path.insert(0, wanted)
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, or any of NVML's errors: all mean that it can tell nothing
        return None
    finally:
        if searched:
            sys.path.remove(wanted)
    return pynvml


def gpu_variable() -> str:
    """The variable that limits a process to its GPUs on this node.

    Raises:
        ValueError: it has AMD's, limited by a variable below which the right one counts anew.
    """
    if nvml() is not None or os.path.exists("/dev/nvidiactl") or not _amd_nodes():
        return CUDA
    if config.get("rocr_visible_devices") is not None and config.get("hip_visible_devices") is None:
        raise ValueError("limit the node's GPUs by HIP_VISIBLE_DEVICES, not by ROCR_VISIBLE_DEVICES")
    return HIP


def limited_to(visible: str | None, indices: list[int]) -> str:
    """The variable's value for a process with these GPUs of a node that has the value `visible` itself."""
    names = visible_devices(visible)
    shown = (str(index) if names is None or index >= len(names) else names[index] for index in indices)
    return ",".join(shown)


def visible_devices(variable: str | None) -> list[str] | None:
    """The entries of the variable's value; None when it is not set (all devices are visible)."""
    if variable is None:
        return None
    return [entry.strip() for entry in variable.split(",") if entry.strip() not in ("", "-1", "NoDevFiles")]


def gpu_count(visible: list[str] | None) -> int:
    """Number of GPUs that this process may use; 0 without a driver."""
    if visible == []:
        return 0
    if nvml() is not None:
        return len(_handles(visible))
    if not os.path.exists("/dev/nvidiactl"):
        return len(_amd_gpus(visible))
    count = sum(1 for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit())
    return count if visible is None else min(count, len(visible)) if count else 0


def gpu_model(index: int) -> str:
    """Product name of a GPU by its index in NVML, "" when it is not known."""
    module = nvml()
    return "" if module is None else _text(_ask(module.nvmlDeviceGetName, _handle(module, index)))


def accelerator_type(product: str) -> str:
    """The short name that clients ask for: "A100" for "NVIDIA A100-SXM4-80GB"."""
    words = [word for word in product.replace("-", " ").split() if word not in _LABEL_WORDS]
    return words[0] if words else ""


def topology(visible: list[str] | None, gpus: int | None) -> dict[str, Any]:
    """All devices of this node, as the hub reads them (`spoke.core.topology`).

    Args:
        gpus: only so many of the GPUs; None for all.
    """
    return {
        "gpus": describe_gpus(visible)[:gpus],
        "nics": describe_nics(),
        "cpus": numa_cpus(),
        "visible": visible or [],
        "variable": (variable := gpu_variable()),
        "noset": config.get(KNOBS[variable][1]),
    }


def labels(found: dict[str, Any], host: str) -> dict[str, str]:
    """Labels of a node that listens on `host`: the machine's name and address, and of what `topology` found
    the kind of GPU, their memory, the number of NICs."""
    gpus, nics = found["gpus"], found["nics"]
    table = {"spoke.io/hostname": os.uname().nodename, "spoke.io/address": known_address(host)}
    if gpus and accelerator_type(gpus[0]["name"]):
        table["ray.io/accelerator-type"] = accelerator_type(gpus[0]["name"])
        table["spoke.io/gpu-memory-gib"] = str(round(gpus[0]["memory"] / 2**30))
    if nics:
        table["spoke.io/nics"] = str(len(nics))
    return table


def describe_gpus(visible: list[str] | None) -> list[dict[str, Any]]:
    """One row per GPU that this process may use: uuid, name, pci, numa, memory (bytes), links (indices)."""
    module = nvml()
    if module is None:
        return _amd_gpus(visible) if gpu_variable() == HIP else []
    handles = _handles(visible)
    rows = []
    for index, handle in enumerate(handles):
        physical = _ask(module.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle
        pci = _text(getattr(_ask(module.nvmlDeviceGetPciInfo, physical), "busId", ""))
        linked = [
            other
            for other, peer in enumerate(handles)
            if other != index
            and _ask(module.nvmlDeviceGetP2PStatus, physical, peer, module.NVML_P2P_CAPS_INDEX_NVLINK)
            == module.NVML_P2P_STATUS_OK
        ]
        rows.append(
            {
                "uuid": _text(_ask(module.nvmlDeviceGetUUID, handle)),
                "name": _text(_ask(module.nvmlDeviceGetName, physical)),
                "pci": pci,
                "numa": _pci_numa(pci),
                "memory": int(getattr(_ask(module.nvmlDeviceGetMemoryInfo, handle), "total", 0)),
                "links": linked,
            }
        )
    return rows


def _amd_nodes() -> list[str]:
    """The directories of AMD's GPUs in the kernel's list, in the order in which HIP counts them."""
    root = os.path.join(config.get("sysfs"), "class/kfd/kfd/topology/nodes")
    numbers = sorted(int(name) for name in _entries(root) if name.isdigit())
    found = [os.path.join(root, str(number)) for number in numbers]
    return [one for one in found if read_text(os.path.join(one, "gpu_id")).strip() not in ("", "0")]


def _amd_gpus(visible: list[str] | None) -> list[dict[str, Any]]:
    """As `describe_gpus`; of one that is named otherwise than by its number nothing is told but that."""
    nodes = _amd_nodes()
    if visible is None:
        return [_amd_gpu(node) for node in nodes]
    numbers = (int(name) if name.isdigit() else UNKNOWN for name in visible[: len(nodes)])
    return [_amd_gpu(nodes[number] if 0 <= number < len(nodes) else "") for number in numbers]


def _amd_gpu(node: str) -> dict[str, Any]:
    facts = _properties(node) if node else {}
    pci, memory = "", 0
    if facts:
        place = _number(facts.get("location_id", ""))
        pci = f"{_number(facts.get('domain', '0')):04x}:{place >> 8:02x}:{place >> 3 & 31:02x}.{place & 7}"
        banks = os.path.join(node, "mem_banks")
        for bank in (_properties(os.path.join(banks, name)) for name in _entries(banks)):
            if bank.get("heap_type") in _VIDEO_MEMORY:
                memory += _number(bank.get("size_in_bytes", "0"))
    return {"uuid": "", "name": "", "pci": pci, "numa": _pci_numa(pci), "memory": memory, "links": []}


def _properties(directory: str) -> dict[str, str]:
    """The file of that name in the kernel's list: a name and a number on each line."""
    lines = (line.split() for line in read_text(os.path.join(directory, "properties")).splitlines())
    return {line[0]: line[1] for line in lines if len(line) == 2}


def gpu_processes(visible: list[str] | None, indices: list[int]) -> dict[int, list[int]]:
    """The processes that compute on these GPUs, by index; a GPU of which NVML can tell nothing has none."""
    module = nvml()
    if module is None or not indices:
        return {}
    handles = _handles(visible)
    found: dict[int, list[int]] = {}
    for index in indices:
        handle = handles[index] if index < len(handles) else None
        listed = (
            (_ask(module.nvmlDeviceGetComputeRunningProcesses, handle) or []) if handle is not None else []
        )
        found[index] = [int(process.pid) for process in listed]
    return found


def describe_nics() -> list[dict[str, Any]]:
    """One row per RDMA device: name, pci, numa, up (a port is active), net (its network interfaces)."""
    root = os.path.join(config.get("sysfs"), "class/infiniband")
    rows = []
    for name in _entries(root):
        device = os.path.join(root, name, "device")
        ports = os.path.join(root, name, "ports")
        states = [read_text(os.path.join(ports, port, "state")) for port in _entries(ports)]
        pci = os.path.basename(os.path.realpath(device)) if os.path.exists(device) else ""
        rows.append(
            {
                "name": name,
                "pci": pci,
                "numa": _number(read_text(os.path.join(device, "numa_node"))),
                "up": any("ACTIVE" in state for state in states),
                "net": _entries(os.path.join(device, "net")),
            }
        )
    return rows


def numa_cpus() -> dict[str, list[int]]:
    """The CPUs that this process may use, by NUMA node; empty where the kernel does not tell."""
    root = os.path.join(config.get("sysfs"), "devices/system/node")
    mine = os.sched_getaffinity(0)
    found: dict[str, list[int]] = {}
    for name in _entries(root):
        if name.startswith("node") and name[4:].isdigit():
            listed = _cpu_list(read_text(os.path.join(root, name, "cpulist")))
            found[name[4:]] = [cpu for cpu in listed if cpu in mine]
    return found


# -- NVML


def _ask(function: Any, *args: Any) -> Any:
    """The answer of one NVML function, None when it has none."""
    try:
        return function(*args)
    except Exception:  # NVML's errors: not supported here, no permission, the device fell off the bus
        return None


def _handle(module: Any, index: int) -> Any:
    return _ask(module.nvmlDeviceGetHandleByIndex, index)


def _handles(visible: list[str] | None) -> list[Any]:
    """The devices that may be used, in the order of their indices; as CUDA does, up to the first unknown."""
    module = nvml()
    if module is None:
        return []
    count = int(_ask(module.nvmlDeviceGetCount) or 0)
    everything = [_handle(module, index) for index in range(count)]
    if visible is None:
        return everything
    found: list[Any] = []
    for name in visible:
        if name.isdigit():
            handle = everything[int(name)] if int(name) < count else None
        elif name.startswith("MIG-"):
            handle = _ask(module.nvmlDeviceGetHandleByUUID, name)
        else:  # CUDA takes the beginning of a name, too
            handle = next(
                (one for one in everything if _text(_ask(module.nvmlDeviceGetUUID, one)).startswith(name)),
                None,
            )
        if handle is None:
            break
        found.append(handle)
    return found


def _pci_numa(pci: str) -> int:
    """The NUMA node of a PCI device by NVML's name for it (``00000000:3B:00.0``)."""
    domain, _, rest = pci.lower().partition(":")
    path = f"bus/pci/devices/{domain[-4:]}:{rest}/numa_node"
    return _number(read_text(os.path.join(config.get("sysfs"), path)))


# -- sysfs


def _entries(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else UNKNOWN


def _cpu_list(text: str) -> list[int]:
    """The kernel's list of CPUs, such as ``0-3,8``."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last if last.isdigit() else first) + 1)
    return found


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
