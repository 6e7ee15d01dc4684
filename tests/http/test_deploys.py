"""
Broken deploys under load: the old code answers every request, and the reason is told.

Then the file is repaired, and the next reload brings the new code.
"""

from __future__ import annotations

from tests.http.kit import Server

from ghostd.testing.load import Load

APP = """
import asyncio, os, sys

{top}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {startup}
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    {request}
    headers = [(b"x-pid", b"%d" % os.getpid()), (b"content-length", b"2")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"{body}"}})
"""

# An exception there only says, by the ASGI specification, that it takes no part in it.
FAILED = """return await send(
            {"type": "lifespan.startup.failed", "message": "no database"})"""


def write(server: Server, body: str, **parts: str) -> None:
    places = {"top": "", "startup": "pass", "request": "pass", **parts}
    (server.folder / "shop.py").write_text(APP.format(body=body, **places))


BROKEN: dict[str, tuple[dict[str, str], str]] = {
    "syntax": ({"top": "def app(:"}, "SyntaxError"),
    "import": ({"top": "1 / 0"}, "ZeroDivisionError"),
    "start-up fails": ({"startup": FAILED}, "no database"),
    "start-up waits": ({"startup": "await asyncio.sleep(60)"}, "is not ready after"),
    "start-up hangs": ({"startup": "import time; time.sleep(60)"}, "is not ready"),
    "first request ends it": ({"request": "os._exit(3)"}, "exit code 3"),
    "first request fails": ({"request": "1 / 0"}, "ZeroDivisionError"),
}


def test_the_old_code_answers_every_request() -> None:
    settings = {"canary_time": 0.3, "boot_timeout": 3, "graceful_timeout": 2}
    with Server(app="shop:app", spirits=2, probe="/", **settings) as server:
        write(server, "v1")
        server.up()
        old = server.spirits
        with Load(f"127.0.0.1:{server.port}", connections=4, rate=100) as load:
            for parts, reason in BROKEN.values():
                write(server, "v2", **parts)

                failed = server.ctrl("reload")

                assert failed.returncode == 1
                assert reason in failed.stderr
                load.more(20)
            report = load.stop()
            assert not report.failed, report
            assert set(report.balance) <= set(old)
        assert server.get().body == b"v1"

        write(server, "v2")
        repaired = server.ctrl("reload")
        assert repaired.returncode == 0, repaired.stderr
        assert server.get().body == b"v2"
