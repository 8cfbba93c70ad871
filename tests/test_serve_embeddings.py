"""The main example as its users meet it: a real launcher, real HTTP clients, real weights.

Vectors are compared with the unsharded model, which shares no arithmetic with the sharded one.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")
for needed in ("safetensors", "tokenizers"):
    pytest.importorskip(needed)

EXAMPLES = Path(__file__).parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))

from embeddings.batcher import MAX_WAITING_TEXTS, Batcher, Closed, Overloaded  # noqa: E402
from embeddings.reference import UnshardedBert  # noqa: E402
from embeddings.text import ModelConfig, Tokens, default_model_dir  # noqa: E402

try:
    MODEL_DIR = default_model_dir()
except FileNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

MODEL = "all-MiniLM-L6-v2"
TOLERANCE = 1e-5
READY_S = 90.0
MARK = "EMBEDDINGS_TEST_MARK"


class Launcher:
    """A running serve_embeddings.py; its processes carry a mark in their environment."""

    def __init__(self, *arguments: str, stdin: str | None = None) -> None:
        self.mark = uuid.uuid4().hex
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "serve_embeddings.py"), *arguments],
            env={**os.environ, MARK: self.mark}, start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin
        self.process.stdin.write(stdin or "")
        self.process.stdin.close()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self.lines.append("")
            self._changed.notify_all()

    def wait_for(self, pattern: str, timeout_s: float = READY_S) -> re.Match[str]:
        """The first match in standard error."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found.extend(filter(None, (re.search(pattern, line) for line in self.lines)))
            return bool(found) or self.lines[-1:] == [""]

        with self._changed:
            self._changed.wait_for(look, timeout_s)
        assert found, f"no {pattern!r} in:\n{self.errors()}"
        return found[0]

    def errors(self) -> str:
        """Standard error so far."""
        return "".join(self.lines)

    def port(self) -> int:
        """The port, once the launcher serves."""
        return int(self.wait_for(r"ready: serving .*:(\d+)/v1").group(1))

    def rank_pids(self) -> list[int]:
        """Process ids of the ranks."""
        return [int(pid) for pid in re.findall(r"rank \d+: pid (\d+)", self.errors())]

    def marked(self) -> list[int]:
        """All live processes that the launcher started, itself included, whoever their parent is now."""
        mine = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                        mine.append(int(entry.name))
        return mine

    def finish(self, timeout_s: float = 60.0) -> tuple[int, str]:
        """Wait for the end; returns the status and standard output."""
        assert self.process.stdout
        output = self.process.stdout.read()
        status = self.process.wait(timeout_s)
        self._reader.join()
        return status, output

    def nothing_left(self) -> bool:
        """Whether no process is left, within a second."""
        deadline = time.monotonic() + 1.0
        while self.marked():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def destroy(self) -> None:
        """Kill what a failed test left."""
        for pid in self.marked():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@pytest.fixture
def launch() -> Iterator[Callable[..., Launcher]]:
    """Start launchers that the test ends itself, or that are killed after it."""
    started: list[Launcher] = []

    def start(*arguments: str, stdin: str | None = None) -> Launcher:
        started.append(Launcher(*arguments, stdin=stdin))
        return started[-1]

    yield start
    for launcher in started:
        launcher.destroy()


@pytest.fixture(scope="module")
def served() -> Iterator[Launcher]:
    """One launcher on a free port for the tests that only ask; it must end cleanly on Ctrl-C."""
    launcher = Launcher("--port", "0")
    try:
        launcher.port()
        yield launcher
        os.killpg(launcher.process.pid, signal.SIGINT)  # as a terminal does
        status, _ = launcher.finish()
        assert status == 0, launcher.errors()
        assert "Traceback" not in launcher.errors(), launcher.errors()
        assert launcher.nothing_left()
    finally:
        launcher.destroy()


@pytest.fixture(scope="module")
def reference() -> Callable[[list[str]], Any]:
    """Vectors of the unsharded model."""
    tokens = Tokens(MODEL_DIR, ModelConfig.read(MODEL_DIR))
    model = UnshardedBert(MODEL_DIR)
    return lambda texts: model.embed(tokens.encode(texts))


def ask(port: int, body: Any, path: str = "/v1/embeddings", method: str = "POST") -> tuple[int, Any]:
    """One request; a body of bytes is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def vectors_of(answer: Any) -> Any:
    """The embeddings of an answer, in order."""
    assert [each["index"] for each in answer["data"]] == list(range(len(answer["data"])))
    return np.array([each["embedding"] for each in answer["data"]], np.float32)


def test_health_and_models(served: Launcher) -> None:
    assert ask(served.port(), None, "/health", "GET") == (200, {"status": "ok"})
    status, models = ask(served.port(), None, "/v1/models", "GET")
    assert (status, models["object"], [each["id"] for each in models["data"]]) == (200, "list", [MODEL])


def test_embeddings_equal_the_unsharded_model(
    served: Launcher, reference: Callable[[list[str]], Any]
) -> None:
    texts = ["Hello, world!", "x", "Grüße aus Köln 你好", "a much longer sentence " * 30]
    status, answer = ask(served.port(), {"model": MODEL, "input": texts})
    assert (status, answer["object"], answer["model"]) == (200, "list", MODEL)
    assert {each["object"] for each in answer["data"]} == {"embedding"}
    assert np.abs(vectors_of(answer) - reference(texts)).max() < TOLERANCE
    _, single = ask(served.port(), {"model": MODEL, "input": texts[0]})
    assert np.abs(vectors_of(single) - reference(texts[:1])).max() < TOLERANCE
    assert single["usage"] == {"prompt_tokens": 6, "total_tokens": 6}  # [CLS] hello , world ! [SEP]


def test_token_ids_and_base64(served: Launcher, reference: Callable[[list[str]], Any]) -> None:
    ids = [101, 7592, 1010, 2088, 999, 102]
    for given in (ids, [ids]):
        _, answer = ask(served.port(), {"model": MODEL, "input": given, "encoding_format": "base64"})
        vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
        assert np.abs(vector - reference(["Hello, world!"])[0]).max() < TOLERANCE


@pytest.mark.parametrize(
    ("status", "param", "body"),
    [
        (400, None, b"{not json"),
        (400, None, b"\xff\xfe"),
        (400, None, []),
        (400, "model", {"input": "a"}),
        (404, "model", {"model": "gpt-99", "input": "a"}),
        (400, "input", {"model": MODEL}),
        (400, "input", {"model": MODEL, "input": ""}),
        (400, "input", {"model": MODEL, "input": []}),
        (400, "input", {"model": MODEL, "input": ["a", ""]}),
        (400, "input", {"model": MODEL, "input": ["a", 5]}),
        (400, "input", {"model": MODEL, "input": [5, "a"]}),
        (400, "input", {"model": MODEL, "input": {"a": 1}}),
        (400, "input", {"model": MODEL, "input": [10**9]}),
        (400, "input", {"model": MODEL, "input": [True]}),
        (400, "input", {"model": MODEL, "input": "\ud800"}),
        (400, "input", {"model": MODEL, "input": ["a"] * 2049}),
        (400, "input", {"model": MODEL, "input": "word " * 300}),
        (400, "encoding_format", {"model": MODEL, "input": "a", "encoding_format": "hex"}),
        (400, "dimensions", {"model": MODEL, "input": "a", "dimensions": 5}),
    ],
)
def test_bad_requests_are_refused_by_name(
    served: Launcher, status: int, param: str | None, body: Any
) -> None:
    got, answer = ask(served.port(), body)
    assert (got, answer["error"]["param"]) == (status, param), answer
    assert answer["error"]["type"] == "invalid_request_error" and answer["error"]["message"]


def test_bad_paths_methods_and_lengths(served: Launcher) -> None:
    port = served.port()
    assert ask(port, {}, "/v2/embeddings")[0] == 404
    assert ask(port, None, "/nothing", "GET")[0] == 404
    assert ask(port, None, "/v1/embeddings", "GET")[0] == 405
    assert ask(port, {}, "/v1/embeddings", "DELETE")[0] == 501
    for length, expected in (("-1", 411), ("many", 411), (str(1 << 40), 413)):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"POST /v1/embeddings HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
            assert f" {expected} ".encode() in connection.recv(100)
    assert ask(port, {"model": MODEL, "input": "still alive"})[0] == 200


def test_one_connection_carries_many_requests(served: Launcher) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port(), timeout=60)
    for body, expected in ((b"{}", 400), (json.dumps({"model": MODEL, "input": "a"}).encode(), 200)) * 3:
        connection.request("POST", "/v1/embeddings", body)
        response = connection.getresponse()
        assert (response.status, response.will_close) == (expected, False)
        response.read()
    connection.close()


def test_eight_clients_at_once_get_their_own_vectors(
    served: Launcher, reference: Callable[[list[str]], Any]
) -> None:
    port = served.port()
    texts = [
        [f"client {client} says {word * (1 + client)}" for word in ("apple ", "river ")]
        for client in range(8)
    ]

    def client(index: int) -> float:
        expected = reference(texts[index])
        worst = 0.0
        for _ in range(5):
            status, answer = ask(port, {"model": MODEL, "input": texts[index]})
            assert status == 200, answer
            worst = max(worst, float(np.abs(vectors_of(answer) - expected).max()))
        return worst

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(client, range(8))) < TOLERANCE


def test_ctrl_c_lets_a_request_under_way_finish(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--port", "0")
    port = launcher.port()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, port, {"model": MODEL, "input": ["a sentence of some length " * 8] * 96})
        time.sleep(0.3)
        os.killpg(launcher.process.pid, signal.SIGINT)
        assert answer.result()[0] == 200
    assert launcher.finish()[0] == 0
    assert launcher.nothing_left()


class SlowGang:
    """A gang whose passes wait for a word from the test."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.batches: list[int] = []

    def embed(self, rows: list[list[int]]) -> Any:
        """Vectors that tell the rows apart."""
        self.go.wait()
        self.batches.append(len(rows))
        return np.array([[float(row[0])] for row in rows], np.float32)

    def ping(self) -> None:
        """Alive."""


def test_the_queue_is_bounded_and_its_waiters_are_told_of_the_end() -> None:
    gang: Any = SlowGang()
    batcher = Batcher(gang)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(batcher.embed, [[number] * (1 + number % 3) for number in range(100)])
        second = pool.submit(batcher.embed, [[7]] * (MAX_WAITING_TEXTS - 100))
        deadline = time.monotonic() + 10
        with pytest.raises(Overloaded):
            batcher.embed([[1]] * (MAX_WAITING_TEXTS + 1))
        while len(batcher._waiting) < MAX_WAITING_TEXTS - 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Overloaded):
            batcher.embed([[1]] * 200)
        gang.go.set()
        assert first.result()[:, 0].tolist() == list(range(100))  # the caller's order
        assert second.result().shape == (MAX_WAITING_TEXTS - 100, 1)
    assert max(gang.batches) <= 64
    batcher.close()
    with pytest.raises(Closed):
        batcher.embed([[1]])


def test_a_dead_rank_gives_503_and_ends_the_launcher(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--port", "0")
    port = launcher.port()
    pid = launcher.rank_pids()[1]
    os.kill(pid, signal.SIGKILL)
    status, answer = ask(port, {"model": MODEL, "input": "anyone there?"})
    assert (status, answer["error"]["code"]) == (503, "engine_dead"), answer
    assert f"rank 1 (pid {pid}) died" in answer["error"]["message"]
    assert ask(port, None, "/health", "GET")[0] == 503
    status, _ = launcher.finish()
    assert status == 1
    assert f"error: tensor-parallel rank 1 (pid {pid}) died" in launcher.errors()
    assert launcher.nothing_left()


def test_a_death_is_noticed_without_a_request(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--port", "0")
    launcher.port()
    os.kill(launcher.rank_pids()[0], signal.SIGKILL)
    launcher.wait_for(r"error: tensor-parallel rank 0 .* died", timeout_s=10)
    assert launcher.finish()[0] == 1
    assert launcher.nothing_left()


def test_once_with_check(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--once", "A dog barks.", "A hound is barking.", "Interest rates rose.", "--check")
    status, output = launcher.finish()
    assert status == 0, launcher.errors()
    lines = output.splitlines()
    assert lines[0].endswith("A dog barks.  ~  A hound is barking.") and float(lines[0].split()[0]) > 0.7
    found = re.search(r"max difference from the unsharded model (\S+), ok", output)
    assert found and float(found.group(1)) < TOLERANCE
    assert "loading weights 14/14" in launcher.errors()
    assert launcher.nothing_left()


def test_input_from_standard_input_with_one_rank(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--once", "--input", "-", "-tp", "1", stdin="first line\n\nsecond line\n")
    status, output = launcher.finish()
    assert status == 0, launcher.errors()
    assert [line.split("  ")[1] for line in output.splitlines()] == ["first line", "second line"]


def test_interrupted_while_loading(launch: Callable[..., Launcher]) -> None:
    launcher = launch("--port", "0")
    launcher.wait_for("reserved")
    os.killpg(launcher.process.pid, signal.SIGINT)
    assert launcher.finish()[0] == 130, launcher.errors()
    assert launcher.nothing_left()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-tp", "5"], "--tensor-parallel-size 5 does not divide"),
        (["--model-dir", "/nonexistent"], "No such file"),
        (["--once", "-tp", "2", "--num-cpus", "1"], "2 ranks need 2 CPUs and the cluster has 1"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    launch: Callable[..., Launcher], arguments: list[str], message: str
) -> None:
    launcher = launch(*arguments)
    assert launcher.finish()[0] == 1
    assert message in launcher.errors()


def test_a_taken_port_is_said_before_loading(launch: Callable[..., Launcher]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        launcher = launch("--port", str(taken.getsockname()[1]))
        assert launcher.finish()[0] == 1
    assert "Address already in use" in launcher.errors() and "cluster started" not in launcher.errors()
