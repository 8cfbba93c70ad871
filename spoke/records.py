"""Which daemons of this user run on this machine: one small file each, for `init("auto")` and `stop`.

The directory is `$XDG_RUNTIME_DIR/spoke`, else `/tmp/spoke-<uid>`; only this user can look into it.  A
daemon writes its record when it is ready and removes it at its end.  A record whose process is gone
(its id may belong to another by now: the start time tells) is stale; readers skip and delete it.
A head's token stands in a file beside its record, readable by this user only.
"""

from __future__ import annotations

import os
from typing import Any

from spoke import config, token
from spoke.machine import read_text

STALE_S = 3600.0  # the logs of a daemon that was killed are kept this long

# pid, start_time, role, address, node_id, host, port, session, log_dir, token_file, hub_id, state_dir,
# started: by `spoke start`;
# supervisor: [pid, start_time] or None
Record = dict[str, Any]


def private_dir(path: str) -> str:
    """Make the directory `path` with mode 0700 unless it is there.

    Raises:
        PermissionError: it belongs to another user, or is a link.
        OSError: it cannot be made.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if status.st_uid != os.geteuid() or (status.st_mode & 0o170000) != 0o040000:
            raise PermissionError(f"{path} is not a directory of this user") from None
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)
    return path


def temp_root() -> str:
    """Directory of this user's session directories: `SPOKE_TMPDIR`, else `/tmp/spoke-<uid>`."""
    chosen = config.get("temp_dir")
    return private_dir(str(chosen) if chosen else f"/tmp/spoke-{os.geteuid()}")


def make_session_dir(session: str) -> str:
    """Make a session's directory and hold it locked until this process ends; that of an earlier life of this
    daemon, which was killed, is used again.  Raises OSError."""
    import fcntl

    path = private_dir(os.path.join(temp_root(), session))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # open for life: it is the lock
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path


def remove_session_dir(path: str) -> None:
    """Remove a session's directory, and the one above if it was the last."""
    for directory, folders, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in folders:
            entry = os.path.join(directory, name)
            if os.path.islink(entry):
                os.unlink(entry)
            else:
                os.rmdir(entry)
    os.rmdir(path)
    try:
        os.rmdir(os.path.dirname(path))
    except OSError:
        pass  # another session lives there


def remove_dead_session(session: str) -> None:
    """Remove the directory of a session whose daemon is gone and could not do it; else nothing."""
    import fcntl
    import shutil

    path = os.path.join(temp_root(), session)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # its daemon removed it
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass  # its daemon lives
    finally:
        os.close(fd)


def remove_stale_sessions() -> None:
    """Remove what killed daemons could not: directories nobody holds, an hour old or more."""
    import time

    root = temp_root()
    for name in os.listdir(root):
        if not name.startswith("session"):
            continue
        try:
            age_s = time.time() - os.lstat(os.path.join(root, name)).st_mtime
        except OSError:
            continue
        if age_s > STALE_S:
            remove_dead_session(name)


def runtime_dir() -> str:
    """Directory of the records; made when it is missing."""
    base = config.get("runtime_dir")
    if base and os.path.isdir(base) and os.access(base, os.W_OK):
        return private_dir(os.path.join(base, "spoke"))
    return private_dir(f"/tmp/spoke-{os.geteuid()}")


def start_time(pid: int) -> str:
    """When a process started, in the kernel's ticks since boot; "" when there is none."""
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""


def announce(record: Record, secret: bytes, supervised: bool) -> str:
    """Write a record of this process, with what is known of every process, and its token; returns the path.

    Raises:
        OSError: and nothing is left.
    """
    pid, parent = os.getpid(), os.getppid()
    token_file = os.path.join(runtime_dir(), f"token-{pid}")
    if os.path.exists(token_file):
        os.unlink(token_file)  # of a process that had this id before and was killed
    token.write(token_file, secret)
    try:
        supervisor = [parent, start_time(parent)] if supervised else None
        more = {"pid": pid, "start_time": start_time(pid), "token_file": token_file, "supervisor": supervisor}
        return write({**record, **more})
    except OSError:
        os.unlink(token_file)
        raise


def write(record: Record) -> str:
    """Write a record of this process; returns the path.  Raises OSError."""
    import json

    path = os.path.join(runtime_dir(), f"node-{record['pid']}.json")
    part = path + ".part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(record, file)
    os.rename(part, path)
    return path


def remove(path: str) -> None:
    """Remove a record and its token file; harmless when they are gone."""
    record = _load(path)
    for name in (path, (record or {}).get("token_file")):
        if name:
            try:
                os.unlink(name)
            except OSError:
                pass


def live() -> list[Record]:
    """The records of running daemons, oldest first; stale files are deleted on the way."""
    directory = runtime_dir()
    found = []
    for name in sorted(os.listdir(directory)):
        if not (name.startswith("node-") and name.endswith(".json")):
            continue
        path = os.path.join(directory, name)
        record = _load(path)
        if record is None:
            continue
        if start_time(record["pid"]) != record["start_time"]:
            remove(path)
            continue
        record["path"] = path
        found.append(record)
    return sorted(found, key=lambda record: int(record["start_time"]))


_DASHBOARDS = ("127.0.0.1:8265", "localhost:8265", "0.0.0.0:8265")


def find(address: str) -> Record | None:
    """The record of a daemon on this machine whose cluster has this address.

    Args:
        address: ``host:port`` of the head, or "auto" for the cluster of the newest daemon of this user.

    Returns:
        The head's record where the head is on this machine, otherwise that of the newest node.
    """
    records = live()
    if address == "auto" and records:
        address = records[-1]["address"]
    records = [record for record in records if record["address"] == address]
    heads = [record for record in records if record["role"] == "head"]
    found = heads or records
    return found[-1] if found else None


def started_head() -> Record | None:
    """The newest head that ``spoke start --head`` runs on this machine."""
    heads = [record for record in live() if record["role"] == "head" and record.get("started")]
    return heads[-1] if heads else None


def without_scheme(address: str) -> str:
    """``host:port`` of an address; "auto" for one that names this machine's dashboard of Ray.

    Programs and scripts say http://127.0.0.1:8265 where they mean the cluster of this machine.
    """
    scheme, mark, rest = address.partition("://")
    if not mark:
        return address
    rest = rest.rstrip("/")
    return "auto" if scheme in ("http", "https") and rest in _DASHBOARDS else rest


def token_for(address: str) -> bytes | None:
    """The token for a cluster: `SPOKE_TOKEN`, `SPOKE_TOKEN_FILE`, or the one beside a record here.

    Raises as `spoke.token.resolve`.
    """
    record = find(address)
    path = record["token_file"] if record else None
    return token.resolve(config.get("token"), config.get("token_file"), path)


def _load(path: str) -> Record | None:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        if isinstance(record, dict) and isinstance(record["pid"], int) and "start_time" in record:
            return record
    except (OSError, ValueError, KeyError):
        pass
    return None
