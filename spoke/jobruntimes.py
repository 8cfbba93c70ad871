"""How a job's processes are isolated: not at all (`process`), or by podman or docker.

A runtime gives the command line of an attempt; the agent starts it, watches it and kills it like any other,
and then removes the container (`containers`).
"""

from __future__ import annotations

import os
from typing import Any, Final

import msgpack

from spoke import containers, orphans
from spoke.jobresult import HEALTH_FILE, JOB_FILE, RESULT_FILE

KINDS: Final = ("process", "podman", "docker")
WORKDIR: Final = "/workdir"
SHELL: Final = ("/bin/sh", "-c")
# The first process of a container gets no signal that it does not handle, and owns what loses its parent:
# this one passes SIGTERM on to all, and reaps.
_INIT: Final = """
"$@" < /dev/null & child=$!
trap 'if [ $$ = 1 ]; then kill -TERM -1; else kill -TERM $child; fi' TERM
while :; do
    wait $child
    code=$?
    kill -0 $child 2> /dev/null || exit $code
done
"""


class RuntimeMissing(Exception):
    """The runtime is not on this node."""


class Container:
    """One attempt in podman or docker: no privileges, no capabilities, the asked ports only, limits by
    cgroups.

    Args:
        name: of the container.
        host: address of the node that the job's ports are open on.
        parent: directory of the session, which goes with it.
        environment: of the agent's processes.
        inside: the variables of the job.

    Raises:
        RuntimeMissing: the runtime is not on this node.
        OSError: no room for its files.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        host: str,
        parent: str,
        environment: dict[str, str],
        inside: dict[str, str],
    ) -> None:
        import tempfile

        executable = containers.find(kind, environment.get("PATH"))
        if executable is None:
            raise RuntimeMissing(f"RuntimeEnvSetupError: {kind} is not installed on this node")
        self.executable = executable
        self.name = name
        # Shared with the container; podman's monitor may leave a file.
        self.directory = tempfile.mkdtemp(prefix="job-", dir=parent)
        self.host = host
        self.ender = containers.ender(executable, name)
        tag = environment.get(orphans.AGENT_VARIABLE, "")
        self._inside = {**inside, orphans.AGENT_VARIABLE: tag, "SPOKE_BIND_HOST": "0.0.0.0"}
        self._outside = containers.outside(environment)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the command."""
        hidden = [name for name in self._inside if not containers.shown_to_all(name, self._outside)]
        return {**{name: self._inside[name] for name in hidden}, **self._outside}

    def path(self, name: str) -> str:
        """A file of the shared directory, seen from outside."""
        return os.path.join(self.directory, name)

    def remove_files(self) -> None:
        """When it has ended."""
        import shutil

        shutil.rmtree(self.directory, ignore_errors=True)

    def write_job(self, blob: bytes, health: dict[str, Any]) -> int:
        """Put the function where its process finds it; the descriptor of the file for its result."""
        inside = {**health, "file": os.path.join(WORKDIR, HEALTH_FILE)} if health else {}
        with open(self.path(JOB_FILE), "wb") as file:
            file.write(msgpack.packb({"blob": blob, "health": inside}))
        return os.open(self.path(RESULT_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def argv(self, spec: dict[str, Any], ports: dict[str, int]) -> list[str]:
        """The command line of the attempt, to be run with `environment`."""
        image = spec.get("image")
        if not image:
            raise RuntimeMissing(
                "RuntimeEnvSetupError: a job in a container needs an image: runtime_env['image_uri']"
            )
        found = [self.executable, "run", "--rm", "--name", self.name, "--security-opt", "no-new-privileges",
                 "--cap-drop", "ALL", *self._user(), "-v", f"{self.directory}:{WORKDIR}",
                 "-w", WORKDIR]  # fmt: skip
        if spec.get("cwd"):
            found += ["-v", f"{spec['cwd']}:{spec['cwd']}", "-w", str(spec["cwd"])]
        if spec.get("cpus"):
            found += ["--cpus", f"{spec['cpus']:g}"]
        if spec.get("memory"):
            found += ["--memory", str(spec["memory"]), "--memory-swap", str(spec["memory"])]
        for port in ports.values():
            found += ["-p", f"{self.host}:{port}:{port}"]
        for name, value in sorted(self._inside.items()):
            found += ["-e", f"{name}={value}" if containers.shown_to_all(name, self._outside) else name]
        found += ["--entrypoint", "/bin/sh", str(image), "-c", _INIT, "init"]
        if spec.get("blob") is not None:
            return [*found, "python", "-m", "spoke.jobprocess", WORKDIR]
        return [*found, *SHELL, spec["entrypoint"]]

    def _user(self) -> tuple[str, ...]:
        """Without capabilities even root inside reads the directory only as the user who made it."""
        if os.getuid() and containers.is_podman(self.executable):
            return ("--userns=keep-id",)
        return "--user", f"{os.getuid()}:{os.getgid()}"
