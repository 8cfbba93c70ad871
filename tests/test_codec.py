"""Values to bytes and back, without a cluster."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from spoke import codec


class Celsius:
    """Pickled by a reducer that a test registers."""


@pytest.fixture
def registered() -> Iterator[None]:
    codec.register_reducer(Celsius, lambda value: (str, ("a temperature",)))
    yield
    codec.deregister_reducer(Celsius)


def _made() -> Any:
    def outer() -> float:
        def inner() -> float:
            return 1 / 0

        return inner()

    return outer


def _source_lines(function: Any) -> list[str]:
    try:
        function()
    except ZeroDivisionError as error:
        return [str(frame.line) for frame in traceback.extract_tb(error.__traceback__)[1:]]
    raise AssertionError


def test_a_function_by_value_keeps_the_name_of_its_file() -> None:
    """Also those inside it; else tracebacks of other processes show no source."""
    assert _source_lines(codec.loads(codec.dumps_function(_made()))) == ["return inner()", "return 1 / 0"]
    (body, buffers, refs) = codec.dumps(_made())
    assert _source_lines(codec.loads(body, buffers)) == ["return inner()", "return 1 / 0"] and not refs


@pytest.mark.usefixtures("registered")
def test_it_does_beside_registered_reducers_which_hold_inside_it() -> None:
    value, made = Celsius(), _made()
    function, told = codec.loads(codec.dumps_function(lambda: (made, value)))()
    assert told == "a temperature" and _source_lines(function) == ["return inner()", "return 1 / 0"]
