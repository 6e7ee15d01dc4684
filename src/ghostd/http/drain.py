"""
Leaving without losing a request: what a draining spirit does with its connections.

uvicorn's own shutdown closes each connection on which no request runs at that moment,
also one whose request has been sent and not been read yet: those requests are lost.
Here nobody is cut off who could not know. A connection is told ``Connection: close``
with its next answer, an idle one is kept for a while because a request may be on its
way, and whatever is closed is closed in stages, so that no reset can overtake an
answer (RFC 9112, 9.6).

uvicorn's protocols are left as they are, and nothing here runs while a spirit serves.
They take the headers of an answer from `State`, and their transport from an attribute;
when the spirit is to leave, both are replaced by those of this file.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from email.utils import formatdate

from ghostd.typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    Header = tuple[bytes, bytes]
    Headers = list[Header]
else:
    Headers = list

CLOSE = (b"connection", b"close")
LINGER = 1.0
"""Seconds that a half-closed connection waits for its client to close, too."""

HEADERS = 10.0
"""Seconds in which a request that has begun must have said what it wants."""

LOOK = 0.02
"""Seconds between two looks at those who are not done yet."""


class Connection(Protocol):
    """What this file knows of uvicorn's protocols, of any kind."""

    transport: Any
    server_state: Any

    def shutdown(self) -> None:
        """Close: a WebSocket with 1012."""


class Connections(set[Any]):
    """Those that are open; `joined` is told of each that comes."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: Callable[[Any], object] = lambda _connection: None

    def add(self, connection: Any, /) -> None:
        """Take one more."""
        super().add(connection)
        self.joined(connection)


class State:
    """
    What all connections of a spirit share; uvicorn's protocols know it as server state.

    Args:
        headers: of every response.
        date: add the time.
        limit: number of requests after which *tired* is called, once; None: never.
        tired: called with the reason.
    """

    def __init__(
        self,
        headers: Iterable[Header],
        *,
        date: bool,
        limit: int | None,
        tired: Callable[[str], object],
    ) -> None:
        """Begin with nobody."""
        self.total_requests: int = 0
        self.connections: Connections = Connections()
        self.tasks: set[asyncio.Task[None]] = set()
        self._fixed = list(headers)
        self._date = date
        self._limit = float("inf") if limit is None else limit
        self._tired = tired
        self._headers: Headers = []
        self._second = -1

    @property
    def default_headers(self) -> Headers:
        """
        Headers of a response that begins now.

        Asked for once in each request. The date is looked at here, so nobody has to
        wake up each second for the sake of clients that do not come.
        """
        if self.total_requests >= self._limit:
            self._tired(f"{self.total_requests} requests")
            self._limit = float("inf")
        if (second := int(time.time())) != self._second:
            self._second = second
            now = formatdate(second, usegmt=True).encode()
            self._headers = [*([(b"date", now)] if self._date else []), *self._fixed]
        return self._headers


class LeavingState:
    """What one connection of a leaving spirit is given for the `State`."""

    def __init__(self, state: State, connection: Connection) -> None:
        """Stand in for *state*."""
        self._state = state
        self._connection = connection
        self.connections: Connections = state.connections
        self.tasks: set[asyncio.Task[None]] = state.tasks

    @property
    def total_requests(self) -> int:
        """Count on."""
        return self._state.total_requests

    @total_requests.setter
    def total_requests(self, value: int) -> None:
        self._state.total_requests = value

    @property
    def default_headers(self) -> Headers:
        """Headers that know when to say goodbye."""
        return LastWords(self._state.default_headers, self._connection, self)


class LastWords(Headers):
    """
    Headers that say ``Connection: close``, unless there is more to come.

    It is asked when the answer begins (the protocols add the application's headers to
    these) and not when the request is read: another may have been sent meanwhile.
    """

    def __init__(
        self, headers: Headers, connection: Connection, state: LeavingState | State
    ) -> None:
        """Begin with the usual *headers*."""
        super().__init__(headers)
        self._connection = connection
        self._state = state

    def __add__(self, more: Any) -> Any:
        """Give these and those of the application."""
        upgraded = self._connection not in self._state.connections
        if upgraded or waits_behind(self._connection):
            return [*self, *more]
        return [*self, CLOSE, *more]


class Parting:
    """
    A transport that closes in stages: it says that it is done, then listens a while.

    A socket that is closed with unread bytes in it resets the connection, and that may
    destroy the answer which the client has not read yet. TLS does as much by itself.
    """

    def __init__(self, transport: Any) -> None:
        """Wrap *transport*."""
        self._transport = transport
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        """Be the transport in everything else."""
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tell whether it has said that it is done."""
        return self._closing or bool(self._transport.is_closing())

    def close(self) -> None:
        """Send what is left, say that nothing more comes, and let the client close."""
        transport = self._transport
        if self.is_closing():
            return  # told twice, the TLS of asyncio forgets what it is
        if not transport.can_write_eof():
            transport.close()
            return
        self._closing = True
        transport.set_protocol(_Deaf(transport.get_protocol()))
        transport.write_eof()
        transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER, transport.close)


class _Deaf(asyncio.Protocol):
    """Throws away what a client sends that has been told that nobody answers."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def data_received(self, data: bytes) -> None:
        """Throw it away."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


# -- how far a connection is ---------------------------------------------------


def is_websocket(connection: Any) -> bool:
    """Tell whether it speaks WebSocket."""
    return not hasattr(connection, "timeout_keep_alive")


def has_shaken_hands(connection: Any) -> bool:
    """Tell whether a WebSocket is open, so that it can be closed with a code."""
    event = getattr(connection, "handshake_completed_event", None)
    return bool(event.is_set() if event else connection.handshake_complete)


def is_owed(connection: Any) -> bool:
    """Tell whether an answer is owed."""
    cycle = connection.cycle
    return cycle is not None and not cycle.response_complete


def is_asking(connection: Any) -> bool:
    """Tell whether a request has begun, and is not known yet."""
    return _has_begun(connection) or unread(connection) > 0


def waits_behind(connection: Any) -> bool:
    """Tell, at the beginning of an answer, whether it is not the last one."""
    cycle = connection.cycle
    return (
        bool(getattr(connection, "pipeline", ()))
        # Still uploading: who closes now resets the connection.
        or (cycle is not None and bool(cycle.more_body))
        or is_asking(connection)
    )


def _has_begun(connection: Any) -> bool:
    """Tell whether bytes of a request are here whose headers are not complete."""
    parser = getattr(connection, "conn", None)
    if parser is not None:  # h11 keeps them
        return bool(parser.trailing_data[0])
    cycle = connection.cycle
    scope = connection.scope  # httptools begins a new one with the first byte
    return scope is not None and (cycle is None or scope is not cycle.scope)


def unread(connection: Any) -> int:
    """Count the bytes that have arrived and not been read."""
    if connection.transport.is_closing():
        return 0
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    try:
        data = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("i", data)[0])


def _unanswered(connection: Any) -> Iterator[Any]:
    """Give the requests of a connection whose answer has not begun, in order."""
    queued = [cycle for cycle, _app in reversed(getattr(connection, "pipeline", ()))]
    cycles = queued if connection.cycle in queued else [connection.cycle, *queued]
    return (cycle for cycle in cycles if cycle is not None)


# -- the drain -----------------------------------------------------------------


class Drain:
    """
    Brings all connections of a spirit to their end.

    Args:
        state: theirs.
        coming: protocols of connections that are accepted and not made yet.
        busy: gives the number of other things that are to be waited for.
        patience: seconds that an idle connection is kept open.
    """

    def __init__(
        self,
        state: State,
        coming: weakref.WeakSet[Any],
        busy: Callable[[], int],
        patience: float,
    ) -> None:
        """Turn every connection into a leaving one; also those that still come."""
        self._loop = asyncio.get_running_loop()
        self._state = state
        self._coming = coming
        self._busy = busy
        self._patience = patience
        self._headers = max(patience, HEADERS)
        self._start = self._loop.time()
        self._busy_at: weakref.WeakKeyDictionary[Any, float] = (
            weakref.WeakKeyDictionary()
        )
        self._told: weakref.WeakSet[Any] = weakref.WeakSet()
        state.connections.joined = self._joined
        for connection in list(state.connections):
            self._joined(connection)

    def _joined(self, connection: Any) -> None:
        self._coming.discard(connection)
        # A new one has no transport before it is added; a turn later it has.
        if connection.transport is None:
            self._loop.call_soon(self._turn_to_leave, connection)
        else:
            self._turn_to_leave(connection)

    def _turn_to_leave(self, connection: Any) -> None:
        if not isinstance(connection.transport, Parting):
            connection.transport = Parting(connection.transport)
        if is_websocket(connection):
            return
        connection.server_state = state = LeavingState(self._state, connection)
        for cycle in _unanswered(connection):
            cycle.transport = connection.transport
            if not cycle.response_started:
                cycle.default_headers = LastWords(
                    cycle.default_headers, connection, state
                )

    async def run(self) -> None:
        """Wait until all have ended, and close those for whom it is time."""
        while not self._is_over():
            self._look()
            await asyncio.sleep(LOOK)

    async def cut(self, seconds: float) -> int:
        """
        End what is left, and give its number: there is no more time.

        Args:
            seconds: what is cancelled may clean up for so long.
        """
        left = set(self._state.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=seconds)
        for connection in list(self._state.connections):
            connection.transport.close()
        return len(left)

    def _is_over(self) -> bool:
        state = self._state
        # Who has not shaken hands by then has no request on its way.
        coming = self._coming and self._loop.time() < self._start + self._patience
        return not (state.connections or state.tasks or coming or self._busy())

    def _look(self) -> None:
        """Close those for whom it is time."""
        now = self._loop.time()
        for connection in list(self._state.connections):
            if connection.transport is None:
                continue
            if is_websocket(connection):
                if has_shaken_hands(connection) and connection not in self._told:
                    self._told.add(connection)
                    connection.shutdown()
            elif is_owed(connection):
                self._busy_at[connection] = now
            elif is_asking(connection) and now < self._start + self._headers:
                pass
            elif now >= self._busy_at.get(connection, self._start) + self._patience:
                connection.transport.close()
