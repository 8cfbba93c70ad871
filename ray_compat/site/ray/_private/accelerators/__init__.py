"""Names of `ray._private.accelerators`: how many devices of each kind this node has."""

from __future__ import annotations

import glob
import os

from spoke import devices


class AcceleratorManager:
    """One kind of device, counted by the files that its driver makes."""

    _resource = ""
    _variable = ""
    _files = ""

    @classmethod
    def get_resource_name(cls) -> str:
        """The resource that these devices are scheduled as."""
        return cls._resource

    @classmethod
    def get_visible_accelerator_ids_env_var(cls) -> str:
        """The variable by which a process is limited to its devices."""
        return cls._variable

    @classmethod
    def get_current_node_num_accelerators(cls) -> int:
        """How many devices of this kind this machine has."""
        return len(glob.glob(cls._files))

    @classmethod
    def get_current_node_accelerator_type(cls) -> str | None:
        """The type of this machine's devices, as in `ray.util.accelerators`, or None."""
        return None

    @classmethod
    def get_current_node_additional_resources(cls) -> dict[str, float] | None:
        """Further resources that these devices give a node: none."""
        return None

    @classmethod
    def get_current_process_visible_accelerator_ids(cls) -> list[str] | None:
        """The devices that this process may use, by its variable; None for all."""
        return devices.visible_devices(os.environ.get(cls._variable))

    @classmethod
    def set_current_process_visible_accelerator_ids(cls, visible_ids: list[str]) -> None:
        """Limit this process to devices, unless it was told to leave the variable alone."""
        if not os.environ.get(f"RAY_EXPERIMENTAL_NOSET_{cls._variable}"):
            os.environ[cls._variable] = ",".join(map(str, visible_ids))

    @classmethod
    def validate_resource_request_quantity(cls, quantity: float) -> tuple[bool, str | None]:
        """Whether so much can be asked for, and why not."""
        return True, None


class NvidiaGPUAcceleratorManager(AcceleratorManager):
    """NVIDIA GPUs."""

    _resource, _variable, _files = "GPU", "CUDA_VISIBLE_DEVICES", "/proc/driver/nvidia/gpus/*"

    @classmethod
    def get_current_node_accelerator_type(cls) -> str | None:
        """The type of this machine's GPUs, such as ``"H100"``, or None."""
        found = devices.describe_gpus(None)
        return devices.accelerator_type(found[0]["name"]) or None if found else None


class TPUAcceleratorManager(AcceleratorManager):
    """Google TPUs."""

    _resource, _variable, _files = "TPU", "TPU_VISIBLE_CHIPS", "/dev/accel[0-9]*"


class NPUAcceleratorManager(AcceleratorManager):
    """Ascend NPUs."""

    _resource, _variable, _files = "NPU", "ASCEND_RT_VISIBLE_DEVICES", "/dev/davinci[0-9]*"


_MANAGERS = (NvidiaGPUAcceleratorManager, TPUAcceleratorManager, NPUAcceleratorManager)


def get_all_accelerator_managers() -> set[type[AcceleratorManager]]:
    """The kinds known here."""
    return set(_MANAGERS)


def get_all_accelerator_resource_names() -> set[str]:
    """Their resources."""
    return {manager.get_resource_name() for manager in _MANAGERS}


def get_accelerator_manager_for_resource(resource_name: str) -> type[AcceleratorManager] | None:
    """The kind that is scheduled as this resource, or None."""
    found = [manager for manager in _MANAGERS if manager.get_resource_name() == resource_name]
    return found[0] if found else None
