"""Names of `ray.dag.class_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.nodes import ClassMethodNode as ClassMethodNode
from spoke.dag.nodes import ClassNode as ClassNode

__all__ = ["ClassMethodNode", "ClassNode"]

__getattr__ = absent.getter(__name__)
