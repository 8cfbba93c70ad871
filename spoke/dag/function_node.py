"""Names of `ray.dag.function_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.nodes import FunctionNode as FunctionNode

__all__ = ["FunctionNode"]

__getattr__ = absent.getter(__name__)
