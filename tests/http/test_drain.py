"""Leaving without losing a request, byte by byte."""

from __future__ import annotations

import time

import pytest
from tests.http.kit import Server, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

each_parser = pytest.mark.parametrize("http", ["httptools", "h11"])
each_loop = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def is_draining(d: Server) -> None:
    """Wait until the first spirit has stopped to accept."""
    d.wait_for_line(" drains ")


@each_loop
@each_parser
def test_what_runs_is_answered_and_told_to_close(http: str, loop: str) -> None:
    with serving(http=http, loop=loop) as d, d.client() as client:
        client.ask("/wait")
        d.wait_for((d.folder / "in_flight").exists)
        pid = d.drain_one()
        is_draining(d)
        (d.folder / "go").touch()
        answer = client.answer()

        assert answer.body == b"%d\n" % pid
        assert answer.closes
        client.ends()
        d.wait_for(lambda: pid not in d.spirits)
        assert (d.folder / "shut_down").read_text() == str(pid)


@each_loop
@each_parser
def test_a_request_on_its_way_over_an_idle_connection_is_answered(
    http: str, loop: str
) -> None:
    """It is what other servers lose: they close what is idle at that moment."""
    with serving(http=http, loop=loop, keepalive_drain=5) as d:
        with d.client() as used, d.client() as fresh, d.client() as slow:
            pid = int(used.get().body)
            slow.send("GET /")
            d.drain_one()
            is_draining(d)
            for client in used, fresh:
                answer = client.get()
                assert answer.body == b"%d\n" % pid
                assert answer.closes
                client.ends()
            slow.send("slow HTTP/1.1\r\nHost: a\r\n\r\n")
            assert slow.answer().closes
            slow.ends()
        d.wait_for(lambda: pid not in d.spirits, limit=3)


@each_loop
def test_idle_connections_are_closed_after_keepalive_drain(loop: str) -> None:
    with serving(loop=loop) as d, d.client() as used, d.client() as fresh:
        used.get()
        pid = d.drain_one()
        is_draining(d)
        took = used.ends()
        fresh.ends()

        assert 0.3 < took < 2
        d.wait_for(lambda: pid not in d.spirits)


@each_parser
def test_all_of_a_pipeline_is_answered_and_the_last_one_closes(http: str) -> None:
    with serving(http=http) as d, d.client() as client:
        client.ask("/wait")
        client.ask()
        d.wait_for((d.folder / "in_flight").exists)
        d.drain_one()
        is_draining(d)
        client.ask()
        (d.folder / "go").touch()
        answers = [client.answer() for _ in range(3)]

        assert [answer.closes for answer in answers] == [False, False, True]
        client.ends()


@each_parser
def test_an_upload_is_read_to_its_end(http: str) -> None:
    with serving(http=http) as d, d.client() as client:
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        d.wait_for((d.folder / "in_flight").exists)
        d.drain_one()
        is_draining(d)
        client.send("def")
        answer = client.answer()

        assert answer.body == b"abcdef"
        assert answer.closes
        client.ends()


@each_parser
def test_an_upload_that_nobody_reads_is_not_reset(http: str) -> None:
    """Closing with unread bytes would destroy the answer on its way."""
    with serving(http=http, keepalive_drain=1) as d, d.client() as client:
        d.drain_one()
        is_draining(d)
        client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123")
        answer = client.answer()
        client.send("456789")

        assert answer.body == b"early"
        client.ends()


@each_parser
def test_a_stream_runs_to_its_end(http: str) -> None:
    with serving(http=http) as d, d.client() as client:
        client.ask("/stream")
        client.head()
        chunks = client.chunks()
        assert next(chunks) == b"first"
        pid = d.drain_one()
        is_draining(d)
        (d.folder / "go").touch()

        assert list(chunks) == [b"second", b"third"]
        # It was told nothing of a close: a next request may be on its way.
        assert client.get().closes
        client.ends()
        d.wait_for(lambda: pid not in d.spirits)


def test_an_old_client_is_answered_and_left() -> None:
    with serving() as d, d.client() as client:
        client.ask("/wait", version="1.0")
        d.wait_for((d.folder / "in_flight").exists)
        d.drain_one()
        is_draining(d)
        (d.folder / "go").touch()

        assert client.answer().closes
        client.ends()


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


@pytest.mark.parametrize("ws", ["auto", "websockets"])
def test_a_websocket_is_closed_with_1012(ws: str) -> None:
    with serving(ws=ws) as d, connect(f"ws://127.0.0.1:{d.port}/") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        pid = d.drain_one()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=5)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
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
