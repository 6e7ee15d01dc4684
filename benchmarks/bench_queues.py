"""
One queue for all spirits or one for each: who is woken, and how long clients wait.

shared     every spirit waits at the same socket (the default)
queues     one queue for each slot, `reuseport=True`, steered by the manager
exclusive  shared, with EPOLLEXCLUSIVE, where the kernel wakes one waiter and no more

The server is as small as can be: epoll, accept until nobody waits, answer, close; each
request has a connection of its own. Milliseconds that 99 of 100 requests did not
exceed, so less is better; the ratio is to the shared socket. In the notes: the share
of each spirit, answers per second, and wake-ups that found nobody.

light  two clients, each asks when it has its answer
busy   32 of them
work   16 of them, and each answer costs half a millisecond of processor time
stuck  400 requests per second by the clock; one of 20 keeps its spirit for 20 ms, and
       it is the others that are looked at
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import SOURCE, Figure, _die_with_parent, main, rounded, until

sys.path.insert(0, str(SOURCE))

from ghostd.testing import Load, Report

SPIRITS = 4
MODES = ("shared", "queues", "exclusive")
KINDS: dict[str, dict[str, Any]] = {
    "light": {"connections": 2},
    "busy": {"connections": 32},
    "work": {"connections": 16, "path": "/work"},
    "stuck": {"connections": 64, "rate": 400, "slow": 0.05},
}

SCRIPT = """
import json, os, select, sys, time
sys.path.insert(0, {source!r})
from ghostd import Prefork

MODE, PORT = sys.argv[1], int(sys.argv[2])
ANSWER = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: 2\\r\\n"

class Server(Prefork):
    def init(self):
        for sock in self.sockets.values():
            sock.setblocking(False)

    def spirit(self):
        (sock,) = self.sockets.values()
        poll = select.epoll()
        exclusive = select.EPOLLEXCLUSIVE if MODE == "exclusive" else 0
        poll.register(sock, select.EPOLLIN | exclusive)
        head = ANSWER + b"x-pid: %d\\r\\n\\r\\nok" % os.getpid()
        woken = empty = 0
        while self.tick():
            for _ in poll.poll(0.1):
                woken += 1
                served = 0
                while True:
                    try:
                        client, _address = sock.accept()
                    except BlockingIOError:
                        break
                    served += 1
                    with client:
                        client.settimeout(5)
                        request = client.recv(4096)
                        if request.startswith(b"GET /work"):
                            end = time.thread_time() + 0.0005
                            while time.thread_time() < end:
                                pass
                        elif request.startswith(b"GET /slow"):
                            time.sleep(0.02)
                        client.sendall(head)
                empty += not served
        with open(f"counts-{{os.getpid()}}", "w") as file:
            json.dump([woken, empty], file)

sys.exit(Server(listen=[f"127.0.0.1:{{PORT}}"], reuseport=MODE == "queues",
                spirits={spirits}, logfile="log", term="immediate",
                pidfile="pid").ctrl("run"))
"""


class Server:
    """A pool that serves, in a folder and a session of its own."""

    def __init__(self, mode: str) -> None:
        """Start it, and wait until all spirits are there."""
        self.home = Path(tempfile.mkdtemp(prefix="ghostd-bench-"))
        script = self.home / "server.py"
        script.write_text(SCRIPT.format(source=str(SOURCE), spirits=SPIRITS))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, str(script), mode, str(port)],
            cwd=self.home,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - we have no threads
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        until(lambda: self._healthy() == SPIRITS, f"{SPIRITS} spirits")

    def _healthy(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.home / "log").read_text().count(" is healthy")
        return 0

    def close(self) -> tuple[int, int]:
        """Stop it; give how often its spirits were woken, and how often for nothing."""
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        counts = [json.loads(p.read_text()) for p in self.home.glob("counts-*")]
        shutil.rmtree(self.home)
        return sum(each[0] for each in counts), sum(each[1] for each in counts)


def measure(mode: str, kind: str, seconds: float) -> tuple[Report, int, int]:
    """Serve so long in one way; give the report, wake-ups, and those for nothing."""
    server = Server(mode)
    woken = empty = 0
    try:
        options = {"keepalive": False, **KINDS[kind]}
        with Load(server.address, requests=200, **options) as warm:
            warm.wait()
        with Load(server.address, seconds=seconds, **options) as load:
            report = load.wait()
    finally:
        woken, empty = server.close()
    assert not report.failed, report
    return report, woken, empty


def shares(reports: list[Report]) -> list[int]:
    """Give the share of each spirit in percent, the median of the turns, falling."""
    rows = []
    for report in reports:
        counts = sorted(report.balance.values(), reverse=True)
        counts += [0] * (SPIRITS - len(counts))
        rows.append([100 * count / report.good for count in counts])
    return [round(statistics.median(column)) for column in zip(*rows, strict=True)]


def queues(options: Namespace) -> Iterator[Figure]:
    """Take the ways in turns, each with a fresh start."""
    turns, seconds = (2, 0.7) if options.short else (7, 2.0)
    for kind in KINDS:
        found: dict[str, list[tuple[Report, int, int]]] = {mode: [] for mode in MODES}
        for _ in range(turns):
            for mode in MODES:
                found[mode].append(measure(mode, kind, seconds))
        floor = [report.percentile(99) * 1000 for report, _, _ in found["shared"]]
        for mode in MODES:
            reports = [report for report, _, _ in found[mode]]
            woken = sum(each[1] for each in found[mode])
            empty = sum(each[2] for each in found[mode])
            yield Figure(
                f"queues.{kind}.{mode}",
                "ms",
                [report.percentile(99) * 1000 for report in reports],
                floor,
                share_percent=shares(reports),
                per_second=round(statistics.median(each.rate for each in reports)),
                p50_ms=rounded(
                    statistics.median(each.percentile(50) for each in reports) * 1000
                ),
                empty_wakeups_percent=rounded(100 * empty / max(1, woken)),
            )


if __name__ == "__main__":
    sys.exit(main(queues))
