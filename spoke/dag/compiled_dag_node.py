"""Names of `ray.dag.compiled_dag_node`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.compiled import CompiledDAG as CompiledDAG
from spoke.dag.compiled import CompiledDAGFuture as CompiledDAGFuture
from spoke.dag.compiled import CompiledDAGRef as CompiledDAGRef

__all__ = ["CompiledDAG"]

__getattr__ = absent.getter(__name__)
