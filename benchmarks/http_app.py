"""
The application that all HTTP servers of a benchmark run: bare ASGI, no framework.

``/`` answers at once, ``/slow`` after 50 ms, ``/collect`` after a full collection, for
which it holds its process up so that the next one is answered by another. Each answer
says whose it is. With GRAPH=200 in the environment the module holds about 200 MB of
nested objects, as an application does that was preloaded.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Any

from subject import graph

GRAPH = graph(int(os.environ.get("GRAPH", "0")))
HOLD = 0.25
"""Seconds that a collection holds its process up."""


async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - as called
    """Answer."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/slow":
        await asyncio.sleep(0.05)
    elif path == "/collect":
        gc.collect()
        time.sleep(HOLD)  # noqa: ASYNC251 - to hold it up
    asked = b""
    for name, value in scope["headers"]:
        if name == b"x-id":
            asked = value
    headers = [
        (b"content-length", b"2"),
        (b"x-pid", b"%d" % os.getpid()),
        (b"x-id", asked),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
