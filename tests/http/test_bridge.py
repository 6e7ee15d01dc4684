"""WSGI on ASGI: what goes in, what comes out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest

from ghostd.http import wsgi
from ghostd.http.wsgi import Bridge, Errors, FileWrapper, Threads

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "root_path": "",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [],
    "client": ("10.0.0.1", 1234),
    "server": ("10.0.0.2", 80),
}


class Talk:
    """A request, and what is answered."""

    def __init__(
        self, app: Any, *body: bytes, gone: bool = False, **scope: Any
    ) -> None:
        self.complaints: list[str] = []
        self.threads = Threads(1, self.complaints.append)
        self.threads.start()
        self._bridge = Bridge(app, self.threads, Errors(self.complaints.append))
        self._scope = {**SCOPE, **scope}
        self._body = list(body)
        self._gone = gone
        self.sent: list[dict[str, Any]] = []

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            piece = self._body.pop(0)
            return {
                "type": "http.request",
                "body": piece,
                "more_body": bool(self._body) or self._gone,
            }
        if not self._gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        await asyncio.sleep(0)

    def __call__(self) -> Talk:
        asyncio.run(self._bridge(self._scope, self._receive, self._send))
        return self

    async def leave(self) -> None:
        """Be cancelled in the middle of the answer."""
        answer = asyncio.ensure_future(
            self._bridge(self._scope, self._receive, self._send)
        )
        while len(self.sent) < 3:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
        answer.cancel()
        await asyncio.wait([answer])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self.sent[0]["headers"]
        return headers

    def idle(self) -> None:
        while self.threads.busy:
            threading.Event().wait(0.001)


Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]


def environ_of(*body: bytes, **scope: Any) -> Environ:
    seen: Environ = {}

    def app(environ: Environ, start: Start) -> list[bytes]:
        seen.update(environ, read=environ["wsgi.input"].read())
        start("204 No Content", [])
        return []

    Talk(app, *body, **scope)()
    return seen


def test_a_request_is_told_in_the_words_of_cgi() -> None:
    environ = environ_of(
        method="POST",
        root_path="/shop",
        path="/shop/a b",
        raw_path=b"/shop/a%20b%ff",
        query_string=b"c=d",
        headers=[
            (b"host", b"x"),
            (b"content-type", b"text/plain"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"x_forged", b"no"),
        ],
    )

    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["SCRIPT_NAME"] == "/shop"
    assert environ["PATH_INFO"] == "/a b\xff"
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("10.0.0.2", "80")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("10.0.0.1", "1234")
    assert environ["HTTP_HOST"] == "x"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert environ["HTTP_X_A"] == "1,2"
    assert environ["HTTP_COOKIE"] == "a=1; b=2"
    assert "HTTP_X_FORGED" not in environ
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multiprocess"]
    assert environ["read"] == b""


def test_a_request_over_a_unix_socket_has_no_address() -> None:
    environ = environ_of(client=None, server=("/run/shop.sock", None))

    assert environ["REMOTE_ADDR"] == ""
    assert environ["SERVER_PORT"] == "0"


@pytest.mark.parametrize("spool", [wsgi.SPOOL, 4])
@pytest.mark.parametrize(
    "header", [(b"content-length", b"6"), (b"transfer-encoding", b"chunked")]
)
def test_a_body_is_there_before_a_thread_is_taken(
    header: tuple[bytes, bytes], spool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi, "SPOOL", spool)
    environ = environ_of(b"abc", b"def", headers=[header])

    assert environ["read"] == b"abcdef"
    assert environ["CONTENT_LENGTH"] == "6"


def test_who_leaves_in_the_middle_of_a_body_takes_no_thread() -> None:
    def app(_environ: Environ, _start: Start) -> list[bytes]:
        raise AssertionError

    talk = Talk(app, b"abc", gone=True, headers=[(b"content-length", b"6")])
    with pytest.raises(asyncio.CancelledError):
        talk()
    assert not talk.sent


def test_an_answer_in_one_piece_gets_its_length() -> None:
    def app(_environ: Environ, start: Start) -> list[bytes]:
        start("201 Created", [("X-A", "b")])
        return [b"a", b"b"]

    talk = Talk(app)()

    assert talk.sent[0]["status"] == 201
    assert talk.headers == [(b"x-a", b"b"), (b"content-length", b"2")]
    assert talk.sent[1:] == [
        {"type": "http.response.body", "body": b"ab", "more_body": False}
    ]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
def test_an_answer_without_a_body_gets_no_length(method: str, status: int) -> None:
    def app(_environ: Environ, start: Start) -> list[bytes]:
        start(f"{status} It", [])
        return []

    assert Talk(app, method=method)().headers == []


def test_an_iterator_of_known_length_goes_back_in_one_piece() -> None:
    closed = threading.Event()

    class Once:
        def __iter__(self) -> Iterator[bytes]:
            yield b""
            yield b"abc"
            yield b"too much"

        def close(self) -> None:
            closed.set()

    def app(_environ: Environ, start: Start) -> Once:
        start("200 OK", [("Content-Length", "3")])
        return Once()

    talk = Talk(app)()

    assert [m.get("more_body") for m in talk.sent] == [None, False]
    assert talk.body == b"abc"
    assert closed.wait(5)


def test_a_stream_waits_for_its_client() -> None:
    ahead = []

    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        write = start("200 OK", [])
        write(b"written")
        for _ in range(50):
            ahead.append(sum(len(m.get("body", b"")) for m in talk.sent))
            yield b"x" * 10_000

    talk = Talk(app)
    talk()

    assert talk.body == b"written" + b"x" * 500_000
    given = [7 + 10_000 * number for number in range(50)]
    assert all(
        mine - sent <= wsgi.AHEAD + 10_000
        for mine, sent in zip(given, ahead, strict=True)
    )


def test_a_client_that_leaves_ends_its_stream() -> None:
    closed = threading.Event()

    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        try:
            while True:
                yield b"x" * wsgi.AHEAD
        finally:
            closed.set()

    asyncio.run(Talk(app).leave())

    assert closed.wait(5)


def test_what_an_application_raises_comes_out() -> None:
    def app(_environ: Environ, _start: Start) -> list[bytes]:
        raise KeyError("it")

    with pytest.raises(KeyError, match="it"):
        Talk(app)()


def test_what_it_raises_in_a_stream_comes_out_after_the_beginning() -> None:
    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"a"
        raise KeyError("it")

    talk = Talk(app)
    with pytest.raises(KeyError):
        talk()
    assert talk.body == b"a"


def test_what_it_raises_at_the_end_is_complained_of() -> None:
    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [("Content-Length", "1")])
        yield b"a"
        raise KeyError("it")

    talk = Talk(app)()
    talk.idle()

    assert "KeyError: 'it'" in talk.complaints[0]


def test_start_response_may_be_called_again_with_an_exception_only() -> None:
    def app(_environ: Environ, start: Start) -> list[bytes]:
        start("200 OK", [])
        with pytest.raises(RuntimeError, match="twice"):
            start("200 OK", [])
        error = ValueError()
        start("500 No", [], (ValueError, error, None))
        return [b"sorry"]

    assert Talk(app)().sent[0]["status"] == 500


def test_an_exception_that_comes_too_late_is_raised_again() -> None:
    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"a"
        start("500 No", [], (ValueError, ValueError("late"), None))

    with pytest.raises(ValueError, match="late"):
        Talk(app)()


def test_an_application_must_call_start_response() -> None:
    with pytest.raises(RuntimeError, match="did not call start_response"):
        Talk(lambda _environ, _start: [b"a"])()


def test_what_is_no_request_is_refused() -> None:
    with pytest.raises(RuntimeError, match="websocket"):
        Talk(lambda _environ, _start: [], type="websocket")()


def test_a_file_is_sent_in_blocks_and_closed() -> None:
    file = BytesIO(b"abcdef")
    wrapper = FileWrapper(file, 4)

    assert list(wrapper) == [b"abcd", b"ef"]
    wrapper.close()
    assert file.closed


def test_errors_are_told_line_by_line() -> None:
    lines: list[str] = []
    errors = Errors(lines.append)
    errors.write("one\ntw")
    errors.writelines(["o\n", "three"])
    assert lines == ["one", "two"]
    errors.flush()
    errors.flush()

    assert lines == ["one", "two", "three"]


def test_threads_are_stuck_when_none_of_them_gets_anywhere() -> None:
    go, inside = threading.Event(), threading.Event()

    def app(_environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"a"
        inside.set()
        go.wait(10)

    talk = Talk(app)
    threads = talk.threads
    assert not threads.is_stuck(float("inf"))
    caller = threading.Thread(target=talk)
    caller.start()
    assert inside.wait(10)

    assert threads.is_stuck(float("inf"))
    assert not threads.is_stuck(0.0)
    assert "go.wait(10)" in threads.where()
    go.set()
    caller.join()
    talk.idle()
    assert not threads.is_stuck(float("inf"))


def test_the_input_may_be_wrapped_in_whatever_can_be_read() -> None:
    class Reader:
        read = BytesIO(b"other").read

    def app(environ: Environ, start: Start) -> list[bytes]:
        environ["wsgi.input"] = Reader()
        start("200 OK", [])
        return [environ["wsgi.input"].read()]

    talk = Talk(app, b"body", headers=[(b"content-length", b"4")])()

    assert talk.body == b"other"
