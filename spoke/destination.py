"""Memory that a caller brings for a value: what may be written, and whether a value fits into it."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, NoReturn

from spoke._native import buffer_address


class Shape(NamedTuple):
    """A leaf of a value: a tensor, an array or bytes."""

    dtype: str
    sizes: tuple[int, ...]
    nbytes: int
    address: int
    in_order: bool  # C order, without gaps


class Nested(NamedTuple):
    """A list or dict of destinations, and where it stands in `into`."""

    path: str
    inner: Any


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _dtype_name(dtype: Any) -> str:
    """As torch calls it where torch has it; another byte order is another name."""
    return str(dtype.name if dtype.isnative and dtype.kind in "biufc" else dtype)


def shape_of(value: Any) -> Shape | None:
    """What `value` is as memory; None where it is none."""
    if _is_tensor(value):
        dtype = str(value.dtype).removeprefix("torch.")
        size = value.numel() * value.element_size()
        return Shape(dtype, tuple(value.shape), size, value.data_ptr(), value.is_contiguous())
    if _is_array(value):
        address = value.__array_interface__["data"][0]
        return Shape(_dtype_name(value.dtype), value.shape, value.nbytes, address, value.flags.c_contiguous)
    if isinstance(value, (bytes, bytearray, memoryview)):
        view = memoryview(value)
        return Shape("uint8", (view.nbytes,), view.nbytes, buffer_address(view), view.c_contiguous)
    return None


def destinations(target: Any, path: str) -> Destination | Nested:
    """`target` with every leaf checked: writable, contiguous, memory at all.

    Raises:
        TypeError, ValueError: a leaf is not; the message says which and what to pass instead.
    """
    if isinstance(target, dict):
        return Nested(path, {key: destinations(one, f"{path}[{key!r}]") for key, one in target.items()})
    if isinstance(target, (list, tuple)):
        return Nested(path, [destinations(one, f"{path}[{index}]") for index, one in enumerate(target)])
    return Destination(target, path)


class Destination:
    """One piece of memory that a leaf of a value goes to.

    Attributes:
        bytes: the memory as flat writable bytes; None where the CPU cannot write it.
        on_cuda: it is memory of a GPU.
    """

    def __init__(self, target: Any, path: str) -> None:
        self.target = target
        self.path = path
        self.bytes: memoryview | None = None
        self.on_cuda = False
        self.raw = False  # a plain buffer, which takes a value of any type with as many bytes
        if _is_tensor(target):
            self._open_tensor(target)
        elif _is_array(target):
            self._open_array(target)
        else:
            self._open_buffer(target)

    @staticmethod
    def of_bytes(view: memoryview) -> Destination:
        """Flat memory that is known to fit."""
        return Destination(view, "")

    def refuse(self, why: str) -> NoReturn:
        """ValueError that names this destination."""
        raise ValueError(f"{self.path}: {why}")

    def _open_tensor(self, tensor: Any) -> None:
        torch = sys.modules["torch"]
        if tensor.layout is not torch.strided or tensor.is_quantized:
            self.refuse("get(into=) writes dense tensors only")
        self.shape = Shape(
            str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape),
            tensor.numel() * tensor.element_size(), tensor.data_ptr(), tensor.is_contiguous(),
        )  # fmt: skip
        if not tensor.is_contiguous():
            self.refuse("the tensor is not contiguous: bring torch.empty of its shape, and copy_ from that")
        self.on_cuda = tensor.device.type == "cuda"
        if tensor.device.type == "cpu" and tensor.numel():
            self.bytes = memoryview(tensor.detach().view(-1).view(torch.uint8).numpy())

    def _open_array(self, array: Any) -> None:
        if array.dtype.hasobject:
            self.refuse("an array of Python objects cannot be written")
        if not array.flags.writeable:
            self.refuse("the array is read-only: bring one of your own, such as numpy.empty_like(it)")
        if not array.flags.c_contiguous:
            self.refuse("the array is not contiguous: bring numpy.empty of its shape")
        self.shape = Shape(_dtype_name(array.dtype), array.shape, array.nbytes, 0, True)
        if array.nbytes:
            self.bytes = memoryview(array.reshape(-1).view("u1"))

    def _open_buffer(self, buffer: Any) -> None:
        try:
            view = memoryview(buffer)
        except TypeError:
            raise TypeError(
                f"{self.path}: a destination is a torch tensor, a numpy array, a writable buffer, or a list "
                f"or dict of them, not {type(buffer).__name__}"
            ) from None
        if view.readonly:
            self.refuse("the buffer is read-only: bring a bytearray or another writable one")
        if not view.c_contiguous:
            self.refuse("the buffer is not contiguous")
        self.raw = True
        self.bytes = view.cast("B")
        self.shape = Shape("uint8", (view.nbytes,), view.nbytes, 0, True)

    def check(self, value: Shape) -> None:
        """ValueError unless a leaf of this shape and type fits."""
        mine = self.shape
        if self.raw:
            if value.nbytes != mine.nbytes:
                self.refuse(f"it has {mine.nbytes} bytes, the value has {value.nbytes}")
        elif value.sizes != mine.sizes:
            self.refuse(f"its shape is {mine.sizes}, the value's is {value.sizes}")
        elif value.dtype != mine.dtype:
            self.refuse(f"its dtype is {mine.dtype}, the value's is {value.dtype}")

    def copy_from(self, value: Any) -> None:
        """Write a leaf that `check` let pass, or its bytes."""
        if self.bytes is None:
            if self.shape.nbytes:
                torch = sys.modules["torch"]
                source = value if _is_tensor(value) else torch.frombuffer(_flat(value), dtype=torch.uint8)
                if not _is_tensor(value):
                    source = source.view(self.target.dtype).view(self.target.shape)
                with torch.no_grad():
                    self.target.copy_(source)
            return
        self.bytes[:] = _flat(value)

    def close(self) -> None:
        """Tell torch that the memory has changed: autograd compares versions."""
        if _is_tensor(self.target):
            torch = sys.modules["torch"]
            torch.autograd.graph.increment_version(self.target)


def _flat(value: Any) -> memoryview:
    """The elements of a leaf as bytes in C order."""
    if _is_tensor(value):
        torch = sys.modules["torch"]
        return memoryview(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    if _is_array(value):
        return memoryview(sys.modules["numpy"].ascontiguousarray(value).reshape(-1).view("u1"))
    return memoryview(value).cast("B")
