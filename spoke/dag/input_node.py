"""Names of `ray.dag.input_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.nodes import DAGInputData as DAGInputData
from spoke.dag.nodes import DAGNode as DAGNode
from spoke.dag.nodes import InputAttributeNode as InputAttributeNode
from spoke.dag.nodes import InputNode as InputNode

__all__ = ["DAGInputData", "InputAttributeNode", "InputNode"]

__getattr__ = absent.getter(__name__)
