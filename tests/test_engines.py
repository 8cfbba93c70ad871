"""The choice of the engine, and the seam: what both engines offer.  Real Ray runs in tests/engines."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import spoke
from spoke import engines
from spoke.client import Client
from spoke.engines import ray_client, ray_groups, ray_submit
from spoke.hubside import HubSide
from spoke.submit import Submitter

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("engine", "address", "variable", "wanted"),
    [
        (None, None, None, "spoke"),
        (None, "10.0.0.1:6379", None, "spoke"),
        (None, "ray://10.0.0.1:10001", None, "ray"),
        ("ray", "auto", None, "ray"),
        (None, None, "ray", "ray"),
        ("spoke", None, "ray", "spoke"),
        ("spoke", "ray://10.0.0.1:10001", None, "spoke"),
        (None, "ray://10.0.0.1:10001", "spoke", "spoke"),
    ],
)
def test_the_engine_is_chosen_by_argument_address_or_variable(
    engine: str | None,
    address: str | None,
    variable: str | None,
    wanted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SPOKE_ENGINE", raising=False)
    if variable is not None:
        monkeypatch.setenv("SPOKE_ENGINE", variable)
    assert engines.chosen(engine, address) == wanted


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine must be 'spoke' or 'ray', not 'dask'"):
        spoke.init(engine="dask")
    assert not spoke.is_initialized()


def _python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100
    )


def test_under_the_switch_a_ray_address_is_a_cluster_of_spoke_and_the_engine_is_refused() -> None:
    done = _python(
        "import ray_compat; ray_compat.install()\n"
        "import spoke; from spoke import engines\n"
        "print(engines.chosen(None, 'ray://127.0.0.1:1'))\n"
        "import ray\n"
        "print(engines.chosen(None, 'ray://127.0.0.1:1'))\n"
        "try: ray.init(engine='ray')\n"
        "except RuntimeError as error: print(error)\n"
    )
    assert done.stdout.splitlines()[:2] == ["spoke", "spoke"], done.stderr
    assert "Run the program without the switch" in done.stdout


@pytest.mark.skipif("ray" in sys.modules or find_spec("ray") is not None, reason="real Ray is installed")
def test_without_ray_the_error_says_what_to_install() -> None:
    with pytest.raises(
        ImportError, match=r"engine='ray' needs Ray in this environment: pip install 'ray>=2\.9'"
    ):
        spoke.init(engine="ray")
    assert not spoke.is_initialized()


def _names(protocol: Any) -> dict[str, Any]:
    own = {name: item for name, item in vars(protocol).items() if not name.startswith("_")}
    return {**own, **dict.fromkeys(protocol.__annotations__)}


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        (engines.Engine, (Client, ray_client.RayClient)),
        (engines.Groups, (HubSide, ray_groups.RayGroups)),
        (engines.Submits, (Submitter, ray_submit.RaySubmitter)),
    ],
)
def test_both_engines_offer_all_of_the_seam(protocol: Any, kinds: tuple[type, ...]) -> None:
    for kind in kinds:
        body = inspect.getsource(kind)
        for name, item in _names(protocol).items():
            assert hasattr(kind, name) or f"self.{name}" in body, f"{kind.__name__} has no {name}"
            found = getattr(kind, name, None)
            if inspect.isfunction(item) and inspect.isfunction(found):
                wanted = list(inspect.signature(item).parameters)
                assert list(inspect.signature(found).parameters) == wanted, (kind.__name__, name)


def test_importing_spoke_loads_no_engine() -> None:
    done = _python(
        "import sys, spoke; print([name for name in sys.modules if 'engines' in name or name == 'ray'])"
    )
    assert done.stdout.strip() == "[]", done.stderr
