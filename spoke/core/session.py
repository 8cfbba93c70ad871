"""Mutual challenge and response: both ends of a link prove that they hold the cluster token (SEC-1).

    client                                   server
    HELLO(version, role, id, nonce_c)  ──▶
                                       ◀──   PROOF(nonce_s, mac("server"), id)
    PROOF(b"", mac("client"), id)      ──▶
                                       ◀──   ACCEPTED

A mac is HMAC-SHA256 over the label and everything both sides said, so it serves one link once and
cannot be reflected.  The server proves itself first: a client never answers a stranger.  Whatever is
wrong ends in FAILED with a reason, which is also sent as REFUSED; no other message is interpreted
here.  Pure: the nonce is the caller's (`NONCE_BYTES` fresh random bytes).
"""

from __future__ import annotations

import sys
from _operator import _compare_digest  # hmac.compare_digest without hmac's import of OpenSSL
from typing import Any, Final

from spoke.wire import ACCEPTED, HELLO, PROOF, PROTOCOL_VERSION, REFUSED, name_of

# hashlib loads OpenSSL (2 ms and some MiB in every worker); the interpreter's own SHA-256 is enough
# for three short digests per link.
if sys.version_info >= (3, 12):
    from _sha2 import sha256 as _sha256
else:
    try:
        from _sha256 import sha256 as _sha256  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha256 as _sha256

OPENING: Final = "OPENING"
READY: Final = "READY"
FAILED: Final = "FAILED"

NONCE_BYTES: Final = 16
MAX_ID_BYTES: Final = 64
MAX_ROLE_CHARS: Final = 32

Message = tuple[Any, ...]

_BLOCK = 64  # bytes of SHA-256's block, by RFC 2104
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes, text: bytes) -> bytes:
    """HMAC of RFC 2104 with SHA-256: 32 bytes."""
    if len(key) > _BLOCK:
        key = _sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    inner = _sha256(key.translate(_INNER) + text).digest()
    return bytes(_sha256(key.translate(_OUTER) + inner).digest())


class Session:
    """One end of one handshake.

    Args:
        end: "client" (speaks first, see `open`) or "server".
        token: the cluster token, not empty.
        process_id: this process's id, 1 to 64 bytes.
        nonce: `NONCE_BYTES` or more fresh random bytes, used for this link only.
        role: what a client is ("driver", "worker", "agent", ...); the server learns it.
    """

    __slots__ = (
        "_peer_nonce",
        "_token",
        "end",
        "nonce",
        "peer_id",
        "peer_role",
        "process_id",
        "reason",
        "role",
        "state",
    )

    def __init__(self, end: str, token: bytes, process_id: bytes, nonce: bytes, role: str = "") -> None:
        if end not in ("client", "server"):
            raise ValueError(f"a session has a client end and a server end, not {end!r}")
        if not token:
            raise ValueError("the cluster token is empty")
        if len(nonce) < NONCE_BYTES:
            raise ValueError(f"a nonce has at least {NONCE_BYTES} bytes")
        if not 1 <= len(process_id) <= MAX_ID_BYTES:
            raise ValueError(f"a process id has 1 to {MAX_ID_BYTES} bytes")
        self.end = end
        self.role = role
        self.process_id = process_id
        self.nonce = nonce
        self.state = OPENING
        self.reason = ""
        self.peer_id = b""
        self.peer_role = ""
        self._peer_nonce = b""
        self._token = token

    def open(self) -> list[Message]:
        """The client's first messages; a server has none."""
        if self.end == "server":
            return []
        return [(HELLO, PROTOCOL_VERSION, self.role, self.process_id, self.nonce)]

    def feed(self, message: list[Any]) -> list[Message]:
        """Take one decoded message of the peer, return the replies; look at `state` afterwards."""
        if self.state != OPENING:
            return []
        kind = message[0]
        if kind == REFUSED:
            self.state, self.reason = FAILED, str(message[1])[:500]
            return []
        if self.end == "server":
            if kind == HELLO and not self.peer_id:
                return self._challenge(*message[1:])
            if kind == PROOF and self.peer_id:
                return self._finish(*message[1:])
        elif kind == PROOF and not self.peer_id:
            return self._answer(*message[1:])
        elif kind == ACCEPTED and self.peer_id:
            self.state = READY
            return []
        return self._refuse(f"{name_of(kind)} does not belong here in a handshake")

    def _challenge(self, version: int, role: str, process_id: bytes, nonce: bytes) -> list[Message]:
        if version != PROTOCOL_VERSION:
            return self._refuse(
                f"protocol version {version} on one side, {PROTOCOL_VERSION} on the other: "
                "run the same version of spoke on both"
            )
        if not 1 <= len(process_id) <= MAX_ID_BYTES or not NONCE_BYTES <= len(nonce) <= MAX_ID_BYTES:
            return self._refuse("HELLO with an id or nonce of a wrong length")
        if len(role) > MAX_ROLE_CHARS:
            return self._refuse("HELLO with an overlong role")
        self.peer_id, self.peer_role, self._peer_nonce = process_id, role, nonce
        return [(PROOF, self.nonce, self._mac("server"), self.process_id)]

    def _answer(self, nonce: bytes, mac: bytes, process_id: bytes) -> list[Message]:
        if not 1 <= len(process_id) <= MAX_ID_BYTES or not NONCE_BYTES <= len(nonce) <= MAX_ID_BYTES:
            return self._refuse("PROOF with an id or nonce of a wrong length")
        self.peer_id, self._peer_nonce = process_id, nonce
        if not _compare_digest(mac, self._mac("server")):
            return self._refuse("the cluster token does not match")
        return [(PROOF, b"", self._mac("client"), self.process_id)]

    def _finish(self, nonce: bytes, mac: bytes, process_id: bytes) -> list[Message]:
        if process_id != self.peer_id or not _compare_digest(mac, self._mac("client")):
            return self._refuse("the cluster token does not match")
        self.state = READY
        return [(ACCEPTED, b"")]

    def _refuse(self, reason: str) -> list[Message]:
        self.state, self.reason = FAILED, reason
        return [(REFUSED, reason)]

    def _mac(self, label: str) -> bytes:
        ours, theirs = (self.process_id, self.nonce), (self.peer_id, self._peer_nonce)
        client, server = (ours, theirs) if self.end == "client" else (theirs, ours)
        role = self.role if self.end == "client" else self.peer_role
        # Every part carries its length: two different talks never give the same text.
        parts = (b"spoke", label.encode(), b"%d" % PROTOCOL_VERSION, role.encode(), *client, *server)
        return hmac_sha256(self._token, b"".join(b"%d:%b" % (len(part), part) for part in parts))
