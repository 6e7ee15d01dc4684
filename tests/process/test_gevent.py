"""A body on gevent: greenlets run beside a wait, and a blocked hub is a hung spirit."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.process.scripts import pool

from ghostd.testing import Daemon
from ghostd.unix import child

SNIPPET = Path(__file__).parents[2] / "docs" / "snippets" / "gevent_server.py"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_the_server_of_the_guide_serves_many_and_finishes_before_it_leaves() -> None:
    port = free_port()
    with Daemon(SNIPPET, env={"PORT": str(port)}) as d, ExitStack() as rest:
        d.start()
        d.wait_for(lambda: d.healthy == 4)
        # More than there are spirits, all open at the same time.
        address = ("127.0.0.1", port)
        clients = [
            rest.enter_context(socket.create_connection(address, 20)) for _ in range(12)
        ]
        files = [rest.enter_context(client.makefile("rwb")) for client in clients]
        for file in files:
            file.write(b"half a line, ")
            file.flush()
        d.wait_for(lambda: accepted(port) == 12)
        old = d.spirits
        for pid in old:
            d.kill_spirit(pid, signal.SIGQUIT)
        for file in files:
            file.write(b"and the rest\n")
            file.flush()
            assert file.readline() == b"HALF A LINE, AND THE REST\n"
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        d.wait_for(lambda: not set(old) & set(d.spirits) and d.healthy == 4)

        assert not d.log_lines("[error]")


def accepted(port: int) -> int:
    """Count connections to that port whose other end a process has."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established, nobody = "01", "0"
    return sum(
        row[1].endswith(f":{port:04X}") and row[3] == established and row[9] != nobody
        for row in rows
    )


def test_a_quit_ends_the_wait_and_a_blocked_hub_is_a_hung_spirit() -> None:
    body = """
    def spirit(self):
        from gevent import monkey
        monkey.patch_all()
        import gevent

        count = 0
        def counting():
            nonlocal count
            while True:
                count += 1
                gevent.sleep(0.01)

        def block():
            while True:
                pass

        gevent.spawn(counting)
        if self.slot == 1 and not os.path.exists(MARK):
            open(MARK, "w").close()
            gevent.spawn_later(0.3, block)
        while self.wait(60):
            pass
        self.log.info(f"counted {count > 20}")
    """
    head = "MARK = os.path.abspath('mark')\n"
    settings = {
        "term": "immediate",
        "heartbeat_interval": 0.2,
        "heartbeat_timeout": 0.8,
        "graceful_timeout": 0.3,
    }
    with Daemon(pool(body, head=head, **settings)) as d:
        d.start()
        d.wait_for_line("has no heartbeat")
        d.wait_for_line("immediately")
        d.wait_for(lambda: d.healthy == 2)
        began = time.monotonic()
        pid = d.kill_spirit(number=signal.SIGQUIT)
        d.wait_for(partial(gone, pid))
        took = time.monotonic() - began

        assert took < 1
        assert d.log_lines(f"[{pid}]", "counted True")
        assert len(d.log_lines("has no heartbeat")) == 1


def test_an_application_that_patches_while_it_loads() -> None:
    body = """
    def load(self):
        from gevent import monkey
        monkey.patch_all()

    def spirit(self):
        import gevent
        gevent.sleep(0.01)
        while self.wait(60):
            pass
    """
    settings = {"preload": True, "boot_timeout": 2}
    with Daemon(pool(body, **settings)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        d.wait_for(lambda: len(d.embryos) == 1)
        pid = d.kill_spirit()
        d.wait_for(lambda: gone(pid) and d.healthy == 2)

        assert not d.log_lines("Cannot start")


def gone(pid: int) -> bool:
    return child.state(pid) in ("", "Z", "X")
