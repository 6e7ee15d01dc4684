"""
WSGI on an ASGI server: an application that blocks, in threads of its own.

A request takes a thread when all of it has arrived, and an answer that is ready at
once goes back in one piece: a slow client occupies no thread, and the usual request
costs two changes of thread. A stream is handed over piece by piece, and waits when its
client is slower than it.

The loop never runs code of the application, so a slow request is no blocked loop. That
the threads get somewhere is what `Threads.is_stuck` looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable
from io import BytesIO
from queue import SimpleQueue
from time import monotonic
from urllib.parse import unquote_to_bytes

from ghostd.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

SPOOL = 1 << 20
"""Bytes of a request that are kept in memory; what is longer goes to a file."""

AHEAD = 1 << 16
"""Bytes of a stream that may wait for its client."""

BODILESS = {204, 304}
_MOST_NAMES = 1000


class Call:
    """
    One request on its way through a thread.

    The loop makes it and awaits `pieces`; a thread calls `run`. What goes from one to
    the other is touched under a lock.
    """

    __slots__ = (
        "_ahead",
        "_app",
        "_complete",
        "_environ",
        "_gone",
        "_length",
        "_lock",
        "_loop",
        "_pieces",
        "_room",
        "_sent",
        "_waiter",
        "error",
        "headers",
        "status",
    )

    def __init__(
        self, app: Any, environ: dict[str, Any], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Prepare it."""
        self.status: int = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.error: BaseException | None = None
        self._app = app
        self._environ = environ
        self._loop = loop
        self._lock = threading.Lock()
        self._room: threading.Condition | None = None
        self._pieces: list[bytes] = []
        self._ahead = 0
        self._sent = -1
        self._length = -1
        self._complete = False
        self._gone = False
        self._waiter: asyncio.Future[None] | None = loop.create_future()

    # -- in a thread -----------------------------------------------------------

    def run(self, progress: Callable[[], object]) -> BaseException | None:
        """
        Call the application.

        Args:
            progress: called with each piece of a stream.

        Returns:
            What it raised after its answer was complete: nobody else will tell.
        """
        try:
            self._run(progress)
        except BaseException as error:  # noqa: BLE001 - it is raised in the loop
            if self._complete:
                return error
            self.error = error
            self._end()
        return None

    def _run(self, progress: Callable[[], object]) -> None:
        answer = self._app(self._environ, self._start_response)
        try:
            if isinstance(answer, list | tuple):
                self._give(b"".join(answer), last=True)
                return
            for piece in answer:
                if self._gone:
                    break
                if piece:
                    self._give(piece)
                    progress()
            self._give(b"", last=True)
        finally:
            if close := getattr(answer, "close", None):
                close()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            if self._sent >= 0:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self.status:
            raise RuntimeError("start_response was called twice")
        self._length = -1
        self.headers = []
        for name, value in headers:
            key = name.lower()
            if key == "content-length":
                self._length = int(value)
            self.headers.append((key.encode("latin-1"), value.encode("latin-1")))
        self.status = int(status[:3])
        return self._give

    def _give(self, piece: bytes, last: bool = False) -> None:  # `write` of WSGI
        """Hand a piece to the loop, and wait while too much is on its way."""
        if self._complete:
            return
        if not self.status:
            raise RuntimeError("the application did not call start_response")
        if self._sent < 0:
            self._sent = 0
            if last:
                self._measure(piece)
        self._sent += len(piece)
        if last or (piece and self._sent == self._length):
            self._end(piece)
            return
        with self._lock:
            if self._room is None:
                self._room = threading.Condition(self._lock)
            self._pieces.append(piece)
            self._ahead += len(piece)
            self._notify()
            while self._ahead > AHEAD and not self._gone:
                self._room.wait()

    def _measure(self, body: bytes) -> None:
        """Say how long an answer is that came in one piece."""
        head = self._environ["REQUEST_METHOD"] == "HEAD"
        if self._length < 0 and not head and self.status not in BODILESS:
            self.headers.append((b"content-length", b"%d" % len(body)))

    def _end(self, piece: bytes = b"") -> None:
        with self._lock:
            if piece:
                self._pieces.append(piece)
            self._complete = True
            self._notify()

    def _notify(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # a closed loop: nobody waits
                self._loop.call_soon_threadsafe(_wake, waiter)

    # -- in the loop -----------------------------------------------------------

    async def pieces(self) -> tuple[bytes, bool]:
        """Wait for what the thread has to give, and whether that is all."""
        if (waiter := self._waiter) is not None:
            await waiter
        with self._lock:
            taken = b"".join(self._pieces)
            self._pieces.clear()
            if not self._complete:
                self._waiter = self._loop.create_future()
            return taken, self._complete

    def make_room(self, number: int) -> None:
        """Let the thread go on: so many bytes are with the client."""
        with self._lock:
            self._ahead -= number
            if self._room is not None:
                self._room.notify()

    def abandon(self) -> None:
        """Let the thread go on: nobody listens any more."""
        with self._lock:
            self._gone = True
            if self._room is not None:
                self._room.notify()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Seat:
    """
    One of the threads.

    Attributes:
        busy: it runs a request.
        progress: when it last got somewhere, seconds on the monotonic clock.
        ident: of the thread.
    """

    __slots__ = ("busy", "ident", "progress")

    def __init__(self) -> None:
        self.busy = False
        self.progress: float = monotonic()
        self.ident = 0

    def note(self) -> None:
        """Get somewhere."""
        self.progress = monotonic()


class Threads:
    """
    The threads that run an application.

    Args:
        number: of threads.
        complain: takes what an application raises when its answer is complete.
    """

    def __init__(self, number: int, complain: Callable[[str], object]) -> None:
        """Know how many; `start` starts them, in the process that they are for."""
        self._complain = complain
        self._calls: SimpleQueue[Call] = SimpleQueue()
        self._seats = [_Seat() for _ in range(number)]
        self.put: Callable[[Call], object] = self._calls.put

    def start(self) -> None:
        """Start the threads; a process does not wait for them at its end."""
        for number, seat in enumerate(self._seats):
            threading.Thread(
                target=self._work, args=(seat,), name=f"wsgi-{number}", daemon=True
            ).start()

    def _work(self, seat: _Seat) -> None:
        seat.ident = threading.get_ident()
        take = self._calls.get
        while True:
            call = take()
            seat.note()
            seat.busy = True
            error = call.run(seat.note)
            if error is not None:
                text = "".join(traceback.format_exception(error))
                self._complain(f"An application failed after its answer\n{text}")
            del call, error
            seat.note()
            seat.busy = False

    @property
    def busy(self) -> int:
        """Number of threads that run a request, also after its answer is complete."""
        return sum(seat.busy for seat in self._seats)

    def is_stuck(self, since: float) -> bool:
        """Tell whether all threads are busy, and none got anywhere *since* then."""
        return all(seat.busy and seat.progress < since for seat in self._seats)

    def where(self) -> str:
        """Tell where each thread is."""
        frames = sys._current_frames()
        stories = [
            f"wsgi-{number}:\n{''.join(traceback.format_stack(frames[seat.ident]))}"
            for number, seat in enumerate(self._seats)
            if seat.ident in frames
        ]
        return "\n".join(stories)


class Errors:
    """``wsgi.errors``: what the application writes to it is logged, line by line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Give whole lines to *write*."""
        self._write = write
        self._left = threading.local()

    def write(self, text: str) -> int:
        """Log all lines that are complete."""
        *lines, rest = (getattr(self._left, "text", "") + text).split("\n")
        self._left.text = rest
        for line in lines:
            self._write(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what is left of a line."""
        if left := getattr(self._left, "text", ""):
            self._left.text = ""
            self._write(left)


class Bridge:
    """
    An ASGI application made of one for WSGI.

    Args:
        app: the application.
        threads: the threads that run it.
        errors: what is ``wsgi.errors``.
    """

    def __init__(self, app: Any, threads: Threads, errors: Errors) -> None:
        """Prepare what is the same in each request."""
        self._app = app
        self._crew = threads
        self._names: dict[bytes, str] = {
            b"content-length": "CONTENT_LENGTH",
            b"content-type": "CONTENT_TYPE",
        }
        self._base: dict[str, Any] = {
            "wsgi.version": (1, 0),
            "wsgi.errors": errors,
            "wsgi.multithread": len(threads._seats) > 1,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"WSGI knows no {scope['type']}")
        environ = self._environ(scope)
        await self._read(environ, receive)
        # An application may put something else in its place, which has no `close`.
        body = environ["wsgi.input"]
        call = Call(self._app, environ, asyncio.get_running_loop())
        self._crew.put(call)
        try:
            await self._answer(call, receive, send)
        finally:
            call.abandon()
            body.close()

    async def _answer(self, call: Call, receive: Receive, send: Send) -> None:
        piece, complete = await call.pieces()
        if call.error is not None and not piece:
            raise call.error
        start = {
            "type": "http.response.start",
            "status": call.status,
            "headers": call.headers,
        }
        await send(start)
        if complete and call.error is None:
            await send(_body(piece, more=False))
            return
        # Who reads a stream may leave in the middle of it; nobody else would notice.
        watch = asyncio.ensure_future(_disconnect(receive))
        watch.add_done_callback(lambda _watch: call.abandon())
        try:
            while not complete:
                await send(_body(piece, more=True))
                call.make_room(len(piece))
                piece, complete = await call.pieces()
            if call.error is not None:
                await send(_body(piece, more=True))
                raise call.error
            await send(_body(piece, more=False))
        finally:
            watch.cancel()

    async def _read(self, environ: dict[str, Any], receive: Receive) -> None:
        """Read the body of a request, all of it."""
        if "CONTENT_LENGTH" not in environ and "HTTP_TRANSFER_ENCODING" not in environ:
            environ["wsgi.input"] = BytesIO()
            return
        file: Any = BytesIO()
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            piece = message.get("body", b"")
            size += len(piece)
            if size > SPOOL and isinstance(file, BytesIO):
                file = _in_a_file(file)
            file.write(piece)
            more = message.get("more_body", False)
        file.seek(0)
        environ["CONTENT_LENGTH"] = str(size)
        environ["wsgi.input"] = file

    def _environ(self, scope: Any) -> dict[str, Any]:
        environ = self._base.copy()
        root = scope["root_path"]
        path = unquote_to_bytes(scope["raw_path"]).decode("latin-1")
        prefix = root.encode().decode("latin-1")
        server = scope["server"] or ("localhost", 80)
        environ["REQUEST_METHOD"] = scope["method"]
        environ["SCRIPT_NAME"] = prefix
        environ["PATH_INFO"] = path.removeprefix(prefix)
        environ["QUERY_STRING"] = scope["query_string"].decode("latin-1")
        environ["RAW_URI"] = scope["raw_path"].decode("latin-1")
        environ["SERVER_PROTOCOL"] = f"HTTP/{scope['http_version']}"
        environ["SERVER_NAME"] = server[0]
        environ["SERVER_PORT"] = str(server[1] or 0)
        environ["wsgi.url_scheme"] = scope["scheme"]
        environ["asgi.scope"] = scope
        if client := scope["client"]:
            environ["REMOTE_ADDR"] = client[0]
            environ["REMOTE_PORT"] = str(client[1])
        else:
            environ["REMOTE_ADDR"] = ""
        names = self._names
        for name, value in scope["headers"]:
            key = names.get(name) or self._name(name)
            if not key:
                continue
            text = value.decode("latin-1")
            if key in environ:
                join = "; " if key == "HTTP_COOKIE" else ","
                text = f"{environ[key]}{join}{text}"
            environ[key] = text
        return environ

    def _name(self, name: bytes) -> str:
        """Name a header as CGI does; "" for one that could pass for another."""
        if b"_" in name:
            return ""
        key = f"HTTP_{name.decode('latin-1').upper().replace('-', '_')}"
        if len(self._names) < _MOST_NAMES:
            self._names[name] = key
        return key


class FileWrapper:
    """``wsgi.file_wrapper``: a file, in blocks."""

    def __init__(self, file: Any, size: int = AHEAD) -> None:
        """Read *file* in blocks of *size* bytes."""
        self._read = file.read
        self._size = size
        self.close: Callable[[], object] = getattr(file, "close", lambda: None)

    def __iter__(self) -> FileWrapper:
        """Be the iterator."""
        return self

    def __next__(self) -> bytes:
        """Give the next block."""
        if block := self._read(self._size):
            return bytes(block)
        raise StopIteration


def _body(piece: bytes, *, more: bool) -> dict[str, Any]:
    return {"type": "http.response.body", "body": piece, "more_body": more}


async def _disconnect(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _in_a_file(begun: BytesIO) -> Any:
    import tempfile

    file = tempfile.TemporaryFile()  # noqa: SIM115 - the request closes it
    file.write(begun.getvalue())
    return file
