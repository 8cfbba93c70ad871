"""A forked copy of a process that is part of a cluster is not part of it.

The copy shares sockets and shared memory with its parent, but has none of its threads, and whatever it
sent would be taken for the parent's word.  So in the copy the engine is cut off: refs, actors' handles
and views that it inherited are inert, their bytes stay readable, and `init()` works as in a new process.
"""

from __future__ import annotations

import os
import threading

from spoke import current, objectref

_installed = False


def install() -> None:
    """Watch for forks from now on; may be repeated."""
    global _installed
    if not _installed:
        _installed = True
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    client, current.client = current.client, None
    if client is None:
        return
    objectref.install(None, None, None, None, None)
    client.closed = "this process was forked from a driver or worker: call init() in it first"
    client.on_closed = client.on_hub_lost = None
    client.refs.disown()
    # Finalizers take locks only if they are free; these never are, so nothing of the parent's is freed.
    client.lock = threading.Lock()
    client.lock.acquire()
    client.store.abandon()
