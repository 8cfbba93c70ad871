"""Names of `ray._private.async_compat`."""

from __future__ import annotations

import inspect
from typing import Any


def is_async_func(func: Any) -> bool:
    """Is it a coroutine function or an asynchronous generator function?"""
    return inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)


def has_async_methods(cls: type) -> bool:
    """Has the class such a method?"""
    return any(is_async_func(member) for _, member in inspect.getmembers(cls, inspect.isfunction))


def sync_to_async(func: Any) -> Any:
    """A coroutine function that calls `func`; asynchronous functions as they are."""
    if is_async_func(func):
        return func

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs)

    return wrapper
