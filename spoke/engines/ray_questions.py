"""What the face asks about the cluster, answered from Ray, in the form in which Spoke's hub answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spoke.actormeta import ActorMeta
from spoke.engines import ray_probe
from spoke.engines.ray_errors import unsupported
from spoke.objectref import ObjectRef
from spoke.options import MethodOptions
from spoke.signature import ANYTHING

if TYPE_CHECKING:
    from spoke.engines.ray_client import RayClient

DESCRIBED_S: Final = 5.0  # a named actor's class is known so long after its name

_WAYS_OUT: Final = {
    "job": ("Spoke's jobs", "submit with Ray's own JobSubmissionClient or `ray job submit`"),
    "endpoint": ("endpoints", "name actors and find them with get_actor"),
}


class Questions:
    """Answers for one `RayClient`."""

    def __init__(self, client: RayClient) -> None:
        self._client = client
        ray = client.ray
        self._answers: dict[str, Callable[..., Any]] = {
            "nodes": ray.nodes,
            "cluster_resources": ray.cluster_resources,
            "available_resources": ray.available_resources,
            "timeline": lambda: json.loads(json.dumps(ray.timeline())),
            "get_actor": self._get_actor,
            "list_named_actors": self._list_named_actors,
            "kv_put": self.kv_put,
            "kv_get": self._kv_get,
            "kv_del": self._kv_del,
            "kv_exists": self._kv_exists,
            "kv_keys": self._kv_keys,
            "group": client.hub.describe,
            "groups": client.hub.describe_all,
            "watch_group": client.hub.describe,
            "topology": client.hub.topology,
            "why": self._why,
            "flush_logs": lambda: None,
        }

    def ask(self, what: str, args: dict[str, Any]) -> Any:
        """The answer; EngineUnsupported for what Ray does not have."""
        answer = self._answers.get(what)
        if answer is None:
            kind = next((kind for kind in _WAYS_OUT if what.startswith(kind)), "")
            raise unsupported(*_WAYS_OUT.get(kind, (f"the question {what!r}", "ask Ray's state API")))
        return answer(**args)

    # -- this process

    def facts(self) -> dict[str, Any]:
        """Facts by the names that `spoke.runtime_context` uses; ids are bytes or None."""
        client = self._client
        context = client.ray.get_runtime_context()
        found: dict[str, Any] = {
            "job_id": bytes.fromhex(context.get_job_id()),
            "node_id": client.node_id,
            "worker_id": client.address[0],
            "namespace": client.namespace,
            "is_worker": client.is_worker,
        }
        if client.closed is None:
            found.update(
                address=_or_none(lambda: context.gcs_address),
                session=_or_none(context.get_session_name),
                temp_dir=_or_none(context.get_temp_dir),
                runtime_env=dict(_or_none(lambda: context.runtime_env) or {}),
            )
        if not client.is_worker:
            return found
        task_id, actor_id, group_id = (
            context.get_task_id(), context.get_actor_id(), context.get_placement_group_id()
        )  # fmt: skip
        found.update(
            task_id=bytes.fromhex(task_id) if task_id else None,
            task_name=context.get_task_name(),
            function_name=context.get_task_function_name(),
            actor_id=bytes.fromhex(actor_id) if actor_id else None,
            group_id=bytes.fromhex(group_id) if group_id else None,
            capture=context.should_capture_child_tasks_in_placement_group,
            resources=context.get_assigned_resources(),
            gpu_ids=client.hub.own_gpus(),
            cancelled=bool(_or_none(context.is_canceled)),
        )
        if actor_id:
            found.update(
                actor_name=context.get_actor_name(),
                incarnation=int(context.was_current_actor_reconstructed),
                leave=client.ray.actor.exit_actor,
            )
        return found

    # -- actors

    def actor(self, actor_id: bytes) -> dict[str, Any]:
        """See `ray_probe.actor_row`; through ``ray://``, where the table is out of reach, a task looks."""
        client = self._client
        if client.connected:
            return ray_probe.actor_row(actor_id.hex())
        look = client.ray.remote(ray_probe.actor_row).options(num_cpus=0)
        return dict(client.ray.get(look.remote(actor_id.hex())))

    def _get_actor(self, name: str, namespace: str | None) -> dict[str, Any]:
        handle = self._client.ray.get_actor(name, namespace or None)
        entry: Any = self._client.objects.life(handle)
        actor_id = entry.id[:16]
        return {"actor_id": actor_id, "meta": self._meta(actor_id, handle), "life": ObjectRef(entry)}

    def _meta(self, actor_id: bytes, handle: Any) -> bytes:
        """What the creator told of the class; of an actor that real Ray made, its methods."""
        methods = {name: (MethodOptions({}), ANYTHING) for name in dir(handle) if not name.startswith("__")}
        deadline = time.monotonic() + DESCRIBED_S
        while time.monotonic() < deadline:
            blob = self._kv_get(namespace="spoke:actors", key=actor_id)
            if blob is not None:
                return bytes(blob)
            if self.actor(actor_id).get("State") not in ("DEPENDENCIES_UNREADY", "PENDING_CREATION"):
                break  # it is there, and nobody of Spoke described it
            time.sleep(0.02)
        return ActorMeta(type(handle).__name__, False, 0, -1, 1, False, methods).blob

    def _list_named_actors(self, all_namespaces: bool, namespace: str) -> list[dict[str, Any]]:
        rows = self._client.ray.util.list_named_actors(all_namespaces=all_namespaces)
        return [row if isinstance(row, dict) else {"name": row, "namespace": namespace} for row in rows]

    # -- keys and values

    def kv_put(self, *, namespace: str, key: bytes, value: Any, overwrite: bool = True) -> bool:
        """Set a key; is it new?"""
        from ray.experimental import internal_kv

        known = internal_kv._internal_kv_put(key, value, overwrite=overwrite, namespace=_space(namespace))
        return not known

    def _kv_get(self, *, namespace: str, key: bytes) -> Any:
        from ray.experimental import internal_kv

        return internal_kv._internal_kv_get(key, namespace=_space(namespace))

    def _kv_exists(self, *, namespace: str, key: bytes) -> bool:
        from ray.experimental import internal_kv

        return bool(internal_kv._internal_kv_exists(key, namespace=_space(namespace)))

    def _kv_del(self, *, namespace: str, key: bytes, by_prefix: bool = False) -> int:
        from ray.experimental import internal_kv

        done = internal_kv._internal_kv_del(key, del_by_prefix=by_prefix, namespace=_space(namespace))
        return int(done or 0)

    def _kv_keys(self, *, namespace: str, prefix: bytes) -> list[bytes]:
        from ray.experimental import internal_kv

        return [bytes(key) for key in internal_kv._internal_kv_list(prefix, namespace=_space(namespace))]

    # -- waiting

    def _why(self, id: bytes) -> str:
        """What a group or an actor waits for."""
        hub = self._client.hub
        if hub.knows(id):
            return hub.why(id)
        row = self.actor(id)
        wanted = self._client.objects.wanted(id)
        if wanted and not hub.fits_somewhere(wanted):
            return f"No node of the Ray cluster can ever hold {wanted}"
        return f"the actor is {row.get('State', 'unknown')} at Ray: {row.get('Cause') or 'it waits'}"


def _space(namespace: str) -> bytes:
    """Ray's name of a namespace of keys; Ray cuts its keys at colons."""
    return namespace.replace(":", ".").encode()


def _or_none(call: Callable[[], Any]) -> Any:
    """A fact that some connections of Ray do not tell."""
    try:
        return call()
    except Exception:
        return None
