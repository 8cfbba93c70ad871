"""First thing in a daemon's process: start the zygote, and only then import what the daemon is made of.

Run by path, not as a module of the package: importing the package takes longer than what is here.
So the zygote, on which the first task waits, imports its modules while the daemon imports its own.

Rule: nothing but built-in modules before the zygote runs.  The collector rests in both until all is imported:
there is nothing to find, and looking took 3 ms of each.
"""

from __future__ import annotations

import gc
import os
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair

CONFIG_FD = 3  # as in spoke.spawning: what only the daemon may read
LINK_FD = 4

_BOOT = "import gc, sys; gc.disable(); sys.path[:0] = sys.argv[1:]; from spoke.zygote import main; main()"


def start_zygote(argv: list[str], environment: dict[str, str]) -> tuple[int, int] | None:
    """Start a zygote as a process group of its own: its pid and our end of the link; None if it cannot.

    It ends with that link; it sets its death signal itself.  A daemon's process has no other descriptors
    that a child inherits than those it was started with.
    """
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
    files = [
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), LINK_FD),
        (os.POSIX_SPAWN_CLOSE, CONFIG_FD),
        # Standard error may be a pipe whose reader waits for its end; a worker gets its own.
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    try:
        pid = os.posix_spawn(argv[0], argv, environment, file_actions=files, setpgroup=0)
    except OSError:
        ours.close()
        return None
    finally:
        theirs.close()
    return pid, ours.detach()


def main() -> None:
    """Entry of the daemon's process; the arguments are the paths that hold what it imports."""
    gc.disable()
    paths = sys.argv[1:]
    os.environ["SPOKE_AGENT"] = os.urandom(8).hex()  # by which `spoke.keeper` knows what stems from here
    zygote = start_zygote([sys.executable, "-c", _BOOT, *paths], dict(os.environ))
    sys.path += paths
    from spoke.daemon import main as run

    run(zygote)


if __name__ == "__main__":
    main()
