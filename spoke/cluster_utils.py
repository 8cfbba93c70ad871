"""`Cluster`: several nodes on one machine, for tests of what needs more than one.

Every node is a daemon of its own with a node id, resources and workers of its own; they talk over
TCP on the loopback.  All of them end with this process, however it ends.
"""

from __future__ import annotations

import time
from typing import Any

from spoke import absent, token
from spoke.launch import Launched, launch
from spoke.observer import Observer

FAKE_HEAD_NODE_ID = "f" * 51 + "0" * 5
cluster_not_supported = False  # by this operating system
DEFAULT_STORE_BYTES = 150 * 1024 * 1024

_SETTINGS = (
    "state_dir",
    "num_cpus",
    "num_gpus",
    "memory",
    "object_store_memory",
    "resources",
    "labels",
    "log_dir",
)
# Arguments that Ray's clusters take and that have no meaning here; they change nothing.
_IGNORED = (
    "_system_config", "dashboard_agent_listen_port", "dashboard_host", "dashboard_port",
    "enable_object_reconstruction", "env_vars", "external_addresses", "gcs_server_port", "include_dashboard",
    "include_log_monitor", "max_worker_port", "metrics_export_port", "min_worker_port", "node_ip_address",
    "node_manager_port", "node_name", "object_manager_port", "plasma_directory", "ray_client_server_port",
    "redis_max_memory", "redis_password", "redis_username", "runtime_env_agent_port", "temp_dir",
    "worker_port_list",
)  # fmt: skip


class Node:
    """One node of a `Cluster`."""

    def __init__(self, daemon: Launched, head: bool, settings: dict[str, Any]) -> None:
        self._daemon = daemon
        self.settings = settings
        self.head = head

    @property
    def node_id(self) -> str:
        """The node's id in hexadecimal, as `nodes()` shows it."""
        return self._daemon.node_id.hex()

    unique_id = node_id

    @property
    def address(self) -> str:
        """``host:port`` of the cluster."""
        return self._daemon.address

    gcs_address = address

    @property
    def node_ip_address(self) -> str:
        """Address of this node."""
        return str(self._daemon.info["host"])

    @property
    def pid(self) -> int:
        """Process id of the node's daemon."""
        return self._daemon.pid

    @property
    def session(self) -> str:
        """Name of the daemon's session."""
        return str(self._daemon.info["session"])

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        return self._daemon.is_alive()

    def remaining_processes_alive(self) -> bool:
        """Whether all of the node's own processes run (the daemon is all)."""
        return self.is_alive()

    def kill(self, allow_graceful: bool = True) -> None:
        """End the node and all its processes, and wait for that."""
        self._daemon.stop(force=not allow_graceful)

    def kill_raylet(self) -> None:
        """Kill the node at once; the name is of Ray's word for its agent."""
        self.kill(allow_graceful=False)

    def __repr__(self) -> str:
        return f"Node({self.node_id[:12]}, pid={self.pid}, head={self.head})"


class Cluster:
    """A cluster of local nodes.

    Args:
        initialize_head: start the head node at once.
        connect: with `initialize_head`, also connect this process as a driver.
        head_node_args: arguments of `add_node` for the head.
        shutdown_at_exit: accepted for compatibility; the nodes always end with this process.

    Raises:
        RuntimeError: `connect` without `initialize_head`, or the head did not start.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        self.head_node: Node | None = None
        self.worker_nodes: list[Node] = []
        self.connected = False
        self.token = token.generate()
        self._observer: Observer | None = None
        if connect and not initialize_head:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str | None:
        """``host:port`` for `init(address=...)`; None before there is a head."""
        return self.head_node.address if self.head_node else None

    gcs_address = address

    def connect(self, namespace: str | None = None) -> None:
        """Connect this process to the cluster as a driver.

        Raises:
            RuntimeError: there is no head, or it is connected already.
        """
        if self.address is None:
            raise RuntimeError("Cannot connect to uninitialized cluster.")
        if self.connected:
            raise RuntimeError("This process is connected to the cluster already.")
        from spoke import api

        api.init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True

    def add_node(self, wait: bool = True, **node_args: Any) -> Node:
        """Add a node; the first is the head.

        Args:
            wait: until the hub lists the node as alive.
            **node_args: num_cpus (default 1), num_gpus (0), memory (bytes), object_store_memory (150 MiB),
                resources, labels, log_dir; of the head also state_dir, where its journal is, which
                lets nodes, drivers and actors outlive it (`restart_head`).  Ray's other arguments are
                accepted and change nothing.

        Raises:
            TypeError: an unknown argument.
            RuntimeError: the node did not start.
            TimeoutError: it did not join within 30 s.
        """
        for name in node_args:
            if name not in _SETTINGS and name not in _IGNORED:
                raise TypeError(f"add_node() got an unexpected keyword argument {name!r}")
        settings: dict[str, Any] = {
            "num_cpus": 1, "num_gpus": 0, "object_store_memory": DEFAULT_STORE_BYTES,
            **{name: value for name, value in node_args.items() if name in _SETTINGS and value is not None},
            "link": "tied", "token": self.token, "host": "127.0.0.1", "port": 0, "record": True,
        }  # fmt: skip
        if self.head_node is None:
            node = Node(launch(settings), head=True, settings=settings)
            self.head_node = node
        else:
            host, _, port = self.head_node.address.rpartition(":")
            settings.update(mode="node", hub=[host, int(port)])
            node = Node(launch(settings), head=False, settings=settings)
            self.worker_nodes.append(node)
        if wait:
            self._wait_until(lambda alive: node.node_id in alive, 30.0)
        return node

    def restart_head(self) -> Node:
        """Start the head again after it was killed, on its port and from its journal.

        The head must have been added with a ``state_dir``; nodes, drivers and workers reconnect.

        Raises:
            RuntimeError: there is no head with a journal, or it still runs.
        """
        head = self.head_node
        if head is None or not head.settings.get("state_dir"):
            raise RuntimeError("only a head that was added with state_dir=... can be restarted")
        if head.is_alive():
            raise RuntimeError("the head still runs: kill it first (head_node.kill(allow_graceful=False))")
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        port = int(head.address.rpartition(":")[2])
        self.head_node = Node(launch({**head.settings, "port": port}), head=True, settings=head.settings)
        return self.head_node

    def remove_node(self, node: Node, allow_graceful: bool = True) -> None:
        """End a node and all its processes.

        Raises:
            ValueError: this process is connected to that node; it is disconnected first.
        """
        from spoke import current

        mine = current.client
        if mine is not None and mine.node_id.hex() == node.node_id:
            from spoke import api

            api.shutdown()
            raise ValueError(
                "Removing a node that this driver is connected to would break the driver; "
                "it has been shut down instead."
            )
        node.kill(allow_graceful)
        if node is self.head_node:
            self._close_observer()
            self.head_node = None
        else:
            self.worker_nodes.remove(node)

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until as many nodes are alive as were added and not removed.

        Raises:
            TimeoutError: not within `timeout` seconds.
        """
        expected = len(self.list_all_nodes())
        self._wait_until(lambda alive: len(alive) == expected, timeout)

    def list_all_nodes(self) -> list[Node]:
        """All nodes, the head first."""
        return ([self.head_node] if self.head_node else []) + self.worker_nodes

    def remaining_processes_alive(self) -> bool:
        """Whether every node that was not removed still runs."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """End every node."""
        self._close_observer()
        for node in [*self.worker_nodes, *([self.head_node] if self.head_node else [])]:
            node.kill()
        self.worker_nodes = []
        self.head_node = None
        self.connected = False

    def _wait_until(self, condition: Any, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            if condition(self._alive()):
                return
            if time.monotonic() > deadline:
                raise TimeoutError("Timed out while waiting for nodes to join.")
            time.sleep(0.01)

    def _alive(self) -> list[str]:
        if self.head_node is None:
            return []
        if self._observer is None:
            host, _, port = self.head_node.address.rpartition(":")
            self._observer = Observer((host, int(port)), self.token)
        return [node["NodeID"] for node in self._observer.ask("nodes") if node["Alive"]]

    def _close_observer(self) -> None:
        if self._observer is not None:
            self._observer.close()
            self._observer = None


__getattr__ = absent.getter(__name__)
