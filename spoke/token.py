"""The cluster token: the one secret that lets a process into a cluster.

A token is text of at least 16 characters.  `SPOKE_TOKEN` holds it, or `SPOKE_TOKEN_FILE` names a file
that does; a cluster that was given none makes a random one.  A file is written with mode 0600, and one
that others can read is refused.  A token never stands in a command line or a log.
"""

from __future__ import annotations

import os

MIN_CHARS = 16


def generate() -> bytes:
    """A new random token: 64 hexadecimal characters."""
    return os.urandom(32).hex().encode()


def check(text: str) -> bytes:
    """`text` without surrounding blanks, as a token.

    Raises:
        ValueError: when it is shorter than 16 characters.
    """
    token = text.strip().encode()
    if len(token) < MIN_CHARS:
        raise ValueError(f"a cluster token has at least {MIN_CHARS} characters, this one has {len(token)}")
    return token


def write(path: str, token: bytes) -> None:
    """Create the file `path`, readable by its owner only, with `token` in it.

    Raises:
        OSError: when it cannot be made, or exists (FileExistsError): a running cluster's is never replaced.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, token + b"\n")
    finally:
        os.close(fd)


def read(path: str) -> bytes:
    """The token in the file `path`.

    Raises:
        OSError: when it cannot be read.
        PermissionError: when others than the owner can read or write it.
        ValueError: when it holds no token.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if mode & 0o077:
            raise PermissionError(f"{path} is open to others (mode {mode & 0o777:o}); run chmod 600 {path}")
        data = os.read(fd, 65536)
    finally:
        os.close(fd)
    try:
        return check(data.decode("utf-8", "replace"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def resolve(text: str | None, path: str | None, fallback_path: str | None = None) -> bytes | None:
    """The token that was given: `text` itself, else the file `path`, else `fallback_path` if it exists.

    Returns None when none was given.  Raises as `check` and `read` do.
    """
    if text:
        return check(text)
    if path:
        return read(path)
    if fallback_path and os.path.exists(fallback_path):
        return read(fallback_path)
    return None
