"""Listening: who has which socket, in all processes, and that nothing is lost there."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers import NOBODY
from tests.process.scripts import pool

from ghostd.testing import Daemon, Load
from ghostd.testing.load import Outcome, Report

SERVE = """
def answer(self, client):
    with client:
        client.settimeout(5)
        try:
            while b"\\r\\n\\r\\n" not in client.recv(4096, socket.MSG_PEEK):
                time.sleep(0.001)
            client.recv(4096)
            client.sendall(
                b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\nconnection: close\\r\\n"
                b"x-pid: %d\\r\\n\\r\\nok" % os.getpid()
            )
        except OSError:
            pass

def spirit(self):
    self.log.info("slot %d has %s", self.slot, self.sockets)
    for sock in self.sockets.values():
        sock.setblocking(False)
    while self.wait(5, *self.sockets.values()):
        for sock in self.sockets.values():
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                continue
            client.setblocking(True)
            self.answer(client)
    for client in self.sockets.leftovers(0.1):
        self.answer(client)
"""
HEAD = "import socket\n"

KINDS = [(False, False), (True, False), (True, True)]
"""With `reuseport`, and also with a mold in between."""


def serving(*members: str, **settings: object) -> str:
    listen = settings.pop("listen", f"127.0.0.1:{free_port()}")
    return pool(
        *members,
        SERVE,
        head=HEAD,
        listen=listen,
        **{"term": "immediate", **settings},
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def address(d: Daemon) -> str:
    """Give what the first address turned out to be."""
    return d.wait_for_line("Listening on ").split()[-1]


def up(d: Daemon, number: int = 2) -> None:
    d.start()
    d.wait_for(lambda: d.healthy == number == len(d.spirits))


def sockets_of(d: Daemon, pid: int) -> set[str]:
    return {n for n in d.descriptors(pid).values() if n.startswith("socket:")}


def lost(report: Report) -> list[object]:
    """List the requests that were lost: who is refused can go elsewhere."""
    return [each for each in report.failed if each.outcome != Outcome.REFUSED]


# -- who has them --------------------------------------------------------------


def test_hooks_and_spirits_find_them_by_name_in_their_order(tmp_path: Path) -> None:
    members = """
    def preinit(self):
        assert not self.sockets and self.sockets.get("web") is None
        self.before = dict(self.sockets)

    def init(self):
        ports = [sock.getsockname() for sock in self.sockets.values()]
        self.log.info("init %s %s", list(self.sockets), len(ports))

    def heartbeat(self, pid):
        self.log.info("manager %s", self.sockets["web"].getsockname()[1] > 0)

    def cleanup(self, scope):
        self.log.info("cleanup %s", list(self.sockets))
    """
    path = tmp_path / "shop.sock"
    listen = [f"unix:{path}?mode=660&name=local", "127.0.0.1:0?name=web"]
    with Daemon(serving(members, listen=listen)) as d:
        up(d)
        d.wait_for_line("init ['local', 'web'] 2")
        d.wait_for_line("manager True")
        for slot in range(2):
            line = d.wait_for_line(f"slot {slot} has <sockets 'local': unix:{path}, ")
            assert "'web': 127.0.0.1:" in line
        assert path.stat().st_mode & 0o777 == 0o660
        for where in (f"unix:{path}", f"127.0.0.1:{line.split(':')[-1][:-1]}"):
            with Load(where, requests=20) as load:
                assert load.wait().good == 20
        d.stop()
        assert d.log_lines("cleanup ['local', 'web']")
        assert not path.exists()


@pytest.mark.parametrize(("reuseport", "preload"), KINDS)
def test_nobody_has_a_socket_of_another_nor_has_what_it_starts(
    reuseport: bool, preload: bool
) -> None:
    members = """
    def spirit(self):
        code = "import sys; sys.stdin.read()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        forked = os.fork()
        if forked == 0:
            signal.pause()
        self.log.info("%d has %d and %d", os.getpid(), child.pid, forked)
        while self.tick():
            self.wait(5)
    """
    script = pool(
        members,
        listen=["127.0.0.1:0", "[::1]:0", "udp:127.0.0.1:0"],
        reuseport=reuseport,
        preload=preload,
        spirits=3,
        control="",
    )
    with Daemon(script) as d:
        up(d, 3)
        killed = d.kill_spirit(d.spirits[1])
        d.wait_for(lambda: d.healthy == 3 and killed not in d.spirits)
        manager = sockets_of(d, d.pid)
        theirs = [sockets_of(d, pid) for pid in d.spirits]

        for pid, own in zip(d.spirits, theirs, strict=True):
            line = d.wait_for_line(f"] {pid} has ")
            started, forked = map(int, line.split(" has ")[1].split(" and "))
            assert len(own) == 3
            assert own <= manager
            assert not sockets_of(d, started)
            assert sockets_of(d, forked) == own
        if reuseport:
            assert len(set.union(*theirs)) == 9, "they have one in common"
            assert len(manager) == 3 * (3 + 2)
        else:
            assert theirs == [manager] * 3
        for line in d.log_lines(" has ", " and "):
            for pid in map(int, line.split(" has ")[1].split(" and ")):
                d.signal(signal.SIGKILL, pid)


def test_a_pool_that_is_run_by_hand_listens_too(tmp_path: Path) -> None:
    path = tmp_path / "s"
    script = tmp_path / "by_hand.py"
    script.write_text(
        f"""
import os, signal, sys
from ghostd import Prefork

class G(Prefork):
    def spirit(self):
        assert self.sockets["s"].getsockname()
        sys.exit(self.tick(finished=True))

    def reap(self, pid):
        self.log.info("open %s", self.sockets["s"].fileno() > 0)
        os.kill(os.getpid(), signal.SIGTERM)

g = G(listen="unix:{path}?name=s", loghandle=sys.stdout, spirits=1, term="immediate")
for _ in range(2):
    assert not g.sockets
    assert g.startup() == 0
    assert not g.sockets
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "open True" in done.stdout
    assert "open False" not in done.stdout
    assert done.stdout.count(f"Listening on unix:{path}") == 2
    assert not path.exists()


def test_a_script_that_became_a_daemon_takes_the_name_away_at_its_end(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    script = f"""
import os, sys, time
from ghostd import Prefork

g = Prefork(spirit=lambda g: None, listen="unix:{path}?name=s", pidfile="d.pid",
            logfile="d.log")
if sys.argv[1] != "start":
    sys.exit(g.ctrl())
g.daemonize()
assert g.sockets["s"].getsockname()
if os.fork() == 0:
    sys.exit()  # a child that runs atexit functions
os.wait()
g.log.info("there %s", os.path.exists({str(path)!r}))
while g.wait(5):
    pass
"""
    with Daemon(script) as d:
        d.start()
        d.wait_for_line("there True")
        d.stop()
        assert not path.exists()


@pytest.mark.root
@pytest.mark.parametrize("reuseport", [False, True])
def test_a_privileged_port_is_opened_before_rights_are_given_up(
    reuseport: bool, open_folder: Path
) -> None:
    port = next(p for p in range(600, 1024) if is_free(p))
    path = open_folder / "s"
    script = serving(
        "def heartbeat(self, pid): self.log.info('I am %d', os.getuid())",
        listen=[f"127.0.0.1:{port}", f"unix:{path}?group=4242&mode=660"],
        user=NOBODY,
        group=NOBODY,
        reuseport=reuseport,
        spirits=1,
        spare=0,
    )
    with Daemon(script, descriptors=False) as d:
        up(d, 1)
        d.wait_for_line(f"I am {NOBODY}")
        info = path.stat()
        assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (NOBODY, 4242, 0o660)
        for number in (2, 3):
            d.signal(signal.SIGTTIN)
            d.wait_for(lambda n=number: d.healthy == n)  # type: ignore[misc]
        with Load(f"127.0.0.1:{port}", requests=60) as load:
            assert load.wait().good == 60
        shares = d.log_lines("[warn]", "2 queues on", "Permission denied")
        assert len(shares) == (1 if reuseport else 0)


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


# -- nothing is lost -----------------------------------------------------------


@pytest.mark.parametrize(("reuseport", "preload"), KINDS)
def test_nothing_is_lost_when_the_pool_reloads_grows_shrinks_and_stops(
    reuseport: bool, preload: bool
) -> None:
    script = serving(reuseport=reuseport, preload=preload, spirits=3)
    with Daemon(script, descriptors=False) as d:
        up(d, 3)
        with Load(address(d), connections=8, rate=400, keepalive=False) as load:
            load.more(100)
            before = set(d.spirits)
            d.signal(signal.SIGHUP)
            d.wait_for(lambda: not before.intersection(d.spirits) and d.healthy == 3)
            for number in (signal.SIGTTIN, signal.SIGTTOU):
                for _ in range(2):
                    d.signal(number)
                    load.more(60)
            d.wait_for(lambda: len(d.spirits) == 3)
            load.more(100)
            assert load.failed == 0
            d.stop()
            report = load.stop()
        assert not lost(report), report
        assert report.refused


def test_a_queue_is_not_lost_with_its_spirit() -> None:
    """What the dead one had accepted is lost, what waited is answered by the next."""
    with Daemon(serving(reuseport=True, spirits=1, spare=0)) as d:
        up(d, 1)
        (victim,) = d.spirits
        d.signal(signal.SIGSTOP, victim)
        name, _, port = address(d).rpartition(":")
        clients = [socket.create_connection((name, int(port))) for _ in range(20)]
        d.kill_spirit(victim)
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        heard = [client.recv(999) for client in clients]
        for client in clients:
            client.close()

        assert all(each.startswith(b"HTTP/1.1 200") for each in heard)


def test_each_slot_has_its_share() -> None:
    with Daemon(serving(reuseport=True, spirits=4)) as d:
        up(d, 4)
        with Load(address(d), requests=400, keepalive=False, connections=4) as load:
            report = load.wait()

        assert report.good == 400
        assert set(report.balance) == set(d.spirits)
        assert min(report.balance.values()) > 50, report.balance
