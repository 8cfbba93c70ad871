"""The command line of a process in its environment, where it cannot be forked.

An interpreter of the user's choice is run by the shell, so that what he writes may have arguments, a path
relative to the working directory, or variables.  A container gets its configuration, which holds the
cluster's token, by a file that only this user can read and that is gone when it runs.
"""

from __future__ import annotations

import os
from typing import Any

from spoke import containers, spawning
from spoke.envs.parts import Made

_IN_IMAGE = (
    'exec 3<"$0" && rm -f "$0" && exec python -c "from spoke.worker import main; main()"'  # Spoke is in it
)


def by_shell(made: Made) -> list[str]:
    """A worker by the interpreter that `made.shell` runs."""
    _, option, boot, *paths = spawning.worker_argv()
    boot = f"exec(bytes.fromhex('{boot.encode().hex()}'))"  # a word, where a script says $@
    return ["/bin/sh", "-c", f'exec {made.shell} "$@"', "sh", option, boot, *paths]


def in_container(
    made: Made, name: str, root: str, config: dict[str, Any], variables: dict[str, str | None]
) -> list[str]:
    """A worker in a container of this name.

    Args:
        root: a directory of this user's that the container shares.

    Raises:
        OSError: the configuration cannot be written.
    """
    import msgpack

    assert made.image is not None
    runtime = made.image["runtime"]
    os.makedirs(root, mode=0o700, exist_ok=True)
    path = os.path.join(root, f"{name}.config")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(msgpack.packb(config))
    plain = ["env", *(f"--unset={tag}" for tag in containers.TAGS)]
    found = [*plain, runtime, "run", "--rm", "--name", name, "--network=host", "--pid=host", "--ipc=host",
             "-v", f"{root}:{root}"]  # fmt: skip
    if containers.is_podman(runtime) and os.getuid():
        found.append("--userns=keep-id")  # else the container's root owns what it writes
    for variable, value in sorted(variables.items()):
        if value is not None:  # the command has it in its own environment, but for the tags
            found += ["--env", f"{variable}={value}" if variable in containers.TAGS else variable]
    made.ender = containers.ender(runtime, name)
    entry = ["--entrypoint", "/bin/sh", made.image["image"], "-c", _IN_IMAGE, path]
    return [*found, *made.image["options"], *entry]
