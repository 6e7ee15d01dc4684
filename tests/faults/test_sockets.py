"""Addresses that cannot be had, names of others, sockets of an init system."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostd.testing import Daemon
from ghostd.testing.daemon import Foreground
from tests.faults import kit

BODY = """
class Service(Prefork):
    def init(self):
        for sock in self.sockets.values():
            sock.setblocking(False)
        passed = [name for name in os.environ if name.startswith("LISTEN_")]
        self.log.info("listening on %s, told by %s", list(self.sockets), passed)

    def answer(self, name, client):
        with client:
            client.sendall(f"{name} {self.slot} {os.getpid()}".encode())

    def spirit(self):
        while self.wait(0.5, *self.sockets.values()):
            for name, sock in self.sockets.items():
                try:
                    self.answer(name, sock.accept()[0])
                except BlockingIOError:
                    pass
        for client in self.sockets.leftovers(0.1):
            self.answer("last", client)
"""


def listening(*listen: str, **more: object) -> Daemon:
    settings = {"spirits": 2, "listen": listen, "control": "", **more}
    return kit.service(BODY, **settings)  # type: ignore[arg-type]  # of its signature


def ask(where: str | Path | tuple[str, int]) -> str:
    """Connect, and read who answers."""
    family = socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX
    with socket.socket(family) as client:
        client.settimeout(15)
        client.connect(where if isinstance(where, tuple) else str(where))
        return client.recv(99).decode()


def refused(d: Daemon, words: str, *before: str) -> str:
    """Have a start refused, with nothing left behind; give what it said."""
    files = {p: p.lstat().st_ino for p in d.folder.rglob("*") if not same(p, d)}
    ended = kit.start_by(d, *before)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("service did not start: cannot listen on ")
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    kit.nothing_runs(d)
    after = {p: p.lstat().st_ino for p in d.folder.rglob("*") if not same(p, d)}
    assert after == files
    return ended.stderr


def same(path: Path, d: Daemon) -> bool:
    return path == d.logfile


@contextlib.contextmanager
def taken(kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[int]:
    """Have a port that somebody listens on."""
    with socket.socket(type=kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield int(sock.getsockname()[1])


def free_port() -> int:
    with taken() as port:
        return port


# -- addresses -----------------------------------------------------------------


def test_an_address_in_use_is_told_by_run_when_the_log_is_standard_error() -> None:
    with taken() as port, listening(f"127.0.0.1:{port}", logfile=None) as d:
        ended = d.ctrl("run")

        assert ended.returncode == 1
        assert ended.stderr.count("Address already in use") == 1


@pytest.mark.parametrize("reuseport", [False, True])
def test_an_address_in_use_is_told_by_start(reuseport: bool) -> None:
    with taken() as port, taken(socket.SOCK_DGRAM) as udp:
        for where in (f"127.0.0.1:{port}", f"udp:127.0.0.1:{udp}"):
            with listening("unix:s", where, reuseport=reuseport) as d:
                told = refused(d, f"listen on {where}: Address already in use\n")
                assert "tells who" in told


def test_run_and_restart_tell_it_too_and_a_restart_stops_nobody_in_vain() -> None:
    port = free_port()
    with listening(f"127.0.0.1:{port}") as d:
        kit.up(d, 2)
        other = d.folder / "other.py"
        shutil.copy(d.script, other)
        settings = {**kit.PLAIN, "listen": f"127.0.0.1:{port}", "pidfile": "other.pid"}
        ended = d.run(
            "env", f"SETTINGS={json.dumps(settings)}", sys.executable, str(other), "run"
        )
        assert ended.returncode == 1
        assert "Address already in use" in ended.stderr
        before = d.pid
        assert d.ctrl("restart").returncode == 0
        d.wait_for(kit.healthy(d, 2))
        assert d.pid != before
        assert ask(("127.0.0.1", port))

        settings = {**kit.PLAIN, "listen": "systemd:web"}
        ended = d.run(
            "env",
            f"SETTINGS={json.dumps(settings)}",
            sys.executable,
            str(d.script),
            "restart",
        )
        assert ended.returncode == 1
        assert "LISTEN_PID is not set" in ended.stderr
        assert ask(("127.0.0.1", port))


@pytest.mark.root
def test_a_privileged_port_needs_rights() -> None:
    with listening("127.0.0.1:80") as d:
        os.chown(d.folder, kit.STRANGER, kit.STRANGER)
        told = refused(d, "127.0.0.1:80: Permission denied", *kit.as_stranger())
        assert "Ports below 1024 are root's" in told


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("192.0.2.1:80", "192.0.2.1:80: Cannot assign requested address"),
        ("unix:/no/such/folder/s", "unix:/no/such/folder/s: folder /no/such/folder"),
        ("unix:s?user=no-such-user", "unix:s: user is 'no-such-user'"),
        ("fd:99", "fd:99: descriptor 99 is not open"),
        ("systemd:web", "systemd:web: no init system passed any"),
    ],
)
def test_an_address_that_is_not_there_is_told_by_start(where: str, words: str) -> None:
    with listening("127.0.0.1:0", where) as d:
        refused(d, words)


def test_a_mistake_of_spelling_is_told_before_anything_is_done() -> None:
    with listening("127.0.0.1:99999") as d:
        ended = d.ctrl("start")
        assert "listen is '127.0.0.1:99999': port is '99999'" in ended.stderr
        assert not kit.leftovers(d)


# -- names in the file system --------------------------------------------------


def test_the_socket_of_a_killed_daemon_is_replaced_once_nobody_listens() -> None:
    with listening("unix:s", f"127.0.0.1:{free_port()}", reuseport=True) as d:
        kit.up(d, 2)
        spirits = d.spirits
        for pid in spirits:
            d.signal(signal.SIGSTOP, pid)
        d.signal(signal.SIGKILL)
        assert "already in use: somebody listens there" in refused_beside(d)
        for pid in spirits:
            kit.send_anyway(pid, signal.SIGKILL)
        d.wait_for(lambda: all(map(kit.is_gone, spirits)))
        dead = (d.folder / "s").stat().st_ino

        kit.up(d, 2)
        assert ask(d.folder / "s").startswith("unix:s ")
        assert (d.folder / "s").stat().st_ino != dead
        d.stop()
        assert not os.path.lexists(d.folder / "s")


def refused_beside(d: Daemon) -> str:
    ended = d.ctrl("start")
    assert ended.returncode == 1
    return ended.stderr


def test_what_lies_in_its_place_is_not_touched() -> None:
    with listening("unix:s") as d:
        path = d.folder / "s"
        victim = d.folder / "victim"
        victim.write_text("precious")
        path.symlink_to(victim)
        refused(d, "there is a symbolic link, which may have been planted")
        path.unlink()
        path.write_text("precious, too")
        refused(d, "there is a regular file; it was not touched")
        assert path.read_text() == "precious, too"
        path.unlink()
        path.mkdir()
        refused(d, "there is a folder")
        path.rmdir()

        kit.up(d, 2)  # and with nothing in its place
        assert victim.read_text() == "precious"


@pytest.mark.root
def test_a_dead_socket_of_another_user_is_not_touched() -> None:
    with listening("unix:s") as d:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(d.folder / "s"))
        os.chown(d.folder / "s", kit.STRANGER, kit.STRANGER)
        refused(d, f"there is a dead socket of user {kit.STRANGER}; it was not touched")


@pytest.mark.root
def test_the_dead_socket_of_a_daemon_that_gave_up_its_rights_is_replaced() -> None:
    """It could not remove it from root's folder; whose it is says that it is its."""
    user = {"user": kit.STRANGER, "group": kit.STRANGER}
    with listening("unix:s?mode=640", **user) as d:
        for _ in range(2):
            kit.up(d, 2)
            info = (d.folder / "s").stat()
            assert (info.st_uid, info.st_gid) == (kit.STRANGER, kit.STRANGER)
            assert info.st_mode & 0o777 == 0o640
            d.stop()
            assert os.path.lexists(d.folder / "s")


def test_a_name_that_has_become_somebody_elses_is_left_to_them() -> None:
    with listening("unix:s") as d:
        kit.up(d, 2)
        (d.folder / "s").unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(d.folder / "s"))
            d.stop()
            assert (d.folder / "s").is_socket()


def test_a_long_path_works() -> None:
    with listening(f"unix:{'long' * 30}/s?name=s") as d:
        folder = d.folder / ("long" * 30)
        folder.mkdir()
        kit.up(d, 2)
        fd = os.open(folder, os.O_PATH)
        assert ask(f"/proc/self/fd/{fd}/s").startswith("s ")
        os.close(fd)
        d.stop()
        assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("call", "error", "numbers"),
    [
        ("socket", "EMFILE", (2, 4)),
        ("bind", "ENOMEM", (1, 3)),
        ("listen", "EADDRINUSE", (1, 3)),
        ("setsockopt", "ENOPROTOOPT", (4,)),
        ("link,linkat", "EIO", (2,)),
        ("umask", "ENOSYS", (3,)),
    ],
)
def test_an_error_at_any_call_of_opening_is_survived_or_told(
    call: str, error: str, numbers: tuple[int, ...]
) -> None:
    """Like `test_start`, for what a start does only if it listens."""
    with listening("unix:s", "127.0.0.1:0", "[::1]:0", reuseport=True, spare=0) as d:
        for number in numbers:
            trace = d.folder / f"strace-{number}"
            program = kit.background(
                d,
                *(kit.need("strace"), "-fqqo", str(trace), "-e", f"trace={call}"),
                *("-e", f"inject={call}:error={error}:when={number}"),
                *(sys.executable, str(d.script), "start"),
            )
            # It traces the daemon, too, and ends with it.
            d.wait_for(lambda: kit.healthy(d, 2)() or not d.processes)
            assert "INJECTED)" in trace.read_text()
            if d.pid:
                d.stop()
            kit.nothing_runs(d)
            if program.returncode:
                assert program.stderr.startswith("service did not start: ")
            assert not os.path.lexists(d.folder / "s")
            assert not kit.leftovers(d)


# -- what others opened --------------------------------------------------------

HAND_OVER = """
import os, socket, sys
sock = socket.socket()
sock.bind(("127.0.0.1", int(sys.argv[1])))
os.dup2(sock.fileno(), 9)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.parametrize("command", ["start", "run"])
def test_a_descriptor_that_the_caller_opened_is_served(command: str) -> None:
    port = free_port()
    with listening("fd:9?name=web") as d:
        words = ("-c", HAND_OVER, str(port), sys.executable, str(d.script), command)
        served(d, d.run_foreground(*words[2:], python=words[:2]), command)
        assert ask(("127.0.0.1", port)).startswith("web ")
        for pid in (d.pid, *d.spirits):
            # A spirit closes the connection a moment after its client has read it all.
            d.wait_for(lambda pid=pid: len(sockets_of(d, pid)) == 1)  # type: ignore[misc]


def sockets_of(d: Daemon, pid: int) -> set[str]:
    return {n for n in d.descriptors(pid).values() if n.startswith("socket:")}


def served(d: Daemon, program: Foreground, command: str) -> None:
    if command == "start":
        assert program.wait() == 0, program.stderr
    d.wait_for(kit.healthy(d, 2))


@contextlib.contextmanager
def socket_activated(
    d: Daemon, command: str, names: str, *where: str
) -> Iterator[Foreground]:
    """Have systemd's own program listen, and start the daemon at the first client."""
    options = [word for each in where for word in ("-l", each)]
    variables = ("SETTINGS", "PYTHONPATH", "PATH")
    passed = [f"--setenv={name}" for name in variables if name in os.environ]
    settings = d._environment["SETTINGS"]  # noqa: SLF001 - it cannot be given on
    program = kit.background(
        d,
        *(kit.need("systemd-socket-activate", "systemd"), *options),
        *(f"--fdname={names}", *passed, f"--setenv=SETTINGS={settings}"),
        *(sys.executable, str(d.script), command),
    )
    d.wait_for(lambda: "Listening on" in program.stderr, what="systemd's program")
    yield program


@pytest.mark.parametrize("command", ["start", "run"])
def test_a_daemon_that_systemd_activates_finds_its_sockets_by_name(
    command: str,
) -> None:
    web, admin = free_port(), free_port()
    with (
        listening("systemd:admin", "systemd:web?name=shop", reuseport=True) as d,
        socket_activated(
            d, command, "web:admin", f"127.0.0.1:{web}", f"127.0.0.1:{admin}"
        ) as program,
    ):
        # The one who makes it start is answered, too.
        assert ask(("127.0.0.1", web)).startswith("shop ")
        served(d, program, command)
        assert ask(("127.0.0.1", admin)).startswith("systemd:admin ")
        d.wait_for_line("listening on ['systemd:admin', 'shop'], told by []")
        kept = sockets_of(d, d.pid)
        assert len(kept) == 2
        for pid in d.spirits:
            d.wait_for(lambda pid=pid: sockets_of(d, pid) == kept)  # type: ignore[misc]
        d.stop()


def test_the_name_of_systemds_unix_socket_is_not_ours_to_remove() -> None:
    with listening("systemd:?name=s") as d:
        path = d.folder / "s"
        with socket_activated(d, "start", "x", str(path)) as program:
            assert ask(path).startswith("s ")
            served(d, program, "start")
            d.stop()
            assert path.is_socket()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, "they are for process 1 (LISTEN_PID)"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is '-1'"),
        ({"LISTEN_FDS": "1000000"}, "LISTEN_FDS is '1000000'"),
        ({"LISTEN_FDS": "7"}, "descriptor 3 is not open"),
    ],
)
def test_nonsense_in_the_variables_is_told(
    variables: dict[str, str], words: str
) -> None:
    code = (
        "import os, sys; os.environ.setdefault('LISTEN_PID', str(os.getpid()));"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with listening("systemd:") as d:
        words_of_env = [f"{name}={value}" for name, value in variables.items()]
        refused(d, words, "env", *words_of_env, sys.executable, "-c", code)


# -- kernels that cannot choose ------------------------------------------------


def test_where_no_queue_can_be_chosen_one_is_shared_and_nothing_else_changes() -> None:
    port = free_port()
    with listening(
        f"127.0.0.1:{port}", reuseport=True, env={"GHOSTD_CLOSED_DOORS": "filter"}
    ) as d:
        kit.up(d, 2)
        d.wait_for_line("[warn]", f"One queue for all spirits on 127.0.0.1:{port}")
        dead = d.kill_spirit()
        d.wait_for(lambda: dead not in d.spirits and kit.healthy(d, 2)())
        d.signal(signal.SIGHUP)
        d.wait_for_line("has replaced all others")
        assert ask(("127.0.0.1", port))
