"""Names of `ray._private.conftest_utils`: fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ray._private import ray_constants


@pytest.fixture
def set_override_dashboard_url(monkeypatch: Any, request: Any) -> Iterator[None]:
    """The environment variable that names another dashboard."""
    url = getattr(request, "param", "https://external_dashboard_url")
    with monkeypatch.context() as changed:
        if url:
            changed.setenv(ray_constants.RAY_OVERRIDE_DASHBOARD_URL, url)
        yield
