"""What the tests of runtime environments share: tiny wheels, and installers that are not there."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path


def wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    *,
    needs: str = "",
    body: str = "",
    package: Path | None = None,
) -> Path:
    """A wheel with one module of that name, or a copy of a package; it has `VERSION`."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    if needs:
        metadata += f"Requires-Dist: {needs}\n"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n{body}",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if package is not None:
        del files[f"{name}.py"]
        files.update({f"{name}/{one.name}": one.read_text() for one in package.glob("*.py")})
        files[f"{name}/__init__.py"] += f"\nVERSION = {version!r}\n"
    record = "".join(f"{one},,\n" for one in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for one, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(one, text)
    return path


def offline(directory: Path) -> dict[str, str]:
    """Variables that make pip look for packages in this directory only."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(directory), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def program(directory: Path, name: str, body: str) -> Path:
    """An executable Python program."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


def with_programs(directory: Path) -> str:
    """PATH with this directory first."""
    return f"{directory}{os.pathsep}{os.environ['PATH']}"


UV = """
import os, subprocess, sys
args = sys.argv[1:]
print("uv was asked", *args, flush=True)
assert args[:1] == ["pip"], args
if args[1] == "check":
    sys.exit(0)
python = args[args.index("--python") + 1]
rest = [one for one in args[2:] if one not in ("--python", python, "--no-cache")]
sys.exit(subprocess.run([python, "-m", "pip", args[1], *rest]).returncode)
"""

CONDA = """
import json, os, pathlib, subprocess, sys
args = sys.argv[1:]
here = pathlib.Path(__file__).parent
if args[:2] == ["env", "list"]:
    print(json.dumps({"envs": [str(here / "base"), str(here / "known")]}))
elif args[:2] == ["env", "create"]:
    prefix = args[args.index("--prefix") + 1]
    text = pathlib.Path(args[args.index("--file") + 1]).read_text()
    if "no-such-package" in text:
        sys.exit("ResolvePackageNotFound: no-such-package")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    pathlib.Path(prefix, "description.yml").write_text(text)
else:
    sys.exit(f"conda does not know {args}")
"""

CONTAINERS = """
import os, pathlib, sys
args = sys.argv[1:]
here = pathlib.Path(__file__).parent
with open(here / "asked", "a") as file:
    print(*args, file=file)
if args[0] == "image":
    sys.exit(0 if (here / "pulled").exists() and "missing" not in args[2] else 1)
if args[0] == "pull":
    if "missing" in args[1]:
        sys.exit(f"Error: {args[1]}: image not known")
    (here / "pulled").touch()
    sys.exit(0)
if args[0] == "rm":
    sys.exit(0)
assert args[0] == "run", args
at = args.index("--entrypoint")
for position, one in enumerate(args):
    if one == "--env":
        name, given, value = args[position + 1].partition("=")
        os.environ[name] = value if given else os.environ[name]
os.environ["IN_IMAGE"] = args[at + 2]
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.execv(args[at + 1], [args[at + 1], *args[at + 3:]])
"""
