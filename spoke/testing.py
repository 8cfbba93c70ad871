"""Clusters for the tests of programs that use Spoke: real protocol, real processes, made-up resources.

``with LocalCluster(num_nodes=2, cpus=4, gpus=8):`` starts the nodes on this machine in well under a second,
joins them, and leaves nothing behind at its end, however the program ends.
"""

from __future__ import annotations

from typing import Any


class LocalCluster:
    """Several nodes on this machine; this process is their driver inside the ``with`` statement.

    Args:
        num_nodes: daemons, each with resources of its own.
        cpus, gpus: of each node, whatever the machine has.
        resources, labels: further ones of each node.
        node_labels: labels of single nodes, in order, on top of `labels`.
        init: further arguments of `spoke.init`.

    Raises:
        ValueError: there is no node, or a wrong amount.
        RuntimeError: this process is connected to a cluster already.
    """

    def __init__(
        self,
        num_nodes: int = 1,
        cpus: float = 4,
        gpus: float = 0,
        *,
        resources: dict[str, float] | None = None,
        labels: dict[str, str] | None = None,
        node_labels: list[dict[str, str]] | None = None,
        **init: Any,
    ) -> None:
        if num_nodes < 1:
            raise ValueError(f"num_nodes is a number of 1 or more, not {num_nodes!r}")
        extra = node_labels or []
        self._nodes = [
            {
                "num_cpus": cpus,
                "num_gpus": gpus,
                "resources": dict(resources or {}),
                "labels": {**(labels or {}), **(extra[index] if index < len(extra) else {})},
            }
            for index in range(num_nodes)
        ]
        self._init = init
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """``host:port``, for other programs to join."""
        return str(self._cluster.address)

    def start(self) -> LocalCluster:
        """Start the nodes and join them."""
        from spoke.cluster_utils import Cluster
        from spoke.lifecycle import init, is_initialized

        if is_initialized():
            raise RuntimeError("this process is connected to a cluster: call spoke.shutdown() before")
        first, *others = self._nodes
        self._cluster = Cluster(True, head_node_args=first)
        try:
            for node in others:
                self._cluster.add_node(**node)
            init(address=self.address, **{"log_to_driver": False, **self._init})
        except BaseException:
            self.stop()
            raise
        return self

    def add_node(self, **node: Any) -> Any:
        """One more node; arguments as `spoke.cluster_utils.Cluster.add_node`."""
        return self._cluster.add_node(**node)

    def remove_node(self, node: Any) -> None:
        """Kill a node that `add_node` returned: what runs there is lost."""
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        """Leave and end the nodes with all their processes; may be repeated."""
        from spoke.lifecycle import shutdown

        shutdown()
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None

    def __enter__(self) -> LocalCluster:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()
