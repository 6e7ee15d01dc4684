"""The gate: where clients are let in, until nobody is any more."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable

TURNS = 10
"""Turns of a loop after which what it has accepted is a connection; it takes four."""


class Gate:
    """
    Lets clients in at some sockets, and loses none of them when it is closed.

    Args:
        sockets: where they come; the gate closes them.
        backlog: connections that may wait on each.
        tls: how connections are secured; None: not at all.
    """

    def __init__(
        self, sockets: Iterable[socket.socket], backlog: int, tls: ssl.SSLContext | None
    ) -> None:
        """Keep it closed."""
        self._sockets = list(sockets)
        self._backlog = backlog
        self._tls = tls
        self._servers: list[asyncio.AbstractServer] = []
        self._greetings: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        """Tell whether there is anything to come in by."""
        return bool(self._sockets)

    async def open(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Let clients in; *factory* makes the protocol of each."""
        self._factory = factory
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.family != socket.AF_UNIX:
                # Inherited by each connection. asyncio does so itself only where the
                # socket knows its protocol's number, and 40 ms a request are at stake.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A copy: the original is needed once more when the server is closed.
            self._servers.append(
                await loop.create_server(
                    factory, sock=sock.dup(), ssl=self._tls, backlog=self._backlog
                )
            )

    async def close(self) -> None:
        """Let in those who wait already, and nobody else."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, asyncio.SelectorEventLoop):
            # A server of asyncio's that is closed drops those whom it has accepted and
            # not made connections of; one of uvloop's does both at once.
            for server in self._servers:
                for sock in getattr(server, "sockets", ()):
                    loop.remove_reader(sock.fileno())
            await _pass_on()
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            self._let_in(sock)
            sock.close()
        await _pass_on()

    def _let_in(self, sock: socket.socket) -> None:
        for _ in range(self._backlog):
            try:
                client, _address = sock.accept()
            except BlockingIOError:
                break
            except OSError:
                continue  # one who has given up says nothing of the others
            client.setblocking(False)
            # Nobody waits until somebody else has shaken hands.
            greeting = asyncio.create_task(self._greet(client))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    async def _greet(self, client: socket.socket) -> None:
        """Make a connection of one who was accepted; none of one who gives up."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            await loop.connect_accepted_socket(self._factory, client, ssl=self._tls)


async def _pass_on() -> None:
    """Let those who were accepted become connections."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
