"""Names of `ray.experimental.compiled_dag_ref`."""

from __future__ import annotations

from spoke import absent
from spoke.dag.compiled import CompiledDAGFuture as CompiledDAGFuture
from spoke.dag.compiled import CompiledDAGRef as CompiledDAGRef

__all__ = ["CompiledDAGFuture", "CompiledDAGRef"]

__getattr__ = absent.getter(__name__)
