"""
The applications that the HTTP tests serve; written beside each daemon.

A file ``NAME`` in the current folder of the daemon's start is how a test says "now".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


async def signal_of(name: str) -> None:
    """Wait until a test has made the file *name*."""
    while not (HERE / name).exists():
        await asyncio.sleep(0.005)


def mark(name: str) -> None:
    """Tell the test that something has happened."""
    (HERE / name).write_text(str(os.getpid()))


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Do what the path says."""
    kind = scope["type"]
    if kind == "lifespan":
        await lifespan(receive, send)
    elif kind == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    if (HERE / "start_fails").exists():
        text = "Traceback (most recent call last):\nOSError: no database"
        await send({"type": "lifespan.startup.failed", "message": text})
        return
    mark("starting")
    while (HERE / "start_waits").exists():
        await asyncio.sleep(0.005)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    mark("shut_down")
    await send({"type": "lifespan.shutdown.complete"})


async def http(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"].removeprefix(scope["root_path"])
    status = 200
    body = f"{os.getpid()}\n".encode()
    if path == "/endless":
        await endless(scope["state"]["ghostd_draining"], send)
        return
    if path == "/wait":
        begun, _, go = scope["query_string"].decode().partition("&")
        mark(begun or "in_flight")
        await signal_of(go or "go")
    elif path == "/stream":
        await stream(send)
        return
    elif path == "/early":
        await answer(send, 200, b"early")  # the body of the request is not read
        return
    elif path == "/echo":
        body = await body_of(receive)
    elif path == "/block":  # the loop, not only this request
        mark("in_flight")
        until = time.monotonic() + 60
        while not (HERE / "go").exists() and time.monotonic() < until:
            time.sleep(0.005)
    elif path == "/probe":
        with open(HERE / "probes", "a") as file:
            file.write(".")
        status = int((HERE / "status").read_text() or 0)
    elif path == "/scope":
        client = scope["client"] or ("", 0)
        text = f"{scope['scheme']} {client[0]} {scope['root_path']} {scope['path']}"
        body = text.encode()
    await answer(send, status, body)


async def answer(send: Any, status: int, body: bytes) -> None:
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        mark("uploading")
    return body


async def stream(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    part = {"type": "http.response.body", "more_body": True}
    await send({**part, "body": b"first"})
    await signal_of("go")
    await send({**part, "body": b"second"})
    await send({"type": "http.response.body", "body": b"third"})


async def endless(draining: asyncio.Event, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    part = {"type": "http.response.body", "more_body": True}
    while not draining.is_set():
        await send({**part, "body": b"more"})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(draining.wait(), 60)
    await send({"type": "http.response.body", "body": b"end"})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    if scope["path"] == "/slow":
        mark("in_flight")
        await signal_of("go")
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})
    (HERE / "code").write_text(str(message["code"]))


def make(name: str = "made") -> Any:
    """Give an application: a factory."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, 200, name.encode())

    return app


def make_badly() -> Any:
    """Fail: a factory."""
    return {}["size"]


async def failing(scope: Any, _receive: Any, _send: Any) -> None:
    """Fail in each request."""
    if scope["type"] == "http":
        1 / 0  # noqa: B018 - it fails


def wsgi(environ: Any, start_response: Any) -> Any:
    """Do what the path says, the other way."""
    path = environ["PATH_INFO"]
    body = f"{os.getpid()}\n".encode()
    if path == "/wait":
        mark("in_flight")
        while not (HERE / "go").exists():
            time.sleep(0.005)
    elif path == "/stream":
        start_response("200 OK", [])
        return parts()
    elif path == "/echo":
        body = environ["wsgi.input"].read()
    elif path == "/slow":
        time.sleep(1)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def parts() -> Any:
    try:
        yield b"first"
        while not (HERE / "go").exists():
            time.sleep(0.005)
        yield b"second"
    finally:
        mark("closed")


def wsgi_failing(environ: Any, start_response: Any) -> Any:
    """Fail in different ways."""
    path = environ["PATH_INFO"]
    if path == "/raise":
        1 / 0  # noqa: B018 - it fails
    if path == "/errors":
        environ["wsgi.errors"].write("written to wsgi.errors\n")
    start_response("200 OK", [("Content-Length", "4")])
    return late() if path == "/late" else [b"good"]


def late() -> Any:
    yield b"good"
    raise ValueError("after the end")
