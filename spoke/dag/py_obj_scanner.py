"""Nodes anywhere inside of a value, also of objects that only their own class can take apart.

Pickling walks through any object; what it meets of the wanted type is kept aside, and put back, or replaced,
when the pickle is read.  So is what does not pickle: it stays the object that it is.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from spoke.dag.nodes import DAGNode

__all__ = ["_PyObjScanner", "_instances"]

_instances: dict[int, _PyObjScanner] = {}  # scanners that keep objects, by id


class _Taker(pickle.Pickler):
    """Pickles a value, and keeps aside what its scanner looks for."""

    def __init__(self, scanner: _PyObjScanner, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self._scanner = scanner

    def persistent_id(self, obj: Any) -> int | None:
        if type(obj) in (list, tuple, dict, str, int, float, bool, bytes, type(None)):
            return None
        wanted = isinstance(obj, self._scanner.source_type)
        return self._scanner.keep(obj, wanted) if wanted or not _pickles(obj) else None


class _Giver(pickle.Unpickler):
    """Reads that pickle with the objects that take the places of those kept aside."""

    def __init__(self, scanner: _PyObjScanner, file: io.BytesIO, table: dict[Any, Any]) -> None:
        super().__init__(file)
        self._scanner = scanner
        self._table = table

    def persistent_load(self, pid: Any) -> Any:
        obj, wanted = self._scanner.kept[pid]
        return self._table.get(obj, obj) if wanted else obj


def _pickles(obj: Any) -> bool:
    """Can pickling take this object apart?  What is inside need not pickle.

    Functions and classes it only names, which fails for those that cannot be imported.
    """
    try:
        obj.__reduce_ex__(5)
    except Exception:
        return False
    return not callable(obj)


class _PyObjScanner:
    """Finds the objects of a type inside of a value, and makes copies of the value with others there.

    Args:
        source_type: of what is looked for; default nodes of graphs.
    """

    def __init__(self, source_type: Any = DAGNode) -> None:
        self.source_type = source_type
        self.kept: list[tuple[Any, bool]] = []
        self._pickle = b""
        _instances[id(self)] = self

    def keep(self, obj: Any, wanted: bool) -> int:
        """Keep an object aside; its number."""
        self.kept.append((obj, wanted))
        return len(self.kept) - 1

    def find_nodes(self, obj: Any) -> list[Any]:
        """All objects of the type, in order."""
        self.kept = []
        file = io.BytesIO()
        _Taker(self, file).dump(obj)
        self._pickle = file.getvalue()
        return [found for found, wanted in self.kept if wanted]

    def replace_nodes(self, table: dict[Any, Any]) -> Any:
        """The value that was searched, with other objects for those that `table` names."""
        return _Giver(self, io.BytesIO(self._pickle), table).load()

    def clear(self) -> None:
        """Forget what was kept."""
        self.kept = []
        _instances.pop(id(self), None)
