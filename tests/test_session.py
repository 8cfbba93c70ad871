"""The handshake: what opens a link, and everything that does not."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spoke import limits, link, wire
from spoke._native import Reactor
from spoke.core.session import FAILED, OPENING, READY, Session, hmac_sha256
from spoke.errors import AuthenticationError, ProtocolError

TOKEN = b"0123456789abcdef"
CLIENT, SERVER = b"c" * 28, b"s" * 28


def pair(client_token: bytes = TOKEN, server_token: bytes = TOKEN) -> tuple[Session, Session]:
    return (
        Session("client", client_token, CLIENT, b"n" * 16, "driver"),
        Session("server", server_token, SERVER, b"m" * 16),
    )


def over_the_wire(message: tuple[Any, ...]) -> list[Any]:
    return wire.decode(wire.encode(*message))


def talk(
    client: Session, server: Session, tamper: Callable[[list[Any]], list[Any]] | None = None
) -> list[str]:
    names, to_server = [], client.open()
    while to_server:
        to_client: list[Any] = []
        for message in to_server:
            names.append(wire.name_of(message[0]))
            to_client += server.feed(over_the_wire(message))
        to_server = []
        for message in to_client:
            names.append(wire.name_of(message[0]))
            heard = over_the_wire(message)
            to_server += client.feed(tamper(heard) if tamper else heard)
    return names


def test_both_sides_become_ready_and_know_each_other() -> None:
    client, server = pair()
    assert talk(client, server) == ["HELLO", "PROOF", "PROOF", "ACCEPTED"]
    assert (client.state, client.peer_id) == (READY, SERVER)
    assert (server.state, server.peer_id, server.peer_role) == (READY, CLIENT, "driver")


def test_SEC_1_client_with_another_token_is_refused_before_it_shows_a_mac() -> None:
    client, server = pair(client_token=b"another-token-of-16")
    assert talk(client, server) == ["HELLO", "PROOF", "REFUSED"]
    assert client.state == server.state == FAILED
    assert "token" in client.reason and "token" in server.reason


def test_SEC_1_server_refuses_a_client_that_cannot_prove() -> None:
    server = Session("server", TOKEN, SERVER, b"m" * 16)
    server.feed([wire.HELLO, wire.PROTOCOL_VERSION, "driver", CLIENT, b"n" * 16])
    replies = server.feed([wire.PROOF, b"", b"\0" * 32, CLIENT])
    assert server.state == FAILED and replies[0][0] == wire.REFUSED


def test_a_proof_cannot_be_reflected() -> None:
    server = Session("server", TOKEN, SERVER, b"m" * 16)
    (proof,) = server.feed([wire.HELLO, wire.PROTOCOL_VERSION, "driver", CLIENT, b"n" * 16])
    assert server.feed([wire.PROOF, b"", proof[2], CLIENT])[0][0] == wire.REFUSED


def test_a_recorded_talk_does_not_open_another_link() -> None:
    client, server = pair()
    hello = client.open()[0]
    (challenge,) = server.feed(over_the_wire(hello))
    (proof,) = client.feed(over_the_wire(challenge))
    assert server.feed(over_the_wire(proof)) and server.state == READY
    later = Session("server", TOKEN, SERVER, b"k" * 16)  # same server, fresh nonce
    later.feed(over_the_wire(hello))
    assert later.state == OPENING
    assert later.feed(over_the_wire(proof))[0][0] == wire.REFUSED
    assert server.feed(over_the_wire(hello)) == []  # a finished session answers nothing


def test_every_field_is_under_the_mac() -> None:
    for index, value in ((1, b"x" * 16), (3, b"t" * 28)):

        def tamper(message: list[Any], index: int = index, value: bytes = value) -> list[Any]:
            if message[0] == wire.PROOF:
                message[index] = value
            return message

        client, server = pair()
        talk(client, server, tamper)
        assert client.state == FAILED, index
    client, server = pair()
    hello = list(client.open()[0])
    hello[2] = "agent"  # another role than the client says
    (proof,) = server.feed(hello)
    assert client.feed(list(proof))[0][0] == wire.REFUSED


def test_another_version_is_refused_with_both_numbers() -> None:
    server = Session("server", TOKEN, SERVER, b"m" * 16)
    (refused,) = server.feed([wire.HELLO, 99, "driver", CLIENT, b"n" * 16])
    assert refused[0] == wire.REFUSED and "99" in refused[1] and str(wire.PROTOCOL_VERSION) in refused[1]


@pytest.mark.parametrize("kind", [kind for kind in wire.SCHEMA if kind not in (wire.HELLO, wire.REFUSED)])
def test_nothing_else_is_interpreted_before_the_proof(kind: int) -> None:
    server = Session("server", TOKEN, SERVER, b"m" * 16)
    assert server.feed([kind, *([b""] * 6)])[0][0] == wire.REFUSED
    assert server.state == FAILED


@pytest.mark.parametrize(
    "field, value", [(3, b""), (3, b"x" * 65), (4, b"short"), (4, b"x" * 65), (2, "r" * 33)]
)
def test_hello_with_bad_lengths_is_refused(field: int, value: Any) -> None:
    hello: list[Any] = [wire.HELLO, wire.PROTOCOL_VERSION, "driver", CLIENT, b"n" * 16]
    hello[field] = value
    assert Session("server", TOKEN, SERVER, b"m" * 16).feed(hello)[0][0] == wire.REFUSED


def test_hmac_is_the_standard_one() -> None:
    rng = random.Random(7)
    for size in (1, 16, 63, 64, 65, 200):
        key, text = rng.randbytes(size), rng.randbytes(size * 3)
        assert hmac_sha256(key, text) == hmac.new(key, text, hashlib.sha256).digest()


# -- over sockets


@pytest.fixture
def server() -> Iterator[tuple[bytes, tuple[str, int], list[link.Trusted]]]:
    reactor, name = Reactor(), wire.unix_name(os.urandom(28))
    reactor.listen_unix(name)
    _, port = reactor.listen_tcp("127.0.0.1", 0)
    handshakes, trusted, stop = link.ServerHandshakes(reactor, TOKEN, SERVER), [], threading.Event()

    def serve() -> None:
        while not stop.is_set():
            for kind, source, meta, _payload in reactor.poll(20_000):
                if kind == 2:
                    handshakes.accepted(source, time.monotonic())
                elif source in handshakes and kind == 0:
                    peer = handshakes.frame(source, meta)
                    trusted.extend([peer] if peer else [])
                elif source in handshakes:
                    handshakes.closed(source)
                elif kind == 0:
                    reactor.send(source, b"echo " + meta)
        reactor.close_all()

    thread = threading.Thread(target=serve)
    thread.start()
    yield name, ("127.0.0.1", port), trusted
    stop.set()
    thread.join()


def test_connect_over_unix_and_tcp(server: Any) -> None:
    name, tcp, trusted = server
    for target in (name, tcp):
        reactor = Reactor()
        conn, peer = link.connect(reactor, target, TOKEN, CLIENT, "driver")
        assert peer == SERVER
        reactor.send(conn, b"x" * 100_000)  # more than an unproven peer may send
        frames: list[Any] = []
        while not frames:
            frames = reactor.poll(1_000_000)
        assert frames[0][2][:6] == b"echo x"
        reactor.close_all()
    assert [(peer.peer_id, peer.role) for peer in trusted] == [(CLIENT, "driver")] * 2


def test_connect_names_what_is_wrong(server: Any) -> None:
    name, tcp, _trusted = server
    with pytest.raises(AuthenticationError, match="token"):
        link.connect(Reactor(), tcp, b"wrong-token-of-16ch", CLIENT, "driver")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        link.connect(Reactor(), ("127.0.0.1", 9), TOKEN, CLIENT, "driver")
    with pytest.raises(ConnectionError, match="another process"):
        link.connect(Reactor(), name, TOKEN, CLIENT, "driver", expect_id=b"q" * 28)
    with pytest.raises(OSError, match="no-such-host"):
        link.connect(Reactor(), ("no-such-host.invalid", 1), TOKEN, CLIENT, "driver")


def test_connect_gives_up_in_time_and_on_strangers() -> None:
    for answer, error in ((b"", TimeoutError), (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError)):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            done = threading.Event()

            def stranger(answer: bytes = answer, done: threading.Event = done) -> None:
                plain, _ = listener.accept()
                plain.sendall(answer)
                done.wait(5)
                plain.close()

            thread = threading.Thread(target=stranger)
            thread.start()
            with pytest.raises(error):
                link.connect(Reactor(), listener.getsockname(), TOKEN, CLIENT, "driver", timeout_s=0.3)
            done.set()
            thread.join()


def test_SEC_1_garbage_and_silence_from_strangers_end_and_are_bounded() -> None:
    reactor = Reactor()
    _, port = reactor.listen_tcp("127.0.0.1", 0)
    handshakes = link.ServerHandshakes(reactor, TOKEN, SERVER)
    plains = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    deadline = time.monotonic() + 5
    while len(handshakes) < 3 and time.monotonic() < deadline:
        for kind, source, _meta, _payload in reactor.poll(100_000):
            if kind == 2:
                handshakes.accepted(source, 100.0)
    meta = wire.encode(wire.REQUEST, 1, "nodes", {})
    plains[0].sendall(len(meta).to_bytes(4, "little") + bytes(4) + meta)  # valid, but out of turn
    plains[1].sendall((10_000_000).to_bytes(4, "little") + bytes(4))  # larger than a stranger may
    while len(handshakes) > 1 and time.monotonic() < deadline:
        for kind, source, meta, _payload in reactor.poll(100_000):
            if kind == 0:
                assert handshakes.frame(source, meta) is None
            elif kind == 1:
                handshakes.closed(source)
    assert len(handshakes) == 1
    assert handshakes.expire(100.0 + limits.HANDSHAKE_TIMEOUT_S - 1) is not None
    assert handshakes.expire(100.0 + limits.HANDSHAKE_TIMEOUT_S) is None
    assert len(handshakes) == 0
    for plain in plains:
        plain.settimeout(5)
        try:
            while plain.recv(4096):
                pass
        except ConnectionResetError:
            pass
        plain.close()
    reactor.close_all()


@pytest.mark.parametrize("text, pair", [("127.0.0.1:6380", ("127.0.0.1", 6380)), ("ray://h:1", ("h", 1)),
                                        ("[::1]:77", ("::1", 77))])  # fmt: skip
def test_parse_target(text: str, pair: tuple[str, int]) -> None:
    assert link.parse_target(text) == pair


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x"])
def test_parse_target_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        link.parse_target(text)
