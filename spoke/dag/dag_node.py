"""Names of `ray.dag.dag_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.nodes import DAGNode as DAGNode

__all__ = ["DAGNode"]

__getattr__ = absent.getter(__name__)
