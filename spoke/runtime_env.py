"""What a worker needs around it before user code is imported: variables, directories, packages.

Rules of this module: pure, a `RuntimeEnv` is a dict of plain values.  What can be wrong is refused
when the dict is made or given to ``init``, ``remote`` or ``options``; what it does happens elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spoke import absent

KNOWN_FIELDS = frozenset({
    "conda", "config", "container", "env_vars", "excludes", "image_uri", "java_jars", "nsight", "pip",
    "py_executable", "py_modules", "rocprof_sys", "uv", "worker_process_setup_hook", "working_dir",
})  # fmt: skip
APPLIED_FIELDS = frozenset({"config", "env_vars", "excludes", "py_modules", "working_dir"})
REST_VARIABLE = "SPOKE_RUNTIME_ENV"  # carries what is not a variable to the worker, as JSON


class RuntimeEnvConfig(dict[str, Any]):
    """Settings of how an environment is made: `setup_timeout_seconds` (default 600, -1 for ever),
    `eager_install`, `log_files`.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a timeout that is neither positive nor -1.
    """

    known_fields = frozenset({"setup_timeout_seconds", "eager_install", "log_files"})

    def __init__(
        self,
        setup_timeout_seconds: int = 600,
        eager_install: bool = True,
        log_files: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(setup_timeout_seconds, int):
            raise TypeError(f"setup_timeout_seconds must be an int, got {type(setup_timeout_seconds)}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != -1:
            raise ValueError(f"setup_timeout_seconds must be positive or -1, got {setup_timeout_seconds}")
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a bool, got {type(eager_install)}")
        self.update(
            setup_timeout_seconds=setup_timeout_seconds,
            eager_install=eager_install,
            log_files=list(log_files or []),
        )

    def to_dict(self) -> dict[str, Any]:
        """A plain dict of the settings."""
        return dict(self)


class RuntimeEnv(dict[str, Any]):
    """A runtime environment; the keyword arguments are its fields, those left None are absent.

    Raises:
        TypeError: a field of the wrong type.
        ValueError: fields that exclude each other.
    """

    known_fields = KNOWN_FIELDS

    def __init__(
        self,
        *,
        py_modules: list[str] | None = None,
        py_executable: str | None = None,
        working_dir: str | None = None,
        pip: list[str] | str | dict[str, Any] | None = None,
        conda: dict[str, Any] | str | None = None,
        container: dict[str, Any] | None = None,
        env_vars: dict[str, str] | None = None,
        worker_process_setup_hook: Any = None,
        nsight: dict[str, str] | str | None = None,
        rocprof_sys: Any = None,
        config: dict[str, Any] | RuntimeEnvConfig | None = None,
        _validate: bool = True,
        image_uri: str | None = None,
        uv: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        fields = {
            "py_modules": py_modules,
            "py_executable": py_executable,
            "working_dir": working_dir,
            "pip": pip,
            "conda": conda,
            "container": container,
            "env_vars": env_vars,
            "worker_process_setup_hook": worker_process_setup_hook,
            "nsight": nsight,
            "rocprof_sys": rocprof_sys,
            "config": config,
            "image_uri": image_uri,
            "uv": uv,
            **kwargs,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        self.update(checked(given) if _validate else given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (dict(self),)

    def to_dict(self) -> dict[str, Any]:
        """A deep copy as plain dicts and lists."""
        import copy

        return copy.deepcopy(dict(self))

    def serialize(self) -> str:
        """The environment as JSON with sorted keys."""
        return to_json(self)

    @classmethod
    def deserialize(cls, serialized_runtime_env: str) -> RuntimeEnv:
        """The environment of a `serialize` text."""
        import json

        return cls(_validate=False, **json.loads(serialized_runtime_env))

    def set(self, name: str, value: Any) -> None:
        """Set one field; None removes it."""
        if value is None:
            self.pop(name, None)
        else:
            self[name] = checked({name: value})[name]

    def env_vars(self) -> dict[str, str]:
        """The environment variables."""
        return dict(self.get("env_vars") or {})

    def working_dir(self) -> str:
        """The working directory, or an empty text."""
        return self.get("working_dir") or ""

    def has_working_dir(self) -> bool:
        """Is there a working directory?"""
        return bool(self.get("working_dir"))

    def py_modules(self) -> list[str]:
        """The module directories and wheels."""
        return list(self.get("py_modules") or [])

    def has_pip(self) -> bool:
        """Are there pip packages?"""
        return bool(self.get("pip"))

    def has_uv(self) -> bool:
        """Are there uv packages?"""
        return bool(self.get("uv"))

    def has_conda(self) -> bool:
        """Is there a conda environment?"""
        return bool(self.get("conda"))

    def py_executable(self) -> str | None:
        """The interpreter to run workers with, or None."""
        return self.get("py_executable")


def _rebuild(fields: dict[str, Any]) -> RuntimeEnv:
    return RuntimeEnv(_validate=False, **fields)


def to_json(runtime_env: Mapping[str, Any]) -> str:
    """One text for equal environments."""
    import json

    return json.dumps(dict(runtime_env), sort_keys=True, default=str)


def plain(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain values only, for messages."""
    import json

    found: dict[str, Any] = json.loads(to_json(runtime_env))
    return found


def checked(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a runtime environment after checking its fields.

    Raises:
        TypeError: a field of the wrong type.
        ValueError: fields that exclude each other.
    """
    given = {name: value for name, value in runtime_env.items() if value is not None}
    _check_env_vars(given.get("env_vars"))
    for name in ("pip", "uv"):
        _check_packages(name, given.get(name))
    _check_type(given, "working_dir", (str,))
    _check_type(given, "py_modules", (list, tuple))
    _check_type(given, "conda", (str, dict))
    _check_type(given, "py_executable", (str,))
    _check_type(given, "config", (dict,))
    installers = [name for name in ("pip", "uv", "conda") if given.get(name)]
    if len(installers) > 1:
        raise ValueError(f"runtime_env: {' and '.join(installers)} cannot be given at the same time")
    if "env_vars" in given:
        given["env_vars"] = dict(given["env_vars"])
    return given


def _check_type(given: dict[str, Any], name: str, types: tuple[type, ...]) -> None:
    value = given.get(name)
    if value is not None and not isinstance(value, types):
        words = " or ".join(kind.__name__ for kind in types)
        raise TypeError(f"runtime_env[{name!r}] must be of type {words}, got {type(value)}")


def _check_env_vars(env_vars: Any) -> None:
    if env_vars is None:
        return
    if not isinstance(env_vars, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be of type Dict[str, str], got {type(env_vars)}")
    for key, value in env_vars.items():
        for part, what in ((key, "key"), (value, "value")):
            if not isinstance(part, str):
                raise TypeError(
                    f"runtime_env['env_vars'] must be of type Dict[str, str], "
                    f"but the {what} {part!r} is of type {type(part)}"
                )
            if "\0" in part or (what == "key" and (not part or "=" in part)):
                raise ValueError(f"runtime_env['env_vars']: {part!r} cannot be the {what} of a variable")


def _check_packages(name: str, value: Any) -> None:
    if value is None or isinstance(value, (str, dict)):
        return
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"runtime_env[{name!r}] must be of type str or List[str], got {type(value)}")


def merged(parent: Mapping[str, Any] | None, child: Mapping[str, Any] | None) -> dict[str, Any]:
    """The child's environment on top of its parent's: fields replace, variables add up."""
    if not parent:
        return dict(child or {})
    result = {**parent, **(child or {})}
    variables = {**(parent.get("env_vars") or {}), **((child or {}).get("env_vars") or {})}
    if variables:
        result["env_vars"] = variables
    return result


def worker_variables(runtime_env: Mapping[str, Any] | None) -> dict[str, str]:
    """The variables a worker is started with: equal ones mean that a worker can be reused."""
    if not runtime_env:
        return {}
    variables = dict(runtime_env.get("env_vars") or {})
    rest = {name: value for name, value in runtime_env.items() if name != "env_vars" and value}
    if rest:
        variables[REST_VARIABLE] = to_json(rest)
    return variables


__getattr__ = absent.getter(__name__)
