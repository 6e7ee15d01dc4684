"""What comes before the first request: loading, starting, probing, listening."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.http.kit import Server, serving


def started(d: Server) -> str:
    """Start a daemon that cannot come up; give the reason that it told."""
    ended = d.ctrl("start")
    assert ended.returncode == 1
    return ended.stderr


BROKEN = {
    "broken:app": "cannot import broken:app: ZeroDivisionError: division by zero",
    "apps:HERE": "looks like neither ASGI nor WSGI",
}


@pytest.mark.parametrize("app", BROKEN)
def test_a_start_fails_with_what_is_wrong_with_the_application(app: str) -> None:
    with Server(app=app) as d:
        (d.folder / "broken.py").write_text("def f():\n    1 / 0\n\nf()\n")

        assert BROKEN[app] in started(d)
        # The frames of who wrote it, and of nobody else.
        assert all("broken.py" in line for line in d.log_lines('File "'))


def test_a_start_fails_with_the_reason_that_the_application_gave() -> None:
    with Server() as d:
        (d.folder / "start_fails").touch()

        assert "the application did not start: OSError: no database" in started(d)


def test_a_spirit_is_ready_when_its_application_has_started() -> None:
    with Server() as d:
        (d.folder / "start_waits").touch()
        run = d.run_foreground()
        d.wait_for((d.folder / "starting").exists)
        assert not d.log_lines("is healthy")
        with d.client() as client:
            client.ask()  # it waits in the queue: nobody accepts it yet
            (d.folder / "start_waits").unlink()
            d.wait_for(lambda: d.healthy == 1)

            assert client.answer().status == 200
        run.signal(signal.SIGQUIT)
        assert run.wait() == 0


def test_who_is_told_to_leave_while_it_starts_leaves_at_once() -> None:
    with Server() as d:
        (d.folder / "start_waits").touch()
        run = d.run_foreground()
        d.wait_for((d.folder / "starting").exists)
        run.signal(signal.SIGQUIT)

        assert run.wait(limit=2) == 0
        assert not d.log_lines("Killing")


def test_a_probe_is_asked_until_the_application_is_ready() -> None:
    with Server(probe="/probe?a=b") as d:
        (d.folder / "status").write_text("503")
        run = d.run_foreground()
        probes = d.folder / "probes"
        d.wait_for(lambda: probes.exists() and len(probes.read_text()) > 2)
        assert not d.log_lines("is healthy")
        (d.folder / "status").write_text("404")
        d.wait_for(lambda: d.healthy == 1)

        run.signal(signal.SIGQUIT)
        assert run.wait() == 0


def test_who_is_told_to_leave_while_it_is_probed_leaves_at_once() -> None:
    with Server(probe="/probe") as d:
        (d.folder / "status").write_text("503")
        run = d.run_foreground()
        d.wait_for((d.folder / "probes").exists)
        run.signal(signal.SIGQUIT)

        assert run.wait(limit=2) == 0
        assert not d.log_lines("cancelling its body")


def test_an_application_that_fails_its_probe_serves_nobody() -> None:
    with Server(probe="/probe") as d:
        (d.folder / "status").write_text("500")

        assert "the probe /probe was answered with 500" in started(d)


def test_the_manager_loads_neither_the_server_nor_the_application() -> None:
    with serving() as d:
        maps = Path(f"/proc/{d.pid}/maps").read_text()
        spirits = Path(f"/proc/{d.spirits[0]}/maps").read_text()

    assert "httptools" in spirits
    for name in ("httptools", "uvloop", "_asyncio", "_ssl"):
        assert name not in maps


def test_requests_are_logged_where_the_daemon_logs() -> None:
    with serving() as d:
        d.get("/found?a=b")
        d.wait_for_line("[info]", '"GET /found?a=b HTTP/1.1" 200')
    with serving(access_log=False) as d:
        d.get("/found")
        d.stop()
        assert not d.log_lines("GET /found")


def test_an_error_of_the_application_is_logged_with_its_traceback() -> None:
    with serving(app="apps:failing") as d:
        assert d.get().status == 500
        d.wait_for_line("[error]", "Exception in ASGI application")
        d.wait_for_line("ZeroDivisionError")


def test_a_spirit_that_has_had_its_requests_asks_to_be_replaced() -> None:
    with serving(max_requests=3) as d, d.client() as client:
        pid = int(client.get().body)
        client.get()
        client.get()
        assert not d.log_lines("replaced")
        d.get()
        d.wait_for_line(f"{pid}", "requests")


@pytest.mark.parametrize("app", ["shop:app", "shop:old"])
def test_a_mold_loads_the_application_once_for_each_generation(app: str) -> None:
    code = """
import os
import apps

with open("{folder}/loads", "a") as file:
    print("{version}", os.getpid(), file=file)

async def app(scope, receive, send):
    if scope["type"] == "http":
        await apps.answer(send, 200, b"{version}")

def old(environ, start_response):
    start_response("200 OK", [])
    return [b"{version}"]
"""
    with Server(app=app, preload=True, spirits=2) as d:

        def deploy(version: str) -> None:
            text = code.format(folder=d.folder, version=version)
            (d.folder / "shop.py").write_text(text)

        deploy("1")
        d.up()
        assert d.get().body == b"1"
        deploy("2")
        assert d.ctrl("reload").returncode == 0
        assert d.get().body == b"2"
        (d.folder / "shop.py").write_text("1 / 0\n")
        failed = d.ctrl("reload")
        assert failed.returncode == 1
        assert "cannot import" in failed.stderr
        assert "ZeroDivisionError" in failed.stderr
        assert d.get().body == b"2"

        loads = [line.split() for line in (d.folder / "loads").read_text().splitlines()]
        assert [version for version, _pid in loads] == ["1", "2"]
        assert not {int(pid) for _version, pid in loads} & {d.pid, *d.spirits}
