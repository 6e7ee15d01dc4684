"""The pidfile: only the lock counts, whatever lies at the path."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import NOBODY, in_child, living_child, wait_for

from ghostd.errors import AlreadyRunning, PidfileError
from ghostd.unix import doors
from ghostd.unix.pidfile import Pidfile

NO_NUMBERS = [
    b"",
    b"\n",
    b"-1",
    b"0",
    b"00",
    b"012",
    b"1_000",
    b"+5",
    b" 12",
    b"12 ",
    b"12\n\n",
    b"12\n13",
    b"0x1f",
    b"1e3",
    b"12.0",
    b"12\0",
    b"\xff\xfe",
    "١٢".encode(),
    b"99999999999",
    b"99999999999999999999999",
    b"a daemon",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "d.pid"


@contextlib.contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Lock a file as somebody else would: on a descriptor of its own."""
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, kind)
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def taken(path: Path) -> Iterator[Pidfile]:
    """Take a pidfile, and release it."""
    pidfile = Pidfile(str(path))
    pidfile.take()
    try:
        yield pidfile
    finally:
        pidfile.release()


# -- asking ------------------------------------------------------------------------


def test_no_file_means_that_none_runs(path: Path) -> None:
    assert Pidfile(str(path)).running() == 0
    assert not Pidfile(str(path)).exists()


def test_no_folder_means_that_none_runs(tmp_path: Path) -> None:
    assert Pidfile(str(tmp_path / "no" / "d.pid")).running() == 0


def test_a_locked_number_means_running(path: Path) -> None:
    for text in (b"%d" % os.getpid(), b"%d\n" % os.getpid()):
        path.write_bytes(text)
        with locked(path):
            assert Pidfile(str(path)).running() == os.getpid()


def test_a_number_without_a_lock_is_stale_though_its_process_lives(path: Path) -> None:
    """F4, F5: after a crash or a reboot the number may be a stranger's, or ours."""
    for pid in (1, os.getpid(), os.getppid()):
        path.write_text(f"{pid}\n")
        assert Pidfile(str(path)).running() == 0


@pytest.mark.parametrize("text", NO_NUMBERS, ids=repr)
def test_a_locked_file_without_a_number_is_nobodys(path: Path, text: bytes) -> None:
    """F2, F3: kill(-1) is everybody, kill(0) is our own group."""
    path.write_bytes(text)
    with locked(path), pytest.raises(PidfileError, match="no pid"):
        Pidfile(str(path)).running()


@pytest.mark.parametrize("text", NO_NUMBERS, ids=repr)
def test_an_unlocked_file_without_a_number_is_stale(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    assert Pidfile(str(path)).running() == 0
    with taken(path) as pidfile:
        assert pidfile.running() == os.getpid()


def test_a_gigabyte_is_not_read(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)
    began = time.monotonic()
    assert Pidfile(str(path)).running() == 0
    with locked(path), pytest.raises(PidfileError, match="no pid"):
        Pidfile(str(path)).running()
    assert time.monotonic() - began < 1


def test_somebody_who_only_looks_is_not_a_daemon(path: Path) -> None:
    path.write_text(f"{os.getpid()}\n")
    with locked(path, fcntl.LOCK_SH):
        assert Pidfile(str(path)).running() == 0


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def make_link_to_a_file(path: Path) -> None:
    target = path.with_name("target")
    target.write_text(f"{os.getpid()}\n")
    path.symlink_to(target)


def make_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


HOSTILE = [
    make_fifo,
    make_folder,
    make_loop,
    make_dangling_link,
    make_link_to_a_file,
    make_link_to_a_device,
    make_socket,
]


@pytest.mark.parametrize("make", HOSTILE)
def test_what_is_no_file_is_refused_and_left_alone(path: Path, make: object) -> None:
    """F2, F10: a FIFO would hang an open, a link may have been planted."""
    make(path)  # type: ignore[operator]
    before = os.lstat(path)
    pidfile = Pidfile(str(path))
    with pytest.raises(PidfileError, match=r"d\.pid"):
        pidfile.running()
    with pytest.raises(PidfileError, match=r"d\.pid"):
        pidfile.take()
    pidfile.clear_away()
    pidfile.release()

    assert os.lstat(path).st_ino == before.st_ino
    assert pidfile.exists()
    assert not pidfile.held
    assert not list(path.parent.glob("*.new"))


@pytest.mark.root
def test_a_device_is_refused(path: Path) -> None:
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this machine makes no devices")
    with pytest.raises(PidfileError, match=r"not a regular file|cannot be read"):
        Pidfile(str(path)).running()


def test_an_unreadable_file_is_said_to_be_one(open_folder: Path) -> None:
    path = open_folder / "d.pid"
    path.write_text("1\n")
    path.chmod(0)

    def ask() -> str:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        with pytest.raises(PidfileError) as caught:
            Pidfile(str(path)).running()
        return str(caught.value)

    assert "Permission denied" in in_child(ask)


# -- root and the files of others ------------------------------------------------------


@pytest.mark.root
def test_root_does_not_signal_on_the_word_of_a_user(path: Path) -> None:
    """F12: whoever owns the file chooses the number; here it would be ours."""
    path.write_text(f"{os.getpid()}\n")
    os.chown(path, NOBODY, NOBODY)
    with locked(path), pytest.raises(PidfileError, match="root does not act"):
        Pidfile(str(path)).running()


@pytest.mark.root
def test_root_believes_a_user_about_his_own_process(path: Path) -> None:
    def take() -> None:
        Pidfile(str(path)).take()
        os.chown(path, NOBODY, NOBODY)
        os.setuid(NOBODY)

    with living_child(take) as pid:
        assert Pidfile(str(path)).running() == pid
        path.chmod(0o666)
        with pytest.raises(PidfileError, match="root does not act"):
            Pidfile(str(path)).running()


@pytest.mark.root
def test_root_takes_no_pidfile_in_a_folder_that_anybody_may_change(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(PidfileError, match="anybody may change"):
        Pidfile(str(path)).take()
    path.parent.chmod(0o1777)
    with taken(path) as pidfile:
        assert pidfile.held


# -- taking --------------------------------------------------------------------------


def test_a_taken_file_holds_our_number_and_its_lock(path: Path) -> None:
    with taken(path) as pidfile:
        assert path.read_text() == f"{os.getpid()}\n"
        assert pidfile.held
        assert pidfile.running() == os.getpid()
        assert Pidfile(str(path)).running() == os.getpid()
        assert os.listdir(path.parent) == ["d.pid"]
    assert not pidfile.held
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_its_mode_does_not_depend_on_the_callers_mask(path: Path, umask: int) -> None:
    """F22."""

    def take() -> int:
        os.umask(umask)
        with taken(path):
            return stat.S_IMODE(path.stat().st_mode)

    assert in_child(take) == 0o644


def test_a_living_holder_is_named(path: Path) -> None:
    with living_child(Pidfile(str(path)).take) as pid:
        with pytest.raises(AlreadyRunning, match=str(pid)) as caught:
            Pidfile(str(path)).take()
        assert caught.value.pid == pid
        assert path.read_text() == f"{pid}\n"


def test_a_stale_file_is_replaced_not_overwritten(path: Path) -> None:
    """F9: whoever has it open keeps what he had."""
    path.write_text("1\n")
    with path.open() as old, taken(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert old.read() == "1\n"


def test_a_lock_without_a_living_number_gives_up_soon(path: Path) -> None:
    path.write_bytes(b"")
    with locked(path), pytest.raises(AlreadyRunning, match="another start"):
        Pidfile(str(path)).take()


def test_looking_does_not_keep_others_from_taking(path: Path) -> None:
    """A `status` holds the shared lock for an instant."""

    def look() -> None:
        while True:
            with contextlib.suppress(PidfileError):
                Pidfile(str(path)).running()

    path.write_text("1\n")
    pid = os.fork()
    if pid == 0:
        try:
            look()
        finally:
            os._exit(1)
    try:
        for _ in range(50):
            with taken(path):
                pass
            path.write_text("1\n")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_of_many_takers_one_wins(path: Path) -> None:
    """F6: real processes, a stale file, one starting shot; ten rounds."""
    for _ in range(10):
        path.write_text("1\n")
        gate, shot = os.pipe()
        answers, answer = os.pipe()
        pids = []
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(shot)
                    os.read(gate, 1)
                    try:
                        Pidfile(str(path)).take()
                    except AlreadyRunning:
                        os.write(answer, b"-")
                    else:
                        os.write(answer, b"+")
                    signal.pause()
                finally:
                    os._exit(1)
            pids.append(pid)
        os.close(gate)
        os.close(shot)
        heard = b""
        while len(heard) < 8:
            heard += os.read(answers, 8)
        number = int(path.read_text())
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(answers)
        os.close(answer)

        assert heard.count(b"+") == 1
        assert number in pids
        assert os.listdir(path.parent) == ["d.pid"]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(PidfileError, match="No such file or directory"):
        Pidfile(str(tmp_path / "no" / "d.pid")).take()


def test_a_closed_folder_is_said(open_folder: Path) -> None:
    def take() -> str:
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
        else:
            open_folder.chmod(0o555)
        with pytest.raises(PidfileError) as caught:
            Pidfile(str(open_folder / "d.pid")).take()
        return str(caught.value)

    assert "Permission denied" in in_child(take)
    open_folder.chmod(0o755)


def test_a_full_disk_leaves_nothing_behind(path: Path) -> None:
    """F1: the file appears complete or not at all."""

    def take() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        with pytest.raises(PidfileError) as caught:
            Pidfile(str(path)).take()
        return str(caught.value)

    assert "File too large" in in_child(take)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """F24."""

    def flock(_fd: int, _kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(PidfileError, match="cannot be locked"):
        Pidfile(str(path)).take()
    assert os.listdir(path.parent) == []


# -- children --------------------------------------------------------------------------


def test_no_child_keeps_the_lock_alive(path: Path) -> None:
    """F8: a surviving orphan would keep the daemon "running"; any fork counts."""
    orphans, orphan = os.pipe()

    def manager() -> None:
        Pidfile(str(path)).take()
        pid = os.fork()
        if pid == 0:
            signal.pause()
        os.write(orphan, b"%d" % pid)

    with living_child(manager) as pid:
        survivor = int(os.read(orphans, 16))
        try:
            assert Pidfile(str(path)).running() == pid
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            # It closes the lock at its first instruction, but somebody must let it run.
            wait_for(lambda: Pidfile(str(path)).running() == 0)
            os.kill(survivor, 0)
            with taken(path) as pidfile:
                assert pidfile.running() == os.getpid()
        finally:
            os.kill(survivor, signal.SIGKILL)
            os.close(orphans)
            os.close(orphan)


def test_a_child_neither_holds_nor_removes_it(path: Path) -> None:
    with taken(path) as pidfile:

        def release() -> bool:
            held = pidfile.held
            pidfile.release()
            assert pidfile.tend()
            return held

        assert in_child(release) is False
        assert path.exists()
        assert pidfile.running() == os.getpid()


# -- tending and releasing -----------------------------------------------------------


def test_a_removed_file_is_put_back(path: Path) -> None:
    """F7: without it a second daemon could start."""
    with taken(path) as pidfile:
        assert pidfile.tend()
        path.unlink()
        assert pidfile.tend()
        assert path.read_text() == f"{os.getpid()}\n"
        assert Pidfile(str(path)).running() == os.getpid()
        assert os.listdir(path.parent) == ["d.pid"]
    assert not path.exists()


def test_a_replaced_file_is_left_to_its_owner(path: Path) -> None:
    """F9: remove only what is ours."""
    with taken(path) as pidfile:
        path.unlink()
        path.write_text("another daemon's\n")
        assert not pidfile.tend()
        pidfile.release()
        pidfile.release()
    assert path.read_text() == "another daemon's\n"


def test_a_file_that_cannot_be_put_back_is_said(path: Path) -> None:
    with taken(path) as pidfile:
        path.unlink()
        path.parent.rmdir()
        assert not pidfile.tend()
        path.parent.mkdir()


def test_who_holds_nothing_tends_and_releases_nothing(path: Path) -> None:
    path.write_text("1\n")
    pidfile = Pidfile(str(path))
    assert pidfile.tend()
    pidfile.release()
    assert path.exists()


def test_only_what_is_stale_is_cleared_away(path: Path) -> None:
    pidfile = Pidfile(str(path))
    pidfile.clear_away()
    with living_child(Pidfile(str(path)).take):
        pidfile.clear_away()
        assert path.exists()
    wait_for(lambda: not pidfile.running())
    pidfile.clear_away()
    assert not path.exists()


@pytest.mark.skipif(not doors.PROC, reason="/proc/locks tells who holds the file")
def test_a_file_that_is_seen_while_its_daemon_ends_is_nobodys(path: Path) -> None:
    """For a moment it is locked, and by nobody whose number it holds."""

    class Looking(Pidfile):
        looks = 0

        def _running(self) -> int:
            self.looks += 1
            try:
                return super()._running()
            finally:
                path.unlink(missing_ok=True)

    path.write_text("1\n")
    with locked(path):
        looking = Looking(str(path))

        assert looking.running() == 0
        assert looking.looks == 2


def test_a_file_that_is_swapped_all_the_time_hurts_nobody(path: Path) -> None:
    """F13: checks and use go by one descriptor, whatever the path becomes."""
    canary = path.with_name("canary")
    canary.write_text("canary\n")
    hunter = os.fork()
    if hunter == 0:
        try:
            while True:
                for make in (make_link_to_a_canary, make_plain, make_fifo):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
                        make(path)
        finally:
            os._exit(1)
    try:
        for _ in range(300):
            pidfile = Pidfile(str(path))
            with contextlib.suppress(PidfileError, AlreadyRunning):
                assert pidfile.running() in (0, os.getpid())
            with contextlib.suppress(PidfileError, AlreadyRunning):
                pidfile.take()
            pidfile.clear_away()
            pidfile.release()
    finally:
        os.kill(hunter, signal.SIGKILL)
        os.waitpid(hunter, 0)
    assert canary.read_text() == "canary\n"


def make_link_to_a_canary(path: Path) -> None:
    path.symlink_to(path.with_name("canary"))


def make_plain(path: Path) -> None:
    path.write_text("1\n")
