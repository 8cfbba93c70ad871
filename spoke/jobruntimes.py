"""How a job's processes are isolated: not at all (`process`), or by podman or docker.

A runtime gives the command line of an attempt; the agent starts it, watches it and kills it like any other.
"""

from __future__ import annotations

import os
from typing import Any, Final

KINDS: Final = ("process", "podman", "docker")
WORKDIR: Final = "/workdir"
SHELL: Final = ("/bin/sh", "-c")


class RuntimeMissing(Exception):
    """The runtime is not on this node."""


class Container:
    """podman or docker: no privileges, no capabilities, the asked ports only, limits by cgroups."""

    def __init__(self, kind: str, path: str | None) -> None:
        executable = _find(kind, path)
        if executable is None:
            raise RuntimeMissing(f"RuntimeEnvSetupError: {kind} is not installed on this node")
        self.executable = executable

    def argv(self, name: str, spec: dict[str, Any], env: dict[str, str], ports: dict[str, int],
             directory: str) -> list[str]:  # fmt: skip
        """The command line of an attempt whose files are in `directory`."""
        image = spec.get("image")
        if not image:
            raise RuntimeMissing(
                "RuntimeEnvSetupError: a job in a container needs an image: runtime_env['image_uri']"
            )
        found = [self.executable, "run", "--rm", "--name", name, "--security-opt", "no-new-privileges",
                 "--cap-drop", "ALL", "-v", f"{directory}:{WORKDIR}", "-w", WORKDIR]  # fmt: skip
        if spec.get("cwd"):
            found += ["-v", f"{spec['cwd']}:{spec['cwd']}", "-w", str(spec["cwd"])]
        if spec.get("cpus"):
            found += ["--cpus", f"{spec['cpus']:g}"]
        if spec.get("memory"):
            found += ["--memory", str(spec["memory"])]
        for port in ports.values():
            found += ["-p", f"{port}:{port}"]
        for variable, value in sorted(env.items()):
            found += ["-e", f"{variable}={value}"]
        found.append(str(image))
        if spec.get("blob") is not None:
            return [*found, "python", "-m", "spoke.jobprocess", WORKDIR]
        return [*found, *SHELL, spec["entrypoint"]]

    def kill_argv(self, name: str) -> list[str]:
        """The command line that ends the container for certain."""
        return [self.executable, "rm", "-f", name]


def _find(name: str, path: str | None) -> str | None:
    for directory in (path or os.defpath).split(os.pathsep):
        candidate = os.path.join(directory, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
