"""The languages of tasks and actors: of Ray's three, Spoke runs Python."""

from __future__ import annotations


class Language:
    """A language; there is one object for each of Ray's."""

    PYTHON: Language
    JAVA: Language
    CPP: Language

    __slots__ = ("_name", "_value")

    def __init__(self, name: str, value: int) -> None:
        self._name = name
        self._value = value

    def value(self) -> int:
        """The number of the language."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Language) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return self._name

    def __reduce__(self) -> tuple[type[Language], tuple[str, int]]:
        return Language, (self._name, self._value)


Language.PYTHON = Language("PYTHON", 0)
Language.JAVA = Language("JAVA", 1)
Language.CPP = Language("CPP", 2)
