"""
15. A Starlette application in a daemon of one's own: start-up, a stream, a WebSocket.

PORT=8080 python 15_starlette.py start && curl http://127.0.0.1:8080/

A reload makes the application anew in each spirit. Give it by name, as "module:app",
and its module is imported anew, too; here all is in one file, which is not.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from ghostd.http import HttpServer


def make() -> object:
    # Imported here, so in spirits only: the manager stays small.
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse(f"pid {g.pid} slot {g.slot}\n")

    async def count(_request: Request) -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for number in range(10):  # a reload waits for the last one
                yield f"{number}\n"
                await asyncio.sleep(0.1)

        return StreamingResponse(numbers())

    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():  # a reload ends it, with code 1012
            await socket.send_text(text)

    routes = [Route("/", hello), Route("/count", count), WebSocketRoute("/echo", echo)]
    return Starlette(routes=routes)


listen = [f"127.0.0.1:{os.environ.get('PORT', '8080')}"]
g = HttpServer(app=make, factory=True, listen=listen, logfile="daemon.log")

if __name__ == "__main__":
    sys.exit(g.ctrl())
