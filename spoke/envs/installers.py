"""Virtual environments by pip and uv, environments by conda, images by podman or docker.

Rules of this module: runs in a helper process, whose output is the record of the installation; a failure
is a `Problem` with the reason, below what the installer itself has printed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from spoke import config
from spoke.envs.parts import WORKING_DIR_NAME

# What would leave the reason of a failure, or the progress, unsaid.
_SILENCING: Final = ("PIP_QUIET", "UV_QUIET", "CONDA_QUIET")
PIP_OPTIONS: Final = ("--disable-pip-version-check", "--no-cache-dir")
UV_OPTIONS: Final = ("--no-cache",)
RUNTIMES: Final = ("podman", "docker")
# Of the entries that stand for inherited packages.
_MARK: Final = "inherited\n"
_WHEEL: Final = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


class Problem(Exception):
    """An environment cannot be made; the text is for the user."""


def pip(spec: dict[str, Any], files: str, work: str, working_dir: str | None) -> dict[str, Any]:
    """A virtual environment with packages that pip installs; what is installed here is seen, too."""
    what = spec["what"]
    python = _virtual_environment(files)
    _ensure_pip(python, work)
    variables = _variables(working_dir)
    if what.get("pip_version"):
        command = [python, "-m", "pip", "install", PIP_OPTIONS[0], f"pip{what['pip_version']}"]
        _run(command, work, variables)
    names = _requirements(what["packages"], work, variables)
    options = what.get("pip_install_options")
    options = list(PIP_OPTIONS) if options is None else [_expand(one, variables) for one in options]
    _run([python, "-m", "pip", "install", "-r", names, *options], work, variables)
    if what.get("pip_check"):
        _run([python, "-m", "pip", "check", PIP_OPTIONS[0]], work, variables)
    return _facts(files, python)


def uv(spec: dict[str, Any], files: str, work: str, working_dir: str | None) -> dict[str, Any]:
    """As `pip`, by uv: the one on PATH, else that of this interpreter, else one that pip installs into the
    environment."""
    what = spec["what"]
    python = _virtual_environment(files)
    variables = _variables(working_dir)
    found = None if what.get("uv_version") else which("uv") or which("uv", os.path.dirname(sys.executable))
    tool = [found] if found else [python, "-m", "uv"]
    if not found:
        _ensure_pip(python, work)
        wanted = f"uv{what.get('uv_version') or ''}"
        _run([python, "-m", "pip", "install", *PIP_OPTIONS, wanted], work, variables)
    names = _requirements(what["packages"], work, variables)
    options = what.get("uv_pip_install_options")
    options = list(UV_OPTIONS) if options is None else [_expand(one, variables) for one in options]
    with _inherited(_site_of(files)):
        _run([*tool, "pip", "install", "--python", python, "-r", names, *options], work, variables)
        if what.get("uv_check"):
            _run([*tool, "pip", "check", "--python", python], work, variables)
    return _facts(files, python)


def conda(spec: dict[str, Any], files: str, work: str, working_dir: str | None) -> dict[str, Any]:
    """An environment that conda makes, or one that is there already, by name or directory."""
    what = spec["what"]
    if isinstance(what, str) and os.path.isabs(what):
        prefix = what
    else:
        tool = config.get("conda_exe") or which("conda")
        if not tool:
            raise Problem("conda is not installed on this node: install it, set CONDA_EXE, or use pip or uv")
        if isinstance(what, str):
            prefix = _conda_prefix(tool, what, work)
        else:
            description = os.path.join(work, "environment.yml")
            with open(description, "w", encoding="utf-8") as file:
                file.write(what["file"] if set(what) == {"file"} else _yaml(what))
            os.rmdir(files)  # conda makes it
            prefix = files
            command = [tool, "env", "create", "--file", description, "--prefix", prefix]
            _run(command, work, _variables(working_dir))
    python = os.path.join(prefix, "bin", "python")
    if not os.path.exists(python):
        raise Problem(f"the conda environment {prefix} has no python: name it in its dependencies")
    version = _output([python, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], work).strip()
    mine = ".".join(str(part) for part in sys.version_info[:2])
    if version != mine:
        raise Problem(f"the conda environment {prefix} has Python {version}, and this cluster has {mine}")
    return {"prefix": prefix, "python": python, "site": [], "foreign": True, "exec": True}


def image(spec: dict[str, Any], files: str, work: str, working_dir: str | None) -> dict[str, Any]:
    """The image, pulled unless it is here."""
    runtime = next((found for name in RUNTIMES if (found := which(name))), None)
    if runtime is None:
        raise Problem("neither podman nor docker is installed on this node: image_uri needs one of them")
    name = spec["image"]
    if _status([runtime, "image", "inspect", name], work):
        _run([runtime, "pull", name], work, {})
    return {"runtime": runtime, "image": name}


def install_wheel(wheel: str, files: str, work: str) -> None:
    """Put a wheel and what it needs into a directory."""
    command = [sys.executable, "-m", "pip", "install", PIP_OPTIONS[0], wheel, "--target", files]
    _run(command, work, {})


def which(name: str, path: str | None = None) -> str | None:
    """The program of this name on `path`, by default PATH."""
    import shutil

    return shutil.which(name, path=path)


def _virtual_environment(files: str) -> str:
    """A virtual environment that also finds what this interpreter finds; its interpreter."""
    import site
    import venv

    venv.EnvBuilder(system_site_packages=True, symlinks=True, with_pip=False).create(files)
    python = os.path.join(files, "bin", "python")
    if sys.prefix != sys.base_prefix:
        # This is a virtual environment itself, of which the new one knows only the base.
        lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
        with open(os.path.join(_site_of(files), "_spoke_parent.pth"), "w", encoding="utf-8") as file:
            file.writelines(lines)
    return python


@contextmanager
def _inherited(site_packages: str) -> Iterator[None]:
    """Meanwhile what is installed here counts as installed in an environment that inherits it.

    uv looks into the environment's own folder only, so each package gets an entry there that owns nothing
    but itself.  uv may replace it by another version; what is left of the entries is removed.
    """
    import importlib.metadata
    import shutil

    there = os.listdir(site_packages)
    entries: dict[str, str] = {}
    for found in importlib.metadata.distributions():
        metadata = found.read_text("METADATA") or found.read_text("PKG-INFO") or ""
        named = [re.search(rf"^{field}: *(\S+)", metadata, re.MULTILINE) for field in ("Name", "Version")]
        name, version = (match[1] if match else "" for match in named)
        name = re.sub(r"[-_.]+", "_", name).lower()
        if not (name and version) or name in entries or any(name == one.split("-")[0] for one in there):
            continue  # the first on the path is the one that is imported
        entry = f"{name}-{version}.dist-info"
        entries[name] = os.path.join(site_packages, entry)
        os.mkdir(entries[name])
        texts = {"METADATA": metadata, "WHEEL": _WHEEL, "INSTALLER": _MARK}
        texts["RECORD"] = "".join(f"{entry}/{file},,\n" for file in [*texts, "RECORD"])
        for file, text in texts.items():
            with open(os.path.join(entries[name], file), "w", encoding="utf-8") as out:
                out.write(text)
    try:
        yield
    finally:
        for path in entries.values():
            try:
                with open(os.path.join(path, "INSTALLER"), encoding="utf-8") as mark:
                    ours = mark.read() == _MARK
            except OSError:
                ours = False  # uv has put a package in its place
            if ours:
                shutil.rmtree(path)


def _ensure_pip(python: str, work: str) -> None:
    if _status([python, "-c", "import pip"], work):
        _run([python, "-m", "ensurepip"], work, {})


def _site_of(files: str) -> str:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return os.path.join(files, "lib", version, "site-packages")


def _facts(files: str, python: str) -> dict[str, Any]:
    """What a worker needs to know; `exec`: it must not be forked from a process that has loaded other
    versions of what was installed here."""
    directory = _site_of(files)
    ours = {name.partition(".")[0] for name in os.listdir(directory)}
    loaded = {name.partition(".")[0] for name, module in list(sys.modules.items()) if _is_installed(module)}
    return {
        "prefix": files,
        "python": python,
        "site": [directory],
        "foreign": False,
        "exec": bool(ours & loaded),
    }


def _is_installed(module: Any) -> bool:
    return "site-packages" in str(getattr(module, "__file__", None) or "")


def _requirements(packages: list[str], work: str, variables: dict[str, str]) -> str:
    path = os.path.join(work, "requirements.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(_expand(package, variables) + "\n" for package in packages)
    return path


def _variables(working_dir: str | None) -> dict[str, str]:
    return {WORKING_DIR_NAME: working_dir} if working_dir else {}


def _expand(text: str, variables: dict[str, str]) -> str:
    known = {**config.environment(), **variables}
    return _VARIABLE.sub(lambda match: known.get(match[1], match[0]), text)


def _run(command: list[str], work: str, variables: dict[str, str]) -> None:
    """Run a command; its output is this process's.

    Raises:
        Problem: it failed.
    """
    import subprocess

    print("$", *command, flush=True)
    environment = {name: value for name, value in config.environment().items() if name not in _SILENCING}
    environment.update(variables)
    try:
        code = subprocess.run(command, cwd=work, env=environment, stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        raise Problem(f"{command[0]} could not be run: {error}") from None
    if code:
        _failed(command, code)


def _failed(command: list[str], code: int) -> NoReturn:
    shown = " ".join(command[:6]) + (" ..." if len(command) > 6 else "")
    raise Problem(f"the command `{shown}` failed with exit code {code}; its output is above")


def _status(command: list[str], work: str) -> int:
    import subprocess

    quiet = subprocess.DEVNULL
    return subprocess.run(command, cwd=work, stdin=quiet, stdout=quiet, stderr=quiet).returncode


def _output(command: list[str], work: str) -> str:
    import subprocess

    done = subprocess.run(command, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        _failed(command, done.returncode)
    return done.stdout


def _conda_prefix(tool: str, name: str, work: str) -> str:
    """The directory of a named environment."""
    import json

    known: list[str] = json.loads(_output([tool, "env", "list", "--json"], work)).get("envs", [])
    for prefix in known:
        if os.path.basename(prefix) == name or (name == "base" and prefix == known[0]):
            return prefix
    names = ", ".join(os.path.basename(prefix) for prefix in known) or "none"
    raise Problem(f"conda knows no environment {name!r} on this node; it knows {names}")


def _yaml(value: Any, indent: str = "") -> str:
    """A description of an environment as YAML: dicts, lists and texts (JSON texts are YAML)."""
    import json

    lines = []
    for key, item in value.items():
        if not isinstance(item, list):
            lines.append(f"{indent}{key}: {json.dumps(item)}\n")
            continue
        lines.append(f"{indent}{key}:\n")
        lines += [f"{indent}  - {json.dumps(entry)}\n" for entry in item]
    return "".join(lines)
