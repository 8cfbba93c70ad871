"""The process of a job that runs a pickled function: runs it, writes its result, ends with an exit code.

Exit codes: 0 and a result; 1 and a pickled error for an exception; what `sys.exit` says; 70 when the
function itself cannot be unpickled; 75 when its result cannot be kept; 79 when its health check failed.
The result goes into the file that the configuration came in, which the agent holds open (`jobresult`).
Nothing of Spoke but this module runs here: `spoke.init` joins the cluster when the function asks for it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any, Final, NoReturn

from spoke import _native, codec, errorpack
from spoke.jobresult import ERROR, JOB_FILE, RESULT_FILE, VALUE, Result
from spoke.limits import MAX_JOB_BLOB_BYTES
from spoke.spawning import CONFIG_FD

NO_FUNCTION: Final = 70
NO_RESULT: Final = 75
UNHEALTHY: Final = 79


def main(job: dict[str, Any], result_fd: int = CONFIG_FD) -> NoReturn:
    """Run the function of ``job["blob"]`` and end the process."""
    _native.set_title("spoke-job")
    code = 1
    try:
        if job.get("enter"):  # before anything of the user's runs, or counts
            with open(job["enter"], "w") as door:
                door.write("0")
        code = _run(job, Result(result_fd))
    except SystemExit as error:
        code = _code(error)
    except BaseException as error:  # KeyboardInterrupt and its like
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        end(code)


def end(code: int) -> NoReturn:
    """What the interpreter does at its end, without taking every module apart, which takes most of its
    time.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass  # closed by the user's code
        os._exit(code & 0xFF)


def _code(error: SystemExit) -> int:
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def _run(job: dict[str, Any], result: Result) -> int:
    """The exit code."""
    sys.argv = ["spoke-job"]
    try:
        function, args, kwargs = codec.loads(job["blob"])
    except BaseException as error:
        _keep_error(result, errorpack.pack("the function of the job", error))
        print(f"the function of the job cannot be unpickled here: {error!r}", file=sys.stderr)
        return NO_FUNCTION
    health = job.get("health") or {}
    if health.get("blob"):
        _watch(codec.loads(health["blob"]), health)
    name = getattr(function, "__name__", "job")
    try:
        value = function(*args, **kwargs)
    except Exception as error:
        _keep_error(result, errorpack.pack(name, error))
        import traceback

        frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
        traceback.print_exception(type(error), error, frames)
        return 1
    try:
        body = codec.dumps_function(value)
        if len(body) > MAX_JOB_BLOB_BYTES:
            raise ValueError(
                f"the result has {len(body)} bytes, more than {MAX_JOB_BLOB_BYTES}: write it to a file"
            )
        result.write(VALUE, body)
    except Exception as error:
        _keep_error(result, errorpack.pack(name, error))
        print(f"the result of the job cannot be kept: {error}", file=sys.stderr)
        return NO_RESULT
    return 0


def _keep_error(result: Result, packed: bytes) -> None:
    try:
        result.write(ERROR, packed)
    except OSError:
        pass  # the log has it


def _watch(check: Any, health: dict[str, Any]) -> None:
    """Call `check` every period; a byte in the health file for each time that it was content."""

    def run() -> None:
        while True:
            try:
                content = check()
            except Exception as error:
                content = False
                print(f"health check: {error!r}", file=sys.stderr)
            if content is not False:
                with open(health["file"], "ab") as file:
                    file.write(b".")
            pause.wait(health["period_s"])

    pause = threading.Event()
    threading.Thread(target=run, name="spoke-health", daemon=True).start()


def inside(directory: str) -> None:
    """In a container: the job of a directory that is mounted."""
    import msgpack

    with open(os.path.join(directory, JOB_FILE), "rb") as file:
        job = msgpack.unpackb(file.read())
    fd = os.open(os.path.join(directory, RESULT_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    main(job, fd)


if __name__ == "__main__":
    inside(sys.argv[1])
