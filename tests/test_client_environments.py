"""The clients' environments where packages cannot be installed: left out without a registry, else a failure.

The interpreter is a stand-in, a shell script: its ``-m venv`` makes a folder with a copy of itself, and its
pip fails as it is told.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients import environments

ROOT = Path(__file__).resolve().parent.parent
FAKE = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"pip "*) {install} ;;
esac
"""
RETRIES = "echo 'WARNING: Retrying (Retry(total=0)) after connection broken by NewConnectionError()' >&2; "
NOT_FOUND = "echo 'ERROR: No matching distribution found for joblib' >&2; exit 1"
NO_COMPILER = "echo 'error: command gcc failed' >&2; exit 1"
NO_NETWORK = RETRIES + NOT_FOUND


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in for the interpreter, and an empty place for environments."""
    monkeypatch.setenv("SPOKE_CLIENT_ENVS", str(tmp_path / "environments"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return tmp_path / "python"


def _write(fake: Path, install: str) -> Path:
    log = fake.with_name("log")
    fake.write_text(FAKE.format(log=log, install=install))
    fake.chmod(0o755)
    return log


def test_without_a_registry_the_tests_are_left_out(fake: Path) -> None:
    log = _write(fake, install=NO_NETWORK)
    for client in ("modin", "verl"):
        with pytest.raises(
            environments.RegistryUnreachable, match=r"modin is not in .* No matching distribution"
        ):
            environments.python_of(client)
    assert log.read_text().count("install") == 1, "pip tries for a while: it is asked once"


@pytest.mark.parametrize("install", [NO_COMPILER, NOT_FOUND, RETRIES + NO_COMPILER])
def test_a_package_that_cannot_be_installed_is_a_failure(
    fake: Path, install: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(fake, install=install)
    with pytest.raises(subprocess.CalledProcessError) as raised:
        environments.python_of("modin")
    assert "modin[ray]==0.37.1" in raised.value.cmd and install.split("'")[-2] in capsys.readouterr().err
    assert not list(environments.root().glob("*/complete"))


def test_an_environment_is_made_once(fake: Path) -> None:
    log = _write(fake, install="exit 0")
    first = environments.python_of("verl")
    lines = log.read_text()
    assert first == environments.python_of("verl") and log.read_text() == lines
    assert lines.count("install --no-deps verl==0.9.1") == 1


def test_pytest_skips_and_the_command_says_77(tmp_path: Path, fake: Path) -> None:
    _write(fake, install=NO_NETWORK)
    program = "import sys; sys.executable = sys.argv.pop(); from tests.clients import environments as e; "
    done = subprocess.run(
        [_real_python(), "-c", program + "sys.exit(e.main())", "engine", str(fake)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (77, "") and "reaches no registry" in done.stderr
    test = tmp_path / "test_left_out.py"
    test.write_text(
        f"import sys\nsys.executable = {str(fake)!r}\nfrom tests.clients.environments import python_of\n"
        "def test_client():\n    python_of('engine')\n"
    )
    done = subprocess.run(
        [_real_python(), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(test)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "1 skipped" in done.stdout and "reaches no registry" in done.stdout, done.stdout


def _real_python() -> str:
    return str(Path(sys.prefix) / "bin" / "python")
