"""The engine of this process: the `spoke.client.Client` that the public functions talk to, if any.

A module of variables, so that a call finds its engine without a Python frame.  `spoke.client` sets
it when an engine starts and clears it when the engine closes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spoke.client import Client

client: Client | None = None
auto_connect = True  # may a first remote call start or join a cluster, unless the environment forbids it?
joins_started_heads = False  # does `init` without an address join a head that runs here, as Ray's does?
first_path = ""  # a directory that workers search first, wherever this program has it
job_config: Any = None  # what the program gave to `init`
targets: dict[bytes, Any] = {}  # of `experimental.set_target_for_ref`: object id -> what `get` reads it into
joined: Callable[..., None] | None = None  # told by `init`: started?, address, level and format of logs
at_shutdown: dict[Any, Callable[[], None]] = {}  # what to close when this process leaves the cluster
