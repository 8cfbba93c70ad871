"""POST /v1/embeddings in OpenAI's format, with GET /v1/models and GET /health, on the standard library.

Every answer but that of /health is JSON; every refusal is OpenAI's error object.  A request for something
the model cannot do (other dimensions, texts too long) is refused, never approximated.
"""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt

from .batcher import Batcher, Closed, Overloaded
from .gang import GangBroken
from .text import Tokens, TooLong

MAX_BODY_BYTES = 8 << 20
MAX_INPUTS = 2048
MAX_CONNECTIONS = 256  # further clients wait in the listen queue
IDLE_S = 30.0


class Refusal(Exception):
    """An answer in OpenAI's error format."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class EmbeddingServer(ThreadingHTTPServer):
    """Answers for one model.  Port 0 picks a free one: see `server_port`.

    It takes its address at once, so a taken one (OSError) is found before the model is loaded, and
    connections only from `listen` on.
    """

    daemon_threads = True
    request_queue_size = 128
    batcher: Batcher

    def __init__(self, host: str, port: int, model: str, tokens: Tokens) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler, bind_and_activate=False)
        self.model = model
        self.tokens = tokens
        self.created = int(time.time())
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._busy = 0
        self.ending = False
        self._idle = threading.Condition()
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def server_bind(self) -> None:
        """Bind, without the base class's question to the name service, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def url(self) -> str:
        """Where clients reach it."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

    def listen(self, batcher: Batcher) -> None:
        """Take connections; `serve_forever` answers them."""
        self.batcher = batcher
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the connection's thread, once there are less than 256."""
        while not self._connections.acquire(timeout=0.2):
            if self.ending:
                self.shutdown_request(request)
                return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The thread of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours; anything else is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def begin(self) -> None:
        """A request's answer is being made."""
        with self._idle:
            self._busy += 1

    def end(self) -> None:
        """The answer is written."""
        with self._idle:
            self._busy -= 1
            self._idle.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Take no more connections, and let what was asked be answered; tells if that was done in time."""
        self.ending = True
        self.shutdown()
        with self._idle:
            return self._idle.wait_for(lambda: self._busy == 0, timeout_s)


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "spoke-embeddings"
    timeout = IDLE_S
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one write
    server: EmbeddingServer

    def do_GET(self) -> None:
        """/health, /v1/models and /v1/models/NAME."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """/v1/embeddings."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """The base class logs through here; `_answer` writes a better line."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a malformed request line, an unknown method), in our format."""
        self.close_connection = True
        self._write(code, Refusal(code, message or self.responses.get(code, ("error", ""))[0]).body)

    def _answer(self, respond: Any) -> None:
        started = time.perf_counter()
        self._note = ""
        self.server.begin()
        try:
            try:
                status, body = respond(self.path.partition("?")[0])
            except Refusal as refusal:
                status, body = refusal.status, refusal.body
            except (GangBroken, Closed) as error:
                status, body = 503, Refusal(503, str(error), code="engine_dead").body
            except Overloaded as error:
                status, body = 503, Refusal(503, str(error), code="engine_overloaded").body
            except OSError:
                raise  # the client went away while sending
            except Exception as error:  # a fault of ours still owes the client an answer
                traceback.print_exc()
                status, body = 500, Refusal(500, f"internal error: {type(error).__name__}").body
            self._write(status, body)
        finally:
            self.server.end()
        elapsed_ms = (time.perf_counter() - started) * 1e3
        line = f"{self.command} {self.path} {status}{self._note} {elapsed_ms:.1f} ms"
        print(line, file=sys.stderr, flush=True)

    def _write(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection or self.server.ending or self.server.batcher.failure:
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def _get(self, path: str) -> tuple[int, Any]:
        name, created = self.server.model, self.server.created
        model = {"id": name, "object": "model", "created": created, "owned_by": "spoke"}
        if path == "/health":
            if self.server.batcher.failure:
                raise self.server.batcher.failure
            return 200, {"status": "ok"}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [model]}
        if path == f"/v1/models/{name}":
            return 200, model
        if path == "/v1/embeddings":
            raise Refusal(405, "use POST for /v1/embeddings")
        raise Refusal(404, f"unknown path {path}")

    def _post(self, path: str) -> tuple[int, Any]:
        request = self._read_body()
        if path != "/v1/embeddings":
            raise Refusal(405 if path in ("/health", "/v1/models") else 404, f"cannot POST to {path}")
        rows, base64_wanted = parse_request(request, self.server.model, self.server.tokens)
        vectors = self.server.batcher.embed(rows)
        tokens = sum(len(row) for row in rows)
        self._note = f" {len(rows)} texts {tokens} tokens"
        data = [
            {"object": "embedding", "index": index, "embedding": _encode(vector, base64_wanted)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return 200, {"object": "list", "data": data, "model": self.server.model, "usage": usage}

    def _read_body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        # What is refused here is not read, so the connection cannot carry another request.
        if not (length.isascii() and length.isdigit()):
            self.close_connection = True
            raise Refusal(411, "the request needs a Content-Length")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise Refusal(413, f"the body has {length} bytes; at most {MAX_BODY_BYTES} are read")
        body = self.rfile.read(int(length))
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None


def parse_request(request: Any, model: str, tokens: Tokens) -> tuple[list[list[int]], bool]:
    """The token ids asked for, and whether the answer shall be base64.

    Raises Refusal: 404 for another model, 400 for anything else that is wrong.
    """
    if not isinstance(request, dict):
        raise Refusal(400, "the body must be a JSON object")
    if not isinstance(request.get("model"), str):
        raise Refusal(400, "'model' is required and must be a string", "model")
    if request["model"] != model:
        raise Refusal(404, f"The model '{request['model']}' does not exist", "model", "model_not_found")
    encoding = request.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise Refusal(400, "'encoding_format' must be 'float' or 'base64'", "encoding_format")
    size = tokens.config.hidden_size
    if request.get("dimensions", size) not in (size, None):
        raise Refusal(400, f"this model's embeddings have {size} dimensions and no other", "dimensions")
    if "input" not in request:
        raise Refusal(400, "'input' is required", "input")
    return _rows(request["input"], tokens), encoding == "base64"


def _rows(given: Any, tokens: Tokens) -> list[list[int]]:
    """Token ids of a text, a list of texts, a list of ids, or a list of lists of ids."""
    if isinstance(given, str) or (isinstance(given, list) and given and _is_id(given[0])):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= MAX_INPUTS:
        raise Refusal(400, f"'input' must be a string or a list of 1 to {MAX_INPUTS} strings", "input")
    if all(isinstance(each, str) and each for each in given):
        try:
            "".join(given).encode()
            return tokens.encode(given)
        except TooLong as error:
            raise Refusal(400, str(error), "input", "context_length_exceeded") from None
        except UnicodeEncodeError:
            raise Refusal(400, "'input' has a lone surrogate, which is no character", "input") from None
    vocabulary, limit = tokens.config.vocabulary, tokens.config.max_tokens
    for row in given:
        if not isinstance(row, list) or not row or not all(_is_id(i) and 0 <= i < vocabulary for i in row):
            message = f"'input' holds neither texts (not empty) nor token ids below {vocabulary}"
            raise Refusal(400, message, "input")
        if len(row) > limit:
            message = f"an input has {len(row)} tokens; the model reads at most {limit}"
            raise Refusal(400, message, "input", "context_length_exceeded")
    return given


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _encode(vector: npt.NDArray[np.float32], base64_wanted: bool) -> str | list[float]:
    if base64_wanted:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values
