"""Names of `ray._private.authentication_test_utils`: Ray's token, which is none of Spoke's."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ray_compat.refusing import refused

_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_WHY = "every link proves the cluster token, which SPOKE_TOKEN or SPOKE_TOKEN_FILE gives"

set_auth_mode = refused(f"{__name__}.set_auth_mode", _WHY)
set_auth_token_path = refused(f"{__name__}.set_auth_token_path", _WHY)
set_default_auth_token = refused(f"{__name__}.set_default_auth_token", _WHY)
set_env_auth_token = refused(f"{__name__}.set_env_auth_token", _WHY)


def reset_auth_token_state() -> None:
    """Read the variables again: nothing here has read them."""


def clear_auth_token_sources(remove_default: bool = False) -> None:
    """Unset the variables that name Ray's token; its file is left alone, as nobody reads it."""
    for name in _VARIABLES[1:]:
        os.environ.pop(name, None)


@contextlib.contextmanager
def authentication_env_guard() -> Iterator[None]:
    """Give the variables of Ray's token their values back at the end."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
