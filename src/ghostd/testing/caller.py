"""
The caller: the process of a `Load` that sends requests and notes what became of each.

It is a program of its own, ``python -I -S caller.py PLAN BOARD BOOK``, so that neither
its work nor its garbage disturbs the test, and must not import ghostd. On *BOARD*,
which the test can see, it counts while it runs; in *BOOK* it leaves all that it knows.
It ends when its standard input says so, or ends.

Rules of this file: one thread, one epoll, no look at the servers but by their answers.
What counts as a failure is decided in `Caller`, and nowhere else.
"""

from __future__ import annotations

import errno
import gc
import json
import mmap
import os
import select
import socket
import sys
import time
from array import array
from collections import deque
from typing import Any, NoReturn

ANSWERED, REFUSED, RESET, TIMED_OUT, GARBLED, UNDECIDED = 0, 1, 2, 3, 4, 5
"""What became of a request: the names of `ghostd.testing.load.Outcome`."""

BOARD = ("begun", "answered", "failed")
"""What is counted for everybody to see, in the order of the 64-bit numbers there."""

COLUMNS = {
    "due": "d",
    "begun": "d",
    "sent": "d",
    "done": "d",
    "outcome": "b",
    "slow": "b",
    "status": "h",
    "pid": "i",
    "port": "i",
    "link": "i",
    "turn": "i",
    "received": "i",
}
"""What is noted of each request, and how; see `ghostd.testing.load.Request`."""

CONNECT, IDLE, WAIT, ENDING = 0, 1, 2, 3
"""What a connection does."""

HEAD, UNTIL_CLOSE, CHUNKS = -1, -2, -3
"""What is awaited on a connection, unless it is a number of bytes."""

FAREWELL = 1.0
"""Seconds that a server has for closing a connection that it said it would close."""

KNOCK = 0.001
"""Seconds between two attempts at a Unix socket whose queue is full."""

REST = 0.01
"""Seconds that a place is out of use after nobody was there to connect to."""

ROUNDING = 1e-6
"""Parts of a request that two ways to count what is due may differ by."""

ANY_MESSAGE = 1 << 16
_NO_BODY = (204, 304)


class Garbled(Exception):
    """What came is no HTTP, or not what was asked for."""


def field(head: bytes, name: bytes) -> bytes:
    """Find a header; *head* is in lower case, *name* has a line end and a colon."""
    at = head.find(name)
    if at < 0:
        return b""
    at += len(name)
    return head[at : head.find(b"\r\n", at)].strip()


def number(text: bytes, base: int = 10) -> int:
    """
    Read a number of the protocol, which has no sign and no underscore.

    Raises:
        Garbled: it is none.
    """
    if not text.isalnum():
        raise Garbled(f"no number: {text!r}")
    try:
        return int(text, base)
    except ValueError:
        raise Garbled(f"no number: {text!r}") from None


def end_of_chunks(data: bytes | bytearray) -> int:
    """
    Give where a chunked body ends, -1 as long as it does not.

    Raises:
        Garbled: it is no such body.
    """
    at = 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = number(bytes(data[at:line]).partition(b";")[0].strip(), 16)
        at = line + 2 + size
        if not size:
            # Trailers, which nobody sends, end with an empty line like a head.
            last = data.find(b"\r\n\r\n", line)
            return last + 4 if last >= 0 else -1
        if len(data) < at + 2:
            return -1
        if data[at : at + 2] != b"\r\n":
            raise Garbled("a chunk is longer than it says")
        at += 2
    return -1


class Link:  # pragma: no cover - in a process that coverage does not follow
    """
    A connection.

    Attributes:
        port: our end's number: the TCP port, or that of an abstract Unix address.
        request: number of the request that is on its way; -1: none.
        turn: how many requests it has carried.
        pid: who answers on it, 0 while nobody has said.
        data: what came of the answer so far, without what is done with.
        received: bytes that came of the answer so far.
        left: bytes of the body still to come, or `HEAD`, `UNTIL_CLOSE`, `CHUNKS`.
        closing: the server said that it will close after this answer.
    """

    __slots__ = (
        *("closing", "data", "left", "number", "pid", "port", "received", "request"),
        *("sock", "state", "turn"),
    )

    def __init__(self, sock: socket.socket, serial: int) -> None:
        """Belong to nobody yet."""
        self.sock: socket.socket = sock
        self.number: int = serial
        self.state: int = CONNECT
        self.port: int = 0
        self.request: int = -1
        self.turn: int = 0
        self.pid: int = 0
        self.data: bytearray = bytearray()
        self.received: int = 0
        self.left: int = HEAD
        self.closing: bool = False


class Caller:  # pragma: no cover - as above
    """
    Sends requests until it is told to stop or has sent all of them.

    Args:
        plan: what `ghostd.testing.load.Load` was told, by the same names.
        board: where the counts go.
    """

    def __init__(self, plan: dict[str, Any], board: memoryview) -> None:
        """Prepare; nothing is sent yet."""
        self.family: int = plan["family"]
        target = plan["target"]
        self.target: Any = target if isinstance(target, str) else tuple(target)
        self.places: int = plan["connections"]
        self.rate: float | None = plan["rate"]
        self.keepalive: bool = plan["keepalive"]
        self.slow: float = plan["slow"]
        self.timeout: float = plan["timeout"]
        self.most: int | None = plan["requests"]
        self.seconds: float | None = plan["seconds"]
        host = plan["host"]
        close = "" if self.keepalive else "Connection: close\r\n"
        self.heads: list[bytes] = [
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{close}X-Id: ".encode()
            for path in (plan["path"], plan["slow_path"])
        ]
        self.board: memoryview = board
        self.columns: dict[str, array[Any]] = {
            name: array(code) for name, code in COLUMNS.items()
        }
        self.begun: array[float] = self.columns["begun"]
        self.outcome: array[int] = self.columns["outcome"]
        self.links: dict[int, Link] = {}
        self.idle: deque[Link] = deque()
        self.knocking: deque[Link] = deque()
        self.resting: deque[float] = deque()
        self.ending: deque[tuple[float, Link]] = deque()
        self.deadlines: deque[tuple[float, Link, int]] = deque()
        self.taken: int = 0
        self.opened: int = 0
        self.closed_idle: int = 0
        self.unsent: int = 0
        self.stopping: bool = False
        self.door: int = -1
        self.start: float = 0.0
        self.stop_time: float = 0.0
        self.looked: float = 0.0
        self.epoll: select.epoll = select.epoll()

    # -- the loop --------------------------------------------------------------

    def run(self, door: int) -> None:
        """Send; what comes in at *door*, or its end, says stop."""
        self.door = door
        self.epoll.register(door, select.EPOLLIN)
        self.start = self.stop_time = self.looked = time.monotonic()
        while True:
            now = time.monotonic()
            self._look_at_clock(now)
            if not self.stopping:
                self._begin_what_is_due(now)
            if self.stopping and self.taken == len(self.idle):
                return
            self._handle(self._pause(time.monotonic()))

    def _look_at_clock(self, now: float) -> None:
        if self.seconds is not None and now >= self.start + self.seconds:
            self._stop()
        while self.deadlines and self.deadlines[0][0] <= now:
            _, link, request = self.deadlines.popleft()
            if link.request == request:
                self._decide(link, TIMED_OUT)
        while self.ending and self.ending[0][0] <= now:
            _, link = self.ending.popleft()
            if link.state == ENDING:
                self._close(link)
        while self.resting and self.resting[0] <= now:
            self.resting.popleft()
            self.taken -= 1
        for _ in range(len(self.knocking)):
            link = self.knocking.popleft()
            if link.request >= 0:
                self._knock(link)

    def _stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self.stop_time = time.monotonic()
            if self.rate:
                # What has come due since the last look is nobody's fault.
                due = int((self.looked - self.start) * self.rate - ROUNDING) + 1
                due = min(due, self.most or due)
                self.unsent = max(0, due - len(self.begun))

    def _pause(self, now: float) -> float:
        """Give the seconds until something is to be done that no event tells of."""
        until = now + 1.0
        if self.deadlines:
            until = min(until, self.deadlines[0][0])
        if self.ending:
            until = min(until, self.ending[0][0])
        if not self.stopping:
            if self._has_place():
                due = self.start + len(self.begun) / self.rate if self.rate else now
                until = min(until, due)
            if self.seconds is not None:
                until = min(until, self.start + self.seconds)
        if self.knocking:
            until = min(until, now + KNOCK)
        if self.resting:
            until = min(until, self.resting[0])
        return max(0.0, until - now)

    def _handle(self, pause: float) -> None:
        if pause and self.rate:
            # epoll counts in milliseconds, which would be late for every request;
            # select in microseconds, and an epoll may be waited for like any other.
            select.select([self.epoll], [], [], pause)
            pause = 0
        for fd, _ in self.epoll.poll(pause):
            if fd == self.door:
                self.epoll.unregister(fd)
                self._stop()
            elif (link := self.links.get(fd)) is not None:
                if link.state == CONNECT:
                    self._connected(link)
                else:
                    self._receive(link)

    # -- beginnings ------------------------------------------------------------

    def _begin_what_is_due(self, now: float) -> None:
        self.looked = now
        begun = self.begun
        # Not more at a time: there may be answers to read, and a word to stop.
        for _ in range(self.places):
            if len(begun) == self.most:
                self._stop()
            due = self.start + len(begun) / self.rate if self.rate else now
            if self.stopping or due > now or not self._has_place():
                return
            self._begin(due)

    def _has_place(self) -> bool:
        return bool(self.idle) or self.taken < self.places

    def _begin(self, due: float) -> None:
        """Begin the next request, on a connection that is there or on a new one."""
        request = len(self.begun)
        # Spread over the run as evenly as the share allows, the same in every run.
        slow = int((request + 1) * self.slow) > int(request * self.slow)
        now = time.monotonic()
        for name, value in (
            *(("due", due), ("begun", now), ("sent", 0.0), ("done", 0.0)),
            *(("outcome", UNDECIDED), ("slow", slow), ("status", 0), ("pid", 0)),
            *(("port", 0), ("link", -1), ("turn", 0), ("received", 0)),
        ):
            self.columns[name].append(value)
        self.board[0] += 1
        while self.idle:
            # The one that has been idle for longest, so that all of them stay in use.
            link = self.idle.popleft()
            if self._is_usable(link):
                self._assign(link, request)
                if self._send(link):
                    return
        self._open(request)

    def _is_usable(self, link: Link) -> bool:
        """Look whether the server has closed a connection that nothing was sent on."""
        try:
            link.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self._lose_idle(link)
        return False

    def _lose_idle(self, link: Link) -> None:
        self.closed_idle += 1
        self.taken -= 1
        self._close(link)

    def _assign(self, link: Link, request: int) -> None:
        link.request = request
        link.data.clear()
        link.received = 0
        link.left = HEAD
        self.deadlines.append((time.monotonic() + self.timeout, link, request))

    def _open(self, request: int) -> None:
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setblocking(False)
        link = Link(sock, self.opened)
        self.opened += 1
        self.taken += 1
        self.links[sock.fileno()] = link
        if self.family == socket.AF_UNIX:
            # The kernel gives it a name of five hexadecimal digits, so that whoever
            # looks at the server's end can tell which connection that is.
            sock.bind("")
            link.port = int(sock.getsockname()[1:], 16)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._assign(link, request)
        self._knock(link)

    def _knock(self, link: Link) -> None:
        """Connect, and send at once where that is possible, as on loopback."""
        error = link.sock.connect_ex(self.target)
        if error == errno.EAGAIN:  # a Unix socket whose queue is full
            self.knocking.append(link)
        elif error in (0, errno.EINPROGRESS):
            if not link.port:
                link.port = link.sock.getsockname()[1]
            self.epoll.register(link.sock, select.EPOLLOUT)
            self._connected(link)
        else:
            self._unreachable(link, error)

    def _connected(self, link: Link) -> None:
        if error := link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._unreachable(link, error)
        elif self._send(link):
            self.epoll.modify(link.sock, select.EPOLLIN)

    def _unreachable(self, link: Link, error: int) -> None:
        if error in (errno.ECONNREFUSED, errno.ENOENT):
            self._decide(link, REFUSED)
            # Nobody calls again at once; here it would be 50,000 times a second.
            self.taken += 1
            self.resting.append(time.monotonic() + REST)
        elif error in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT):
            self._decide(link, RESET)
        else:
            # No port left, no permission, ...: ours to answer for, and no server's.
            raise OSError(error, os.strerror(error), str(self.target))

    def _send(self, link: Link) -> bool:
        """Send the request of a connection; False: not on this one, or not yet."""
        request = link.request
        head = self.heads[self.columns["slow"][request]]
        try:
            # Fewer bytes than any buffer has: all of them, or none.
            link.sock.send(b"%b%d\r\n\r\n" % (head, request))
        except BlockingIOError:
            return False
        except OSError as error:
            if link.turn:
                # Closed while it was idle, after the last look: nothing was sent.
                link.request = -1
                self._lose_idle(link)
            else:
                self._unreachable(link, error.errno or 0)
            return False
        columns = self.columns
        columns["sent"][request] = time.monotonic()
        columns["port"][request] = link.port
        columns["link"][request] = link.number
        columns["turn"][request] = link.turn
        link.turn += 1
        link.state = WAIT
        return True

    # -- answers ---------------------------------------------------------------

    def _receive(self, link: Link) -> None:
        error = 0
        try:
            data = link.sock.recv(ANY_MESSAGE)
        except BlockingIOError:
            return
        except OSError as cause:
            data = b""
            error = cause.errno or 0
        if link.state == ENDING:
            if not data:
                self._close(link)
        elif link.state == IDLE:
            # An end, or words that nobody asked for, such as a 408.
            self.idle.remove(link)
            self._lose_idle(link)
        elif data:
            link.data += data
            link.received += len(data)
            try:
                self._read(link)
            except Garbled:
                self._decide(link, GARBLED)
        elif link.left == UNTIL_CLOSE and not error:
            self._answered(link)
        else:
            self._decide(link, RESET)

    def _read(self, link: Link) -> None:
        while link.left == HEAD:
            end = link.data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(link.data[: end + 2]).lower()
            del link.data[: end + 4]
            self._read_head(link, head)
        if link.left == CHUNKS:
            end = end_of_chunks(link.data)
            if end < 0:
                return
            link.left = end
        if link.left >= 0:
            if len(link.data) > link.left:
                raise Garbled("more than the answer came")
            if len(link.data) == link.left:
                self._answered(link)

    def _read_head(self, link: Link, head: bytes) -> None:
        """Read status and headers; what is awaited next goes into ``link.left``."""
        line = head[: head.find(b"\r\n")]
        version, _, rest = line.partition(b" ")
        if version not in (b"http/1.1", b"http/1.0"):
            raise Garbled(f"no status line: {line!r}")
        status = number(rest[:3])
        if 100 <= status < 200:  # noqa: PLR2004 - the protocol's: another head follows
            return
        request = link.request
        self.columns["status"][request] = status
        echo = field(head, b"\r\nx-id:")
        if echo and echo != b"%d" % request:
            raise Garbled(f"request {request} got the answer to {echo!r}")
        if pid := field(head, b"\r\nx-pid:"):
            link.pid = number(pid)
        words = field(head, b"\r\nconnection:")
        link.closing = b"close" in words or (
            version == b"http/1.0" and b"keep-alive" not in words
        )
        if status in _NO_BODY:
            link.left = 0
        elif b"chunked" in field(head, b"\r\ntransfer-encoding:"):
            link.left = CHUNKS
        elif length := field(head, b"\r\ncontent-length:"):
            link.left = number(length)
        else:
            link.left = UNTIL_CLOSE
            link.closing = True

    def _answered(self, link: Link) -> None:
        self._note(link, ANSWERED)
        if self.keepalive and not link.closing:
            link.state = IDLE
            self.idle.append(link)
            return
        self.taken -= 1
        if link.left == UNTIL_CLOSE:
            self._close(link)
            return
        # Let the server close first, as it said: whoever does has to remember the
        # connection for a minute, and we have but 28,000 ports.
        link.state = ENDING
        self.ending.append((time.monotonic() + FAREWELL, link))

    def _decide(self, link: Link, outcome: int) -> None:
        """Note a failure; the connection is of no use any more."""
        self._note(link, outcome)
        self.taken -= 1
        self._close(link)

    def _note(self, link: Link, outcome: int) -> None:
        request = link.request
        columns = self.columns
        columns["done"][request] = time.monotonic()
        columns["pid"][request] = link.pid
        columns["port"][request] = link.port
        columns["link"][request] = link.number
        columns["received"][request] = link.received
        self.outcome[request] = outcome
        link.request = -1
        good = outcome == ANSWERED and columns["status"][request] < 400  # noqa: PLR2004
        self.board[1 if good else 2] += 1

    def _close(self, link: Link) -> None:
        link.state = ENDING
        self.links.pop(link.sock.fileno(), None)
        link.sock.close()

    # -- the end ---------------------------------------------------------------

    def write(self, file: Any) -> None:
        """Leave all that is known in a file: a line of JSON, then the columns."""
        facts = {
            "start": self.start,
            "stop": self.stop_time,
            "opened": self.opened,
            "closed_idle": self.closed_idle,
            "unsent": self.unsent,
            "requests": len(self.begun),
        }
        file.write(json.dumps(facts).encode() + b"\n")
        for column in self.columns.values():
            column.tofile(file)


def main(arguments: list[str]) -> NoReturn:  # pragma: no cover - as above
    """Say that all is ready, run, leave the book."""
    plan = json.loads(arguments[0])
    board, book = map(int, arguments[1:])
    # Nothing here is cyclic, and a collection would be a pause that nobody asked for.
    gc.disable()
    counts = memoryview(mmap.mmap(board, 8 * len(BOARD))).cast("q")
    caller = Caller(plan, counts)
    os.write(1, b"!")
    caller.run(0)
    with open(book, "wb") as file:
        caller.write(file)
    os._exit(0)


if __name__ == "__main__":  # pragma: no cover - as above
    main(sys.argv[1:])
