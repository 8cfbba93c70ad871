"""What a node must make for an environment, and what a worker gets of it.

Rules of this module: pure.  A part is named by its content, so that environments share it; it has a
directory of its own, in which `files` is what it is and `facts.json`, written last, says that it is whole.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from spoke.runtime_env import KNOWN_FIELDS, SETUP_TIMEOUT_S

FILES: Final = "files"
FACTS: Final = "facts.json"
# In the text of a requirement: the directory that working_dir was unpacked into.
WORKING_DIR_NAME: Final = "RAY_RUNTIME_ENV_CREATE_WORKING_DIR"
LOCAL: Final = "local://"
# What steers an installer: part of the content, as another index gives other packages.
_STEERING: Final = ("PIP_", "UV_", "CONDA_")
_NEVER_PASSED: Final = ("LD_", "PYTHON")
_UNSUPPORTED: Final = {
    "java_jars": "Spoke runs no Java workers",
    "_nsight": "start the program under nsys by py_executable instead",
    "_rocprof_sys": "start the program under rocprof-sys by py_executable instead",
}


class BadEnvironment(Exception):
    """The environment cannot be made, whatever is tried; the text says why."""


class Part:
    """One thing to make.

    `kind`: package, module, pip, uv, conda or image.  `after`: names of parts that must be there first.
    """

    __slots__ = ("after", "kind", "name", "spec")

    def __init__(self, kind: str, spec: dict[str, Any], after: tuple[str, ...] = ()) -> None:
        text = json.dumps([kind, spec], sort_keys=True)
        self.kind = kind
        self.spec = spec
        self.after = after
        self.name = f"{kind}-{sha256(text.encode()).hexdigest()[:24]}"


class Recipe:
    """The parts of one environment, by what they are for."""

    __slots__ = ("installed", "modules", "parts", "rest", "timeout_s", "variables", "working_dir")

    def __init__(self, rest: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        self.rest = dict(rest)
        self.variables = dict(variables)
        self.timeout_s = float(rest.get("setup_timeout_seconds", SETUP_TIMEOUT_S))
        self.parts: dict[str, Part] = {}
        unknown = sorted(set(rest) - KNOWN_FIELDS - {"setup_timeout_seconds"})
        if unknown:
            known = ", ".join(sorted(name for name in KNOWN_FIELDS if not name.startswith("_")))
            raise BadEnvironment(f"runtime_env has no field {', '.join(unknown)}: its fields are {known}")
        for name, reason in _UNSUPPORTED.items():
            if rest.get(name):
                raise BadEnvironment(f"runtime_env['{name.lstrip('_')}'] is not supported: {reason}")
        self.working_dir = self._source("package", rest.get("working_dir"))
        self.modules = [self._source("module", uri) for uri in rest.get("py_modules") or ()]
        self.installed = self._installed()

    def _source(self, kind: str, uri: str | None) -> Part | str | None:
        """The part of a package, or the directory of the node that a local URI names."""
        if not uri:
            return None
        if uri.startswith(LOCAL):
            return uri.removeprefix(LOCAL)
        return self._add(Part(kind, {"uri": uri}))

    def _add(self, part: Part) -> Part:
        return self.parts.setdefault(part.name, part)

    def _installed(self) -> Part | None:
        rest = self.rest
        for kind in ("pip", "uv", "conda"):
            if rest.get(kind):
                spec = {"what": rest[kind], "variables": self._steering()}
                after: tuple[str, ...] = ()
                if WORKING_DIR_NAME in json.dumps(rest[kind]) and self.working_dir is not None:
                    spec["working_dir"] = rest["working_dir"]
                    after = (self.working_dir.name,) if isinstance(self.working_dir, Part) else ()
                return self._add(Part(kind, spec, after))
        image = rest.get("image_uri") or (rest.get("container") or {}).get("image")
        if rest.get("container") and not image:
            raise BadEnvironment("runtime_env['container'] must name an image: {'image': ...}")
        return self._add(Part("image", {"image": image})) if image else None

    def _steering(self) -> dict[str, str]:
        return {name: value for name, value in sorted(self.variables.items()) if name.startswith(_STEERING)}

    def helper_variables(self) -> dict[str, str | None]:
        """What of the environment's variables its own making sees."""
        passed = {name: text for name, text in self.variables.items() if not name.startswith(_NEVER_PASSED)}
        return dict(passed)


class Made:
    """What a process in an environment is started with.

    `config` is for `spoke.envs.entering`; `argv` None means that the process may be forked; `ender` is a
    command line that ends a container for certain.
    """

    __slots__ = ("argv", "config", "cwd", "ender", "image", "shell", "variables")

    def __init__(self) -> None:
        self.variables: dict[str, str | None] = {}
        self.config: dict[str, Any] = {}
        self.cwd: str | None = None
        self.argv: list[str] | None = None
        self.image: dict[str, Any] | None = None
        self.ender: list[str] | None = None
        self.shell = ""  # a command that runs the interpreter, in place of its path


def assemble(
    recipe: Recipe, facts: Mapping[str, Mapping[str, Any]], root: str, node: Mapping[str, str]
) -> Made:
    """Put the made parts together.

    Args:
        facts: of each part, as its helper wrote them.
        root: directory of the parts.
        node: the variables of the node's processes.

    Raises:
        BadEnvironment: a directory that a local URI names is not there.
    """
    made = Made()
    made.cwd = _directory(recipe.working_dir, root)
    places = [*(_directory(module, root) for module in recipe.modules), made.cwd]
    front = [place for place in places if place is not None]
    searched = [*front, *_paths(recipe.variables)]
    config: dict[str, Any] = {"front": searched}
    own_path = recipe.variables.get("PATH", node.get("PATH", os.defpath))
    found = facts[recipe.installed.name] if recipe.installed is not None else {}
    if recipe.installed is not None and recipe.installed.kind == "image":
        made.image = {**found, "options": (recipe.rest.get("container") or {}).get("run_options") or []}
    elif recipe.installed is not None:
        config.update(prefix=found["prefix"], site=found["site"], foreign=found["foreign"])
        python = found["python"]
        made.variables["PATH"] = f"{os.path.dirname(python)}{os.pathsep}{own_path}"
        made.variables["CONDA_PREFIX" if found["foreign"] else "VIRTUAL_ENV"] = found["prefix"]
        if found["exec"]:
            made.shell = shlex.quote(python)
    if recipe.rest.get("py_executable"):
        made.shell = str(recipe.rest["py_executable"])
        config["foreign"] = True
    if front:
        made.variables["PYTHONPATH"] = os.pathsep.join([*searched, *_paths(node)])
    hook = recipe.rest.get("worker_process_setup_hook")
    if hook:
        config["hook"] = hook
    made.config = config
    return made


def _paths(variables: Mapping[str, str]) -> list[str]:
    return [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]


def _directory(source: Part | str | None, root: str) -> str | None:
    if source is None:
        return None
    if isinstance(source, Part):
        return os.path.join(root, source.name, FILES)
    if not os.path.isdir(source):
        raise BadEnvironment(f"the directory {source} of a local:// URI is not on this node")
    return source
