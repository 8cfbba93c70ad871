"""Values with torch tensors inside, and how those travel."""

from __future__ import annotations

from typing import Any

from spoke import absent
from spoke.experimental.channel.common import ChannelInterface, ChannelOutputType
from spoke.experimental.channel.communicator import Communicator
from spoke.experimental.channel.shared_memory_channel import CompositeChannel
from spoke.experimental.util.types import Device


def device_of(device: Any) -> Device:
    """A `Device`, or the one of this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return Device(device)
    except ValueError:
        names = ", ".join(f"'{one.value}'" for one in Device)
        raise ValueError(f"Invalid device '{device}'. Valid options are: {names}.") from None


class TorchTensorType(ChannelOutputType):
    """Tensors travel with their value ("auto", "cpu"), or by a communicator ("accelerator").

    Args:
        transport: one of these words, or the communicator itself.
        device: where readers find the tensors.
        _static_shape: all values have tensors of the same shapes; others are a ValueError.
        _direct_return: a value is one tensor, nothing around it.

    Raises:
        ValueError: an unknown transport or device.
    """

    AUTO = "auto"
    CPU = "cpu"
    ACCELERATOR = "accelerator"

    def __init__(
        self,
        transport: str | Communicator | None = AUTO,
        device: Device | str = Device.DEFAULT,
        _static_shape: bool = False,
        _direct_return: bool = False,
    ) -> None:
        self._device = device_of(device)
        self._static_shape = _static_shape
        self._direct_return = _direct_return
        self._communicator = transport if isinstance(transport, Communicator) else None
        self._communicator_id: str | None = None
        self.transport = (
            self._communicator.get_transport_name()
            if self._communicator is not None
            else transport or self.AUTO
        )
        if self.transport not in (self.AUTO, self.CPU, self.ACCELERATOR):
            raise ValueError(
                "`transport` must be TorchTensorType.AUTO, TorchTensorType.ACCELERATOR, TorchTensorType.CPU "
                f"or a Communicator, not {transport!r}"
            )

    @property
    def device(self) -> Device:
        """Where readers find the tensors."""
        return self._device

    @property
    def static_shape(self) -> bool:
        """Have all values tensors of the same shapes?"""
        return self._static_shape

    @property
    def direct_return(self) -> bool:
        """Is each value one tensor, nothing around it?"""
        return self._direct_return

    @property
    def communicator_id(self) -> str | None:
        """The key of the communicator in `ChannelContext.communicators`."""
        return self._communicator_id

    def set_communicator_id(self, group_id: str) -> None:
        """Set the key of the communicator in `ChannelContext.communicators`."""
        self._communicator_id = group_id

    def get_custom_communicator(self) -> Communicator | None:
        """The communicator that was given as `transport`."""
        return self._communicator

    def requires_accelerator(self) -> bool:
        """Do tensors travel from device to device?"""
        return self.transport == self.ACCELERATOR

    def create_channel(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        driver_actor_id: str | None = None,
        _cpu_data_channel: ChannelInterface | None = None,
        _tensor_metadata_channel: ChannelInterface | None = None,
    ) -> ChannelInterface:
        """A `TorchTensorAcceleratorChannel` where tensors take a communicator, else a `CompositeChannel`."""
        if self.requires_accelerator():
            from spoke.experimental.channel.torch_tensor_accelerator_channel import (
                TorchTensorAcceleratorChannel,
            )

            return TorchTensorAcceleratorChannel(
                writer,
                reader_and_node_list,
                self,
                driver_actor_id,
                _tensor_metadata_channel,
                _cpu_data_channel,
            )
        return CompositeChannel(writer, reader_and_node_list, 1, driver_actor_id)


__getattr__ = absent.getter(__name__)
