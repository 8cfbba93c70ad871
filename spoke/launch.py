"""Starting daemons of their own: for `spoke start`, which leaves them running, and for tests' clusters.

`init()` without an address does not come here: its daemon's link is the driver's (`spoke.client`).
"""

from __future__ import annotations

import os
import time
from _socket import AF_UNIX, SOCK_STREAM, socketpair
from _socket import socket as _Socket
from typing import Any, Final

from spoke import _native, config, ids, link, records, spawning
from spoke.wire import RESPONSE

READY_S: Final = 45.0  # longer than an agent tries to find its head


class LaunchError(RuntimeError):
    """The daemon did not become ready; the text is one line that says why."""


class Launched:
    """A daemon that is ready.

    Attributes:
        pid: of the daemon, or of its supervisor.
        info: address, node_id, host, port, pid, session, log_dir, resources, as the daemon said.
    """

    def __init__(self, pid: int, pidfd: int, control: _Socket, info: dict[str, Any]) -> None:
        self.pid = pid
        self.info = info
        self._pidfd = pidfd
        self._control = control
        self._status: tuple[int | None, int] | None = None

    @property
    def node_id(self) -> bytes:
        """The node's id, 28 bytes."""
        return bytes(self.info["node_id"])

    @property
    def address(self) -> str:
        """``host:port`` of the cluster's head."""
        return str(self.info["address"])

    def release(self) -> None:
        """Let go of a daemon that was started to stay."""
        self._control.close()
        os.close(self._pidfd)
        self._pidfd = -1

    def is_alive(self) -> bool:
        """Whether the daemon runs."""
        if self._status is None and self._pidfd >= 0:
            try:
                self._status = _native.reap(self._pidfd)
            except ChildProcessError:  # the program has waited for it itself
                self._status = (None, 0)
        return self._status is None

    def stop(self, force: bool = False, grace_s: float = 10.0) -> None:
        """End the daemon and wait for its end: by SIGTERM, after `grace_s` or with `force` by SIGKILL."""
        import signal

        if self._pidfd < 0:
            return
        if self.is_alive():
            os.kill(self.pid, signal.SIGKILL if force else signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self.is_alive():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.005)
        self.release()
        if self.info:
            records.remove_dead_session(str(self.info["session"]))


def launch(settings: dict[str, Any], environment: dict[str, str] | None = None) -> Launched:
    """Start a daemon by `spoke.settings.Settings` and wait until it is ready.

    A node id is made unless given.  With ``link`` "tied" the daemon ends with the returned object's
    process, or when it is released; with "starter" it stays.

    Raises:
        LaunchError: it did not become ready, with the reason.
        OSError: it could not be started.
    """
    settings = {"node_id": ids.random_bytes(ids.UNIQUE_BYTES), **settings}
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    control = ours if isinstance(ours, _Socket) else _Socket(fileno=ours.detach())
    try:
        pid, pidfd = spawning.start_daemon(settings, theirs.fileno(), environment or config.environment())
    except BaseException:
        control.close()
        raise
    finally:
        theirs.close()
    try:
        message = link.read_message(control, READY_S)
        if message[0] != RESPONSE:
            raise LaunchError("the daemon answered with something unexpected")
        if message[2] is not None:
            raise LaunchError(str(message[2][1]))
    except (ConnectionError, TimeoutError) as error:
        Launched(pid, pidfd, control, {}).stop(force=not settings.get("restarts"))
        raise LaunchError(f"the daemon did not start: {error}") from None
    except BaseException:
        Launched(pid, pidfd, control, {}).stop()
        raise
    return Launched(pid, pidfd, control, message[3])
