"""The agent's part in runtime environments: has them made, keeps them, removes those used longest ago.

Rules of this module:

- Each part is made once per content, by a helper process; this thread never waits.  Who needs a part that
  is being made waits for the same helper.
- A part that a process uses is never removed; the others are, longest unused first, beyond the bound.
- A failure is told to all who wait, and to who asks within `FAILED_S`; after that it is tried again.
- Parts live below the session's directory and go with it (PROC-2).
"""

from __future__ import annotations

import json
import os
from _signal import SIGKILL  # type: ignore[import-not-found]  # a plain number: signal imports enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from spoke import _native, config, logs, orphans
from spoke.envs.parts import FACTS, BadEnvironment, Made, Part, Recipe, assemble
from spoke.keeper import Keeper
from spoke.loop import Loop, Timer
from spoke.nursery import Nursery, Order

if TYPE_CHECKING:
    from spoke.agent import NodeSettings

FAILED_S: Final = 10.0  # a failure is told again without another try
FOLLOW_S: Final = 0.3  # between looks at what an installer prints
REASON_BYTES: Final = 16 * 1024  # of a helper's output, at most, in the error
MAX_HELPERS: Final = 4  # at a time
LINES_MAX: Final = 200  # of progress, per look

Done = Callable[["Made | None", str], None]  # the environment, "" | None, why not
Said = Callable[[int, list[str]], None]  # pid of the helper, what it printed


class _Kept:
    """A part: being made (`pid`), made (`facts`), or failed (`error`)."""

    __slots__ = ("error", "facts", "failed_at", "fd", "follower", "helper_id", "log", "order", "part", "pid",
                 "pidfd", "running", "source", "used_at", "users")  # fmt: skip

    def __init__(self, part: Part) -> None:
        self.part = part
        self.users: dict[bytes, None] = {}
        self.facts: dict[str, Any] | None = None
        self.error = ""
        self.failed_at = 0.0
        self.used_at = 0.0
        self.order: dict[str, str | None] | None = None  # it waits for a helper: variables for it
        self.running = False
        self.helper_id = os.urandom(28)
        self.pid, self.pidfd, self.source, self.fd = 0, -1, -1, -1
        self.log = ""
        self.follower: logs.Follower | None = None


class _Wish:
    """One who waits for an environment."""

    __slots__ = ("done", "recipe", "said", "timer", "user")

    def __init__(self, user: bytes, recipe: Recipe, done: Done, said: Said) -> None:
        self.user = user
        self.recipe = recipe
        self.done = done
        self.said = said
        self.timer: Timer | None = None


class Environments:
    """All environments of one node.

    Args:
        root: gives the directory of the parts, made when it is first asked for.
        keeper: is told of every helper that lives.
        swept: asks the agent to look for orphans soon.
    """

    def __init__(
        self,
        loop: Loop,
        settings: NodeSettings,
        nursery: Nursery,
        keeper: Keeper,
        root: Callable[[], str],
        swept: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._nursery = nursery
        self._make_root = root
        self._swept = swept
        self._parts: dict[str, _Kept] = {}
        self._wishes: dict[bytes, _Wish] = {}
        self._groups = keeper
        self._following: Timer | None = None
        self._closing = False
        self._clock = 0  # of uses: grows by one at each

    @property
    def root(self) -> str:
        """The directory of the parts."""
        return self._make_root()

    # -- asking

    def acquire(self, user: bytes, text: str, variables: Mapping[str, str], done: Done, said: Said) -> None:
        """Make an environment, or find it, and hold it for `user` until `release`.

        `done` is called once, at once or later; after a failure nothing is held.

        Args:
            text: `runtime_env.rest_of` as JSON.
            variables: of the environment.
            said: is told what installers print meanwhile, and first of all that they are at work.
        """
        try:
            recipe = Recipe(json.loads(text), variables)
        except (BadEnvironment, ValueError, TypeError, KeyError, AttributeError) as error:
            done(None, str(error))
            return
        wish = self._wishes[user] = _Wish(user, recipe, done, said)
        for name, part in recipe.parts.items():
            kept = self._parts.get(name)
            if kept is None or (kept.error and self._loop_now() - kept.failed_at > FAILED_S):
                kept = self._parts[name] = _Kept(part)
            kept.users[user] = None
        if self._settle(wish):
            return
        if recipe.timeout_s > 0:
            wish.timer = self._loop.after_s(recipe.timeout_s, lambda: self._late(wish))
        said(0, [])
        for name in recipe.parts:
            kept = self._parts[name]
            if kept.facts is None and not kept.running and not kept.error:
                kept.order = recipe.helper_variables()
        self._start_some()

    def release(self, user: bytes) -> None:
        """`user` needs its environment no more, or does not want it any more."""
        wish = self._wishes.pop(user, None)
        if wish is not None and wish.timer is not None:
            wish.timer.cancel()
        held = False
        for kept in self._parts.values():
            if user in kept.users:
                del kept.users[user]
                self._clock += 1
                kept.used_at = self._clock
                held = True
        if held:
            self._shrink()

    def give_up(self, user: bytes) -> None:
        """`user` will not start: it is answered if it waits."""
        wish = self._wishes.get(user)
        if wish is not None:
            self._answer(wish, None, "it was not wanted any more")

    def pids(self) -> dict[int, bytes]:
        """Process ids of the helpers and the ids that their processes carry."""
        return {kept.pid: kept.helper_id for kept in self._parts.values() if kept.pid}

    def _loop_now(self) -> float:
        import time

        return time.monotonic()

    # -- wishes

    def _settle(self, wish: _Wish) -> bool:
        """Answer if all is made, or something cannot be; whether it was answered."""
        parts = [self._parts[name] for name in wish.recipe.parts]
        error = next((kept.error for kept in parts if kept.error), "")
        made = None
        if not error:
            if any(kept.facts is None for kept in parts):
                return False
            facts = {kept.part.name: kept.facts or {} for kept in parts}
            root = self.root if parts else ""
            try:
                made = assemble(wish.recipe, facts, root, self._nursery.environment)
            except BadEnvironment as problem:
                error = str(problem)
        self._answer(wish, made, error)
        return True

    def _answer(self, wish: _Wish, made: Made | None, error: str) -> None:
        self._wishes.pop(wish.user, None)
        if wish.timer is not None:
            wish.timer.cancel()
        if error:
            self.release(wish.user)
        wish.done(made, error)

    def _late(self, wish: _Wish) -> None:
        if self._wishes.get(wish.user) is not wish:
            return
        limit = f"{wish.recipe.timeout_s:g} s (setup_timeout_seconds of its config)"
        waited = [self._parts[name] for name in wish.recipe.parts]
        printed = "".join(self._tail(kept) for kept in waited if kept.running)
        self._answer(wish, None, f"it was not there within {limit}\n{printed}".rstrip())
        for kept in waited:
            if kept.running and not kept.users and kept.pid:
                _kill_group(kept.pid)

    # -- helpers

    def _start_some(self) -> None:
        """Start helpers for parts whose turn it is."""
        if self._closing:
            return
        running = sum(kept.running for kept in self._parts.values())
        for kept in list(self._parts.values()):
            if kept.order is None or running >= MAX_HELPERS:
                continue
            needed = [self._parts.get(name) for name in kept.part.after]
            broken = next((one for one in needed if one is not None and one.error), None)
            if broken is not None:
                kept.order = None
                self._failed(kept, broken.error)
            elif all(one is not None and one.facts is not None for one in needed):
                variables, kept.order = kept.order, None
                running += 1
                self._start(kept, variables)

    def _start(self, kept: _Kept, variables: dict[str, str | None]) -> None:
        mine, part = self._settings, kept.part
        kept.running = True
        kept.log = os.path.join(mine.log_dir, f"runtime_env_setup-{part.name}.log")
        try:
            root = self.root
            os.makedirs(root, mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            kept.fd = os.open(kept.log, flags, 0o600)
        except OSError as error:
            self._ended(kept, f"the environment's directory cannot be used: {error}")
            return
        working_dir = part.after and assemble_directory(root, part.after[0])
        order = {
            "kind": part.kind,
            "spec": part.spec,
            "directory": os.path.join(root, part.name),
            "working_dir": working_dir or None,
            "hub": mine.hub_address,
            "node_id": mine.node_id,
            "token": mine.token,
        }
        kept.follower = logs.Follower(kept.fd)
        changes = {**variables, orphans.VARIABLE: kept.helper_id.hex()}

        def born(pid: int, pidfd: int, error: str) -> None:
            if error:
                self._ended(kept, error)
            else:
                self._born(kept, pid, pidfd)

        self._groups.start()  # first: the agent may be killed before it hears that the helper was born
        self._nursery.start(Order({"prepare": order}, changes, None, (kept.fd, kept.fd), born))

    def _born(self, kept: _Kept, pid: int, pidfd: int) -> None:
        kept.pid, kept.pidfd = pid, pidfd
        self._groups.add(pid)
        kept.source = self._loop.reactor.watch(pidfd)
        self._loop.handle(kept.source, lambda kind, meta, payload: self._exited(kept))
        if self._closing:
            _kill_group(pid)
        if self._following is None:
            self._following = self._loop.after_s(FOLLOW_S, self._follow)

    def _exited(self, kept: _Kept) -> None:
        _kill_group(kept.pid)
        try:
            status = _native.reap(kept.pidfd)
        except ChildProcessError:
            status = None
        if status is None:
            return
        self._tell(kept)
        text = self._tail(kept)
        self._forget_process(kept)
        self._swept()
        if status[0] == 0:
            self._ended(kept, "")
        else:
            how = "" if status[0] == 1 else f"its helper process ended with {status[0] or -status[1]}\n"
            self._ended(kept, f"{how}{text}".strip() or "its helper process said nothing")

    def _forget_process(self, kept: _Kept) -> None:
        self._loop.reactor.unwatch(kept.source)
        self._loop.forget(kept.source)
        os.close(kept.pidfd)
        self._groups.remove(kept.pid)
        kept.pid, kept.pidfd = 0, -1

    def _ended(self, kept: _Kept, error: str) -> None:
        """The helper has ended, or there was none."""
        kept.running = False
        if kept.fd >= 0:
            os.close(kept.fd)
            kept.fd, kept.follower = -1, None
        if not error:
            try:
                with open(os.path.join(self.root, kept.part.name, FACTS), encoding="utf-8") as file:
                    kept.facts = json.load(file)
            except (OSError, ValueError) as problem:
                error = f"its helper process left no facts: {problem}"
        if error:
            self._failed(kept, error)
        else:
            if not self._settings.keep_logs:
                logs.unlink(kept.log)
            self._shrink()
        for wish in list(self._wishes.values()):
            if kept.part.name in wish.recipe.parts and self._wishes.get(wish.user) is wish:
                self._settle(wish)
        self._start_some()

    def _failed(self, kept: _Kept, error: str) -> None:
        kept.error, kept.failed_at = error, self._loop_now()
        self._remove_directory(kept.part.name)

    # -- what helpers print

    def _tail(self, kept: _Kept) -> str:
        if kept.fd < 0:
            return ""
        size = os.fstat(kept.fd).st_size
        data = os.pread(kept.fd, REASON_BYTES, max(0, size - REASON_BYTES))
        return data.decode("utf-8", "replace")

    def _follow(self) -> None:
        self._following = None
        running = [kept for kept in self._parts.values() if kept.pid]
        for kept in running:
            self._tell(kept)
        if running and not self._closing:
            self._following = self._loop.after_s(FOLLOW_S, self._follow)

    def _tell(self, kept: _Kept) -> None:
        if kept.follower is None:
            return
        lines = [line for _, group in kept.follower.read() for line in group if line.strip()]
        if lines:
            for user in list(kept.users):
                wish = self._wishes.get(user)
                if wish is not None:
                    wish.said(kept.pid, lines[-LINES_MAX:])

    # -- room

    def _shrink(self) -> None:
        """Remove what nobody uses, longest unused first, until the rest is within the bound."""
        bound = config.get("runtime_env_cache_bytes")
        made = [kept for kept in self._parts.values() if kept.facts is not None]
        total = sum(int((kept.facts or {}).get("bytes", 0)) for kept in made)
        for kept in sorted(made, key=lambda one: one.used_at):
            if total <= bound:
                break
            if not kept.users:
                total -= int((kept.facts or {}).get("bytes", 0))
                del self._parts[kept.part.name]
                self._remove_directory(kept.part.name)
        for name, kept in list(self._parts.items()):
            if kept.error and not kept.users and self._loop_now() - kept.failed_at > FAILED_S:
                del self._parts[name]

    def _remove_directory(self, name: str) -> None:
        """Out of the way at once; the many files are removed by another process."""
        path = os.path.join(self.root, name)
        grave = f"{path}.{os.urandom(4).hex()}.gone"
        try:
            os.rename(path, grave)
            _, pidfd = _native.spawn(["/bin/rm", "-rf", grave], {}, None, [], SIGKILL, True)
            os.close(pidfd)  # the sweep reaps it
        except OSError:
            return  # nothing was made yet
        self._swept()

    # -- the end

    def close(self) -> None:
        """Kill and reap the helpers; the directory goes with the session's."""
        self._closing = True
        for kept in self._parts.values():
            if kept.pid:
                _kill_group(kept.pid)
                try:
                    os.waitpid(kept.pid, 0)
                except ChildProcessError:
                    pass
                self._forget_process(kept)
            if kept.fd >= 0:
                os.close(kept.fd)
                kept.fd = -1
        self._parts.clear()
        self._wishes.clear()


def assemble_directory(root: str, name: str) -> str:
    """The files of a part."""
    from spoke.envs.parts import FILES

    return os.path.join(root, name, FILES)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone, or only zombies are left
        pass
