"""The command line, as a user runs it: output, exit codes, one line per failure, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoke import orphans


class Shell:
    """Runs `spoke` commands with runtime and session directories of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runtime = root / "run"
        self.runtime.mkdir()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SPOKE_", "RAY_"))},
            "XDG_RUNTIME_DIR": str(self.runtime),
            "SPOKE_TMPDIR": str(root / "tmp"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "spoke.cli", *arguments],
            env={**self.environment, **environment}, capture_output=True, text=True, timeout=90,
        )  # fmt: skip

    def done(self, *arguments: str, **environment: str) -> str:
        result = self.run(*arguments, **environment)
        assert result.returncode == 0, result
        assert result.stderr == ""
        return result.stdout

    def fails(self, *arguments: str, **environment: str) -> str:
        result = self.run(*arguments, **environment)
        assert result.returncode == 1, result
        assert result.stdout == "" and len(result.stderr.splitlines()) == 1, result
        return result.stderr

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.runtime / "spoke").glob("node-*.json"))]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    yield made
    made.run("stop", "--force")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_start_status_stop(shell: Shell) -> None:
    line = shell.done("start", "--head", "--port", "0", "--num-cpus", "3", "--resources", '{"disk": 2}',
                      "--label", "zone=a", "--object-store-memory", "200m")  # fmt: skip
    assert line.startswith("ready: head of 127.0.0.1:") and len(line.splitlines()) == 1
    (head,) = shell.records()
    assert os.stat(head["token_file"]).st_mode & 0o777 == 0o600
    assert (shell.runtime / "spoke").stat().st_mode & 0o777 == 0o700
    assert f"`spoke start --address='{head['address']}'`" in line and "spoke.init(" in line
    joined = shell.done("start", "--address", head["address"], "--num-cpus", "1")
    assert joined.startswith("ready: node ")
    seen = json.loads(shell.done("status", "--json"))
    assert seen["address"] == head["address"] and seen["demands"] == []
    assert [node["Resources"]["CPU"] for node in seen["nodes"]] == [3.0, 1.0]
    first = seen["nodes"][0]
    assert first["Resources"]["disk"] == 2.0 and first["Labels"]["zone"] == "a"
    assert first["Resources"]["object_store_memory"] == 200 * 2**20
    text = shell.done("status", "--address", head["address"])
    assert "2 of 2 nodes alive" in text and "     0     3  CPU\n" in text and "nothing waits" in text
    assert text.isascii() and all(len(line) <= 80 for line in text.splitlines())
    daemons = [record["pid"] for record in shell.records()]
    pids = [*daemons, *(child for pid in daemons for child in orphans.children(pid))]
    assert len(pids) > 2
    assert "stopped 2 daemon(s)" in shell.done("stop")
    assert all(map(gone, pids))
    assert os.listdir(shell.runtime / "spoke") == []
    assert not (shell.root / "tmp").exists() or os.listdir(shell.root / "tmp") == []
    assert "nothing to stop" in shell.done("stop")


def test_daemons_do_not_die_with_the_shell_that_started_them(shell: Shell) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-m", "spoke.cli", "start", "--head", "--port", "0"],
        env=shell.environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert starter.communicate(timeout=60)[0].startswith("ready")
    try:
        os.killpg(starter.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    time.sleep(0.3)
    (head,) = shell.records()
    assert not gone(head["pid"])
    assert "1 of 1 nodes alive" in shell.done("status")


def test_a_killed_daemon_leaves_a_record_that_is_not_believed(shell: Shell) -> None:
    shell.done("start", "--head", "--port", "0")
    (head,) = shell.records()
    os.kill(head["pid"], signal.SIGKILL)
    while not gone(head["pid"]):
        time.sleep(0.01)
    assert "no cluster runs on this machine" in shell.fails("status")
    assert os.listdir(shell.runtime / "spoke") == []


def test_block_stays_and_ends_by_interrupt(shell: Shell) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "spoke.cli", "start", "--head", "--port", "0", "--block"],
        env=shell.environment, stdout=subprocess.PIPE, text=True,
        # A run in the background hands an ignored SIGINT down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline().startswith("ready")
    (head,) = shell.records()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and gone(head["pid"]) and shell.records() == []
    process.stdout.close()


def test_failures_are_one_line_and_exit_code_1(shell: Shell, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1:{port}" in shell.fails("start", "--head", "--port", port)
    file = tmp_path / "file"
    file.write_text("")
    assert "log directory" in shell.fails("start", "--head", "--port", "0", "--log-dir", str(file / "logs"))
    assert "no token" in shell.fails("start", "--address", "127.0.0.1:9")
    assert "16 characters" in shell.fails("start", "--head", SPOKE_TOKEN="short")
    assert "No such file" in shell.fails("start", "--head", SPOKE_TOKEN_FILE="/no/such/file")
    assert "no cluster" in shell.fails("status")
    assert "127.0.0.1:9" in shell.fails("status", "--address", "127.0.0.1:9", SPOKE_TOKEN="x" * 20)
    assert "by its own option" in shell.fails("start", "--head", "--port", "0", "--resources", '{"CPU": 1}')
    assert shell.records() == []


def test_a_wrong_token_is_refused(shell: Shell) -> None:
    shell.done("start", "--head", "--port", "0", SPOKE_TOKEN="the-right-token-of-the-cluster")
    (head,) = shell.records()
    for command in (("start", "--address", head["address"]), ("status", "--address", head["address"])):
        text = shell.fails(*command, SPOKE_TOKEN="a-wrong-token-of-the-cluster")
        assert "the cluster token does not match" in text
    shell.done("status", "--address", head["address"], SPOKE_TOKEN="the-right-token-of-the-cluster")
    assert len(shell.records()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["start"],
        ["start", "--head", "--address", "127.0.0.1:1"],
        ["start", "--address", "nonsense"],
        ["start", "--address", "127.0.0.1:1", "--port", "5"],
        ["start", "--head", "--port", "text"],
        ["start", "--head", "--port", "70000"],
        ["start", "--head", "--num-cpus", "-1"],
        ["start", "--head", "--resources", "{"],
        ["start", "--head", "--resources", '{"a": "b"}'],
        ["start", "--head", "--resources", "[1]"],
        ["start", "--head", "--label", "novalue"],
        ["start", "--head", "--object-store-memory", "many"],
        ["start", "--head", "--nonsense"],
        ["nonsense"],
    ],
)
def test_usage_errors_are_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    result = shell.run(*arguments)
    assert result.returncode == 2 and result.stdout == "" and "Error: " in result.stderr
    assert not (shell.runtime / "spoke").exists() or shell.records() == []


def test_doctor_and_version(shell: Shell) -> None:
    text = shell.done("doctor")
    assert "ok      native module" in text and "FAILED" not in text
    assert "Usage:" in shell.done("--help")
