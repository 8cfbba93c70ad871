"""Every named error of Spoke, under Ray's names and with Ray's inheritance.

Rules of this module: pure; of Spoke it imports nothing but `dualerrors`.  Every class can be built from one
message (`from_message`), pickles to an equal value, and says in ``str()`` what happened and what to do.
`spoke.exceptions` is the public name of this module.
"""

from __future__ import annotations

import builtins
from typing import Any

from spoke.dualerrors import dual


class RayError(Exception):
    """Base of every error that Spoke raises by name."""

    @classmethod
    def from_message(cls, message: str) -> RayError:
        """The error with this message, whatever other constructor arguments the class has."""
        return cls(message)

    def __reduce__(self) -> Any:
        # By name, whatever module the class is shown in: it may be another one in the process that unpickles.
        made: Any = super().__reduce__()
        name = type(self).__name__
        return (_made, (name, made[1]), *made[2:]) if NAMED.get(name) is type(self) else made

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__reduce__() == other.__reduce__()

    __hash__ = Exception.__hash__


def _lines(*parts: str | None) -> str:
    return "\n".join(part for part in parts if part)


class _Described(RayError):
    """An error with a fixed first sentence, followed by the details of this case."""

    _sentence = ""

    def __init__(self, error_message: str | None = None, *more: Any) -> None:
        super().__init__(*(() if error_message is None and not more else (error_message, *more)))
        self.error_message = error_message or ""

    def __str__(self) -> str:
        return _lines(self._sentence, self.error_message)


# -- the system ---------------------------------------------------------------------------------


class RaySystemError(RayError):
    """Spoke itself failed, not the user's code."""

    def __init__(self, client_exc: Any = "", traceback_str: str | None = None) -> None:
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        text = f"System error: {self.client_exc}"
        return f"{text}\ntraceback: {self.traceback_str}" if self.traceback_str else text


class ProtocolError(RaySystemError):
    """Bytes from a peer that are not a valid message, or a message out of turn."""


class AuthenticationError(RayError):
    """A peer could not prove that it holds the cluster's token."""

    def __init__(self, message: str = "the peer did not prove that it holds the cluster token") -> None:
        super().__init__(message)
        self.message = message


class RpcError(RayError):
    """A request to another process failed on the way; `rpc_code` is None or a number."""

    def __init__(self, message: str = "", rpc_code: int | None = None) -> None:
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return self.message


class EngineUnsupported(RayError):
    """The engine that carries the program does not have this feature; the text says what to use instead."""


class CrossLanguageError(RayError):
    """An error raised by code in another language."""


class UserCodeException(RayError):
    """User code that the system calls (a hook, a serializer) raised."""


class GetTimeoutError(RayError, TimeoutError):
    """The result was not ready within the timeout of `get`."""


class PlasmaObjectNotAvailable(RayError):
    """The object is not in this node's memory within the time given."""


class AsyncioActorExit(RayError):
    """Raised inside an asyncio actor by `exit_actor`."""


class PendingCallsLimitExceeded(RayError):
    """An actor has `max_pending_calls` calls waiting, or a queue is at its bound."""


class ObjectRefStreamEndOfStreamError(RayError):
    """A stream of refs is read beyond its end."""


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A retried generator produced other items than its first run."""


class OufOfBandObjectRefSerializationException(RayError):
    """An ObjectRef was pickled outside a call, where its references cannot be counted."""


class RuntimeEnvSetupError(_Described):
    """The runtime environment of a task, actor or job could not be made."""

    _sentence = "Failed to set up runtime environment."


class UnserializableException(RayError):
    """The exception of the remote code cannot be unpickled here; its traceback is in the text."""

    def __init__(self, original_stack_trace: str = "") -> None:
        super().__init__(original_stack_trace)
        self._original_stack_trace = original_stack_trace

    def __str__(self) -> str:
        return (
            "Failed to deserialize exception: its class cannot be rebuilt from its pickled form "
            f"(give it a __reduce__).\nOriginal exception:\n{self._original_stack_trace}"
        )


# -- calls --------------------------------------------------------------------------------------


class TaskCancelledError(RayError):
    """The task was cancelled; `task_id` is None or an id with ``hex()``."""

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message or ""

    @classmethod
    def from_message(cls, message: str) -> RayError:
        return cls(None, message)

    def __str__(self) -> str:
        if self.task_id is None:
            return self.error_message or "This task or its owner was cancelled."
        return f"Task: {self.task_id} was cancelled. {self.error_message}".rstrip()


class LocalRayletDiedError(_Described):
    """The agent of the node that ran the task died."""

    _sentence = "The agent of the task's node died."


class NodeDiedError(RayError):
    """The node is dead: its agent stopped answering, or its connection ended."""

    def __init__(self, message: str = "The node died.") -> None:
        super().__init__(message)
        self.message = message


class WorkerCrashedError(_Described):
    """The worker process died under the task; the text gives exit code or signal and last lines."""

    _sentence = "The worker died unexpectedly while executing this task."


class OutOfMemoryError(RayError):
    """A worker was killed because its node ran out of memory."""

    def __init__(self, message: str = "The worker was killed because its node ran out of memory.") -> None:
        super().__init__(message)
        self.message = message


class TaskUnschedulableError(_Described):
    """No node can ever run this task."""

    def __str__(self) -> str:
        return f"The task is not schedulable: {self.error_message}"


class TaskPlacementGroupRemoved(_Described):
    """The placement group of this task was removed."""

    _sentence = "The placement group corresponding to this task has been removed."


class RayTaskError(RayError):
    """User code raised in a remote task or actor method.

    `cause` is the user's exception, `traceback_str` the remote traceback.  What `get` raises is
    `as_instanceof_cause()`: an error that is both a RayTaskError and of the user's class.
    """

    def __init__(
        self,
        function_name: str = "",
        traceback_str: str = "",
        cause: BaseException | None = None,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        if isinstance(cause, RayTaskError):
            # It came up while waiting for another call: what the user raised there counts.
            cause = getattr(cause, "cause", None)
        super().__init__(function_name, traceback_str, cause, proctitle, pid, ip, actor_repr, actor_id)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause: BaseException | None = cause
        self.proctitle = proctitle or f"ray::{function_name}()"
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = actor_id

    @classmethod
    def from_message(cls, message: str) -> RayError:
        return cls("", message)

    def as_instanceof_cause(self) -> RayError:
        """This error as an instance of the class of its cause too; itself where that cannot be."""
        cause = self.cause
        if not isinstance(cause, Exception) or isinstance(self, type(cause)):
            return self  # SystemExit and its like would end the caller's process
        try:
            return dual(self, cause)  # type: ignore[no-any-return]
        except Exception:  # a class that refuses to be subclassed or made without its arguments
            return self

    def __str__(self) -> str:
        where = f"pid={self.pid}, ip={self.ip}" if self.pid is not None else ""
        if self.actor_id:
            where += f", actor_id={self.actor_id}"
        if self.actor_repr:
            where += f", repr={self.actor_repr}"
        head = f"{self.proctitle} ({where})" if where else (self.proctitle if self.function_name else "")
        return _lines(head, _header_free(self.traceback_str).rstrip("\n")) or repr(self.cause)


def _header_free(traceback_str: str) -> str:
    first, _, rest = traceback_str.partition("\n")
    return rest if first.startswith("Traceback (most recent call last)") else traceback_str


# -- actors -------------------------------------------------------------------------------------


class RayActorError(RayError):
    """The actor could not run, or finish, this call."""

    BASE_ERROR_MSG = "The actor experienced an error before finishing this task."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self._actor_init_failed = actor_init_failed
        self._preempted = preempted

    @classmethod
    def from_message(cls, message: str) -> RayError:
        return cls(None, message)

    @property
    def actor_init_failed(self) -> bool:
        """The constructor raised, so the actor never lived."""
        return self._actor_init_failed

    @property
    def preempted(self) -> bool:
        """The actor's node was taken away on purpose."""
        return self._preempted

    def __str__(self) -> str:
        return self.error_msg


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back.

    `cause` is None, a text that says how it died, or the error of its constructor.
    """

    BASE_ERROR_MSG = "The actor died unexpectedly before finishing this task."

    def __init__(
        self,
        cause: BaseException | str | None = None,
        actor_id: str | None = None,
        preempted: bool = False,
        class_name: str | None = None,
    ) -> None:
        text: str | None
        if isinstance(cause, BaseException):
            text = f"The actor died because of an error raised in its creation task, {cause}"
        else:
            told = cause is not None and cause.startswith("The actor ")  # a whole obituary
            text = _lines(
                None if told else self.BASE_ERROR_MSG,
                f"\tclass_name: {class_name}" if class_name else None,
                f"\tactor_id: {actor_id}" if actor_id else None,
                cause,
            )
        super().__init__(actor_id, text, isinstance(cause, BaseException), preempted)
        self.args = (cause, actor_id, preempted, class_name)
        self.cause = cause if isinstance(cause, BaseException) else None
        self.class_name = class_name

    @classmethod
    def from_message(cls, message: str) -> RayError:
        """An obituary; the lines ``class_name: ...`` and ``actor_id: ...`` become fields."""
        lines = [line.strip() for line in message.split("\n") if line.startswith("\t")]
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        made = cls(message)
        made.actor_id, made.class_name = fields.get("actor_id"), fields.get("class_name")
        return made

    @staticmethod
    def from_task_error(task_error: RayTaskError) -> ActorDiedError:
        """The death of an actor whose constructor raised."""
        return ActorDiedError(task_error, actor_id=task_error.actor_id)


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now, and may be back later; the call may have run."""

    def __init__(self, error_message: str = "", actor_id: bytes | str | None = None) -> None:
        name = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(name, f"The actor {name or ''} is unavailable: {error_message}. The task may or may "
                               "not have been executed on the actor.".replace("  ", " "))  # fmt: skip
        self.args = (error_message, actor_id)

    @classmethod
    def from_message(cls, message: str) -> RayError:
        return cls(message)


class ActorUnschedulableError(_Described):
    """No node can ever hold this actor."""

    def __str__(self) -> str:
        return f"The actor is not schedulable: {self.error_message}"


class ActorPlacementGroupRemoved(_Described):
    """The placement group of this actor was removed."""

    _sentence = "The placement group corresponding to this Actor has been removed."


class _WrongActor(ValueError, RayError):
    def __init__(self, error_message: str = "") -> None:
        super().__init__(error_message)
        self.error_message = error_message


class ActorAlreadyExistsError(_WrongActor):
    """The name is taken by a living actor of the namespace."""


class ActorHandleNotFoundError(_WrongActor):
    """The handle belongs to another cluster, or to one that is gone."""


# -- objects ------------------------------------------------------------------------------------


class ObjectStoreFullError(_Described):
    """No room for the object: everything in the store is still referenced."""

    def __str__(self) -> str:
        return _lines(
            self.error_message,
            "The local object store is full of objects that are still in scope and cannot be evicted. "
            "Drop references, or give init(object_store_memory=...) more bytes.",
        )


class OutOfDiskError(_Described):
    """The disk under the session directory is full."""

    def __str__(self) -> str:
        return _lines(self.error_message, "The object cannot be created because the local disk is full.")


class ObjectLostError(RayError):
    """Every copy of the object is gone."""

    _sentence = "all copies of it are lost, because the processes or nodes that held them died."

    def __init__(
        self,
        object_ref_hex: str = "",
        owner_address: Any = None,
        call_site: str = "",
        error_message: str = "",
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site, error_message)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site
        self.error_message = error_message

    @classmethod
    def from_message(cls, message: str) -> RayError:
        return cls(error_message=message)

    def __str__(self) -> str:
        if not self.object_ref_hex and self.error_message:
            return self.error_message
        head = f"Failed to retrieve object {self.object_ref_hex}: {self._sentence}"
        created = f"The ObjectRef was created at: {self.call_site}" if self.call_site else None
        return _lines(head, self.error_message, created)


class ObjectFetchTimedOutError(ObjectLostError):
    """No process that holds the object answered in time."""

    _sentence = "fetching it from the process that holds it timed out."


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The owner freed an object that this process still refers to."""

    _sentence = "its owner has already freed it while it was still referenced."


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while references to it exist."""

    _sentence = "it was freed manually. Do not free objects that are still in use."


class OwnerDiedError(ObjectLostError):
    """The process that created the ref is dead, and its objects with it."""

    _sentence = "its owner (the process that created the ObjectRef) has died."


class ObjectReconstructionFailedError(ObjectLostError):
    """The lost object cannot be computed again."""

    _sentence = "it was lost and cannot be reconstructed."

    def __init__(
        self,
        object_ref_hex: str = "",
        reason: Any = None,
        reason_message: str = "",
        owner_address: Any = None,
        call_site: str = "",
        error_message: str = "",
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site, error_message or reason_message)
        self.args = (object_ref_hex, reason, reason_message, owner_address, call_site, error_message)
        self.reason = reason


class RayChannelError(RaySystemError):
    """A channel between processes is broken or closed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel was not readable, or not writable, in time."""


class RayCgraphCapacityExceeded(RaySystemError):
    """A compiled graph has as many executions in flight as it may."""


class RayDirectTransportError(RaySystemError):
    """A direct tensor transfer failed."""


# -- by name ------------------------------------------------------------------------------------

NAMED: dict[str, type[RayError]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, RayError) and not name.startswith("_")
}

RAY_EXCEPTION_TYPES = tuple(NAMED.values())
__all__ = [*(name for name in NAMED if name != "ProtocolError"), "RAY_EXCEPTION_TYPES", "named"]


def _made(name: str, args: tuple[Any, ...]) -> RayError:
    """The pickled error."""
    return NAMED[name](*args)


def show_as(module: str) -> None:
    """Let the classes be of this module, for programs that know them by its name."""
    for cls in NAMED.values():
        if cls is not ProtocolError:
            cls.__module__ = module


def named(name: str, message: str) -> BaseException:
    """The error that a peer named in a RESPONSE: one of this module, or a built-in exception."""
    known = NAMED.get(name)
    if known is not None:
        return known.from_message(message)
    builtin = getattr(builtins, name, None)
    if isinstance(builtin, type) and issubclass(builtin, Exception):
        return builtin(message)
    return RaySystemError(f"{name}: {message}")


show_as("spoke.exceptions")  # the public name: what tracebacks show
