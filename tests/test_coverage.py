"""The table of Ray's names is what the code says, and no name is missing silently."""

from __future__ import annotations

import importlib
import importlib.util

import pytest

from spoke import absent
from tests.coverage import table


def test_the_table_is_up_to_date() -> None:
    modules = table.judged()  # raises for names that nobody explains
    for path, text in ((table.TABLE, table.render(modules)), (table.README, table.readme(modules))):
        assert path.read_text(encoding="utf-8") == text, "run python -m tests.coverage.table"


def test_refusals_name_what_is_unsupported_and_the_table() -> None:
    spoke = importlib.import_module("spoke")
    for name in ("data", "rllib", "java_function"):
        with pytest.raises(AttributeError, match=rf"'{name}'.*not carried by Spoke.*spoke/COVERAGE.md"):
            getattr(spoke, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'$"):
        _ = spoke.nonsense


def test_every_public_module_says_why_a_name_is_missing() -> None:
    silent = []
    for module in table.names()["modules"]:
        ours = "spoke" + module.removeprefix("ray")
        try:
            found = importlib.import_module(ours)
        except ImportError:
            continue
        try:
            _ = found.auto_init_ray
        except AttributeError as error:
            if absent.TABLE not in str(error):
                silent.append(ours)
    assert not silent, f"no __getattr__ of spoke.absent: {silent}"


def test_reasons_are_sentences_of_their_own() -> None:
    wrong = [name for name, why in absent.REFUSED.items() if not why or why.endswith(".") or why[0] == " "]
    assert not wrong


def test_names_that_ray_modules_only_import_are_given() -> None:
    group = importlib.import_module("spoke.util.placement_group")
    annotations = importlib.import_module("spoke.util.annotations")
    assert group.PublicAPI is annotations.PublicAPI and group.TYPE_CHECKING is False
    assert group.ray is importlib.import_module("spoke")
