"""What programs see of failures: errors and their texts, what is logged and printed, cancelling, waiting."""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from typing import Any

from tests.conformance.kit import Flag, caught, described, eventually

THROUGH_RAY_COMPAT = True


def _raised(ray: Any, ref: Any) -> Any:
    try:
        ray.get(ref)
    except Exception as error:
        return error
    raise AssertionError("no error")


def _lines(error: BaseException) -> list[str]:
    """The text of an error without colours, places, ids and marks below the code."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    text = re.sub(r'  File ".*", line \d+, in ', "  in ", text)
    text = re.sub(r"pid=\d+", "pid", text)
    text = re.sub(r"ip=[0-9.]+", "ip", text)
    text = re.sub(r"actor_id=[0-9a-f]+", "actor_id", text)
    text = re.sub(r"repr=<\S+ object at 0x[0-9a-f]+>", "repr", text)
    return [line for line in text.strip().splitlines() if not re.fullmatch(r"[\s^~]*", line)]


def _program(text: str, **variables: str) -> tuple[str, str]:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=100,
        env={**os.environ, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# -- texts


def text_of_a_task(ray: Any) -> Any:
    def inner(number: int) -> None:
        raise ValueError(number)

    @ray.remote
    def outer() -> None:
        inner(7)

    return _lines(_raised(ray, outer.remote()))


def text_of_a_task_that_gets_a_failed_one(ray: Any) -> Any:
    @ray.remote
    def inner() -> float:
        return 1 / 0

    @ray.remote
    def outer() -> Any:
        return ray.get(inner.remote())

    return _lines(_raised(ray, outer.remote()))


def text_of_a_failed_argument(ray: Any) -> Any:
    @ray.remote
    def first() -> None:
        raise ValueError("first failed")

    @ray.remote
    def second(x: Any) -> None: ...

    @ray.remote
    def third(x: int, y: Any) -> None: ...

    return _lines(_raised(ray, third.remote(1, second.remote(first.remote()))))


class _Plain:
    def fails(self) -> None:
        raise ValueError("here")

    def shown(self) -> str:
        return repr(self)


class _Named(_Plain):
    def __repr__(self) -> str:
        return "called(so)"


class _Unmade:
    def __init__(self) -> None:
        raise ValueError("not made")

    def method(self) -> None: ...


def text_of_a_method(ray: Any) -> Any:
    return _lines(_raised(ray, ray.remote(_Plain).remote().fails.remote()))


def an_actors_repr_is_in_its_errors(ray: Any) -> Any:
    seen = []
    for cls in (_Plain, _Named):
        actor = ray.remote(cls).remote()
        seen.append(f"repr={ray.get(actor.shown.remote())})" in str(_raised(ray, actor.fails.remote())))
    return seen


def text_of_a_constructor(ray: Any) -> Any:
    error = _raised(ray, ray.remote(_Unmade).remote().method.remote())
    return [_lines(error), type(error).__name__, error.actor_init_failed]


def texts_of_what_does_not_pickle(ray: Any) -> Any:
    lock = threading.Lock()

    @ray.remote
    def takes(x: Any) -> None: ...

    @ray.remote
    def holds() -> Any:
        return lock

    @ray.remote
    class Takes:
        def __init__(self, x: Any) -> None: ...

    @ray.remote
    class Holds:
        def it(self) -> Any:
            return lock

    def begin(call: Any) -> str:
        try:
            call()
        except TypeError as error:
            text = re.sub(r"object at 0x[0-9a-f]+>", "object>", str(error).splitlines()[0])
            return text.replace(f"{__name__}.", "")
        return "no error"

    calls = (lambda: ray.put(lock), lambda: takes.remote(lock), holds.remote, lambda: Takes.remote(lock))
    return [begin(call) for call in (*calls, Holds.remote)]


# -- arguments that failed


def a_dead_actors_result_as_an_argument(ray: Any) -> Any:
    @ray.remote
    class Ends:
        def now(self) -> None:
            os._exit(1)

    @ray.remote
    def after(x: Any) -> None: ...

    actor = Ends.remote()
    ref = actor.now.remote()
    errors = ray.exceptions
    kinds = (errors.RayTaskError, errors.RayActorError, errors.ActorDiedError)
    return [
        described(_raised(ray, ref), kinds=kinds),
        described(_raised(ray, after.remote(ref)), "At least one of the input arguments", kinds=kinds),
    ]


def a_failed_argument_of_a_method(ray: Any) -> Any:
    @ray.remote
    def fails() -> None:
        raise KeyError("k")

    @ray.remote
    class Takes:
        def it(self, x: Any) -> int:
            return 1

    actor = Takes.remote()
    error = _raised(ray, actor.it.remote(fails.remote()))
    seen = described(error, "Takes.it", "At least one of the input arguments", kinds=(KeyError,))
    return [seen, ray.get(actor.it.remote(2))]


def a_failed_argument_of_a_constructor(ray: Any) -> Any:
    @ray.remote
    def fails() -> None:
        raise KeyError("k")

    @ray.remote
    class Takes:
        def __init__(self, x: Any) -> None: ...

        def it(self) -> None: ...

    error = _raised(ray, Takes.remote(fails.remote()).it.remote())
    seen = described(error, "arguments", "Takes.__init__", "KeyError", kinds=(ray.exceptions.RayActorError,))
    return [seen, error.actor_init_failed]


# -- getting and cancelling


def get_raises_before_the_others_are_there(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    class Two:
        def fails(self) -> None:
            raise ValueError("early")

        def waits(self) -> bool:
            return flag.wait()

    actor = Two.options(max_concurrency=2).remote()
    slow = actor.waits.remote()
    try:
        seen = [caught(lambda: ray.get([slow, actor.fails.remote(), slow]), "early")]
        seen.append(caught(lambda: ray.get([slow, actor.fails.remote()], timeout=60), "early"))
        return [seen, ray.wait([slow], timeout=0)[0] == []]
    finally:
        flag.set()


def get_of_a_failed_one_beside_a_pending_one(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    def waits() -> bool:
        return flag.wait()

    @ray.remote
    def fails() -> None:
        raise ValueError("known")

    failed, slow = fails.remote(), waits.remote()
    ray.wait([failed])
    try:
        return caught(lambda: ray.get([slow, failed]), "known")
    finally:
        flag.set()


def cancelling_what_another_process_started(ray: Any) -> Any:
    flag = Flag()

    @ray.remote
    class Waits:
        async def forever(self) -> None:
            import asyncio

            flag.set()
            await asyncio.sleep(1000)

    @ray.remote(num_cpus=0)
    class Owner:
        def start(self, actor: Any) -> Any:
            self.ref = actor.forever.remote()
            return [self.ref]

    owner, actor = Owner.remote(), Waits.remote()
    [theirs] = ray.get(owner.start.remote(actor))
    flag.wait()
    ray.cancel(theirs)
    return isinstance(_raised(ray, theirs), ray.exceptions.TaskCancelledError)


def told_when_a_ref_is_there(ray: Any) -> Any:
    told: list[Any] = []

    @ray.remote
    def gives(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        return x

    gives.remote(3)._on_completed(lambda value: told.append(value))
    eventually(lambda: len(told) == 1)
    gives.remote(-1)._on_completed(lambda value: told.append(isinstance(value, ray.exceptions.RayTaskError)))
    eventually(lambda: len(told) == 2)
    return told


# -- what is logged and printed


class _Keeps(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def errors_that_nobody_reads_are_logged(ray: Any) -> Any:
    @ray.remote
    def fails(text: str) -> None:
        raise ValueError(text)

    @ray.remote
    class Fails:
        def now(self, text: str) -> None:
            raise ValueError(text)

    kept, logger = _Keeps(), logging.getLogger("ray")
    logger.addHandler(kept)
    try:
        actor = Fails.remote()
        _raised(ray, fails.remote("read"))
        fails.remote("of a task")
        actor.now.remote("of a method")

        def told(text: str) -> bool:
            return any("Unhandled error" in one and text in one for one in kept.texts)

        eventually(lambda: told("of a task") and told("of a method"))
        return [told("of a task"), told("of a method"), told("ValueError: read")]
    finally:
        logger.removeHandler(kept)


def fields_of_records(ray: Any) -> Any:
    return [
        caught(lambda: ray.LoggingConfig(encoding="XML"), "Invalid encoding type: XML"),
        caught(lambda: ray.LoggingConfig(additional_log_standard_attrs=["colour"]), "colour"),
        ray.LoggingConfig.from_dict({"encoding": "JSON", "unknown": 1}).to_dict(),
    ]


def structured_records(ray: Any) -> Any:
    text = """
import logging, ray
ray.init(num_cpus=1, include_dashboard=False, logging_config=ray.LoggingConfig(
    encoding="JSON", additional_log_standard_attrs=["name"]))

@ray.remote
def of_a_task():
    logging.getLogger("mine").info("said in a task", extra={"more": 1})

@ray.remote
class Says:
    def it(self):
        logging.getLogger("mine").warning("said in an actor")

logging.getLogger("mine").info("said in the driver")
ray.get(of_a_task.remote())
ray.get(Says.options(name="says").remote().it.remote())
"""
    out, err = _program(text)
    seen = []
    for line in (out + err).splitlines():
        if line.startswith("{") and "said in" in line:
            record = json.loads(line)
            names = ("levelname", "message", "name", "task_name", "more")
            seen.append([sorted(record), {name: record.get(name) for name in names}])
    return sorted(seen, key=lambda one: one[1]["message"])


def formats_of_records(ray: Any) -> Any:
    formatters = importlib.import_module("ray._common.formatters")
    record = logging.makeLogRecord(
        {"msg": "text", "levelname": "INFO", "filename": "a.py", "lineno": 3, "user": "me"}
    )
    as_json = formatters.JSONFormatter()
    as_json.set_additional_log_standard_attrs(["name"])
    found = json.loads(as_json.format(record))
    line = formatters.TextFormatter().format(record)
    kept = {name: found[name] for name in ("message", "levelname", "filename", "lineno", "user", "name")}
    begins, rest = line.split("\t")
    return [sorted(found), kept, re.sub(r"\d", "0", begins), rest.split(" timestamp_ns=")[0]]


def which_lines_are_held_back(ray: Any) -> Any:
    now = [0.0]
    shown = importlib.import_module("ray._private.ray_logging").LogDeduplicator(
        5, "ALWAYS", "NEVER", _timesource=lambda: now[0]
    )

    def told(pid: int, *lines: str) -> Any:
        batches = shown.deduplicate({"ip": "a", "pid": pid, "lines": list(lines)})
        return [[batch["pid"], batch["lines"]] for batch in batches if batch["lines"]]

    seen = [told(1, "a line 1", "2"), told(1, "a line 3"), told(2, "a line 4", "5", "ALWAYS 6", "NEVER 7")]
    seen += [told(1, "ALWAYS 8"), told(3, "a line 9")]
    now[0] = 6.0
    seen += [told(4, "another"), told(2, "a line 10")]
    return [json.loads(re.sub(r" \(Ray deduplicates[^)]*\)", "", json.dumps(seen))), shown.flush()]


# -- functions that do not arrive


class _NeedsWhatIsNotThere:
    def __reduce__(self) -> Any:
        return importlib.import_module, ("a_module_that_is_nowhere",)


def a_function_that_does_not_load(ray: Any) -> Any:
    needed = _NeedsWhatIsNotThere()

    @ray.remote(max_retries=0)
    def f() -> Any:
        return needed

    error = _raised(ray, f.remote())
    fragments = ("The remote function failed to import on the worker", "No module named")
    return described(error, *fragments, kinds=(RuntimeError, ImportError))


def a_class_that_does_not_load(ray: Any) -> Any:
    needed = _NeedsWhatIsNotThere()

    @ray.remote
    class Needs:
        def it(self) -> Any:
            return needed

    error = _raised(ray, Needs.remote().it.remote())
    fragments = ("The actor with name Needs failed to import on the worker", "No module named")
    return described(error, *fragments, kinds=(ray.exceptions.RayActorError, RuntimeError))


def functions_that_are_too_large(ray: Any) -> Any:
    large = bytes(110_000_000)

    @ray.remote
    def f() -> int:
        return len(large)

    @ray.remote
    class A:
        def it(self) -> int:
            return len(large)

    return [caught(f.remote, "is too large", "ray.put()"), caught(A.remote, "is too large", "ray.put()")]


def callbacks_do_not_hold_up_the_driver(ray: Any) -> Any:
    """A callback that calls further methods of an actor that is being killed."""

    @ray.remote(max_restarts=1)
    class Lives:
        def it(self) -> int:
            return 1

    actor = Lives.remote()
    called = threading.Event()

    def again(_: Any) -> None:
        actor.it.remote()
        called.set()

    ref = actor.it.remote()
    ref._on_completed(again)
    ray.kill(actor)
    return [called.wait(30), isinstance(caught(lambda: ray.get(ref)), dict)]


def calls_to_an_actor_that_is_being_restarted(ray: Any) -> Any:
    """Such as may not be repeated fail at once; others wait."""
    made, may_go_on = Flag(), Flag()

    @ray.remote(max_restarts=1)
    class Slow:
        def __init__(self) -> None:
            made.append("made")
            if len(made.lines()) > 1:
                may_go_on.wait()

        def it(self) -> int:
            return 1

    actor = Slow.remote()
    seen = [ray.get(actor.it.remote())]
    ray.kill(actor, no_restart=False)
    eventually(lambda: len(made.lines()) == 2)

    seen.append(caught(lambda: ray.get(actor.it.remote(), timeout=10)))
    waits = actor.it.options(max_task_retries=2).remote()
    seen.append(ray.wait([waits], timeout=1)[0] == [])
    may_go_on.set()
    seen.append(ray.get(waits))
    return [*seen, eventually(lambda: caught(lambda: ray.get(actor.it.remote())) == {"value": 1})]
