"""
12. A TCP server on trio: one line, one answer; needs `pip install trio anyio`.

python 12_trio_server.py start && echo hello | nc localhost 7000

Trio's nurseries say what a reload needs: the one with the door is cancelled, so nobody
is accepted any more, and the one with the clients is waited for.
"""

import os
import sys
from contextlib import suppress

import trio
from trio import SocketStream
from trio.socket import from_stdlib_socket

from ghostd import Prefork

LISTEN = os.environ.get("LISTEN", "127.0.0.1:7000")
PATIENCE = 5  # seconds for a client that says nothing


class Shout(Prefork):
    async def spirit(self) -> None:
        (sock,) = self.sockets.values()
        door = trio.SocketListener(from_stdlib_socket(sock))
        async with trio.open_nursery() as clients, trio.open_nursery() as doors:
            doors.start_soon(self.accept, door, clients)
            self.ready()
            await self.draining
            doors.cancel_scope.cancel()
            for left in self.sockets.leftovers():
                clients.start_soon(self.serve, SocketStream(from_stdlib_socket(left)))

    async def accept(self, door: trio.SocketListener, clients: trio.Nursery) -> None:
        while True:
            clients.start_soon(self.serve, await door.accept())

    async def serve(self, client: SocketStream) -> None:
        line = b""
        with suppress(trio.BrokenResourceError), trio.move_on_after(PATIENCE):
            async with client:
                while b"\n" not in line and (more := await client.receive_some()):
                    line += more
                await client.send_all(line.upper())


if __name__ == "__main__":
    files = {"logfile": "daemon.log", "pidfile": "daemon.pid"}
    sys.exit(Shout(**files, listen=[LISTEN], loop="trio").ctrl())
