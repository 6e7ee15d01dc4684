"""
11. A TCP server on asyncio: many clients in each spirit, and a reload loses no line.

python 11_asyncio_server.py start && echo hello | nc localhost 7000

One that is asked to quit accepts nobody any more, so the others do. Each of its clients
gets the answer to what it has sent, and then the end of the connection.
"""

import asyncio
import os
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import closing, suppress

from ghostd import Prefork

LISTEN = os.environ.get("LISTEN", "127.0.0.1:7000")
LATE = 1.0  # seconds for what is on its way when we leave: a line, or a client


class Shout(Prefork):
    async def spirit(self) -> None:
        self.leaving = asyncio.ensure_future(self.draining)
        async with asyncio.TaskGroup() as clients:

            def accept(reader: StreamReader, writer: StreamWriter) -> None:
                clients.create_task(self.serve(reader, writer))

            (door,) = self.sockets.values()
            door.setblocking(False)  # for all who share it, and for good
            server = await asyncio.start_server(accept, sock=door.dup())
            self.ready()
            await self.leaving
            # Not server.close(): who was just let in would be dropped by asyncio.
            asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
            for client in self.sockets.leftovers():
                accept(*await asyncio.open_connection(sock=client))
            await asyncio.sleep(LATE)

    async def next_line(self, reader: StreamReader) -> bytes:
        line = asyncio.ensure_future(reader.readline())
        await asyncio.wait((line, self.leaving), return_when="FIRST_COMPLETED")
        return await asyncio.wait_for(line, LATE)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(OSError, TimeoutError), closing(writer):
            while line := await self.next_line(reader):
                writer.write(line.upper())
                await writer.drain()
                if self.draining:
                    break


if __name__ == "__main__":
    g = Shout(logfile="daemon.log", pidfile="daemon.pid", listen=[LISTEN])
    sys.exit(g.ctrl())
