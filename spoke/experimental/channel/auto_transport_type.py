"""Tensors that travel by whatever fits their writer and readers."""

from __future__ import annotations

from typing import Any

from spoke import absent
from spoke.experimental.channel.common import ChannelInterface, ChannelOutputType
from spoke.experimental.channel.torch_tensor_type import TorchTensorType, device_of
from spoke.experimental.util.types import Device


class AutoTransportType(ChannelOutputType):
    """See `TorchTensorType`; `TypeHintResolver` chooses the transport."""

    def __init__(
        self, device: Device | str = Device.DEFAULT, _static_shape: bool = False, _direct_return: bool = False
    ) -> None:
        self._device = device_of(device)
        self._static_shape = _static_shape
        self._direct_return = _direct_return

    @property
    def device(self) -> Device:
        """Where readers find the tensors."""
        return self._device

    def create_channel(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        driver_actor_id: str | None = None,
    ) -> ChannelInterface:
        """The channel of tensors that travel with their value."""
        return self._resolved(TorchTensorType.AUTO).create_channel(
            writer, reader_and_node_list, driver_actor_id
        )

    def _resolved(self, transport: str) -> TorchTensorType:
        return TorchTensorType(transport, self._device, self._static_shape, self._direct_return)


class TypeHintResolver:
    """Chooses transports, by the GPUs that actors have: ``{actor: [gpu id]}``."""

    def __init__(self, actor_to_gpu_ids: dict[Any, list[str]]) -> None:
        self._gpus = actor_to_gpu_ids

    def resolve(
        self,
        auto_transport_type: AutoTransportType,
        writer_and_node: tuple[Any, str],
        reader_and_node_list: list[tuple[Any, str]],
    ) -> TorchTensorType:
        """From device to device where writer and readers have GPUs, and not all the same one."""
        parties = [writer_and_node, *reader_and_node_list]
        places = {(node, tuple(self._gpus.get(actor) or ())) for actor, node in parties}
        between = len(places) > 1 and all(gpus for _, gpus in places)
        return auto_transport_type._resolved(TorchTensorType.ACCELERATOR if between else TorchTensorType.AUTO)


__getattr__ = absent.getter(__name__)
