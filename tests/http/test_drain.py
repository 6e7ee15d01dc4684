"""Leaving without losing a request, byte by byte."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack

import pytest
from tests.http.kit import Client, Server, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

each_way = pytest.mark.parametrize(
    ("http", "loop"), [("httptools", "uvloop"), ("h11", "asyncio")]
)

Talk = Generator[None, None, None]
"""A conversation with a spirit that is told to leave where it says ``yield``."""


def in_flight(d: Server, client: Client) -> Talk:
    client.ask("/wait?in_flight")
    d.wait_for((d.folder / "in_flight").exists)
    yield
    assert client.answer().closes


def idle(_d: Server, client: Client) -> Talk:
    """It is what other servers lose: they close what is idle at that moment."""
    client.get()
    yield
    assert client.get().closes


def fresh(_d: Server, client: Client) -> Talk:
    """A connection over which nothing was asked yet."""
    yield
    assert client.get().closes


def half_asked(_d: Server, client: Client) -> Talk:
    client.send("GET /")
    yield
    client.send("half HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.answer().closes


def pipelined(d: Server, client: Client) -> Talk:
    """All are answered, and the last one says that it is."""
    client.ask("/wait?pipelined&go_on")
    client.ask()
    d.wait_for((d.folder / "pipelined").exists)
    yield
    client.ask()
    (d.folder / "go_on").touch()
    assert [client.answer().closes for _ in range(3)] == [False, False, True]


def uploading(d: Server, client: Client) -> Talk:
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    d.wait_for((d.folder / "uploading").exists)
    yield
    client.send("def")
    answer = client.answer()
    assert answer.body == b"abcdef"
    assert answer.closes


def uploading_in_vain(_d: Server, client: Client) -> Talk:
    """Closing with unread bytes would destroy the answer on its way."""
    yield
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")
    assert client.answer().body == b"early"
    client.send("456789")


def streaming(d: Server, client: Client) -> Talk:
    client.ask("/stream")
    client.head()
    chunks = client.chunks()
    assert next(chunks) == b"first"
    yield
    (d.folder / "go").touch()
    assert list(chunks) == [b"second", b"third"]
    # It was told nothing of an end: a next request may be on its way.
    assert client.get().closes


def endless(_d: Server, client: Client) -> Talk:
    """A stream that would go on for ever, and looks whether it may."""
    client.ask("/endless")
    client.head()
    chunks = client.chunks()
    assert next(chunks) == b"more"
    yield
    assert list(chunks) == [b"end"]
    assert client.get().closes


def old_fashioned(d: Server, client: Client) -> Talk:
    client.ask("/wait?old", version="1.0")
    d.wait_for((d.folder / "old").exists)
    yield
    assert client.answer().closes


def twice_told(d: Server, client: Client) -> Talk:
    """It asked for the end itself."""
    client.ask("/wait?twice", headers="Connection: close\r\n")
    d.wait_for((d.folder / "twice").exists)
    yield
    assert client.answer().headers["connection"] == "close"


TALKS = [
    *(in_flight, idle, fresh, half_asked, pipelined, uploading, streaming),
    *(endless, old_fashioned, twice_told, uploading_in_vain),
]


@each_way
def test_nobody_is_cut_off_who_could_not_know(http: str, loop: str) -> None:
    with (
        serving(http=http, loop=loop, keepalive_drain=1.5) as d,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(d.client()) for _ in TALKS]
        talks = [talk(d, client) for talk, client in zip(TALKS, clients, strict=True)]
        for talk in talks:
            next(talk)
        pid = d.drain_one()
        d.wait_for_line(" drains ")
        (d.folder / "go").touch()
        for talk, client in zip(talks, clients, strict=True):
            with pytest.raises(StopIteration):
                next(talk)
            client.ends()
            client.sock.close()

        # As soon as the last one is gone, and not when its time is over.
        d.wait_for(lambda: pid not in d.spirits)
        assert not d.log_lines("cut off")
        assert (d.folder / "shut_down").read_text() == str(pid)


def test_idle_connections_are_closed_after_keepalive_drain() -> None:
    with serving() as d, d.client() as used, d.client() as fresh:
        used.get()
        pid = d.drain_one()
        d.wait_for_line(" drains ")
        took = used.ends()
        fresh.ends()
        used.sock.close()
        fresh.sock.close()

        assert 0.3 < took < 2
        d.wait_for(lambda: pid not in d.spirits)


@pytest.mark.parametrize("reuseport", [False, True])
def test_who_waits_in_the_queue_is_answered(reuseport: bool) -> None:
    """A connection that nobody had accepted when the spirit was told to leave."""
    with serving(reuseport=reuseport) as d, d.client() as holds:
        holds.ask("/block")
        d.wait_for((d.folder / "in_flight").exists)
        with d.client() as waiting:
            waiting.ask()
            pid = d.drain_one()
            (d.folder / "go").touch()

            assert waiting.answer().body == b"%d\n" % pid


HANDSHAKE = """Upgrade: websocket\r
Connection: Upgrade\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
Sec-WebSocket-Version: 13\r
"""
CLOSE_1012 = b"\x88\x02\x03\xf4"


@pytest.mark.parametrize("ws", ["auto", "websockets"])
def test_a_websocket_is_closed_with_1012(ws: str) -> None:
    with serving(ws=ws) as d:
        address = f"ws://127.0.0.1:{d.port}/"
        with connect(address) as websocket, d.client() as shaking, d.client() as late:
            websocket.send("hello")
            assert websocket.recv() == "hello"
            late.get()
            shaking.ask("/slow", headers=HANDSHAKE)
            d.wait_for((d.folder / "in_flight").exists)
            pid = d.drain_one()
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(timeout=5)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            (d.folder / "go").touch()
            late.ask("/", headers=HANDSHAKE)
            for client in shaking, late:
                # First it is let in: the handshake was on its way.
                head = client.head()
                assert head.status == 101
                assert not head.closes
                assert client.exactly(4) == CLOSE_1012
                client.ends()
                client.sock.close()

        d.wait_for(lambda: pid not in d.spirits)
        assert (d.folder / "code").read_text() == "1012"


def test_what_is_not_done_in_time_is_cut_and_said() -> None:
    with serving(graceful_timeout=2) as d, d.client() as client:
        client.ask("/wait")
        d.wait_for((d.folder / "in_flight").exists)
        began = time.monotonic()
        pid = d.drain_one()
        d.wait_for_line("1 requests were cut off")

        assert 0.5 < time.monotonic() - began < 2
        d.wait_for(lambda: pid not in d.spirits)
        assert (d.folder / "shut_down").exists()
        assert not d.log_lines("Killing")
