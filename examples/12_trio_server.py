"""
12. A TCP server on trio: one line, one answer; needs `pip install trio anyio`.

PORT=7000 python 12_trio_server.py start && echo hello | nc localhost 7000

Trio's nurseries say what a reload needs: the one with the door is cancelled, so nobody
is accepted any more, and the one with the clients is waited for.
"""

import os
import socket
import sys
from contextlib import suppress

import trio

from ghostd import Prefork

PATIENCE = 5  # seconds for a client that says nothing


class Shout(Prefork):
    def init(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))

    async def spirit(self) -> None:
        door = trio.SocketListener(trio.socket.from_stdlib_socket(self.sock))
        async with trio.open_nursery() as clients, trio.open_nursery() as doors:
            doors.start_soon(self.accept, door, clients)
            self.ready()
            await self.draining
            doors.cancel_scope.cancel()

    async def accept(self, door: trio.SocketListener, clients: trio.Nursery) -> None:
        while True:
            clients.start_soon(self.serve, await door.accept())

    async def serve(self, client: trio.SocketStream) -> None:
        line = b""
        with suppress(trio.BrokenResourceError), trio.move_on_after(PATIENCE):
            async with client:
                while b"\n" not in line and (more := await client.receive_some()):
                    line += more
                await client.send_all(line.upper())


if __name__ == "__main__":
    g = Shout(logfile="daemon.log", pidfile="daemon.pid", loop="trio")
    sys.exit(g.ctrl())
