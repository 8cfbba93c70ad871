"""The runtime environment of a job: directories, modules, variables, a hook; one cluster for all cases.

Functions that workers run are local ones, as Ray's workers with a working_dir cannot import this module.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.conformance.kit import FLAG_PREFIX, caught

_ROOT = Path(tempfile.mkdtemp(prefix=FLAG_PREFIX))
atexit.register(shutil.rmtree, _ROOT, ignore_errors=True)

_FILES = {
    "code/cmod_own.py": "VALUE = 'own'\n",
    "code/chooks.py": "import os\ndef go():\n    os.environ['CJ_HOOK'] = 'ran'\n",
    "code/plain.txt": "plain text",
    "code/sub/deep/file.txt": "",
    "code/.gitignore": "*.log\n/anchored\nout/\n# out of the way\nmany/**/end\n",
    "code/a.log": "",
    "code/sub/b.log": "",
    "code/anchored": "",
    "code/sub/anchored": "",
    "code/out/x": "",
    "code/sub/out/y": "",
    "code/many/a/b/end": "",
    "code/many/other": "",
    "code/sub/.rayignore": "*.ray\n!kept.ray\n",
    "code/sub/left.ray": "",
    "code/sub/kept.ray": "",
    "code/excluded.bin": "",
    "code/data/z": "",
    "code/sub/data/z": "",
    "code/.git/config": "",
    "code/venv/x": "",
    "code/.venv/x": "",
    "code/sub/venv/x": "",
    "modules/cpack/__init__.py": "VALUE = 'package'\n",
    "modules/csingle.py": "VALUE = 'single'\n",
}
for _name, _text in _FILES.items():
    (_ROOT / _name).parent.mkdir(parents=True, exist_ok=True)
    (_ROOT / _name).write_text(_text)
with zipfile.ZipFile(_ROOT / "repo.zip", "w") as _archive:
    _archive.writestr("repo-main/cmod_repo.py", "VALUE = 'repo'\n")
    _archive.writestr("repo-main/chooks.py", _FILES["code/chooks.py"])

INIT: dict[str, Any] = {
    "num_cpus": 4,
    "num_gpus": 0,
    "runtime_env": {
        "working_dir": str(_ROOT / "code"),
        "py_modules": [str(_ROOT / "modules" / "cpack"), str(_ROOT / "modules" / "csingle.py")],
        "excludes": ["*.bin", "/data"],
        "env_vars": {"CJ_A": "job", "CJ_B": "job"},
        "worker_process_setup_hook": "chooks.go",
    },
}


def _exist(ray: Any, *names: str) -> Any:
    """Which of these files are in the directory of workers."""

    @ray.remote
    def look() -> list[bool]:
        import os

        return [os.path.exists(name) for name in names]

    return ray.get(look.remote())


def _values(ray: Any, *names: str, **options: Any) -> Any:
    """What modules of these names have as VALUE."""

    @ray.remote
    def look() -> list[Any]:
        import importlib

        found = []
        for name in names:
            try:
                found.append(importlib.import_module(name).VALUE)
            except ImportError:
                found.append(None)
        return found

    return ray.get((look.options(**options) if options else look).remote())


def _reader(ray: Any) -> Any:
    @ray.remote
    def read(*names: str) -> list[str | None]:
        import os

        return [os.environ.get(name) for name in names]

    return read


def plain_files_travel(ray: Any) -> Any:
    return _exist(ray, "plain.txt", "cmod_own.py", ".gitignore", "sub/deep/file.txt")


def gitignored_names(ray: Any) -> Any:
    return _exist(ray, "a.log", "sub/b.log")


def gitignored_at_the_top_only(ray: Any) -> Any:
    return _exist(ray, "anchored", "sub/anchored")


def gitignored_directories(ray: Any) -> Any:
    return _exist(ray, "out/x", "sub/out/y")


def gitignored_below_many(ray: Any) -> Any:
    return _exist(ray, "many/a/b/end", "many/other")


def rayignored_with_an_exception(ray: Any) -> Any:
    return _exist(ray, "sub/left.ray", "sub/kept.ray")


def excludes_by_name_and_at_the_top(ray: Any) -> Any:
    return _exist(ray, "excluded.bin", "data/z", "sub/data/z")


def excluded_by_default(ray: Any) -> Any:
    return _exist(ray, ".git/config", "venv/x", ".venv/x", "sub/venv/x")


def the_directory_is_a_copy(ray: Any) -> Any:
    driver = os.getcwd()

    @ray.remote
    def look() -> Any:
        import os

        return [os.getcwd() != driver, open("plain.txt").read()]

    return ray.get(look.remote())


def modules_of_the_working_dir(ray: Any) -> Any:
    return _values(ray, "cmod_own", "cmod_nothing")


def py_modules_of_a_package_and_a_file(ray: Any) -> Any:
    return _values(ray, "cpack", "csingle")


def modules_are_searched_before_the_working_dir(ray: Any) -> Any:
    @ray.remote
    def look() -> Any:
        import importlib
        import os
        import sys

        places = {}
        for name in ("cmod_own", "cpack"):
            folder = os.path.dirname(str(importlib.import_module(name).__file__))
            places[name] = folder if name == "cmod_own" else os.path.dirname(folder)
        return sys.path.index(places["cpack"]) < sys.path.index(places["cmod_own"])

    return ray.get(look.remote())


def subprocesses_find_the_modules(ray: Any) -> Any:
    @ray.remote
    def look() -> Any:
        import subprocess
        import sys

        line = "import cmod_own, cpack; print(cmod_own.VALUE, cpack.VALUE)"
        return subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stdout.strip()

    return ray.get(look.remote())


def actors_have_it_too(ray: Any) -> Any:
    @ray.remote
    class Actor:
        def look(self) -> Any:
            import os

            import cmod_own

            return [cmod_own.VALUE, os.path.exists("plain.txt"), os.environ.get("CJ_A")]

    return ray.get(Actor.remote().look.remote())


def variables_of_the_job(ray: Any) -> Any:
    return ray.get(_reader(ray).remote("CJ_A", "CJ_B", "CJ_C"))


def a_task_adds_variables(ray: Any) -> Any:
    env = {"env_vars": {"CJ_B": "task", "CJ_C": "task"}}
    return ray.get(_reader(ray).options(runtime_env=env).remote("CJ_A", "CJ_B", "CJ_C"))


def a_task_with_variables_keeps_the_directory(ray: Any) -> Any:
    return _values(ray, "cmod_own", "cpack", runtime_env={"env_vars": {"CJ_D": "1"}})


def a_nested_task_starts_from_its_parents(ray: Any) -> Any:
    read = _reader(ray)

    @ray.remote(runtime_env={"env_vars": {"CJ_B": "outer", "CJ_C": "outer"}})
    def outer() -> Any:
        inner = read.options(runtime_env={"env_vars": {"CJ_C": "inner"}})
        return ray.get([read.remote("CJ_A", "CJ_B", "CJ_C"), inner.remote("CJ_A", "CJ_B", "CJ_C")])

    return ray.get(outer.remote())


def the_hook_ran_in_workers(ray: Any) -> Any:
    return ray.get(_reader(ray).remote("CJ_HOOK"))


def the_hook_ran_in_an_actor(ray: Any) -> Any:
    @ray.remote
    class Actor:
        def read(self) -> Any:
            import os

            return os.environ.get("CJ_HOOK")

    return ray.get(Actor.remote().read.remote())


def the_context_names_packages(ray: Any) -> Any:
    env = ray.get_runtime_context().runtime_env
    uris = [env["working_dir"], *env["py_modules"]]
    return [len(uris), all(uri.startswith("gcs://_ray_pkg_") and uri.endswith(".zip") for uri in uris)]


def the_context_of_a_task_names_the_same(ray: Any) -> Any:
    @ray.remote
    def look() -> Any:
        return ray.get_runtime_context().runtime_env["working_dir"]

    return ray.get(look.remote()) == ray.get_runtime_context().runtime_env["working_dir"]


def a_local_directory_at_a_task(ray: Any) -> Any:
    return caught(lambda: _values(ray, "cmod_own", runtime_env={"working_dir": str(_ROOT / "code")}))


def a_directory_that_every_node_has(ray: Any) -> Any:
    return _values(ray, "cmod_own", runtime_env={"working_dir": f"local://{_ROOT / 'code'}"})


def a_directory_that_no_node_has(ray: Any) -> Any:
    return caught(lambda: _values(ray, "cmod_own", runtime_env={"working_dir": "local:///no/such/place"}))


def an_archive_of_another_place(ray: Any) -> Any:
    env = {"working_dir": (_ROOT / "repo.zip").as_uri()}
    return caught(lambda: _values(ray, "cmod_repo", runtime_env=env))


def an_archive_that_is_not_there(ray: Any) -> Any:
    env = {"working_dir": "file:///no/such/archive.zip"}
    return caught(lambda: _values(ray, "cmod_own", runtime_env=env))
