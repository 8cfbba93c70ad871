"""Log records with the job, worker, node, task and actor that wrote them: ``init(logging_config=...)``.

The driver's settings travel with what it starts, as its namespace does; each worker applies them to its own
root logger and to the logger ``ray``, so that what libraries log comes out the same way.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Final

from spoke import current
from spoke.job_config import STANDARD
from spoke.notices import LIBRARY

LOGGER_FORMAT: Final = "%(asctime)s\t%(levelname)s %(filename)s:%(lineno)s -- %(message)s"
FLATTENED: Final = ("ray_serve_extra_fields",)  # a mapping whose entries are context themselves
_TIME: Final = "_ray_timestamp_ns"


class CoreContextFilter(logging.Filter):
    """Adds to each record where it comes from."""

    @classmethod
    def get_ray_core_logging_context(cls) -> dict[str, Any]:
        """job_id, worker_id, node_id, and in a worker the task and the actor; empty when not connected."""
        client = current.client
        if client is None:
            return {}
        facts = client.runtime_context
        found = {name: _shown(facts[name]) for name in ("job_id", "worker_id", "node_id")}
        if client.is_worker:
            names = {
                "actor_id": "actor_id", "task_id": "task_id", "task_name": "task_name",
                "function_name": "task_func_name", "actor_name": "actor_name",
            }  # fmt: skip
            found.update({shown: _shown(facts.get(name)) for name, shown in names.items()})
        return found

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, with its context."""
        for name, value in self.get_ray_core_logging_context().items():
            if value is not None and value != "":
                setattr(record, name, value)
        if not hasattr(record, _TIME):
            setattr(record, _TIME, time.time_ns())
        return True


def _shown(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


class AbstractFormatter(logging.Formatter):
    """What both formats share."""

    def __init__(
        self, fmt: str | None = None, datefmt: str | None = None, style: Any = "%", validate: bool = True
    ) -> None:
        super().__init__(fmt, datefmt, style, validate)
        self._more: list[str] = []

    def set_additional_log_standard_attrs(self, additional_log_standard_attrs: list[str]) -> None:
        """Fields of a record to show besides."""
        self._more = list(additional_log_standard_attrs)

    @property
    def additional_log_standard_attrs(self) -> list[str]:
        """Fields of a record that are shown besides."""
        return self._more

    def generate_record_format_attrs(
        self, record: logging.LogRecord, exclude_default_standard_attrs: bool
    ) -> dict[str, Any]:
        """All that is to be shown, by name: the usual fields, those asked for, the context.

        Raises:
            ValueError, KeyError: a field that holds several is no mapping, or repeats a name.
        """
        shown: dict[str, Any] = {}
        if not exclude_default_standard_attrs:
            shown.update(
                asctime=self.formatTime(record), levelname=record.levelname, message=record.getMessage(),
                filename=record.filename, lineno=record.lineno, process=record.process,
            )  # fmt: skip
            if record.exc_info:
                record.exc_text = record.exc_text or self.formatException(record.exc_info)
                shown["exc_text"] = record.exc_text
        for name in self._more:
            _add(shown, name, getattr(record, name, None))
        for name, value in record.__dict__.items():
            if name not in STANDARD and name != _TIME:
                _add(shown, name, value)
        shown["timestamp_ns"] = getattr(record, _TIME, int(record.created * 1e9))
        return shown


def _add(shown: dict[str, Any], name: str, value: Any) -> None:
    if name not in FLATTENED:
        shown[name] = value
        return
    if not isinstance(value, dict):
        raise ValueError(f"Expected a dictionary passing into {name}, but got {type(value)}")
    for inner, its_value in value.items():
        if inner in shown:
            raise KeyError(f"Found duplicated key in the log record: {inner}")
        shown[inner] = its_value


class JSONFormatter(AbstractFormatter):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return json.dumps(self.generate_record_format_attrs(record, False))


class TextFormatter(AbstractFormatter):
    """A line as without structure, followed by ``name=value`` of the context."""

    def __init__(
        self, fmt: str | None = None, datefmt: str | None = None, style: Any = "%", validate: bool = True
    ) -> None:
        super().__init__(fmt, datefmt, style, validate)
        self._line = logging.Formatter(LOGGER_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        context = self.generate_record_format_attrs(record, True)
        return " ".join([self._line.format(record), *(f"{name}={value}" for name, value in context.items())])


FORMATTERS: Final[dict[str, type[AbstractFormatter]]] = {"TEXT": TextFormatter, "JSON": JSONFormatter}

_handler: logging.Handler | None = None  # ours, of the present settings
_settings: dict[str, Any] | None = None


def apply(settings: dict[str, Any] | None) -> None:
    """Log in this process as these settings of a `LoggingConfig` say; None: no longer."""
    global _handler, _settings
    if settings == _settings:
        return
    root, library = logging.getLogger(), logging.getLogger(LIBRARY)
    if _handler is not None:
        root.removeHandler(_handler)
        library.removeHandler(_handler)
        library.propagate = True
        _handler = None
    _settings = settings
    if settings is None:
        return
    formatter = FORMATTERS[settings["encoding"]]()
    formatter.set_additional_log_standard_attrs(settings["additional_log_standard_attrs"])
    _handler = logging.StreamHandler()
    _handler.setLevel(settings["log_level"])
    _handler.setFormatter(formatter)
    _handler.addFilter(CoreContextFilter())
    root.setLevel(settings["log_level"])
    root.addHandler(_handler)
    library.setLevel(settings["log_level"])
    for other in library.handlers[:]:
        library.removeHandler(other)
    library.addHandler(_handler)
    library.propagate = False
