"""Packages of runtime environments: zips that drivers leave with the hub for the nodes to fetch.

Rules of this module: a package is named by its content and comes in pieces, as a control message is
bounded; it is given out when all pieces are there.  It stays while somebody who named it lives: a job, a
submitted job, a connection.  At the bound nothing is dropped that is in use: the upload is refused (LIM-1).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from spoke.core.directory import RequestError
from spoke.core.state import Client, State
from spoke.ids import JOB_BYTES
from spoke.limits import MAX_PACKAGES_BYTES, PACKAGE_PIECE_BYTES

_PIECES_MAX: Final = MAX_PACKAGES_BYTES // PACKAGE_PIECE_BYTES
_INDEX_BYTES: Final = 4


class Package:
    """One package; `pieces` has None where a piece is missing."""

    __slots__ = ("pieces", "users")

    def __init__(self, count: int) -> None:
        self.pieces: list[bytes | None] = [None] * count
        self.users: dict[bytes | str, None] = {}

    @property
    def whole(self) -> bool:
        return None not in self.pieces

    @property
    def size(self) -> int:
        return sum(len(piece) for piece in self.pieces if piece is not None)


class Packages:
    """All packages of the cluster."""

    def __init__(self, state: State) -> None:
        self.s = state
        self.table: dict[str, Package] = {}
        self.requests = {"package_hold": self._hold, "package_put": self._put, "package_get": self._get}

    def _hold(self, client: Client, args: dict[str, Any]) -> bool:
        """Is the package here, whole?  If so, it stays while the asker lives."""
        package = self.table.get(str(args["uri"]))
        if package is None or not package.whole:
            return False
        package.users[_user(client)] = None
        return True

    def _put(self, client: Client, args: dict[str, Any]) -> None:
        uri, index, count, data = str(args["uri"]), args["index"], args["count"], args["data"]
        if type(data) is not bytes or len(data) > PACKAGE_PIECE_BYTES:
            raise RequestError("ValueError", "a piece of a package is bytes of a bounded number")
        if not 0 <= index < count <= _PIECES_MAX:
            raise RequestError("ValueError", f"piece {index} of {count} cannot be")
        package = self.table.get(uri)
        if package is None or len(package.pieces) != count:
            self.purge()
            package = self.table[uri] = Package(count)
        held = sum(one.size for one in self.table.values())
        if held + len(data) > MAX_PACKAGES_BYTES:
            if not package.whole:
                self._drop(uri)
            text = f"the hub holds {held} bytes of packages in use, {MAX_PACKAGES_BYTES} at most"
            raise RequestError("ValueError", text)
        package.users[_user(client)] = None
        package.pieces[index] = data
        self.s.note("package", _key(uri, index), (uri, index, count, data))

    def _get(self, client: Client, args: dict[str, Any]) -> dict[str, Any]:
        uri = str(args["uri"])
        package = self.table.get(uri)
        if package is None or not package.whole:
            text = f"the package {uri} is not in this cluster (any more): the job that brought it has ended"
            raise RequestError("ValueError", text)
        return {"count": len(package.pieces), "data": package.pieces[args["index"]]}

    def keep_for(self, job_id: str, uris: Iterable[str]) -> None:
        """A submitted job uses these packages."""
        for uri in uris:
            if uri in self.table:
                self.table[uri].users[job_id] = None

    def restore(self, record: list[Any], users: Iterable[bytes | str]) -> None:
        """A piece of the hub's earlier life; who used it is not on record, so it is all that may."""
        uri, index, count, data = record
        package = self.table.setdefault(uri, Package(count))
        package.pieces[index] = data
        package.users.update(dict.fromkeys(users))

    def purge(self) -> None:
        """Drop what nobody uses who lives."""
        for uri, package in list(self.table.items()):
            for user in list(package.users):
                if not self._lives(user):
                    del package.users[user]
            if not package.users:
                self._drop(uri)

    def _drop(self, uri: str) -> None:
        for index, piece in enumerate(self.table.pop(uri).pieces):
            if piece is not None:
                self.s.note("package", _key(uri, index), None)

    def _lives(self, user: bytes | str) -> bool:
        if isinstance(user, str):
            submitted = self.s.submissions.get(user)
            return submitted is not None and submitted.live
        if len(user) == JOB_BYTES:
            job = self.s.jobs.get(user)
            return job is not None and job.live
        return user in self.s.clients


def _user(client: Client) -> bytes:
    return client.job or client.peer


def _key(uri: str, index: int) -> bytes:
    return uri.encode() + index.to_bytes(_INDEX_BYTES, "big")
