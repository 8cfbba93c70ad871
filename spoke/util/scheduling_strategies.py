"""Where a task or actor may run: in a placement group, on a node, or on nodes by their labels.

Rules of this module: checked when made; `_scheduling` gives the plain form that the hub reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spoke import absent
from spoke.ids import UNIQUE_BYTES

if TYPE_CHECKING:
    from spoke.util.placement_group import PlacementGroup


class PlacementGroupSchedulingStrategy:
    """Run in a bundle of a placement group.

    Args:
        placement_group: the group.
        placement_group_bundle_index: its bundle, or -1 (default) for any.
        placement_group_capture_child_tasks: put what is started from there into the group, too.

    Raises:
        TypeError: `placement_group` is not one.
    """

    def __init__(
        self,
        placement_group: PlacementGroup,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        if placement_group is not None and not hasattr(placement_group, "bundle_specs"):
            raise TypeError(f"a PlacementGroup is needed, not {type(placement_group).__name__}")
        self.placement_group = placement_group
        self.placement_group_bundle_index = placement_group_bundle_index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def _scheduling(self) -> dict[str, Any] | None:
        group = self.placement_group
        if group is None or group.is_empty:
            return None
        return group._scheduling(self.placement_group_bundle_index, self.placement_group_capture_child_tasks)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # fields may change


class NodeAffinitySchedulingStrategy:
    """Run on one node.

    Args:
        node_id: hexadecimal id of the node, as `nodes()` shows it.
        soft: True runs elsewhere if the node is gone or can never hold it; False fails then.
        _spill_on_unavailable: with `soft`, do not wait where the node is busy: run elsewhere.
        _fail_on_unavailable: without `soft`, do not wait where the node is busy: fail.

    Raises:
        ValueError: `node_id` is not an id in hexadecimal, or options that contradict each other.
    """

    def __init__(
        self,
        node_id: str,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        text = node_id if isinstance(node_id, str) else getattr(node_id, "hex", lambda: node_id)()
        try:
            self._node = bytes.fromhex(text)
        except (TypeError, ValueError):
            self._node = b""
        if len(self._node) != UNIQUE_BYTES or self._node == b"\xff" * UNIQUE_BYTES:
            raise ValueError(
                f"Invalid node_id {node_id!r}. Node ID must be a valid hex string: see nodes() for those of "
                "this cluster."
            )
        if _spill_on_unavailable and not soft:
            raise ValueError(
                "_spill_on_unavailable cannot be set when soft is False. "
                "Please set soft to True to use _spill_on_unavailable."
            )
        if _fail_on_unavailable and soft:
            raise ValueError(
                "_fail_on_unavailable cannot be set when soft is True. "
                "Please set soft to False to use _fail_on_unavailable."
            )
        self.node_id = text
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable

    def _scheduling(self) -> dict[str, Any]:
        now = bool(self._spill_on_unavailable or self._fail_on_unavailable)
        return {"kind": "node", "node_id": self._node, "soft": bool(self.soft), "now": now}


class _Condition:
    """A condition on one label."""

    _op = ""

    def __init__(self, *values: str) -> None:
        name = type(self).__name__
        if not values:
            raise ValueError(
                f"The variadic parameter of the {name} operator must be a non-empty tuple: "
                f'e.g. {name}("value1", "value2").'
            )
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"Type of value in position {position} for the {name} operator must be str "
                    f"but got {value} of type {type(value)}."
                )
        self.values = list(values)

    def _plain(self) -> dict[str, Any]:
        return {"op": self._op, "values": self.values}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Condition):
    """The label is one of the values."""

    _op = "in"


class NotIn(_Condition):
    """The label is none of the values, or absent."""

    _op = "not_in"


class Exists(_Condition):
    """The label is there."""

    _op = "exists"

    def __init__(self) -> None:
        self.values = []


class DoesNotExist(_Condition):
    """The label is absent."""

    _op = "does_not_exist"

    def __init__(self) -> None:
        self.values = []


class NodeLabelSchedulingStrategy:
    """Run on nodes whose labels meet all conditions of `hard`; prefer those that meet `soft`.

    Raises:
        ValueError: not a dict of label names to In, NotIn, Exists or DoesNotExist.
    """

    def __init__(
        self, hard: Mapping[str, _Condition], *, soft: Mapping[str, _Condition] | None = None
    ) -> None:
        self.hard = _conditions(hard, "hard")
        self.soft = _conditions(soft, "soft")
        if not self.hard and not self.soft:
            raise ValueError(
                "The `hard` and `soft` parameter of NodeLabelSchedulingStrategy cannot both be empty."
            )

    def _scheduling(self) -> dict[str, Any]:
        return {
            "kind": "labels",
            "hard": {key: condition._plain() for key, condition in self.hard.items()},
            "soft": {key: condition._plain() for key, condition in self.soft.items()},
        }


def _conditions(given: Any, what: str) -> dict[str, _Condition]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f'The {what} parameter must be a map (e.g. {{"key1": In("value1")}}) but got type {type(given)}.'
        )
    for key, condition in given.items():
        if not isinstance(key, str):
            raise ValueError(f"The map key of the {what} parameter must be of type str but got {key!r}.")
        if not isinstance(condition, _Condition):
            raise ValueError(
                f"The map value for key {key} of the {what} parameter must be one of the `In`, `NotIn`, "
                f"`Exists` or `DoesNotExist` operator but got {condition} of type {type(condition)}."
            )
    return dict(given)


__getattr__ = absent.getter(__name__)
