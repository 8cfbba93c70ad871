"""Joining and leaving: `init`, `shutdown`, and the context that `init` returns.

Rules of this module: arguments are checked here; `spoke.embedded` starts a cluster, `spoke.driver` joins one.
"""

from __future__ import annotations

from typing import Any

from spoke import config, current
from spoke.options import check_namespace
from spoke.quantities import check_node_quantity

# Accepted by `init` for compatibility and without effect here: what they turn does not exist in Spoke.
_IGNORED = frozenset({
    "_cgroup_path", "_driver_object_store_memory", "_enable_object_reconstruction",
    "_metrics_export_port", "_node_ip_address", "_node_name", "_object_spilling_directory",
    "_plasma_directory", "_redis_max_memory", "_redis_password", "_redis_username",
    "_system_config", "_temp_dir", "_tracing_startup_hook", "cgroup_path", "enable_resource_isolation",
    "proxy_server_url", "system_reserved_cpu", "system_reserved_memory",
})  # fmt: skip


class Context:
    """What `init` returns: readable facts about the connection; also a mapping and a context manager."""

    __slots__ = ("address_info",)

    def __init__(self, address_info: dict[str, Any]) -> None:
        self.address_info = address_info

    @property
    def dashboard_url(self) -> str:
        """Where `JobSubmissionClient` finds the cluster; there is no page to look at."""
        return str(self.address_info.get("webui_url") or "")

    @property
    def python_version(self) -> str:
        """Version of the interpreter."""
        import sys

        return ".".join(str(part) for part in sys.version_info[:3])

    @property
    def ray_version(self) -> str:
        """The version of Ray whose interface this is."""
        from spoke.version import RAY_VERSION

        return RAY_VERSION

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __contains__(self, key: object) -> bool:
        return key in self.address_info

    def get(self, key: str, default: Any = None) -> Any:
        """As of any mapping."""
        return self.address_info.get(key, default)

    def keys(self) -> Any:
        """As of any mapping."""
        return self.address_info.keys()

    def values(self) -> Any:
        """As of any mapping."""
        return self.address_info.values()

    def items(self) -> Any:
        """As of any mapping."""
        return self.address_info.items()

    def __len__(self) -> int:
        return len(self.address_info)

    def __iter__(self) -> Any:
        return iter(self.address_info)

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *exc: object) -> None:
        shutdown()

    def disconnect(self) -> None:
        """Leave the cluster."""
        shutdown()

    def __repr__(self) -> str:
        info = self.address_info
        return f"Context(address={info.get('address')!r}, node_id={info.get('node_id')!r})"


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    labels: dict[str, str] | None = None,
    object_store_memory: int | None = None,
    local_mode: bool = False,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: Any = "info",
    logging_format: str | None = None,
    logging_config: Any = None,
    log_to_driver: bool | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    engine: str | None = None,
    _skip_env_hook: bool = False,
    **kwargs: Any,
) -> Context:
    """Start a cluster in this process's care, or join one.

    Args:
        address: None joins the cluster of SPOKE_ADDRESS (or RAY_ADDRESS) if set and starts one otherwise;
            where Spoke is called `ray`, it also joins one that ``ray start --head`` runs on this machine.
            "local" always starts one; "auto" joins the one that runs on this machine; "host:port" joins.
        num_cpus, num_gpus, resources, labels, object_store_memory: of the node of a new cluster; by default
            the CPUs this process may use, the GPUs found, and 30 % of memory in bytes.
        local_mode: tasks and actors run inline, in this process; see `spoke.localmode`.
        ignore_reinit_error: a second `init` returns the first one's context instead of raising.
        namespace: for named actors; default a namespace of this job's own.
        runtime_env: for all workers of this job.
        _memory: bytes that the node of a new cluster offers to tasks that ask for memory.
        logging_config: a `LoggingConfig`: how the driver and its workers log.
        engine: "spoke" (default, or SPOKE_ENGINE) or "ray": the program runs on a Ray cluster, by real Ray's
            init() with the same arguments.  So it does with an address "ray://host:port".

    Raises:
        RuntimeError: called twice, or an unknown argument.
        ConnectionError: there is no cluster at the address.
        ValueError, TypeError: a wrong argument.
    """
    _check_unknown(kwargs)
    if current.client is not None:
        if ignore_reinit_error:
            return _context()
        raise RuntimeError(
            "Maybe you called ray.init twice by accident? This error can be suppressed by passing in "
            "'ignore_reinit_error=True' or by calling 'ray.shutdown()' prior to 'ray.init()'."
        )
    runtime_env = runtime_env if _skip_env_hook else _hooked(runtime_env)
    options = _options(namespace, runtime_env, job_config, log_to_driver, logging_level)
    options["temp_dir"] = kwargs.get("_temp_dir")
    options["logging"] = _logging(logging_config)
    node = {
        "num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources, "labels": labels,
        "object_store_memory": object_store_memory, "_memory": kwargs.pop("_memory", None),
        "_system_config": kwargs.get("_system_config"),
    }  # fmt: skip
    shown = {
        "include_dashboard": bool(include_dashboard),
        "dashboard_host": dashboard_host, "dashboard_port": dashboard_port,
        "configure_logging": configure_logging, "logging_format": logging_format,
        "logging_level": None if logging_level == "info" else logging_level, "logging_config": logging_config,
        "local_mode": local_mode or None, "_skip_env_hook": True,
    }  # fmt: skip
    started = _connect(engine, address, options, node, {**shown, **kwargs})
    current.job_config = job_config
    context = _context()
    if configure_logging:
        _say_joined(started, context, logging_level, logging_format)
    return context


def init_by_first_use() -> None:
    """Call `init` for a program that has not and goes on as if it had.

    Raises:
        RaySystemError: that is switched off.
    """
    if not may_init_by_first_use():
        raise not_started()
    init()


def may_init_by_first_use() -> bool:
    """Whether a program that has not called `init` may be given a cluster."""
    return current.auto_connect and bool(config.get("auto_connect"))


def not_started() -> Exception:
    """The error of who needs a cluster and has none; in Ray's words, which programs look for."""
    from spoke.errors import RaySystemError

    return RaySystemError("Ray has not been started yet. You can start Ray with 'ray.init()'.")


def _options(
    namespace: Any, runtime_env: Any, job_config: Any, log_to_driver: bool | None, logging_level: Any
) -> dict[str, Any]:
    """What all engines want to know of this driver, checked."""
    if namespace is not None:
        check_namespace(namespace)
    if runtime_env is not None and not isinstance(runtime_env, dict):
        raise TypeError(f"runtime_env must be a dict or RuntimeEnv, got {type(runtime_env)}")
    from spoke import runtime_env as environments

    job_env = getattr(job_config, "runtime_env", None) or runtime_env
    return {
        "namespace": namespace or getattr(job_config, "ray_namespace", None) or config.get("namespace"),
        "runtime_env": environments.checked(environments.merged(_env_of_job(), job_env)),
        "actor_lifetime": getattr(job_config, "default_actor_lifetime", None),
        "log_to_driver": config.get("log_to_driver") if log_to_driver is None else bool(log_to_driver),
        "log_level": logging_level if isinstance(logging_level, str) else config.get("log_level"),
    }


def _say_joined(started: bool, context: Context, level: Any, layout: str | None) -> None:
    """Tell who wants to know whether a cluster was started or joined."""
    if current.joined is not None:
        current.joined(started, context["address"], level, layout)


def _hooked(runtime_env: dict[str, Any] | None) -> dict[str, Any] | None:
    """The runtime environment as the user's hook wants it."""
    hook = config.get("runtime_env_hook")
    if hook is None:
        return runtime_env
    from importlib import import_module

    module, _, function = hook.rpartition(".")
    found: dict[str, Any] | None = getattr(import_module(module), function)(runtime_env)
    return found


def _logging(given: Any) -> dict[str, Any] | None:
    """The settings of a `LoggingConfig`, given or by the environment; None: neither."""
    encoding = config.get("logging_encoding")
    if given is None and encoding is None:
        return None
    from spoke.job_config import LoggingConfig

    if given is None:
        given = LoggingConfig(encoding)
    elif not isinstance(given, LoggingConfig):
        raise TypeError(f"logging_config must be a LoggingConfig, got {type(given)}")
    settings: dict[str, Any] = given.to_dict()
    return settings


def _connect(
    engine: str | None,
    address: str | None,
    options: dict[str, Any],
    node: dict[str, Any],
    more: dict[str, Any],
) -> bool:
    """Start a cluster with this node, or join the one at the address; `more` is for Ray alone.

    Returns:
        whether Spoke has started one.
    """
    from spoke import engines

    target = config.get("address") if address is None else address
    if engines.chosen(engine, target) == "ray":
        from spoke.engines import ray_process

        ray_process.start(address, options, {**node, **more})
        return False
    started = _connect_here(target, options, node)
    if more["local_mode"]:
        from spoke import localmode

        assert current.client is not None
        localmode.install(current.client)
    return started


def joins(address: str | None) -> str | None:
    """What `init` joins with this address and no node of its own; None: it starts a cluster."""
    target: str | None = config.get("address") if address is None else address
    if target is None and current.joins_started_heads:
        from spoke import records

        head = records.started_head()
        target = None if head is None else str(head["address"])
    return None if target == "local" else target


def _connect_here(target: str | None, options: dict[str, Any], node: dict[str, Any]) -> bool:
    """Start or join a cluster of Spoke's own; was one started?"""
    if target is None and not _given(node):
        target = joins(None)
    if target is None or target == "local":
        from spoke import embedded

        options.update(_node_options(node))
        embedded.start(options)
        return True
    from spoke import driver

    given = [name for name in _given(node) if name != "_memory"]
    if given:  # clients compare these texts with Ray's
        names = "num_cpus and num_gpus" if given[0] in ("num_cpus", "num_gpus") else given[0]
        raise ValueError(f"When connecting to an existing cluster, {names} must not be provided.")
    driver.join(_plain_address(target), options)
    return False


def _given(node: dict[str, Any]) -> list[str]:
    """What a program says of a node of its own."""
    return [name for name, value in node.items() if value is not None]


def _check_unknown(kwargs: dict[str, Any]) -> None:
    unknown = [name for name in kwargs if name not in _IGNORED and name != "_memory"]
    if unknown:
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(unknown)}")


def _env_of_job() -> dict[str, Any]:
    """The runtime environment that a submitted job's driver was started with."""
    text, ray_text = config.get("runtime_env"), config.get("ray_job_config")
    if not text and not ray_text:
        return {}
    import json

    found = json.loads(text) if text else json.loads(ray_text).get("runtime_env")
    return found if isinstance(found, dict) else {}


def _node_options(node: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    memory = node["_memory"]
    options["memory"] = None if memory is None else check_node_quantity("_memory", memory)
    for name in ("num_cpus", "num_gpus"):
        value = node[name] if node[name] is not None else config.get(name)
        options[name] = None if value is None else check_node_quantity(name, value)
    _check_visible(options["num_gpus"])
    custom = node["resources"] or {}
    if not isinstance(custom, dict):
        raise TypeError(f"resources must be a dict, got {type(custom)}")
    if "CPU" in custom or "GPU" in custom:
        raise ValueError(
            "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
        )
    options["resources"] = {
        str(name): check_node_quantity(str(name), amount) for name, amount in custom.items()
    }
    options["labels"] = {str(name): str(value) for name, value in (node["labels"] or {}).items()}
    memory = node["object_store_memory"]
    if memory is None:
        memory = config.get("object_store_memory")
    elif not isinstance(memory, int | float) or memory < 1:
        raise ValueError(f"object_store_memory must be a positive number of bytes, not {memory!r}")
    options["object_store_memory"] = None if memory is None else int(memory)
    return options


def _check_visible(num_gpus: float | None) -> None:
    if not num_gpus:
        return
    from spoke.devices import CUDA, visible_devices

    visible = visible_devices(config.get("cuda_visible_devices"))
    if visible is not None and num_gpus > len(visible):
        raise ValueError(f"Attempting to start a node with {num_gpus:g} GPU, but {CUDA} contains {visible}.")


def _plain_address(address: str) -> str:
    """``host:port`` or "auto"; the schemes of Ray and Spoke addresses are dropped."""
    if not isinstance(address, str) or not address:
        raise ValueError(f"address must be a text such as 'auto' or 'host:port', not {address!r}")
    plain = address.partition("://")[2] if "://" in address else address
    if plain == "auto":
        return plain
    host, separator, port = plain.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"Malformed address: {address!r}. Expected '<host>:<port>', 'auto' or 'local'.")
    return plain


def _context() -> Context:
    client = current.client
    assert client is not None
    facts = client.runtime_context
    address = facts.get("address") or ""
    # There is no dashboard; where programs take its address from here, they submit jobs to it.
    return Context({
        "address": address,
        "gcs_address": address,
        "node_id": bytes(facts["node_id"]).hex(),
        "node_ip_address": address.rpartition(":")[0] or "127.0.0.1",
        "session_dir": _session_dir(facts),
        "namespace": facts.get("namespace"),
        "webui_url": facts.get("dashboard") or address,
    })  # fmt: skip


def _session_dir(facts: Any) -> str:
    """Where the files of this run of the cluster are on this machine, its logs above all."""
    if facts.get("temp_dir"):  # of real Ray
        return str(facts["temp_dir"])
    import os

    from spoke import records

    return os.path.join(records.temp_root(), str(facts.get("session") or ""))


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster; one that `init` started ends with all its processes.  May be called twice."""
    client = current.client
    if client is not None:
        while current.at_shutdown:
            current.at_shutdown.popitem()[1]()
        try:
            client.close()
        finally:
            current.client = None


def is_initialized() -> bool:
    """Is this process connected to a cluster?"""
    return current.client is not None
