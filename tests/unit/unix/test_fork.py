"""Forking: nothing of the parent's runs, wakes or stays open in the child."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NoReturn

import pytest
from tests.helpers import in_child, is_open

from ghostd.unix import fork


def test_signals_wait_until_the_childs_own_handlers_stand() -> None:
    """S3: without the mask the parent's handler swallows the child's TERM."""
    heard: list[str] = []

    def body() -> list[str]:
        signal.signal(signal.SIGTERM, lambda *_: heard.append("parent's handler"))

        def enter(mask: set[signal.Signals]) -> NoReturn:
            os.kill(os.getpid(), signal.SIGTERM)
            assert not heard
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os._exit(0)

        pid = fork.fork(enter)
        status = os.waitpid(pid, 0)[1]
        return [*heard, signal.Signals(-os.waitstatus_to_exitcode(status)).name]

    assert in_child(body) == ["SIGTERM"]


def test_the_child_gets_the_mask_and_the_parent_keeps_its_own() -> None:
    def body() -> tuple[int, bool, bool]:
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1})

        def enter(mask: set[signal.Signals]) -> NoReturn:
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            everything = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
            os._exit(0 if mask == {signal.SIGUSR1} and blocked >= everything else 1)

        pid = fork.fork(enter)
        after = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, after == {signal.SIGUSR1}, pid > 0

    assert in_child(body) == (0, True, True)


@pytest.mark.parametrize("ending", ["return", "raise", "exit"])
def test_no_frame_of_the_parent_runs_in_the_child(ending: str) -> None:
    """U10: a child that leaves `enter` any way must not come back."""

    def body() -> tuple[list[str], int]:
        story = []

        def enter(_mask: object) -> NoReturn:
            if ending == "raise":
                raise RuntimeError("out of the child")
            if ending == "exit":
                sys.exit(0)
            return None  # type: ignore[misc]

        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        me = os.getpid()
        try:
            pid = fork.fork(enter)
            story.append("parent" if os.getpid() == me else "child came back")
        finally:
            assert os.getpid() == me
        return story, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(body) == (["parent"], 70)


def test_a_failed_fork_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    monkeypatch.setattr(os, "fork", no_fork)
    with pytest.raises(BlockingIOError):
        fork.fork(lambda _mask: os._exit(0))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_what_is_buffered_comes_out_once() -> None:
    """U11."""
    script = """
import os, sys
from ghostd.unix import fork
sys.stdout.write("once ")
sys.stderr.write("once ")
def enter(mask):
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(0)
os.waitpid(fork.fork(enter), 0)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert (ended.stdout, ended.stderr) == ("once ", "once ")


def test_closed_streams_do_not_matter() -> None:
    script = """
import os, sys
from ghostd.unix import fork
sys.stdout.close()
sys.stderr = None
os.waitpid(fork.fork(lambda mask: os._exit(0)), 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("door", ["os.fork", "fork.fork"])
def test_private_descriptors_are_closed_in_any_child(door: str) -> None:
    private = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    public = private.pop(2)
    fork.keep_private(*private)

    def look() -> tuple[list[bool], bool, int]:
        return [is_open(fd) for fd in private], is_open(public), len(fork.private())

    try:
        if door == "os.fork":
            assert in_child(look) == ([False] * 4, True, 0)
        else:

            def enter(_mask: object) -> NoReturn:
                os._exit(0 if look() == ([False] * 4, True, 0) else 1)

            pid = fork.fork(enter)
            assert os.waitpid(pid, 0)[1] == 0
        assert all(is_open(fd) for fd in private)
    finally:
        fork.close(*private, public)


def test_disowned_and_closed_numbers_are_not_closed_again() -> None:
    first = os.open(os.devnull, os.O_RDONLY)
    fork.keep_private(first)
    fork.disown(first)
    assert in_child(lambda: is_open(first))
    fork.keep_private(first)
    fork.close(first)
    again = os.open(os.devnull, os.O_RDONLY)
    try:
        assert again == first
        assert in_child(lambda: is_open(again))
    finally:
        os.close(again)
    fork.close(first, -1)


def test_a_newborn_keeps_its_own_of_many_private_descriptors() -> None:
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(40)]
    one, other, gap = fds[20], fds[25], fds.pop(30)
    os.close(gap)
    fork.keep_private(*fds)

    def enter(_mask: object) -> NoReturn:
        kept = [fd for fd in fds if is_open(fd)]
        os._exit({(one,): 0, (one, other): 1, (): 2}.get(tuple(kept), 3))

    try:
        births = [((one,), enter), ((one, other), enter), ((), enter)]
        pids, error = fork.fork_each(births)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert (codes, error) == ([0, 1, 2], None)
        assert in_child(lambda: [fd for fd in fds if is_open(fd)]) == []
    finally:
        fork.close(*fds)


def test_pipes_are_private_to_this_program_and_never_block() -> None:
    read, write = fork.pipe()
    try:
        assert not os.get_inheritable(read)
        assert not os.get_inheritable(write)
        assert fork.drain(read) == b""
        assert os.write(write, b"abc") == 3
        assert fork.drain(read) == b"abc"
        with pytest.raises(BlockingIOError):  # noqa: PT012
            while True:
                os.write(write, b"x" * 65536)
    finally:
        fork.close(read, write)
