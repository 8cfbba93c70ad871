"""What a worker needs around it before user code is imported: variables, directories, packages.

Rules of this module: pure but for reading the files that a field names (requirements, conda's YAML); a
`RuntimeEnv` is a dict of plain values.  What can be wrong is refused when the dict is made or given to
``init``, ``remote`` or ``options``; what it does happens in `spoke.envs`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from spoke import absent

KNOWN_FIELDS = frozenset({
    "conda", "config", "container", "env_vars", "excludes", "image_uri", "java_jars", "_nsight", "pip",
    "py_executable", "py_modules", "_rocprof_sys", "uv", "worker_process_setup_hook", "working_dir",
    "_ray_release", "_ray_commit", "_inject_current_ray",
})  # fmt: skip
# In the environment of a job's driver: the rest of its runtime environment, as JSON.
REST_VARIABLE = "SPOKE_RUNTIME_ENV"
SETUP_TIMEOUT_S: Final = 600
NO_LIMIT: Final = -1
PIP_FIELDS: Final = ("packages", "pip_check", "pip_install_options", "pip_version")
UV_FIELDS: Final = ("packages", "uv_check", "uv_version", "uv_pip_install_options")
INSTALLERS: Final = ("pip", "uv", "conda")
# Schemes of URIs that name an archive, gcs: in the cluster's own store; and the archives that a field takes.
_REMOTE: Final = ("http", "https", "s3", "gs", "azure", "abfss", "file", "gcs")
_ENDINGS: Final = {
    "working_dir": (".zip", ".tar.gz", ".tgz", ".tar.xz"),
    "py_modules": (".zip", ".whl", ".tar.gz", ".tgz", ".tar.xz"),
}
_WITH_IMAGE: Final = frozenset({"image_uri", "container", "config", "env_vars"})


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
            raise TypeError(f"setup_timeout_seconds must be of type int, got: {type(setup_timeout_seconds)}")
        if setup_timeout_seconds <= 0 and setup_timeout_seconds != NO_LIMIT:
            raise ValueError(f"setup_timeout_seconds must be positive or -1, got: {setup_timeout_seconds}")
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a boolean, got {type(eager_install)}")
        if log_files is not None and not isinstance(log_files, list):
            raise TypeError(f"log_files must be a list of strings or None, got {type(log_files)}")
        if not all(isinstance(name, str) for name in log_files or []):
            raise TypeError("each item in log_files must be a string")
        self.update(
            setup_timeout_seconds=setup_timeout_seconds,
            eager_install=eager_install,
            log_files=list(log_files or []),
        )

    @classmethod
    def of(cls, config: Any) -> RuntimeEnvConfig:
        """The settings of a dict; unknown entries are left out with a warning.

        Raises:
            TypeError: neither a dict nor a RuntimeEnvConfig.
        """
        if isinstance(config, RuntimeEnvConfig):
            return config
        if not isinstance(config, Mapping):
            raise TypeError(
                f"runtime_env['config'] must be of type dict or RuntimeEnvConfig, got: {type(config)}"
            )
        unknown = sorted(set(config) - cls.known_fields)
        if unknown:
            import warnings

            warnings.warn(f"runtime_env['config'] has unknown entries: {unknown}", stacklevel=2)
        return cls(**{name: config[name] for name in cls.known_fields if name in config})

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
            **kwargs,
            "py_modules": py_modules,
            "py_executable": py_executable,
            "working_dir": working_dir,
            "pip": pip,
            "uv": uv,
            "conda": conda,
            "_nsight": nsight,
            "_rocprof_sys": rocprof_sys,
            "container": container,
            "env_vars": env_vars,
            "config": config,
            "worker_process_setup_hook": worker_process_setup_hook,
            "image_uri": image_uri,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        self.update(checked(given) if _validate else given)

    def __setitem__(self, name: str, value: Any) -> None:
        checker = _CHECKERS.get(name)
        if checker is not None and value is not None:
            value = checker(value)
            if value is None:
                return
        super().__setitem__(name, value)

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
        """Set one field, after checking it."""
        self[name] = value

    def env_vars(self) -> dict[str, str]:
        """The environment variables."""
        return dict(self.get("env_vars") or {})

    def working_dir(self) -> str:
        """The working directory, or an empty text."""
        return self.get("working_dir") or ""

    def working_dir_uri(self) -> str | None:
        """The working directory, or None."""
        return self.get("working_dir")

    def has_working_dir(self) -> bool:
        """Is there a working directory?"""
        return bool(self.get("working_dir"))

    def py_modules(self) -> list[Any]:
        """The module directories and wheels."""
        return list(self.get("py_modules") or [])

    py_modules_uris = py_modules

    def has_pip(self) -> bool:
        """Are there pip packages?"""
        return bool(self.get("pip"))

    def pip_config(self) -> dict[str, Any]:
        """What pip installs: `packages` and its options, or nothing."""
        return dict(self.get("pip") or {})

    def has_uv(self) -> bool:
        """Are there uv packages?"""
        return bool(self.get("uv"))

    def uv_config(self) -> dict[str, Any]:
        """What uv installs: `packages` and its options, or nothing."""
        return dict(self.get("uv") or {})

    def has_conda(self) -> bool:
        """Is there a conda environment?"""
        return bool(self.get("conda"))

    def conda_env_name(self) -> str | None:
        """Name or directory of a conda environment that is there already, or None."""
        conda = self.get("conda")
        return conda if isinstance(conda, str) else None

    def conda_config(self) -> str | None:
        """The conda environment to make, as JSON, or None."""
        conda = self.get("conda")
        return to_json(conda) if isinstance(conda, dict) else None

    def py_executable(self) -> str | None:
        """The interpreter to run workers with, or None."""
        return self.get("py_executable")

    def image_uri(self) -> str | None:
        """The image of the container to run workers in, or None."""
        return self.get("image_uri")

    def has_py_container(self) -> bool:
        """Do workers run in a container that `container` names?"""
        return bool(self.get("container"))

    def py_container_image(self) -> str | None:
        """The image of `container`, or None."""
        return (self.get("container") or {}).get("image")

    def py_container_run_options(self) -> list[str] | None:
        """The further options of `container`, or None."""
        return list(self["container"].get("run_options") or []) if self.get("container") else None

    def java_jars(self) -> list[str]:
        """The jars; Spoke runs no Java."""
        return list(self.get("java_jars") or [])

    def nsight(self) -> Any:
        """The profiler's settings, or None."""
        return self.get("_nsight")

    def rocprof_sys(self) -> Any:
        """The profiler's settings, or None."""
        return self.get("_rocprof_sys")

    def plugins(self) -> list[tuple[str, Any]]:
        """The fields that are not Ray's own."""
        return [(name, value) for name, value in self.items() if name not in KNOWN_FIELDS]


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
        ValueError: fields that exclude each other, a path that is not there.
    """
    given = {name: value for name, value in runtime_env.items() if value is not None}
    installers = {name: given[name] for name in INSTALLERS if given.get(name) is not None}
    if len(installers) > 1:
        raise ValueError(
            "The 'pip' field, 'uv' field, and 'conda' field of runtime_env cannot be specified at the same "
            f"time: give one of {', '.join(installers)}; a conda dict may name pip packages itself"
        )
    for name in ("container", "image_uri"):
        others = sorted(set(given) - _WITH_IMAGE | ({"container", "image_uri"} & set(given) - {name}))
        if given.get(name) and others:
            raise ValueError(
                f"The '{name}' field currently cannot be used together with other fields of runtime_env: "
                f"{', '.join(others)}; only env_vars and config go with it"
            )
    found: dict[str, Any] = {}
    for name, value in given.items():
        checker = _CHECKERS.get(name)
        value = checker(value) if checker is not None else value
        if value is not None:
            found[name] = value
    return found


def _env_vars(env_vars: Any) -> dict[str, str] | None:
    if not isinstance(env_vars, Mapping):
        if not env_vars and isinstance(env_vars, (list, tuple, str)):
            return None
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
    return dict(env_vars) or None


def is_uri(text: str) -> bool:
    """Is this a URI, not a path?"""
    scheme, separator, _ = text.partition(":")
    return bool(separator) and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum()


def _place(field: str, path: str) -> str:
    """A path that is there, or a URI that a node can take a package from."""
    if not is_uri(path):
        if not os.path.exists(path):
            raise ValueError(f"{path} is not a valid path.")
        return path
    scheme = path.partition(":")[0]
    if scheme == "local":
        if not path.startswith("local:///"):
            raise ValueError(
                f"{path}: the path of a local URI must be absolute: write local:///path/on/every/node"
            )
    elif scheme in _REMOTE:
        place, endings = path.partition("?")[0], _ENDINGS[field]
        if not place.endswith(endings):
            raise ValueError(f"Only {', '.join(endings)} files are supported for {field} URIs; got {place}.")
    elif scheme not in INSTALLERS:
        raise ValueError(f"{path} is not a valid URI: known are {', '.join((*_REMOTE, 'local'))}")
    return path


def _working_dir(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`working_dir` must be a string, got {type(value)}.")
    return _place("working_dir", os.fspath(value))


def _py_modules(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"`py_modules` must be a list of strings, got {type(value)}.")
    found: list[Any] = []
    for module in value:
        if isinstance(module, (str, os.PathLike)):
            found.append(_place("py_modules", os.fspath(module)))
        elif isinstance(getattr(module, "__name__", None), str) and hasattr(module, "__file__"):
            found.append(module)  # an imported module: found where it was imported from
        else:
            raise TypeError(f"`py_module` must be a string, got {type(module)}.")
    return found


def _excludes(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"runtime_env['excludes'] must be of type List[str], got {type(value)}")
    return value or None


def _requirements(path: str) -> list[str]:
    if not os.path.isfile(path):
        raise ValueError(f"{path} is not a valid file")
    with open(path, encoding="utf-8") as file:
        return file.read().strip().split("\n")


def _packages(name: str, fields: tuple[str, ...], value: Any) -> dict[str, Any] | None:
    """What pip or uv installs, in its one form."""
    check, options = f"{name}_check", next(field for field in fields if field.endswith("options"))
    label = f"runtime_env['{name}']"
    if isinstance(value, str):
        found: dict[str, Any] = {"packages": _requirements(value)}
    elif isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        found = {"packages": list(value)}
    elif isinstance(value, Mapping):
        found = dict(value)
        if set(found) - set(fields):
            raise ValueError(
                f"{label} can only have these fields: {', '.join(fields)}, but got: {list(found)}"
            )
        for field, kind in ((check, bool), (f"{name}_version", str), (options, list)):
            if field in found and not isinstance(found[field], kind):
                raise TypeError(
                    f"{label}['{field}'] must be of type {kind.__name__}, got {type(found[field])}"
                )
        if not all(isinstance(option, str) for option in found.get(options, ())):
            raise TypeError(f"{label}['{options}'] must be of type list[str]")
        if "packages" not in found:
            raise ValueError(f"{label} must include field 'packages', but got {found}")
        if isinstance(found["packages"], str) and name == "pip":
            found["packages"] = _requirements(found["packages"])
        if not isinstance(found["packages"], list):
            raise ValueError(f"{label}['packages'] must be a list, got: {type(found['packages'])}")
        if not all(isinstance(package, str) for package in found["packages"]):
            raise TypeError(f"{label}['packages'] must be of type list[str]")
    else:
        raise TypeError(f"{label} must be of type str, List[str] or dict, got {type(value)}")
    found.setdefault(check, False)
    found["packages"] = list(dict.fromkeys(found["packages"]))
    return found if found["packages"] else None


def _conda(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if not isinstance(value, str):
        raise TypeError(f"runtime_env['conda'] must be of type str or dict, got {type(value)}")
    if value.endswith((".yml", ".yaml")):
        if not os.path.isfile(value):
            raise ValueError(f"Can't find conda YAML file {value}.")
        with open(value, encoding="utf-8") as file:
            return {"file": file.read()}  # conda itself reads YAML
    if os.path.isabs(value) and not os.path.isdir(value):
        raise ValueError(f"Can't find conda env directory {value}.")
    return value


def _of_type(name: str, *types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, types):
            words = " or ".join(kind.__name__ for kind in types)
            raise TypeError(f"runtime_env[{name!r}] must be of type {words}, got {type(value)}")
        return value

    return check


def _setup_hook(value: Any) -> Any:
    if not isinstance(value, (str, dict)) and not callable(value):
        raise TypeError(f"worker_process_setup_hook must be a function, got {type(value)}.")
    return value


_CHECKERS: dict[str, Callable[[Any], Any]] = {
    "env_vars": _env_vars,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "excludes": _excludes,
    "pip": lambda value: _packages("pip", PIP_FIELDS, value),
    "uv": lambda value: _packages("uv", UV_FIELDS, value),
    "conda": _conda,
    "container": _of_type("container", dict),
    "image_uri": _of_type("image_uri", str),
    "py_executable": _of_type("py_executable", str),
    "config": lambda value: dict(RuntimeEnvConfig.of(value)),
    "worker_process_setup_hook": _setup_hook,
}


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
    """The variables a worker is started with: equal ones mean that a worker can be reused.

    What is not a variable goes to the node under the name `REST_VARIABLE`, in which the environment is
    made before the worker starts.
    """
    if not runtime_env:
        return {}
    variables = dict(runtime_env.get("env_vars") or {})
    rest = rest_of(runtime_env)
    if rest:
        variables[REST_VARIABLE] = to_json(rest)
    return variables


def expanded(variables: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str | None]:
    """Variables as texts, with those they name in them: ``${PATH}``, of theirs above or the environment's.

    Of unknown ones, ``${NAME}`` is nothing and ``$name`` stays, as in Ray.
    """
    found: dict[str, str | None] = {}
    for name, value in variables.items():
        text = None if value is None else str(value)
        if text is not None and "$" in text:
            text = _with_others(text, {**environment, **found})
        found[name] = text
    return found


def _with_others(text: str, environment: Mapping[str, str | None]) -> str:
    import re

    def named(match: re.Match[str]) -> str:
        name = match[1].strip("{}")
        here = environment.get(name)
        if here is not None:
            return here
        return "" if match[1] != name and re.fullmatch("[A-Z0-9_]+", name) else match[0]

    return re.sub(r"\$(\w+|\{[^}]*\})", named, text, flags=re.ASCII)


def rest_of(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """What a node must do for this environment besides setting variables.

    Of `config` only a time limit of one's own counts, so that other settings share workers.
    """
    without = ("env_vars", "excludes", "config", "_ray_release", "_ray_commit", "_inject_current_ray")
    rest = {name: value for name, value in runtime_env.items() if name not in without and value}
    limit = (runtime_env.get("config") or {}).get("setup_timeout_seconds", SETUP_TIMEOUT_S)
    if rest and limit != SETUP_TIMEOUT_S:
        rest["setup_timeout_seconds"] = limit
    return rest


__getattr__ = absent.getter(__name__)
