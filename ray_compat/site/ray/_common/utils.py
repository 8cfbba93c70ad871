"""Names of `ray._common.utils` that programs import."""

from __future__ import annotations

import asyncio
import os
import random
import string
import tempfile
from collections.abc import Coroutine
from importlib import import_module
from typing import Any

_kept: set[Any] = set()  # the loop holds its tasks weakly


def binary_to_hex(identifier: bytes) -> str:
    """The text of an id."""
    return bytes(identifier).hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    """The bytes of an id."""
    return bytes.fromhex(hex_identifier)


def decode(byte_str: bytes | None, allow_none: bool = False, encode_type: str = "utf-8") -> str:
    """Bytes as text; "" for None where that is allowed.

    Raises:
        ValueError: it is not bytes.
    """
    if byte_str is None and allow_none:
        return ""
    if not isinstance(byte_str, bytes):
        raise ValueError(f"The argument {byte_str!r} must be a bytes object.")
    return byte_str.decode(encode_type)


def get_or_create_event_loop() -> asyncio.AbstractEventLoop:
    """The loop that runs, else this thread's, which is made if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        made = asyncio.new_event_loop()
        asyncio.set_event_loop(made)
        return made


def run_background_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run it in the running loop, which would forget a task that nobody keeps."""
    task = get_or_create_event_loop().create_task(coroutine)
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    return task


def get_random_alphanumeric_string(length: int) -> str:
    """Letters and digits."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=length))


def load_class(path: str) -> Any:
    """What ``package.module.Name`` names.

    Raises:
        ValueError: there is no dot in it.
    """
    module, dot, name = path.rpartition(".")
    if not dot:
        raise ValueError(f"{path!r} is not the path of a class: write it as 'package.module.Class'")
    return getattr(import_module(module), name)


def get_system_memory() -> int:
    """Bytes of memory that this machine, or container, has."""
    from spoke import machine

    return machine.memory_bytes()


def get_default_system_temp_dir() -> str:
    """Where temporary files go."""
    return tempfile.gettempdir()


def get_default_ray_temp_dir() -> str:
    """The folder of this user's sessions."""
    from spoke import records

    return records.temp_root()


def try_to_create_directory(directory_path: str) -> None:
    """Make a directory and those above it, if they are not there."""
    os.makedirs(os.path.expanduser(directory_path), exist_ok=True)


def reset_ray_address(temp_dir: str | None = None) -> None:
    """Forget the address of the last cluster: Spoke's clusters take theirs along when they end."""
