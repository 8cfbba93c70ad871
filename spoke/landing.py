"""Objects read into memory that the caller brings: ``get(ref, into=buffer)``.

The value is unpickled once over stand-ins for its buffers, memory that is never touched, which shows its
structure: tensors and arrays with their types and shapes, each over a stand-in that says which block holds
its bytes.  That is compared with what the caller brought, and then all blocks of all refs go straight to
their destinations in one batch.  What is not a block of its own (small values, bytes inside the pickle,
another order of elements) is copied into its destination afterwards.

Nothing is written before everything fits.  Once bytes move, an error leaves the destinations undefined.
"""

from __future__ import annotations

import mmap
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from spoke import codec
from spoke._native import buffer_address
from spoke.core.refs import PENDING, VALUE, Entry
from spoke.cudadriver import Target
from spoke.destination import Destination, Shape, destinations, shape_of
from spoke.waiting import UNREADABLE

if TYPE_CHECKING:
    from spoke.client import Client
    from spoke.objectref import ObjectRef

ALIGN: Final = 64
MAP_NORESERVE: Final = 0x4000  # of Linux; `mmap` names it from Python 3.13 on


def get_into(client: Client, given: Any, timeout: float | None, into: Any) -> Any:
    """Read one ref into one destination, or a list of refs into a list of as many; returns `into`.

    A destination is a torch tensor, a numpy array or any writable buffer, or a list, tuple or dict of
    destinations for a value of the same structure.

    Raises:
        TypeError: not a ref, or no destination.
        ValueError: a destination that does not fit (shape, dtype, bytes, keys), is read-only or not
            contiguous; the message says where in the value.
        GetTimeoutError and what `get` raises otherwise.
    """
    from spoke.objectref import ObjectRef

    single = isinstance(given, ObjectRef)
    refs: list[ObjectRef[Any]] = [given] if single else given
    if not isinstance(refs, list) or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(f"get(into=) reads an ObjectRef or a list of ObjectRefs, not {given!r}")
    targets = [into] if single else into
    if not isinstance(targets, (list, tuple)) or len(targets) != len(refs):
        count = len(targets) if isinstance(targets, (list, tuple)) else type(targets).__name__
        raise ValueError(f"get(into=) needs one destination per ref: {len(refs)} refs, into={count}")
    names = ["into"] if single else [f"into[{index}]" for index in range(len(refs))]
    deadline = None if timeout is None else time.monotonic() + timeout
    done = False
    while not done:
        wanted = [destinations(target, name) for target, name in zip(targets, names, strict=True)]
        done = _moved(client, refs, wanted, deadline)
    return into


def _moved(client: Client, refs: list[ObjectRef[Any]], wanted: list[Any], deadline: float | None) -> bool:
    """Wait for all and read them; False where one is lost and made again."""
    if any(ref._entry.status == PENDING for ref in refs):
        client.waiting.wait_all(refs, None if deadline is None else max(0.0, deadline - time.monotonic()))
    entries = [ref._entry for ref in refs]
    for entry in entries:
        if entry.status > 0:
            raise client.replies.error_of(entry)
    with client.lock:
        for entry in entries:
            entry.local += 1
    before = [entry.value for entry in entries]
    try:
        _move(client, entries, wanted)
        return True
    except UNREADABLE:
        for parts in before:
            client.waiting.gone(parts or [])
        if [entry.value for entry in entries if entry.status == VALUE] == before:
            raise
        return False
    finally:
        for entry in entries:
            client.release(entry)


def _move(client: Client, entries: list[Entry], wanted: list[Any]) -> list[Any]:
    plans = [_Plan(client, entry, target) for entry, target in zip(entries, wanted, strict=True)]
    parts = [part for plan in plans for part in plan.parts]
    into = [view for plan in plans for view in plan.into]
    if parts:
        client.router.read(parts, into)
    for plan in plans:
        plan.finish()
    for target in (one for plan in plans for one in plan.targets):
        target.close()
    return [plan.result for plan in plans]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


class InOrder(NamedTuple):
    """Destinations for the tensors of a value in the order of the value, whatever holds them."""

    path: str
    inner: list[Destination]


def get_in_order(client: Client, ref: ObjectRef[Any], targets: list[Any]) -> Any:
    """The resolved value of `ref`, with `targets` in the place of its tensors, which they take over.

    Raises:
        ValueError, TypeError: they do not fit; as `get_into`.
    """
    entry = ref._entry
    if entry.status != VALUE:
        raise client.replies.error_of(entry)
    path = "the target of the ref"
    wanted = InOrder(path, [Destination(one, f"{path}[{index}]") for index, one in enumerate(targets)])
    with client.lock:
        entry.local += 1
    try:
        return _move(client, [entry], [wanted])[0]
    finally:
        client.release(entry)


class _Plan:
    """What one value needs: blocks to read and where to, and copies to make afterwards."""

    def __init__(self, client: Client, entry: Entry, target: Any) -> None:
        parts = entry.value or []
        body = client.values.body(parts)
        sizes = [len(part) if type(part) is bytes else part[4] for part in parts[1:]]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + (size + ALIGN - 1) // ALIGN * ALIGN)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._stand_in = memoryview(mmap.mmap(-1, max(starts[-1], 1), flags=flags))
        self._origin = buffer_address(self._stand_in)
        self._held = parts[1:]
        self._by_start = {start: index for index, start in enumerate(starts[:-1]) if sizes[index]}
        self._slots = [
            self._stand_in[start : start + size] for start, size in zip(starts, sizes, strict=False)
        ]
        self._taken: dict[int, Any] = {}  # block -> where its bytes go, a `transport.base.Destination`
        self._copies: list[tuple[Any, Destination]] = []  # from a value over stand-ins, or from bytes
        self.targets: list[Destination] = []
        self.result: Any = None  # the value with its destinations inside, where they are `InOrder`
        self.parts: list[Any] = []
        self.into: list[Any] = []
        self._match(_load(body, self._slots, entry), target)
        self._read_blocks()

    def _match(self, value: Any, target: Any) -> None:
        """Compare the value with what was brought, in step; ValueError where they differ."""
        if isinstance(target, Destination):
            shape = shape_of(value)
            if shape is None:
                target.refuse(f"the value there is a {type(value).__name__}, which has no buffer to read")
            target.check(shape)
            self.targets.append(target)
            self._assign(value, shape, target)
        elif isinstance(target, InOrder):
            self.result = self._match_in_order(value, target)
        elif isinstance(target.inner, dict):
            if not isinstance(value, Mapping):
                raise ValueError(f"{target.path} is a dict, the value there is a {type(value).__name__}")
            lacking = sorted(map(repr, value.keys() - target.inner.keys()))
            surplus = sorted(map(repr, target.inner.keys() - value.keys()))
            if lacking or surplus:
                raise ValueError(
                    f"{target.path} has other keys than the value: missing {', '.join(lacking) or 'none'}; "
                    f"not in the value: {', '.join(surplus) or 'none'}"
                )
            for key, inner in target.inner.items():
                self._match(value[key], inner)
        else:
            if not _is_list(value) or len(value) != len(target.inner):
                found = f"{len(value)} items" if _is_list(value) else type(value).__name__
                raise ValueError(f"{target.path} has {len(target.inner)} items, the value there has {found}")
            for item, inner in zip(value, target.inner, strict=True):
                self._match(item, inner)

    def _match_in_order(self, value: Any, target: InOrder) -> Any:
        """A tensor, or a list or dict of them, against a flat list; what the value is with them inside."""
        leaves = list(value.values() if isinstance(value, Mapping) else value if _is_list(value) else [value])
        if len(leaves) != len(target.inner):
            raise ValueError(f"{target.path} has {len(target.inner)} tensors, the value {len(leaves)}")
        for leaf, inner in zip(leaves, target.inner, strict=True):
            self._match(leaf, inner)
        brought = [inner.target for inner in target.inner]
        if isinstance(value, Mapping):
            return dict(zip(value, brought, strict=True))
        return brought if _is_list(value) else brought[0]

    def _assign(self, value: Any, shape: Shape, target: Destination) -> None:
        """Send the block of this leaf to its destination, or note a copy."""
        index = self._by_start.get(shape.address - self._origin) if shape.in_order else None
        if index is None or len(self._slots[index]) != shape.nbytes:
            self._copies.append((value, target))  # from the pickle, or out of order
        elif index in self._taken:
            first = self._taken[index]  # one tensor at two places
            self._copies.append((first if isinstance(first, memoryview) else first.tensor, target))
        elif target.bytes is not None:
            self._taken[index] = target.bytes
        elif type(self._held[index]) is bytes or not target.on_cuda:
            self._copies.append((value, target))
        else:
            self._taken[index] = Target(target.target)

    def _read_blocks(self) -> None:
        """The batch: what has a destination goes there, what a copy needs goes to the stand-in."""
        whole = bool(self._copies)
        for index, part in enumerate(self._held):
            place = self._taken.get(index)
            if place is None:
                if not whole:
                    continue
                place = self._slots[index]
            if type(part) is bytes:
                self._copies.insert(0, (part, Destination.of_bytes(place)))
            else:
                self.parts.append(part)
                self.into.append(place)

    def finish(self) -> None:
        """The copies, in order: inline bytes first, which later ones may read."""
        for value, target in self._copies:
            target.copy_from(value)


def _load(body: Any, slots: list[memoryview], entry: Entry) -> Any:
    context = codec.context
    before = context.source, context.lease
    context.source, context.lease = entry, None
    try:
        if "torch" not in sys.modules:
            return codec.loads(body, slots)
        import torch

        with torch.no_grad():
            return codec.loads(body, slots)
    except Exception as error:
        raise TypeError(
            f"get(into=) reads tensors, arrays, buffers, and lists and dicts of them; this value cannot be "
            f"rebuilt over the caller's memory: {error!r}"
        ) from error
    finally:
        context.source, context.lease = before
