"""The hub's journal on disk: one SQLite file in a state directory that belongs to one hub at a time.

Rules of this module: what one step of the hub changed is one transaction, written before the step's
messages are sent.  Sync policy: the write-ahead log is handed to the system with every transaction and
synced to the disk at its checkpoints (`synchronous=NORMAL`), so nothing is lost when the hub or all of
its processes are killed; when the machine loses its power the latest seconds may be lost, but what is
left is whole.  `SPOKE_JOURNAL_SYNC=full` syncs every transaction.

The directory is readable by its user only: records hold the cluster token and pickled code.
"""

from __future__ import annotations

import os
from typing import Any, Final

import msgpack

from spoke import records
from spoke.core import Journal
from spoke.core.journal import Records

FILE: Final = "journal.sqlite3"
_LOCK: Final = "lock"
_META: Final = "meta"
_UPSERT: Final = (
    "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT (tab, key) DO UPDATE SET record = excluded.record"
)


class InUse(OSError):
    """Another hub that is alive has this state directory."""


class JournalFile:
    """An open journal.

    Args:
        directory: made if it is missing.
        full_sync: every transaction reaches the disk before anybody is answered.

    Raises:
        InUse: a living hub has it.
        OSError: it cannot be used, or what is there is no journal.
    """

    def __init__(self, directory: str, full_sync: bool = False) -> None:
        import fcntl
        import sqlite3

        self.directory = records.private_dir(directory)
        self._lock = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InUse(f"the state directory {directory} is that of a head that runs") from None
        path = os.path.join(directory, FILE)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._errors = (sqlite3.Error,)
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute(f"PRAGMA synchronous = {'FULL' if full_sync else 'NORMAL'}")
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS records (tab TEXT, key BLOB, record BLOB, UNIQUE (tab, key))"
            )
        except sqlite3.Error as error:
            os.close(self._lock)
            raise OSError(f"the journal in {directory} cannot be used: {error}") from None

    def facts(self) -> dict[str, Any]:
        """What the cluster is: token, node_id, port, boot (how often it was started); empty if new."""
        rows = self._base.execute("SELECT key, record FROM records WHERE tab = ?", (_META,))
        return {key.decode(): msgpack.unpackb(record) for key, record in rows}

    def keep_facts(self, **facts: Any) -> None:
        """Replace these facts."""
        self.write([Journal(_META, name.encode(), value) for name, value in facts.items()])

    def records(self) -> Records:
        """All records of the hub's tables, in the order in which they were first written."""
        query = "SELECT tab, key, record FROM records WHERE tab != ? ORDER BY rowid"
        rows = self._base.execute(query, (_META,))
        return [(tab, key, msgpack.unpackb(record, strict_map_key=False)) for tab, key, record in rows]

    def write(self, commands: list[Journal]) -> None:
        """One transaction.

        Raises:
            OSError: the disk is full, or broken.
        """
        base = self._base
        try:
            base.execute("BEGIN IMMEDIATE")
            for command in commands:
                name = (command.table, command.key)
                if command.record is None:
                    base.execute("DELETE FROM records WHERE tab = ? AND key = ?", name)
                else:
                    base.execute(_UPSERT, (*name, msgpack.packb(command.record)))
            base.execute("COMMIT")
        except self._errors as error:
            if base.in_transaction:
                base.execute("ROLLBACK")
            raise OSError(f"the journal in {self.directory} cannot be written: {error}") from None

    def close(self, forget: bool) -> None:
        """Let go of the directory; with `forget` the cluster has ended, and nothing of it is left."""
        self._base.close()
        if forget:
            for name in (FILE, FILE + "-wal", FILE + "-shm", _LOCK):
                try:
                    os.unlink(os.path.join(self.directory, name))
                except FileNotFoundError:
                    pass
            try:
                os.rmdir(self.directory)
            except OSError:
                pass  # it holds something of the user's
        os.close(self._lock)


def facts_of(directory: str) -> dict[str, Any]:
    """The facts of a journal that a head left behind; empty if there is none, or its hub is alive.

    Raises:
        OSError: what is there cannot be read.
    """
    if not os.path.exists(os.path.join(directory, FILE)):
        return {}
    try:
        journal = JournalFile(directory)
    except InUse:
        return {}
    try:
        return journal.facts()
    finally:
        journal.close(forget=False)


def forget(directory: str) -> None:
    """Remove what a head left behind that was killed, when its cluster is to have ended."""
    if os.path.exists(os.path.join(directory, FILE)):
        JournalFile(directory).close(forget=True)


def default_directory(port: int) -> str:
    """Where a head on this port keeps its state unless it is told otherwise."""
    return os.path.join(records.runtime_dir(), f"state-{port}")
