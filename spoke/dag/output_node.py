"""Names of `ray.dag.output_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.nodes import MultiOutputNode as MultiOutputNode

__all__ = ["MultiOutputNode"]

__getattr__ = absent.getter(__name__)
