"""Names of `ray._private.runtime_env.pip`."""

from __future__ import annotations

from typing import Any

from ray._private.runtime_env import virtualenv_utils
from ray_compat.refusing import refused


class PipProcessor:
    """What installs packages in Ray's agent: refused when it is made."""

    _is_in_virtualenv = staticmethod(virtualenv_utils.is_in_virtualenv)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        refused(f"{__name__}.PipProcessor", "give runtime_env={'pip': [...]} to a task, an actor or init()")()
