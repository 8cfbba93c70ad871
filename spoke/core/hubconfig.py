"""What the hub's shell decides for its core: sizes, times, what every worker is given."""

from __future__ import annotations


class HubConfig:
    """What the hub's shell decides.  Times are in seconds.

    Args:
        seed: makes the ids of this cluster differ from others'; equal seeds give equal ids.
        session: name of the session, told to every client.
        prestart: idle workers kept ready per node; None: one per CPU, at most `prestart_max`.
        head_node_id: the head's node; None: the first node that joins.
        worker_cwd, worker_env: handed on in every SPAWN.
        node_dead_s: silence after which a node is declared dead.
        start_timeout_s: how long a worker may take to connect before it is killed.
        idle_worker_s: idle workers beyond the kept number are stopped after this.
        reserve_after_s: a request that waits longer gets room kept free for it.
        reclaim_every_s: pause between two requests to the same holders to give leases back.
        scheduler: of jobs, one of core/schedulers.py.
        unknown_s: how long a name may be used before its creation arrives on another link.
        durable: every change is journaled (`spoke.core.journal`), and processes outlive the hub.
        boot: how often a hub of this journal was started before.
        recover_s: how long a restarted hub waits for those it knew.
    """

    __slots__ = (
        "boot",
        "durable",
        "head_node_id",
        "heartbeat_s",
        "idle_special_max",
        "idle_worker_s",
        "node_dead_s",
        "prestart",
        "prestart_max",
        "reclaim_every_s",
        "recover_s",
        "reserve_after_s",
        "scheduler",
        "seed",
        "session",
        "start_failures_max",
        "start_timeout_s",
        "unknown_s",
        "worker_cwd",
        "worker_env",
    )

    def __init__(
        self,
        *,
        seed: bytes = b"",
        session: str = "",
        prestart: int | None = None,
        prestart_max: int = 8,
        head_node_id: bytes | None = None,
        worker_cwd: str | None = None,
        worker_env: dict[str, str] | None = None,
        heartbeat_s: float = 1.0,
        node_dead_s: float = 5.0,
        start_timeout_s: float = 60.0,
        start_failures_max: int = 3,
        idle_worker_s: float = 30.0,
        idle_special_max: int = 4,
        reserve_after_s: float = 2.0,
        reclaim_every_s: float = 0.1,
        unknown_s: float = 5.0,
        durable: bool = False,
        boot: int = 0,
        recover_s: float = 6.0,
        scheduler: str = "fifo",
    ) -> None:
        self.seed = seed
        self.session = session
        self.prestart = prestart
        self.prestart_max = prestart_max
        self.head_node_id = head_node_id
        self.worker_cwd = worker_cwd
        self.worker_env = dict(worker_env or {})
        self.heartbeat_s = heartbeat_s
        self.node_dead_s = node_dead_s
        self.start_timeout_s = start_timeout_s
        self.start_failures_max = start_failures_max
        self.idle_worker_s = idle_worker_s
        self.idle_special_max = idle_special_max
        self.reserve_after_s = reserve_after_s
        self.reclaim_every_s = reclaim_every_s
        self.unknown_s = unknown_s
        self.durable = durable
        self.boot = boot
        self.recover_s = recover_s
        self.scheduler = scheduler
