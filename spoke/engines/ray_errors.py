"""Ray's errors as Spoke's: same names, same kinds, the user's exception kept.

Rules of this module: an error that users catch is one of `spoke.exceptions`, whatever engine raised it.
"""

from __future__ import annotations

import re
from typing import Any

import spoke.exceptions  # noqa: F401  # loaded, or cloudpickle would pickle the classes by value
from spoke.errors import (
    NAMED,
    EngineUnsupported,
    RayActorError,
    RayError,
    RayTaskError,
)

# First line of a task's error: "ray::f() (pid=12, ip=10.0.0.1, actor_id=..., repr=...)", perhaps coloured.
_COLOUR = re.compile(r"\x1b\[\d+m")
_HEAD = re.compile(r"(?P<title>ray::.*?)\(\) \(pid=(?P<pid>\d+), ip=(?P<ip>[^,)]*)"
                   r"(?:, actor_id=(?P<actor>\w*), repr=(?P<repr>.*))?\)$")  # fmt: skip
_HINT = (
    "\nThe workers of the Ray cluster cannot import Spoke: install it on its nodes, or ship it with "
    "init(runtime_env={'py_modules': [os.path.dirname(spoke.__file__)]})."
)


class Translating:
    """A context: errors of Ray that come up inside are raised as Spoke's.

    A class, since a generator's context would turn the StopIteration of a remote function into another error.
    """

    __slots__ = ("_ray",)

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, self._ray.exceptions.RayError):
            raise translated(error, self._ray) from None


def translated(error: BaseException, ray: Any) -> BaseException:
    """The same error as one of `spoke.exceptions`; errors of others as they are."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return _task_error(error)
    if not isinstance(error, ray.exceptions.RayError):
        return error
    text = str(error)
    if "No module named 'spoke'" in text:
        text += _HINT
    known = next((NAMED[cls.__name__] for cls in type(error).__mro__ if cls.__name__ in NAMED), RayError)
    source: Any = error
    message = getattr(error, "error_message", None) or getattr(error, "client_exc", None) or text
    sentence = getattr(known, "_sentence", "") or "\0"  # what the class says of itself is not said twice
    made = known.from_message(str(message).removeprefix(sentence).strip())
    if isinstance(made, RayActorError):
        made.actor_id = source.actor_id or made.actor_id
        made._actor_init_failed, made._preempted = source.actor_init_failed, source.preempted
        made.error_msg = text
    return made


def unsupported(feature: str, instead: str) -> EngineUnsupported:
    """The error about a feature that Ray cannot carry."""
    return EngineUnsupported(f"{feature}: engine='ray' does not have it; {instead}")


def _task_error(error: Any) -> BaseException:
    cause = error.cause
    head, _, rest = _COLOUR.sub("", str(error)).partition("\n")
    found = _HEAD.match(head.strip())
    if found is None:
        head, rest, title = "", _COLOUR.sub("", str(error)), ""
    else:
        title = found["title"]
    if "No module named 'spoke'" in rest:
        rest += _HINT
    parts = found.groupdict() if found is not None else {}
    made = RayTaskError(
        title.removeprefix("ray::"), rest, cause, f"{title}()" if title else None,
        int(parts["pid"]) if parts else None, parts.get("ip"), parts.get("repr"), parts.get("actor"),
    )  # fmt: skip
    if made.cause is not None and _is_rays(made.cause):
        made.cause = translated_cause(made.cause)
    return made.as_instanceof_cause()


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray.") or type(error).__qualname__.startswith("RayTaskError(")


def translated_cause(cause: BaseException) -> BaseException:
    """An error of Ray that a remote function let through, as Spoke's."""
    import ray

    made = translated(cause, ray)
    inner = getattr(made, "cause", None)
    return inner if isinstance(made, RayTaskError) and inner is not None else made
