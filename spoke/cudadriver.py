"""What is asked of CUDA, and tensors of it that bytes go to."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

counts = {"cuda_ipc": 0, "cuda_staged": 0}  # tensors that this process opened, and that it staged


class Driver:
    """What is asked of torch.cuda; tests put another in its place (`driver`)."""

    def export(self, tensor: Any) -> tuple[str, Any]:
        """The device's UUID and a handle of the tensor; records an event on the current stream.

        Raises:
            RuntimeError: memory without a handle, such as torch's expandable segments.
        """
        from torch.multiprocessing.reductions import reduce_tensor

        rebuild, arguments = reduce_tensor(tensor.detach())  # type: ignore[no-untyped-call, unused-ignore]
        return self.uuid(tensor.device.index), (rebuild, arguments)

    def open(self, index: int, handle: Any) -> Any:
        """The tensor of a handle, on the device that is number `index` here."""
        import torch

        rebuild, arguments = handle
        names = [*arguments]
        names[6] = index  # torch's storage_device: the same device may have another number here
        with torch.cuda.device(index):
            return rebuild(*names)

    def uuid(self, index: int) -> str:
        import torch

        return str(torch.cuda.get_device_properties(index).uuid)

    def find(self, uuid: str) -> int | None:
        """The number of a device in this process; None where it may not be used."""
        import torch

        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            if self.uuid(index) == uuid:
                return index
        return None

    def on(self, stream: Any) -> Any:
        """What is done inside is ordered by this stream, the current one for None."""
        import torch

        return nullcontext() if stream is None else torch.cuda.stream(stream)

    def event(self, tensor: Any) -> Any:
        """One that comes when what the current stream has been given is done."""
        import torch

        with torch.cuda.device(tensor.device):
            event = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
            event.record()
        return event

    def wait(self, event: Any) -> None:
        """Return when the event has come."""
        event.synchronize()

    def to_host(self, tensor: Any, after: Any = None) -> Any:
        """A copy in pinned memory, made after that event; waits for this copy alone."""
        import torch

        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        with torch.cuda.device(tensor.device):
            if after is not None:
                torch.cuda.current_stream().wait_event(after)
            host.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
            event.record()
            event.synchronize()
        return host

    def pinned(self, size: int) -> Any:
        """So many bytes of pinned memory, as a tensor."""
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def from_host(self, host: Any, tensor: Any) -> None:
        """Copy these bytes to a tensor, in the order of the current stream; waits for this copy alone."""
        import torch

        with torch.cuda.device(tensor.device):
            tensor.detach().view(-1).view(torch.uint8).copy_(host, non_blocking=True)
            self.event(tensor).synchronize()

    def empty(self, shape: Any, dtype: Any, index: int | None) -> Any:
        """A tensor on a device, as `to_device` chooses it."""
        import torch

        if not torch.cuda.is_available():
            return torch.empty(shape, dtype=dtype)
        return torch.empty(shape, dtype=dtype, device=self._device(index))

    def to_device(self, host: Any, index: int | None) -> Any:
        """A copy on a device; the current one where the sender's is not there, the CPU where none is."""
        import torch

        if not torch.cuda.is_available():
            return host
        return host.to(self._device(index))

    def _device(self, index: int | None) -> Any:
        import torch

        return torch.device("cuda", torch.cuda.current_device() if index is None else index)


driver: Any = Driver()


class Target:
    """A CUDA tensor that bytes go to (`transport.base.OnDevice`), by a NIC straight or by pinned memory.

    What the current stream was given before is done with the memory when anything is written; for other
    streams the caller sees to that, as where torch copies.
    """

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.device = tensor.device
        self.address = int(tensor.data_ptr())
        self.nbytes = tensor.numel() * tensor.element_size()
        self._used = driver.event(tensor)
        self._host: Any = None

    def ready(self) -> None:
        driver.wait(self._used)

    def staging(self) -> memoryview:
        if self._host is None:
            self._host = driver.pinned(self.nbytes)
        return memoryview(self._host.numpy())

    def land(self) -> bool:
        host, self._host = self._host, None
        if host is not None:
            counts["cuda_staged"] += 1
            driver.from_host(host, self.tensor)
        return host is not None
