"""A channel that takes the tensors out of a value and sends them by a communicator.

What is left of the value goes first, with the shapes and dtypes of its tensors, over an ordinary
channel; then the tensors, in their order.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from spoke import absent, cloudpickle
from spoke.experimental.channel.accelerator_context import (
    is_accelerator_context_registered as is_accelerator_context_registered,
)
from spoke.experimental.channel.accelerator_context import (
    register_accelerator_context as register_accelerator_context,
)
from spoke.experimental.channel.common import ChannelContext, ChannelInterface
from spoke.experimental.channel.communicator import Communicator
from spoke.experimental.channel.intra_process_channel import IntraProcessChannel
from spoke.experimental.channel.shared_memory_channel import CompositeChannel
from spoke.experimental.channel.utils import get_self_actor


def do_register_accelerator_context(instance: Any, name: str, communicator: type[Communicator]) -> None:
    """`register_accelerator_context` in an actor: give it to ``handle.__ray_call__.remote``."""
    register_accelerator_context(name, communicator)


class TorchTensorAcceleratorChannel(ChannelInterface):
    """Made by its writer, an actor of the communicator; its readers are others of it, or the writer itself.

    Args:
        typ: a `TorchTensorType` with the id of the communicator, or the communicator itself.
        tensor_metadata_channel: carries shapes and dtypes, with what is left of a value.
        _cpu_data_channel: carries what is left of a value, apart from the shapes.

    Raises:
        ValueError: no communicator is named, or a reader is not in it.
    """

    def __init__(
        self,
        writer: Any,
        reader_and_node_list: list[tuple[Any, str]],
        typ: Any,
        driver_actor_id: str | None = None,
        tensor_metadata_channel: ChannelInterface | None = None,
        _cpu_data_channel: ChannelInterface | None = None,
        _gpu_data_channel: ChannelInterface | None = None,
        _local_channel: ChannelInterface | None = None,
    ) -> None:
        self._typ = typ
        self._writer = get_self_actor() if writer is None else writer
        others = [(reader, node) for reader, node in reader_and_node_list if reader != self._writer]
        own = len(reader_and_node_list) - len(others)
        self._local = _local_channel or (IntraProcessChannel(own) if own else None)
        self._readers = [reader for reader, _ in others]
        self._meta: ChannelInterface | None = None
        self._rest = _cpu_data_channel
        if others:
            self._meta = tensor_metadata_channel or CompositeChannel(writer, others, 1, driver_actor_id)
            for actor in (self._writer, *self._readers):
                self._communicator().get_rank(actor)  # raises for actors that are not in the group
        self._shapes: list[Any] | None = None

    def _communicator(self) -> Communicator:
        custom: Communicator | None = self._typ.get_custom_communicator()
        if custom is not None and self._typ.communicator_id is None:
            return custom
        found = ChannelContext.get_current().communicators.get(self._typ.communicator_id or "")
        if found is None:
            raise ValueError(
                "give the TorchTensorType a Communicator, or register one in this process as "
                f"ChannelContext.get_current().communicators[{self._typ.communicator_id!r}]"
            )
        return found

    def ensure_registered_as_writer(self) -> None:
        """See `ChannelInterface`."""
        for channel in (self._meta, self._rest):
            if channel is not None:
                channel.ensure_registered_as_writer()

    def ensure_registered_as_reader(self) -> None:
        """See `ChannelInterface`."""
        if self._local is not None and get_self_actor() == self._writer:
            return
        for channel in (self._meta, self._rest):
            if channel is not None:
                channel.ensure_registered_as_reader()

    def write(self, value: Any, timeout: float | None = None) -> None:
        """Hand a value to every reader; waits until they take its tensors.

        Raises:
            ValueError: the shapes are not those of the first value, and were said to be static; or the
                value is no tensor, and was said to be one.
            RayChannelTimeoutError, RayChannelError: as `Channel.write`.
        """
        if self._local is not None:
            self._local.write(value, timeout)
        if self._meta is None:
            return
        body, tensors = _taken_apart(value)
        shapes = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
        if self._typ.direct_return and (len(tensors) != 1 or tensors[0] is not value):
            raise ValueError("with _direct_return=True, a value must be one torch.Tensor")
        if self._typ.static_shape:
            self._shapes = self._shapes or shapes
            if shapes != self._shapes:
                raise ValueError(f"with _static_shape=True, tensors must stay {self._shapes}, not {shapes}")
        if self._rest is None:
            self._meta.write((shapes, body), timeout)
        else:
            self._meta.write((shapes, None), timeout)
            self._rest.write(body, timeout)
        communicator = self._communicator()
        for reader in self._readers:
            for tensor in tensors:
                communicator.send(tensor, communicator.get_rank(reader))

    def read(self, timeout: float | None = None) -> Any:
        """The next value, with its tensors.

        Raises:
            RayChannelTimeoutError, RayChannelError: as `Channel.read`.
        """
        if self._local is not None and get_self_actor() == self._writer:
            return self._local.read(timeout)
        assert self._meta is not None, "this channel has no readers in other processes"
        shapes, body = self._meta.read(timeout)
        if self._rest is not None:
            body = self._rest.read(timeout)
        communicator = self._communicator()
        rank = communicator.get_rank(self._writer)
        found = [communicator.recv(shape, dtype, rank, _allocate) for shape, dtype in shapes]
        return _put_together(body, found)

    def close(self) -> None:
        """Close the channels below; the communicator stays, as it may serve others."""
        for channel in (self._local, self._meta, self._rest):
            if channel is not None:
                channel.close()


def _allocate(shape: tuple[int, ...], dtype: Any) -> Any:
    """Memory for a tensor, on this process's device."""
    import torch

    return torch.empty(shape, dtype=dtype, device=ChannelContext.get_current().torch_device)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles all but the tensors."""

    tensors: list[Any]

    def persistent_id(self, value: Any) -> int | None:
        """The number of a tensor."""
        import torch

        if not isinstance(value, torch.Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    """Puts tensors in their places."""

    tensors: list[Any]

    def persistent_load(self, number: int) -> Any:
        """The tensor of this number."""
        return self.tensors[number]


def _taken_apart(value: Any) -> tuple[bytes, list[Any]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.tensors = []
    pickler.dump(value)
    return file.getvalue(), pickler.tensors


def _put_together(body: bytes, tensors: list[Any]) -> Any:
    unpickler = _Unpickler(io.BytesIO(body))
    unpickler.tensors = tensors
    return unpickler.load()


__getattr__ = absent.getter(__name__)
