"""An application that a mold has loaded: served like any other, renewed by reloads."""

from __future__ import annotations

import pytest
from tests.http.kit import Server

from ghostd.testing.load import Load

APPS = """
import os

MOLD = os.getpid()

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"x-pid", b"%d" % os.getpid()), (b"content-length", b"2")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": b"{body}"}})

def wsgi(environ, start_response):
    headers = [("X-Pid", str(os.getpid())), ("Content-Length", "2")]
    start_response("200 OK", headers)
    return [b"{body}"]

assert {body!r} != "v3", "a broken deploy"
"""


@pytest.mark.parametrize(("kind", "reuseport"), [("asgi", True), ("wsgi", False)])
def test_reloads_kills_and_a_broken_deploy_lose_no_request(
    kind: str, reuseport: bool
) -> None:
    with Server(
        app=f"shop:{kind}", reuseport=reuseport, preload=True, spirits=2
    ) as server:

        def deploy(body: str) -> None:
            (server.folder / "shop.py").write_text(APPS.format(body=body))

        deploy("v1")
        server.up()
        (mold,), old = server.molds, set(server.spirits)
        address = f"127.0.0.1:{server.port}"
        with Load(address, connections=4, rate=200) as load:
            load.more(20)
            deploy("v2")
            assert server.ctrl("reload").returncode == 0
            # Those that are leaving answer what was meant for them.
            server.wait_for(lambda: server.get().body == b"v2")
            load.more(20)
            deploy("v3")
            failed = server.ctrl("reload")
            assert "AssertionError: a broken deploy" in failed.stderr
            assert failed.returncode == 1
            load.more(20)
            report = load.stop()

        assert not report.failed, report
        assert set(report.balance) & old, "old ones have answered"
        assert set(report.balance) - old, "and new ones"
        server.wait_for(lambda: len(server.molds) == 1)
        assert mold not in server.molds
        dead = server.kill_spirit()
        server.wait_for(lambda: dead not in server.spirits and server.healthy == 2)
        assert server.get().body == b"v2"
