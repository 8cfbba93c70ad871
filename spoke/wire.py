"""Every message that crosses a process boundary: one table, one version.

A frame on the wire is ``u32 meta_bytes | u32 payload_bytes | meta | payload`` (little endian; the
native reactor cuts frames).  ``meta`` is a msgpack array ``[kind, field, ...]`` described by
`SCHEMA`; ``payload`` is opaque bytes that belong to the message (a pickled value, a blob).

Rules of this module: pure, no sockets, no clocks.  Any byte string that is not exactly one valid
message raises `ProtocolError` and nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from spoke import _native
from spoke.errors import ProtocolError

PROTOCOL_VERSION: Final = 1
ANY_INCARNATION: Final = -1  # of an actor: the present one

# An address names a process: [process_id, node_id, host, tcp_port].  Two processes with the same
# node_id talk over the abstract unix socket `unix_name(process_id)`, others over TCP; port 0 means
# that the process listens on its node only.
Address = list[Any]


def unix_name(process_id: bytes) -> bytes:
    """Abstract unix socket name of a process: nothing on disk, gone with the process."""
    return b"\0spoke-" + process_id.hex()[:40].encode()


_NEXT = iter(range(1, 200))

# -- session (core/session.py): nothing else is read before both sides proved the token
HELLO = next(_NEXT)
PROOF = next(_NEXT)
ACCEPTED = next(_NEXT)
REFUSED = next(_NEXT)

# -- agent <-> hub
AGENT_UP = next(_NEXT)
HEARTBEAT = next(_NEXT)
SPAWN = next(_NEXT)
STOP_WORKER = next(_NEXT)
WORKER_EXIT = next(_NEXT)
SHUTDOWN = next(_NEXT)

# -- client (driver or worker) <-> hub
CLIENT_UP = next(_NEXT)
WELCOME = next(_NEXT)
WANT = next(_NEXT)
GRANT = next(_NEXT)
GIVE_BACK = next(_NEXT)
RECLAIM = next(_NEXT)
LEASE_LOST = next(_NEXT)
PENDING_REASON = next(_NEXT)
BLOCKED = next(_NEXT)
CREATE_ACTOR = next(_NEXT)
START_ACTOR = next(_NEXT)
ACTOR_READY = next(_NEXT)
ACTOR_FAILED = next(_NEXT)
WATCH_ACTOR = next(_NEXT)
ACTOR_STATE = next(_NEXT)
KILL_ACTOR = next(_NEXT)
CREATE_GROUP = next(_NEXT)
GROUP_STATE = next(_NEXT)
REMOVE_GROUP = next(_NEXT)
REQUEST = next(_NEXT)
RESPONSE = next(_NEXT)
LOG_LINES = next(_NEXT)

# -- process <-> process (calls and objects)
CALL = next(_NEXT)
TASK = next(_NEXT)
REPLY = next(_NEXT)
STREAM_ITEM = next(_NEXT)
STREAM_CREDIT = next(_NEXT)
CANCEL = next(_NEXT)
RECALL = next(_NEXT)
RECALLED = next(_NEXT)
FETCH = next(_NEXT)
VALUE = next(_NEXT)
BORROW = next(_NEXT)
RELEASE = next(_NEXT)
HELD = next(_NEXT)
FREE_BLOCKS = next(_NEXT)
NEED_FUNCTION = next(_NEXT)
FUNCTION = next(_NEXT)

# -- process <-> agent (segments)
NEW_SEGMENT = next(_NEXT)
MAP_SEGMENT = next(_NEXT)
SEGMENT = next(_NEXT)
READ_BLOCK = next(_NEXT)
BLOCK = next(_NEXT)
ORPHAN_FREE = next(_NEXT)

# -- hub -> client, added later: kinds are numbered in order and never renumbered
NODE_STATE = next(_NEXT)

# -- segments, added later: agent -> process, process -> agent, agent -> process; hub -> agent
TRIM = next(_NEXT)
TRIMMED = next(_NEXT)
UNMAP = next(_NEXT)
DROP_ORPHANS = next(_NEXT)

# -- mappings, added later: process -> process of its node, process -> agent
SHARED = next(_NEXT)
MAPPED = next(_NEXT)

# -- hub -> worker, added later
OWNS = next(_NEXT)

# -- agent -> hub: what the node has, who holds what nobody should
DEVICES = next(_NEXT)
DEVICES_HELD = next(_NEXT)

# -- endpoints, added later: hub -> client; client -> server of plain objects, and back
ENDPOINTS = next(_NEXT)
ENDPOINT_CALL = next(_NEXT)
ENDPOINT_REPLY = next(_NEXT)

# -- jobs, added later: hub -> agent, agent -> hub
RUN_JOB = next(_NEXT)
STOP_JOB = next(_NEXT)
JOB_STATE = next(_NEXT)
READ_LOG = next(_NEXT)
LOG_CHUNK = next(_NEXT)

# -- a hub that was restarted: agent -> hub; hub -> client; process -> agent
AGENT_REPORT = next(_NEXT)
ACK = next(_NEXT)
OFFER_SEGMENT = next(_NEXT)

# -- slots of a gang: hub -> agent, agent -> hub, hub -> agent
PREPARE = next(_NEXT)
PREPARED = next(_NEXT)
COMMIT = next(_NEXT)
RELEASE_SLOTS = next(_NEXT)

# -- process <-> process, one-sided reads (core/rdma.py)
RDMA_CONNECT = next(_NEXT)
RDMA_ACCEPT = next(_NEXT)
RDMA_ASK = next(_NEXT)
RDMA_GRANT = next(_NEXT)
RDMA_DONE = next(_NEXT)
RDMA_CLOSE = next(_NEXT)

# -- jobs, added later: agent -> hub
JOBS_RUNNING = next(_NEXT)

# -- process <-> process, calls over RDMA (core/rdma_calls.py)
RDMA_PIPE = next(_NEXT)
RDMA_PIPE_ACCEPT = next(_NEXT)
RDMA_SWITCH = next(_NEXT)
RDMA_PIPE_CLOSE = next(_NEXT)

# -- a worker that is there and ran nothing, added later: hub -> agent, agent -> worker, worker -> hub
SPECIALIZE = next(_NEXT)
SURROUNDINGS = next(_NEXT)
SPECIALIZED = next(_NEXT)

# -- a look into processes (core/inspection.py): hub -> client, client -> hub
INSPECT = next(_NEXT)
INSPECTED = next(_NEXT)
# -- hub -> process, added later
EXPLAIN = next(_NEXT)

# -- runtime environments: agent -> hub, hub -> agent
ENV_STATE = next(_NEXT)
PREPARE_ENV = next(_NEXT)

# -- process <-> process of its node, calls through shared memory (rings.py)
RING_PART = next(_NEXT)
RING_SWITCH = next(_NEXT)

# -- process <-> process, leases that nobody asked for (core/rdma.py)
RDMA_OFFER = next(_NEXT)
RDMA_WITHDRAW = next(_NEXT)

# -- log files, added later: hub -> agent, which answers with LOG_CHUNK
READ_FILES = next(_NEXT)

# -- process -> owner: the node that a result lay on is gone (core/lineage.py)
LOST = next(_NEXT)

_B, _I, _S, _F, _D, _L, _BOOL = (bytes,), (int,), (str,), (float, int), (dict,), (list,), (bool,)
_NB, _NS, _NI = (bytes, type(None)), (str, type(None)), (int, type(None))
_NL = (list, type(None))

SCHEMA: Final[dict[int, tuple[str, tuple[tuple[str, tuple[type, ...]], ...]]]] = {
    HELLO: ("HELLO", (("version", _I), ("role", _S), ("process_id", _B), ("nonce", _B))),
    PROOF: ("PROOF", (("nonce", _B), ("mac", _B), ("process_id", _B))),
    ACCEPTED: ("ACCEPTED", (("mac", _B),)),
    REFUSED: ("REFUSED", (("reason", _S),)),
    # resources are floats by name ("CPU", "GPU", "memory", custom); labels str -> str
    AGENT_UP: (
        "AGENT_UP",
        (("node_id", _B), ("host", _S), ("port", _I), ("resources", _D), ("labels", _D), ("pid", _I)),
    ),
    # GPUs, NICs and CPUs and how they are connected: see core/topology.py
    DEVICES: ("DEVICES", (("report", _D),)),
    # all GPUs that processes of ended workers, or unknown ones, hold: [[index, [pids]], ...]
    DEVICES_HELD: ("DEVICES_HELD", (("held", _L),)),
    HEARTBEAT: ("HEARTBEAT", (("sequence", _I),)),
    # env: variables on top of the agent's; gpu_ids: devices to show, None = leave as inherited;
    # log_place: folder and name of its output below the agent's log directory, None = that directory
    SPAWN: ("SPAWN", (("worker_id", _B), ("env", _D), ("cwd", _NS), ("gpu_ids", _NL), ("log_place", _NS))),
    # as SPAWN, for a worker that idles and ran nothing: it takes these over instead of a new one
    SPECIALIZE: (
        "SPECIALIZE",
        (("worker_id", _B), ("env", _D), ("cwd", _NS), ("gpu_ids", _NL), ("log_place", _NS)),
    ),
    # changes of the environment (None: remove) and the directory; answered to the hub by SPECIALIZED
    SURROUNDINGS: ("SURROUNDINGS", (("changes", _D), ("cwd", _NS))),
    SPECIALIZED: ("SPECIALIZED", ()),
    STOP_WORKER: ("STOP_WORKER", (("worker_id", _B), ("force", _BOOL))),
    # code: exit code >= 0 or None, signal: number or 0; tail: last lines of stderr; memory: peak, bytes
    WORKER_EXIT: (
        "WORKER_EXIT",
        (("worker_id", _B), ("pid", _I), ("code", _NI), ("signal", _I), ("tail", _S), ("memory", _I)),
    ),
    SHUTDOWN: ("SHUTDOWN", (("reason", _S),)),
    # role: "driver" | "worker"; info: job and namespace of a driver, pid, env hash, entrypoint
    CLIENT_UP: ("CLIENT_UP", (("role", _S), ("address", _L), ("pid", _I), ("info", _D))),
    WELCOME: ("WELCOME", (("info", _D),)),
    # The client wants `count` workers in all for this class of tasks (declarative, replaces the
    # previous WANT of the class).  spec: see core/hub.py (resources, strategy, runtime_env, ...).
    WANT: ("WANT", (("class_id", _I), ("spec", _D), ("count", _I))),
    GRANT: ("GRANT", (("class_id", _I), ("lease_id", _I), ("address", _L), ("info", _D))),
    GIVE_BACK: ("GIVE_BACK", (("lease_id", _I), ("retire", _BOOL))),
    RECLAIM: ("RECLAIM", ()),
    LEASE_LOST: ("LEASE_LOST", (("lease_id", _I), ("reason", _S), ("kind", _S))),
    # Why a class, actor or group waits: id is the class_id, actor_id or group_id
    PENDING_REASON: (
        "PENDING_REASON",
        (("what", _S), ("id", (int, bytes)), ("reason", _S), ("fatal", _BOOL)),
    ),
    BLOCKED: ("BLOCKED", (("blocked", _BOOL),)),
    # payload: opaque creation blob, handed to the worker as START_ACTOR's payload
    CREATE_ACTOR: ("CREATE_ACTOR", (("actor_id", _B), ("spec", _D))),
    START_ACTOR: ("START_ACTOR", (("actor_id", _B), ("incarnation", _I), ("spec", _D))),
    ACTOR_READY: ("ACTOR_READY", (("actor_id", _B), ("incarnation", _I))),
    # payload: pickled error of the constructor
    ACTOR_FAILED: ("ACTOR_FAILED", (("actor_id", _B), ("incarnation", _I), ("text", _S))),
    WATCH_ACTOR: ("WATCH_ACTOR", (("actor_id", _B),)),
    # state: PENDING_CREATION | STARTING | ALIVE | RESTARTING | DEAD (STARTING: worker known,
    # constructor not yet returned; calls may be sent).  info: cause, exit code, signal, tail, ...
    # payload: pickled constructor error when state is DEAD because of it.
    ACTOR_STATE: (
        "ACTOR_STATE",
        (("actor_id", _B), ("state", _S), ("incarnation", _I), ("address", _NL), ("info", _D)),
    ),
    KILL_ACTOR: (
        "KILL_ACTOR",
        (("actor_id", _B), ("no_restart", _BOOL), ("reason", _S), ("incarnation", _I)),
    ),
    CREATE_GROUP: ("CREATE_GROUP", (("group_id", _B), ("spec", _D))),
    GROUP_STATE: ("GROUP_STATE", (("group_id", _B), ("state", _S), ("info", _D))),
    REMOVE_GROUP: ("REMOVE_GROUP", (("group_id", _B),)),
    # A question to the hub; what: "nodes", "get_actor", "kv_put", ...; args and value are msgpack
    REQUEST: ("REQUEST", (("request_id", _I), ("what", _S), ("args", _D))),
    # error: None or [exception class name, message]
    RESPONSE: ("RESPONSE", (("request_id", _I), ("error", _NL), ("value", (object,)))),
    LOG_LINES: ("LOG_LINES", (("node_id", _B), ("pid", _I), ("name", _S), ("stream", _S), ("lines", _L))),
    # payload of CALL, TASK: codec value of (args, kwargs); refs: top-level and nested, see client.py
    CALL: (
        "CALL",
        (
            ("call_id", _B),
            ("actor_id", _B),
            ("incarnation", _I),
            ("method", _S),
            ("num_returns", _I),
            ("extra", _NL),
        ),
    ),
    TASK: (
        "TASK",
        (
            ("call_id", _B),
            ("lease_id", _I),
            ("function_id", _B),
            ("num_returns", _I),
            ("extra", _NL),
            ("grant", (dict, type(None))),
        ),
    ),
    # status: 0 value, 1 exception, 2 cancelled, 3 system error; micros: execution time
    REPLY: ("REPLY", (("call_id", _B), ("status", _I), ("micros", _I), ("values", _NL), ("retained", _NL))),
    STREAM_ITEM: ("STREAM_ITEM", (("call_id", _B), ("index", _I), ("status", _I), ("value", _NL))),
    STREAM_CREDIT: ("STREAM_CREDIT", (("call_id", _B), ("consumed", _I))),
    CANCEL: ("CANCEL", (("call_id", _B), ("force", _BOOL), ("recursive", _BOOL))),
    RECALL: ("RECALL", (("lease_id", _I), ("keep", _I))),
    RECALLED: ("RECALLED", (("lease_id", _I), ("call_ids", _L))),
    FETCH: ("FETCH", (("object_id", _B),)),
    VALUE: ("VALUE", (("object_id", _B), ("status", _I), ("value", _NL))),
    BORROW: ("BORROW", (("object_ids", _L),)),
    RELEASE: ("RELEASE", (("object_ids", _L),)),
    HELD: ("HELD", (("object_ids", _L),)),
    FREE_BLOCKS: ("FREE_BLOCKS", (("blocks", _L), ("retire", _BOOL))),
    NEED_FUNCTION: ("NEED_FUNCTION", (("function_id", _B),)),
    FUNCTION: ("FUNCTION", (("function_id", _B),)),
    NEW_SEGMENT: ("NEW_SEGMENT", (("request_id", _I), ("bytes", _I))),
    MAP_SEGMENT: ("MAP_SEGMENT", (("request_id", _I), ("segment_id", _I))),
    # answer to both; the descriptor travels with the frame; error: None or [class name, message]
    SEGMENT: ("SEGMENT", (("request_id", _I), ("segment_id", _I), ("bytes", _I), ("error", _NL))),
    READ_BLOCK: (
        "READ_BLOCK",
        (
            ("request_id", _I),
            ("segment_id", _I),
            ("offset", _I),
            ("length", _I),
            ("generation", _I),
            ("place", _I),
        ),
    ),
    BLOCK: ("BLOCK", (("request_id", _I), ("error", _NL))),
    # uses of the segment's blocks that the sender has given back in all, -1: its owner needs it no more
    ORPHAN_FREE: ("ORPHAN_FREE", (("segment_id", _I), ("returned", _I))),
    # the node is short of memory: give back segments without blocks (ORPHAN_FREE), then say TRIMMED
    TRIM: ("TRIM", ()),
    TRIMMED: ("TRIMMED", ()),
    # a segment that the process mapped, or said that it gave something back of, is gone
    UNMAP: ("UNMAP", (("segment_id", _I),)),
    # nobody is left who could read what dead processes wrote
    DROP_ORPHANS: ("DROP_ORPHANS", ()),
    # a segment that blocks named by later messages lie in; its descriptor travels with the frame
    SHARED: ("SHARED", (("segment_id", _I), ("bytes", _I))),
    # the sender has mapped what it was passed by another process: UNMAP when it is gone
    MAPPED: ("MAPPED", (("segment_id", _I),)),
    # what lived on while the hub was away, after AGENT_UP; workers: [worker_id, pid],
    # exits: fields of the latest WORKER_EXITs, known or not; held: [group_id, attempt] of prepared slots
    AGENT_REPORT: ("AGENT_REPORT", (("workers", _L), ("exits", _L), ("held", _L))),
    # slots: [index, gpu_ids, port], port 0: any that is free
    PREPARE: ("PREPARE", (("group_id", _B), ("attempt", _I), ("slots", _L))),
    # ports: [index, port]; refusal: why not, or empty
    PREPARED: ("PREPARED", (("group_id", _B), ("attempt", _I), ("ports", _L), ("refusal", _S))),
    COMMIT: ("COMMIT", (("group_id", _B), ("attempt", _I))),
    # attempt -1: all
    RELEASE_SLOTS: ("RELEASE_SLOTS", (("group_id", _B), ("attempt", _I))),
    # so many messages of `LASTING` that came by this link are on record: they need not be said again
    ACK: ("ACK", (("count", _I),)),
    # a segment that the process allocates in, of an agent before this one; the descriptor comes along
    OFFER_SEGMENT: ("OFFER_SEGMENT", (("segment_id", _I), ("bytes", _I))),
    # a node died: links to its processes (ids) are worth nothing any more
    NODE_STATE: ("NODE_STATE", (("node_id", _B), ("alive", _BOOL), ("reason", _S), ("processes", _L))),
    # how many of your objects and calls do others wait for? answered by REQUEST "owns" with id 0
    OWNS: ("OWNS", ()),
    # what do you do, or wait for, with this (object, call or actor)? answered by REQUEST "explained", id 0
    EXPLAIN: ("EXPLAIN", (("number", _I), ("id", _B))),
    # all endpoints of this name at present: rows of core/endpoints.py
    ENDPOINTS: ("ENDPOINTS", (("namespace", _S), ("name", _S), ("rows", _L))),
    # payload: pickled (args, kwargs), or the pickled value or error; status as in spoke/endpoints/channel.py
    ENDPOINT_CALL: ("ENDPOINT_CALL", (("call_id", _I), ("actor", _S), ("method", _S))),
    ENDPOINT_REPLY: ("ENDPOINT_REPLY", (("call_id", _I), ("status", _I), ("text", _S))),
    # spec: see spoke/jobrunner.py
    RUN_JOB: ("RUN_JOB", (("job_id", _S), ("attempt", _I), ("spec", _D))),
    STOP_JOB: ("STOP_JOB", (("job_id", _S), ("attempt", _I), ("force", _BOOL), ("grace_s", _F))),
    # state: BUILDING | RUNNING | EXITED; info: pid, ports, message; at the end also code, result, reason
    JOB_STATE: ("JOB_STATE", (("job_id", _S), ("attempt", _I), ("state", _S), ("info", _D))),
    # to a hub that was started again; rows: [job_id, attempt, pid, ports]
    JOBS_RUNNING: ("JOBS_RUNNING", (("rows", _L),)),
    READ_LOG: ("READ_LOG", (("request_id", _I), ("job_id", _S), ("attempt", _I), ("args", _D))),
    # args: see spoke/logreading.py
    READ_FILES: ("READ_FILES", (("request_id", _I), ("args", _D))),
    LOG_CHUNK: ("LOG_CHUNK", (("request_id", _I), ("error", _NL), ("value", (object,)))),
    # address: of a queue pair, 32 bytes; None with the reason why there is none (any more)
    RDMA_CONNECT: ("RDMA_CONNECT", (("number", _I), ("address", _B))),
    RDMA_ACCEPT: ("RDMA_ACCEPT", (("number", _I), ("address", _NB), ("reason", _S))),
    # ranges: [segment_id, offset, length, generation] each; places: [address, rkey] each, None with why
    RDMA_ASK: ("RDMA_ASK", (("lease_id", _I), ("number", _I), ("ranges", _L))),
    RDMA_GRANT: ("RDMA_GRANT", (("lease_id", _I), ("places", _NL), ("reason", _S))),
    RDMA_DONE: ("RDMA_DONE", (("lease_ids", _L),)),
    RDMA_CLOSE: ("RDMA_CLOSE", (("number", _I), ("reason", _S))),
    # range and place: as in RDMA_ASK and RDMA_GRANT, of a block that a message right behind this one names
    RDMA_OFFER: ("RDMA_OFFER", (("lease_id", _I), ("number", _I), ("range", _L), ("place", _L))),
    # answered by RDMA_DONE, unless it is read
    RDMA_WITHDRAW: ("RDMA_WITHDRAW", (("lease_id", _I),)),
    # address: of a pipe, 52 bytes; None with the reason why there is none
    RDMA_PIPE: ("RDMA_PIPE", (("number", _I), ("address", _B))),
    RDMA_PIPE_ACCEPT: ("RDMA_PIPE_ACCEPT", (("number", _I), ("address", _NB), ("reason", _S))),
    # the sender's last frame by the socket
    RDMA_SWITCH: ("RDMA_SWITCH", (("number", _I),)),
    RDMA_PIPE_CLOSE: ("RDMA_PIPE_CLOSE", (("number", _I), ("reason", _S))),
    # answer: packed by spoke/inspecting.py, which says what can be asked; args: rows, at most
    INSPECT: ("INSPECT", (("request_id", _I), ("what", _S), ("args", _D))),
    INSPECTED: ("INSPECTED", (("request_id", _I), ("answer", _B))),
    # of a worker that waits for its runtime environment; state: preparing | ready | failed (its
    # WORKER_EXIT follows); pid: of who makes it; lines: what it says, or the reason
    ENV_STATE: ("ENV_STATE", (("worker_id", _B), ("state", _S), ("pid", _I), ("lines", _L))),
    # make it before a worker asks for it; env: as in SPAWN
    PREPARE_ENV: ("PREPARE_ENV", (("env", _D),)),
    # with a descriptor: memory, bell of the sender, bell of the receiver
    RING_PART: ("RING_PART", (("index", _I),)),
    # the sender's last frame by the socket
    RING_SWITCH: ("RING_SWITCH", ()),
    # as FETCH, from who knows that the node is gone which the object's blocks were on
    LOST: ("LOST", (("object_id", _B), ("node_id", _B))),
}

# What a client says to the hub that a restarted hub must hear again if it is not on record; all else
# is in the client's report.
LASTING: Final = frozenset(
    (CREATE_ACTOR, KILL_ACTOR, CREATE_GROUP, REMOVE_GROUP, REQUEST, ACTOR_READY, ACTOR_FAILED)
)


def _signature(kind: int) -> tuple[tuple[type, ...], ...]:
    return tuple(types for _, types in SCHEMA[kind][1])


_SIGNATURES: Final = {kind: _signature(kind) for kind in SCHEMA}
_ARITY: Final = {kind: len(fields) + 1 for kind, (_, fields) in SCHEMA.items()}


def encode(*message: Any) -> bytes:
    """``encode(kind, field, ...)`` -> meta bytes of one message."""
    return msgpack.packb(message)  # type: ignore[no-any-return]


def name_of(kind: int) -> str:
    """Readable name of a message kind."""
    entry = SCHEMA.get(kind)
    return entry[0] if entry else f"kind {kind!r}"


def decode(meta: bytes) -> list[Any]:
    """One validated message as ``[kind, field, ...]``.

    Raises:
        ProtocolError: for anything that is not exactly one message of `SCHEMA`.
    """
    message = _native.decode(meta, _SIGNATURES)
    return _decode_slowly(meta) if message is None else message


def _decode_slowly(meta: bytes) -> list[Any]:
    """As `decode`: says what is wrong, or that nothing is."""
    try:
        message = msgpack.unpackb(meta, strict_map_key=False)
        kind = message[0]
        signature = _SIGNATURES[kind]
    except Exception as error:  # msgpack raises a zoo of types on garbage; all mean the same here
        raise ProtocolError(f"not a message: {type(error).__name__}") from None
    if type(message) is not list or len(message) != _ARITY[kind]:
        raise ProtocolError(f"{name_of(kind)} has the wrong number of fields")
    index = 1
    for types in signature:
        if type(message[index]) not in types and object not in types:
            name = SCHEMA[kind][1][index - 1][0]
            raise ProtocolError(f"{name_of(kind)}.{name} is {type(message[index]).__name__}")
        index += 1
    return message
