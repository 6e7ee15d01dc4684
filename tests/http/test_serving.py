"""Serving, as a client and its proxy see it."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.http.kit import Client, Server, serving


def certify(folder: Path) -> None:
    """Make a certificate for localhost."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "1", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )


def secure(d: Server, client: Client | None = None) -> Client:
    """Make a connection over TLS, of one that is there or a new one."""
    context = ssl.create_default_context(cafile=str(d.folder / "cert.pem"))
    sock = (client or d.client()).sock
    return Client(context.wrap_socket(sock, server_hostname="localhost"))


def test_tls_is_drained_like_any_other() -> None:
    with Server(certfile="cert.pem", keyfile="key.pem") as d:
        certify(d.folder)
        d.up()
        with secure(d) as idle, secure(d) as client, d.client() as shaking:
            pid = int(idle.get().body)
            client.ask("/wait")
            d.wait_for((d.folder / "in_flight").exists)
            d.drain_one()
            d.wait_for_line(" drains ")
            assert idle.get("/scope").closes
            (d.folder / "go").touch()
            answer = client.answer()

            assert answer.body == b"%d\n" % pid
            assert answer.closes
            client.ends()
            idle.ends()
            shaking.sock.close()
        d.wait_for(lambda: pid not in d.spirits)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_who_waits_and_does_not_shake_hands_holds_up_nobody(loop: str) -> None:
    with Server(certfile="cert.pem", keyfile="key.pem", loop=loop) as d:
        certify(d.folder)
        d.up()
        with ExitStack() as stack:
            with secure(d) as client:
                client.ask("/block")
                d.wait_for((d.folder / "in_flight").exists)
                pid = d.drain_one()
                stack.enter_context(d.client())
                stack.enter_context(d.client()).send("no TLS at all")
                d.client().reset()
                late = d.client()
                (d.folder / "go").touch()

                with secure(d, late) as shaken:
                    assert shaken.get().closes
                assert client.answer().status == 200
            d.wait_for(lambda: pid not in d.spirits)
        assert not d.log_lines(" failed: ")
        assert not d.log_lines("cancelling its body")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_of_tls_that_does_not_hang_up_costs_nobody_an_answer(
    loop: str,
) -> None:
    with Server(certfile="cert.pem", keyfile="key.pem", loop=loop) as d:
        certify(d.folder)
        d.up()
        with secure(d) as idle, secure(d) as client:
            idle.get()
            client.ask("/wait")
            d.wait_for((d.folder / "in_flight").exists)
            pid = d.drain_one()
            # Until it is told that it has been idle for too long; it does not answer.
            select.select([idle.sock], [], [], 10)
            time.sleep(0.1)  # some looks of the drain
            (d.folder / "go").touch()

            assert client.answer().status == 200
        d.wait_for(lambda: pid not in d.spirits)
        assert not d.log_lines(" failed: ")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_unix_socket_is_drained_and_taken_away(loop: str) -> None:
    with serving(listen=["unix:web.sock?mode=600"], loop=loop) as d:
        path = d.folder / "web.sock"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(path))
            client = Client(sock)
            pid = int(client.get("/").body)
            d.drain_one()
            d.wait_for_line(" drains ")
            assert path.exists()
            assert client.get().closes
            client.ends()
        d.wait_for(lambda: pid not in d.spirits)
        assert path.exists()
        d.stop()
        assert not path.exists()


def test_a_certificate_that_is_not_there_is_told() -> None:
    with Server(certfile="cert.pem") as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "TLS cannot be used: [Errno 2]" in ended.stderr


def test_a_proxy_is_believed_and_a_stranger_is_not() -> None:
    told = "X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n"
    with serving(root_path="/api", headers=["X-A: b"]) as d, d.client() as client:
        answer = client.get("/scope", headers=told)
        assert answer.body == b"https 10.1.2.3 /api /api/scope"
        assert answer.headers["x-a"] == "b"
        assert answer.headers["server"] == "uvicorn"
        assert "date" in answer.headers
    bare = {"server_header": False, "date_header": False}
    with serving(forwarded_allow_ips="10.0.0.0/8", **bare) as d, d.client() as client:
        answer = client.get("/scope", headers=told)
        assert answer.body == b"http 127.0.0.1  /scope"
        assert not {"server", "date"} & set(answer.headers)


def test_an_idle_connection_is_closed_after_keepalive() -> None:
    with serving(keepalive=0.3) as d, d.client() as client:
        client.get()

        assert 0.2 < client.ends() < 2


def test_who_is_too_many_is_told_so() -> None:
    with serving(limit_concurrency=2) as d, d.client() as first:
        assert first.get().status == 200

        assert d.get().status == 503


def test_a_factory_and_an_object_are_served() -> None:
    with serving(app="apps:make('named')") as d:
        assert d.get().body == b"named"
    with serving(app="apps:make", factory=True) as d:
        assert d.get().body == b"made"


def test_a_small_answer_in_two_writes_is_not_held_back() -> None:
    """Nagle's algorithm would hold the second write for 40 ms."""
    with serving(loop="asyncio") as d, d.client() as client:
        client.get()
        took = []
        for _ in range(9):
            began = client.now()
            client.get()
            took.append(client.now() - began)

        assert sorted(took)[4] < 0.03
