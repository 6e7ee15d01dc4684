"""Callers: who may ask, what they may say, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostd.unix import callers
from ghostd.unix.callers import LONGEST_LINE, Caller, Listener


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    made = Listener(str(tmp_path / "x.ctl"))
    yield made
    made.close()


@contextlib.contextmanager
def calling(listener: Listener) -> Iterator[tuple[socket.socket, Caller]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.path)
        caller = listener.accept()
        assert caller is not None
        yield sock, caller
    caller.close()


def test_the_socket_is_for_its_owner_alone(listener: Listener) -> None:
    info = os.stat(listener.path)

    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o600
    assert os.listdir(os.path.dirname(listener.path)) == ["x.ctl"]


def test_a_line_is_heard_when_it_is_complete(listener: Listener) -> None:
    with calling(listener) as (sock, caller):
        assert caller.hear() is None
        sock.sendall(b"hello ")
        assert caller.hear() is None
        sock.sendall(b"there\n")
        assert caller.hear() == b"hello there"
        assert caller.deadline == float("inf")
        caller.say(b"yes")
        assert sock.recv(100) == b"yes\n"


def test_a_caller_that_talks_on_and_on_is_over(listener: Listener) -> None:
    with calling(listener) as (sock, caller):
        sock.sendall(b"x" * LONGEST_LINE)
        assert caller.hear() is None
        assert caller.over


def test_a_caller_that_hangs_up_is_over(listener: Listener) -> None:
    with calling(listener) as (sock, caller):
        sock.close()
        assert caller.hear() is None
        assert caller.over


def test_a_caller_that_does_not_read_holds_nobody_up(listener: Listener) -> None:
    with calling(listener) as (_sock, caller):
        began = time.monotonic()
        for _ in range(10_000):
            caller.say(b"x" * 1000)
            if caller.over:
                break
        assert caller.over
        assert time.monotonic() - began < 5


def test_nobody_else_calls(listener: Listener) -> None:
    assert listener.accept() is None


def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "x.ctl")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()

    listener = Listener(path)
    callers.call(path).close()
    listener.close()

    assert not os.path.exists(path)


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.ctl"
    path.write_text("precious")

    with pytest.raises(FileExistsError):
        Listener(str(path))

    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["x.ctl"]


def test_a_symlink_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.ctl").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        Listener(str(tmp_path / "x.ctl"))


def test_the_socket_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "x.ctl")
    first, second = Listener(path), Listener(path)

    first.close()

    callers.call(path).close()
    second.close()


def test_a_path_longer_than_an_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    listener = Listener(str(folder / "x.ctl"))

    callers.call(listener.path).close()

    caller = listener.accept()
    assert caller is not None
    caller.close()
    listener.close()
    assert os.listdir(folder) == []


def test_clearing_away_spares_what_is_in_use_or_no_socket(
    listener: Listener, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")

    callers.clear_away(listener.path)
    callers.clear_away(str(tmp_path / "file"))
    callers.clear_away(str(tmp_path / "nothing"))

    assert sorted(os.listdir(tmp_path)) == ["file", "x.ctl"]


def test_clearing_away_removes_a_dead_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "x.ctl")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()

    callers.clear_away(path)

    assert not os.path.exists(path)


ASK = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except PermissionError:
    print("refused")
else:
    print(repr(sock.recv(10)))
"""


@pytest.mark.root
def test_another_user_is_not_let_in(open_folder: Path) -> None:
    listener = Listener(str(open_folder / "x.ctl"))
    ask = [sys.executable, "-c", ASK, listener.path]

    refused = subprocess.run(ask, capture_output=True, text=True, check=True)
    os.chmod(listener.path, 0o666)  # noqa: S103 - the kernel still knows
    running = subprocess.Popen(ask, stdout=subprocess.PIPE, text=True)
    while listener.accept() is None and running.poll() is None:
        time.sleep(0.005)
    heard, _ = running.communicate(timeout=10)
    listener.close()

    assert refused.stdout == "refused\n"
    assert heard == "b''\n"


@pytest.mark.root
def test_the_user_the_daemon_becomes_may_ask(open_folder: Path) -> None:
    listener = Listener(str(open_folder / "x.ctl"), owner=(65534, 65534))

    info = os.stat(listener.path)
    listener.close()

    assert (info.st_uid, info.st_gid) == (65534, 65534)
