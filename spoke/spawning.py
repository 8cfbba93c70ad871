"""Starting spoke's own processes, and what a started process finds.

A child gets its configuration as msgpack in a memfd on descriptor 3: nothing of it, and above all not
the token, stands in the command line or the environment.  Descriptor 4 is the daemon's link to whoever
started it.  Nothing else is inherited.  The daemon runs isolated (`-I -S`: no site, no user code on
its path); a worker (and the zygote, which becomes workers) runs with the user's site and then takes
over the driver's `sys.path`.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

import msgpack

from spoke import current

CONFIG_FD: Final = 3
LINK_FD: Final = 4

# In front: the directory that the driver runs in may hold another copy of this package, unbuilt.
_WORKER_BOOT = "import sys; sys.path[:0] = sys.argv[1:]; from spoke.worker import main; main()"

# Of no use to a child, and not for the eyes of the code it runs.
PRIVATE_VARIABLES: Final = ("SPOKE_TOKEN", "SPOKE_TOKEN_FILE")


def own_paths() -> list[str]:
    """The directories that hold this package and what the daemon imports besides the standard library."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    there = os.path.dirname(os.path.dirname(os.path.abspath(msgpack.__file__)))
    return [here] if here == there else [here, there]


def search_path() -> list[str]:
    """This program's module search path, for its workers; the script's directory first, as Python has it."""
    paths = [os.path.abspath(path) if path else os.getcwd() for path in sys.path]
    return sorted(paths, key=lambda path: path != current.first_path) if current.first_path else paths


def daemon_argv(restarts: int = 0) -> list[str]:
    """Command line of a daemon, or of its supervisor, which starts it again so often if it is killed."""
    here = os.path.dirname(os.path.abspath(__file__))
    if restarts:
        return [sys.executable, "-I", "-S", os.path.join(here, "supervisor.py"), str(restarts), *own_paths()]
    return [sys.executable, "-I", "-S", os.path.join(here, "boot.py"), *own_paths()]


def worker_argv(executable: str | None = None) -> list[str]:
    """Command line of a worker, run by `executable` (default: this interpreter)."""
    return [executable or sys.executable, "-c", _WORKER_BOOT, *own_paths()]


def config_file(config: dict[str, Any]) -> int:
    """A descriptor from which the child reads `config`; the caller closes it after the start."""
    fd = os.memfd_create("spoke-config", os.MFD_CLOEXEC)
    try:
        os.write(fd, msgpack.packb(config))
    except BaseException:
        os.close(fd)
        raise
    return fd


def inherited_config() -> dict[str, Any]:
    """What the parent passed by `config_file`; to be called once, first thing.

    The process of a job keeps the file, since its result goes there (`spoke.jobprocess`).

    Raises:
        OSError, ValueError: this process was not started by spoke.
    """
    size = os.fstat(CONFIG_FD).st_size
    config = msgpack.unpackb(os.pread(CONFIG_FD, size, 0), strict_map_key=False)
    if not isinstance(config, dict):
        raise ValueError("the inherited configuration is not a table")
    if "job" in config:
        os.set_inheritable(CONFIG_FD, False)
    else:
        os.close(CONFIG_FD)
    return config


def start_daemon(config: dict[str, Any], link_fd: int, environment: dict[str, str]) -> tuple[int, int]:
    """Start a daemon (see `spoke.daemon`) that talks over the inherited stream socket `link_fd`.

    The caller closes its copy of `link_fd` afterwards.  The daemon's errors before its log exists go
    to this process's standard error.  It does not die with the calling thread (PROC-1): it watches
    the link and the driver's process instead.

    Returns:
        pid and pidfd; the caller owns the pidfd and reaps the process.

    Raises:
        OSError: it could not be started.
    """
    from spoke import _native

    config_fd = config_file(config)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        stderr = 2 if _is_open(2) else null
        fds = [(null, 0), (null, 1), (stderr, 2), (config_fd, CONFIG_FD), (link_fd, LINK_FD)]
        public = {name: value for name, value in environment.items() if name not in PRIVATE_VARIABLES}
        argv = daemon_argv(int(config.get("restarts") or 0))
        return _native.spawn(argv, public, None, fds, 0, True)
    finally:
        os.close(null)
        os.close(config_fd)


def enter_worker() -> dict[str, Any]:
    """First call of a worker: its configuration, with path, arguments and output set up.

    `sys.path` becomes the driver's where it is known, standard output and error are written line by
    line so that a line is in the log once it was printed.
    """
    from spoke import orphans

    config = inherited_config()
    take_over(config.pop("environment", {}), config.pop("cwd", None))
    orphans.mark_this()
    sys_path = config.get("sys_path")
    if config.get("env"):
        from spoke.envs import entering

        entering.enter(config["env"], sys_path or [], own_paths())
    elif sys_path:
        extra = [path for path in own_paths() if path not in sys_path]
        sys.path[:] = [*sys_path, *extra]
    sys.argv = ["spoke-worker"]
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    return config


def take_over(changes: dict[str, str | None], cwd: str | None) -> None:
    """What a process that was not started with them is still to be given: variables (None removes one)
    and a directory.

    Raises:
        OSError: there is no such directory.
    """
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if "TZ" in changes:
        time.tzset()
    if cwd is not None:
        os.chdir(cwd)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
