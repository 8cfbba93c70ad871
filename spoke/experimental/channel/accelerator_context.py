"""The devices of this process's tensors, and which communicator carries tensors between them."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from spoke import absent

if TYPE_CHECKING:
    from spoke.experimental.channel.communicator import Communicator


class AcceleratorContext:
    """A kind of device, by the name of its torch module ("cuda", "cpu"), and its communicator's class.

    Raises:
        ModuleNotFoundError: torch has no such module.
    """

    _current: AcceleratorContext | None = None
    _registered = False

    def __init__(self, torch_module_name: str, communicator_cls: type[Communicator]) -> None:
        self._name = torch_module_name
        self._communicator_cls = communicator_cls
        self._module = importlib.import_module(f"torch.{torch_module_name}")

    @staticmethod
    def get() -> AcceleratorContext:
        """This process's context: the one that was set, else CUDA's, or without a GPU the CPU's."""
        if AcceleratorContext._current is None:
            import torch

            from spoke.experimental.channel.cpu_communicator import CPUCommunicator
            from spoke.experimental.channel.nccl_group import NcclCommunicator

            AcceleratorContext._current = (
                AcceleratorContext("cuda", NcclCommunicator)
                if torch.cuda.is_available()
                else AcceleratorContext("cpu", CPUCommunicator)
            )
        return AcceleratorContext._current

    @staticmethod
    def set(accelerator_context: AcceleratorContext) -> None:
        """Make it the context of this process."""
        AcceleratorContext._current = accelerator_context

    @property
    def module_name(self) -> str:
        """The name of the torch module."""
        return self._name

    @property
    def communicator_cls(self) -> type[Communicator]:
        """The class of communicators between such devices."""
        return self._communicator_cls

    @property
    def accelerator_count(self) -> int:
        """How many such devices this process sees; 0 for the CPU."""
        return 0 if self._name == "cpu" else int(self._module.device_count())

    def get_accelerator_devices(self) -> list[Any]:
        """The devices that this process may use, at least one."""
        import torch

        if self._name == "cpu":
            return [torch.device("cpu")]
        return [torch.device(self._name, number) for number in range(max(1, self.accelerator_count))]

    def get_device_context(self, device: Any) -> Any:
        """A context in which `device` is the present one."""
        return contextlib.nullcontext() if self._name == "cpu" else self._module.device(device)

    def current_stream(self) -> Any:
        """The device's present stream; None for the CPU."""
        return None if self._name == "cpu" else self._module.current_stream()

    def create_event(self) -> Any:
        """An event to record on a stream; None for the CPU."""
        return None if self._name == "cpu" else self._module.Event()

    def generate_communicator_id(self) -> str:
        """An id for a communicator."""
        return self._communicator_cls.generate_communicator_id()

    def create_communicator(self, *args: Any, **kwargs: Any) -> Communicator:
        """A communicator."""
        return self._communicator_cls(*args, **kwargs)


def register_accelerator_context(torch_module_name: str, communicator_cls: type[Communicator]) -> None:
    """Use these devices and this class of communicators in this process.

    Args:
        torch_module_name: as in ``torch.cuda``: "cuda".

    Raises:
        ModuleNotFoundError: torch has no such module.
    """
    AcceleratorContext.set(AcceleratorContext(torch_module_name, communicator_cls))
    AcceleratorContext._registered = True


def is_accelerator_context_registered() -> bool:
    """Was `register_accelerator_context` called in this process?"""
    return AcceleratorContext._registered


__getattr__ = absent.getter(__name__)
