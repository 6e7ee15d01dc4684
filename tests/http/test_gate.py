"""Whoever knocks before the gate is closed is let in, at whatever turn of the loop."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from ghostd.http.gate import Gate

CLIENTS = 20
# The first loop of uvloop opens a pipe for all the others of the process.
uvloop.new_event_loop().close()
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Guest(asyncio.Protocol):
    """Counts those who came in."""

    def __init__(self, inside: set[Guest]) -> None:
        """Remember where to sign."""
        self._inside = inside

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come in."""
        self._inside.add(self)
        transport.close()


async def close_after(turns: int) -> int:
    """Have clients knock, close the gate some turns later; count who came in."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=2 * CLIENTS)
    address = sock.getsockname()
    inside: set[Guest] = set()
    gate = Gate([sock], 2 * CLIENTS, None)
    await gate.open(lambda: Guest(inside))
    clients = [socket.create_connection(address) for _ in range(CLIENTS)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await gate.close()
    for client in clients:
        client.close()
    return len(inside)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("loop", LOOPS)
def test_nobody_who_was_let_in_is_dropped(loop: str, turns: int) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(close_after(turns)) == CLIENTS
