"""Files that somebody planted, and files that are none."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostd.testing import Daemon
from ghostd.testing.daemon import Foreground
from tests.faults import kit

CANARY = "root:x:0:0\n"

FORGER = """
import fcntl, os, sys, time
path, number, mode = sys.argv[1], sys.argv[2], int(sys.argv[3], 8)
file = open(path, "r+" if os.path.exists(path) and os.access(path, os.W_OK) else
            "r" if os.path.exists(path) else "w+")
if file.writable():
    file.write((number if number != "self" else str(os.getpid())) + "\\n")
    file.flush()
    if os.stat(path).st_uid == os.geteuid():
        os.fchmod(file.fileno(), mode)
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
while True:
    time.sleep(60)
"""

DECOY = """
import signal, sys
caught = []
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, lambda n, f: print("caught", n, flush=True))
    except OSError:
        pass
print("ready", flush=True)
while True:
    signal.pause()
"""


@contextlib.contextmanager
def public_folder(d: Daemon) -> Iterator[Path]:
    """Make a folder like /tmp, in which a stranger has put something."""
    folder = d.folder / "public"
    folder.mkdir()
    folder.chmod(0o1777)
    canary = d.folder / "canary"
    canary.write_text(CANARY)
    canary.chmod(0o600)
    yield folder
    assert canary.read_text() == CANARY
    assert canary.stat().st_mode & 0o777 == 0o600
    assert canary.stat().st_uid == 0


def plant(target: Path, link: Path) -> None:
    """Have the stranger own a symbolic link."""
    link.symlink_to(target)
    os.lchown(link, kit.STRANGER, kit.STRANGER)
    assert link.lstat().st_uid == kit.STRANGER


def refused(d: Daemon, *words: str) -> None:
    began = time.monotonic()
    ended = d.ctrl("start", limit=10)
    assert ended.returncode == 1, ended
    for word in words:
        assert word in ended.stderr
    assert not ended.stdout
    assert time.monotonic() - began < 5
    kit.nothing_runs(d)
    assert not list(d.folder.rglob("*.new"))


@pytest.mark.root
@pytest.mark.parametrize("target", ["canary", "nowhere"])
def test_a_planted_log_link_is_not_followed_by_root(target: str) -> None:
    with kit.service(logfile="public/service.log") as d, public_folder(d) as folder:
        plant(d.folder / target, folder / "service.log")

        # Where fs.protected_symlinks is 1 the kernel is faster, in its own words.
        refused(d, "log ")
        assert not (d.folder / "nowhere").exists()
        assert not kit.leftovers(d)


@pytest.mark.root
def test_a_log_that_becomes_a_planted_link_is_not_followed_on_reopening() -> None:
    with kit.service(logfile="public/service.log") as d, public_folder(d) as folder:
        kit.up(d)
        (folder / "service.log").unlink()
        plant(d.folder / "canary", folder / "service.log")
        d.signal(signal.SIGUSR1)
        dead = d.kill_spirit()

        d.wait_for(lambda: dead not in d.spirits and len(d.spirits) == 3)


@pytest.mark.root
def test_a_hard_link_is_no_log_for_root() -> None:
    with kit.service(logfile="public/service.log") as d, public_folder(d) as folder:
        os.link(d.folder / "canary", folder / "service.log")

        refused(d, "has 2 names")
        assert not kit.leftovers(d)


@pytest.mark.root
@pytest.mark.parametrize("target", ["canary", "nowhere"])
def test_a_planted_pidfile_link_is_not_followed_by_root(target: str) -> None:
    with kit.service(pidfile="public/service.pid") as d, public_folder(d) as folder:
        plant(d.folder / target, folder / "service.pid")

        refused(d, "pidfile", "symbolic link")
        assert not (d.folder / "nowhere").exists()
        assert d.ctrl("status").returncode == 4
        assert d.ctrl("stop").returncode == 1
        (folder / "service.pid").unlink()


@pytest.mark.root
def test_a_pidfile_of_root_does_not_go_where_anybody_could_swap_it() -> None:
    with kit.service(pidfile="open/service.pid") as d:
        (d.folder / "open").mkdir()
        (d.folder / "open").chmod(0o777)

        refused(d, "anybody may change files")


@pytest.mark.parametrize("kind", ["fifo", "folder", "socket", "device", "loop"])
def test_a_pidfile_that_is_no_file_is_refused_and_never_waited_for(kind: str) -> None:
    with kit.service() as d:
        path = d.pidfile
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "socket":
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.bind(str(path))
            case "device":
                if os.geteuid():
                    pytest.skip("only root can make a device")
                os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))
            case _:
                path.symlink_to(path.name)

        refused(d, "pidfile")
        assert d.ctrl("status", limit=10).returncode == 4
        assert d.ctrl("stop", limit=10).returncode == 1
        path.rmdir() if kind == "folder" else path.unlink()


@pytest.mark.parametrize(
    "text",
    [b"", b"\0" * 8, b"-1\n", b"0\n", b"1_0\n", b"1" * 40, b"%d x\n" % os.getpid()],
)
def test_a_pidfile_full_of_nonsense_stops_nobody_and_no_start(text: bytes) -> None:
    with kit.service() as d:
        d.pidfile.write_bytes(text)

        assert d.ctrl("status").returncode == 1
        d.start()


@pytest.mark.parametrize("text", [b"", b"-1\n", b"0\n", b"99999999999999999999\n"])
def test_a_locked_pidfile_full_of_nonsense_signals_nobody(text: bytes) -> None:
    """kill(-1) is everybody, kill(0) the own group."""
    with kit.service() as d:
        d.pidfile.write_bytes(text)
        with open(d.pidfile) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert d.ctrl("status").returncode == 4
            assert d.ctrl("stop").returncode == 1
            refused(d, "pidfile", "locked")
        d.pidfile.unlink()


def test_a_pipe_that_nobody_reads_is_no_log() -> None:
    with kit.service() as d:
        os.mkfifo(d.folder / "service.log")

        refused(d, "log ", "a pipe that nobody reads")
        assert not kit.leftovers(d)


def a_decoy(d: Daemon) -> Foreground:
    decoy = kit.background(d, sys.executable, "-c", DECOY)
    d.wait_for(lambda: "ready" in decoy.stdout)
    return decoy


def forged(d: Daemon, number: str, mode: str, *, by: tuple[str, ...]) -> Foreground:
    """Have somebody lock a pidfile, with a number in it if it is theirs to write."""
    words = (sys.executable, "-c", FORGER, str(d.pidfile), number, mode)
    forger = kit.background(d, *by, *words)
    d.wait_for(lambda: "locked" in forger.stdout, what="a forged lock")
    return forger


def end(d: Daemon, *programs: Foreground) -> None:
    for program in programs:
        program.signal(signal.SIGKILL)
        program.wait()
    d.pidfile.unlink(missing_ok=True)


@pytest.mark.root
@pytest.mark.parametrize(
    "case", ["number of a stranger", "own number, writable by all"]
)
def test_root_does_not_signal_on_a_users_word(case: str) -> None:
    with kit.service(pidfile="theirs/service.pid") as d:
        (d.folder / "theirs").mkdir()
        os.chown(d.folder / "theirs", kit.STRANGER, kit.STRANGER)
        decoy = a_decoy(d)
        stranger = case == "number of a stranger"
        number, mode = (str(decoy.pid), "644") if stranger else ("self", "664")
        forger = forged(d, number, mode, by=kit.as_stranger())
        assert d.pidfile.stat().st_uid == kit.STRANGER

        for command in ("stop", "restart", "reload"):
            ended = d.ctrl(command)
            assert ended.returncode == 1
            words = "lock is held by" if stranger else "root does not act on it"
            assert words in ended.stderr
        assert d.ctrl("status").returncode == 4
        assert decoy.returncode is forger.returncode is None
        assert decoy.stdout == "ready\n"
        end(d, decoy, forger)


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_root_does_not_signal_on_the_word_of_who_may_write_its_file(mode: int) -> None:
    with kit.service() as d:
        decoy = a_decoy(d)
        d.pidfile.write_text("1\n")
        os.chown(d.pidfile, 0, kit.STRANGER if mode & 0o020 else 0)
        d.pidfile.chmod(mode)
        forger = forged(d, str(decoy.pid), "0", by=kit.as_stranger())
        assert d.pidfile.read_text() == f"{decoy.pid}\n"

        assert d.ctrl("stop").returncode == 1
        assert decoy.stdout == "ready\n"
        end(d, decoy, forger)


@pytest.mark.root
def test_a_lock_on_a_dead_daemons_file_is_no_daemon() -> None:
    """Whoever can read a file can lock it; the number in it may be a stranger's now."""
    with kit.service() as d:
        decoy = a_decoy(d)
        d.pidfile.write_text(f"{decoy.pid}\n")
        d.pidfile.chmod(0o644)
        forger = forged(d, "0", "0", by=kit.as_stranger())
        assert d.pidfile.read_text() == f"{decoy.pid}\n"

        assert d.ctrl("stop").returncode == 1
        assert decoy.stdout == "ready\n"
        end(d, decoy, forger)
