"""Children: how they ended, in words, and signals that reach nobody else."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers import in_child, living_child, wait_for

from ghostd.unix import child
from ghostd.unix.child import Child, Ended


def born(body: Callable[[], object]) -> Child:
    """Fork a child that runs *body*, then ends with 0."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os._exit(0)
        finally:
            os._exit(1)
    return Child(pid)


def end_of(body: Callable[[], object]) -> Ended:
    """Tell how a child that runs *body* ended."""
    each = born(body)
    try:
        return wait_for(each.poll)
    finally:
        each.close()


def die_of(number: int) -> None:
    """End by a signal, whatever its handler was."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.kill(os.getpid(), number)
    signal.pause()


@pytest.mark.parametrize("code", [0, 1, 3, 127, 255])
def test_exit_codes_in_words(code: int) -> None:
    ended = end_of(lambda: os._exit(code))
    assert ended == Ended(code)
    assert ended.words == f"exit code {code}"
    assert ended.clean == (code == 0)
    assert not ended.foreign


DEADLY = [
    "SIGHUP SIGINT SIGQUIT SIGILL SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV",
    "SIGUSR2 SIGPIPE SIGALRM SIGTERM SIGXCPU SIGXFSZ SIGSYS SIGRTMIN",
]


@pytest.mark.parametrize("name", " ".join(DEADLY).split())
def test_signals_in_words(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("no such signal here")
    if number == signal.SIGKILL:
        ended = end_of(lambda: os.kill(os.getpid(), number))
    else:
        ended = end_of(lambda: die_of(number))
    assert ended == Ended(None, number)
    assert ended.words == f"killed by {name}"
    assert not ended.clean
    assert ended.foreign == (name in ("SIGKILL", "SIGTERM", "SIGINT"))


def test_a_signal_without_a_name_has_a_number() -> None:
    ended = end_of(lambda: die_of(signal.SIGRTMIN + 3))
    assert ended.words == f"killed by signal {signal.SIGRTMIN + 3}"


def test_a_core_dump_is_said(tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if pattern != "core" or hard == 0:
        pytest.skip("this machine keeps no core dumps in the current folder")

    def dump() -> None:
        os.chdir(tmp_path)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)
        signal.pause()

    assert end_of(dump).words == "killed by SIGSEGV, core dumped"


def test_a_stopped_child_is_not_dead() -> None:
    with living_child() as pid:
        each = Child(pid)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: child.state(pid) == "T")
        assert each.poll() is None
        os.kill(pid, signal.SIGCONT)
        assert each.poll() is None
        each.close()


def test_signals_reach_a_living_child() -> None:
    each = born(signal.pause)
    assert each.poll() is None
    each.send(signal.SIGKILL)
    assert wait_for(each.poll) == Ended(None, signal.SIGKILL)
    each.close()
    each.close()


def test_a_dead_child_can_be_signalled_without_an_error() -> None:
    """A zombie still has its number; the signal goes nowhere."""
    each = born(lambda: None)
    wait_for(lambda: child.state(each.pid) == "Z")
    each.send(signal.SIGKILL)
    assert each.poll() == Ended(0)
    each.close()


def test_after_the_burial_a_signal_reaches_nobody() -> None:
    """D1: with a pidfd the number may belong to anybody by now."""
    each = born(lambda: None)
    wait_for(each.poll)
    if each.fd >= 0:
        each.send(signal.SIGKILL)
    assert each.poll() == Ended()
    each.close()


REUSE = """
import os, signal, sys
from ghostd.unix.child import Child
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    old = Child(pid)
    os.waitid(os.P_PID, pid, os.WEXITED)
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(pid - 1))
    stranger = os.fork()
    if stranger == 0:
        signal.pause()
        os._exit(1)
    assert stranger == pid, (stranger, pid)
    old.send(signal.SIGKILL)
    old.close()
    assert os.waitpid(stranger, os.WNOHANG) == (0, 0), "the stranger was hit"
    os.kill(stranger, signal.SIGKILL)
    os.waitpid(stranger, 0)
print("unharmed")
"""


@pytest.mark.root
def test_a_stranger_with_a_dead_childs_number_is_not_hit() -> None:
    """D1: the number is reused by force, twenty times of twenty."""
    from ghostd.unix import doors

    if shutil.which("unshare") is None or not doors.PIDFD:
        pytest.skip("needs unshare and pidfds")
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    ended = subprocess.run(
        [*command, sys.executable, "-c", REUSE],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if "unshare failed" in ended.stderr or "ns_last_pid" in ended.stderr:
        pytest.skip("no pid namespaces here")
    assert ended.stdout == "unharmed\n", ended.stderr


def test_a_status_that_somebody_else_took_is_said_to_be_unknown() -> None:
    """S7: a hook that calls os.wait(), or SIGCHLD on SIG_IGN."""
    each = born(lambda: os._exit(3))
    os.waitpid(each.pid, 0)
    ended = each.poll()
    assert ended == Ended()
    assert ended is not None
    assert ended.words == "unknown: its exit status was taken by somebody else"
    assert not ended.clean
    each.close()

    def ignoring() -> Ended | None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        other = born(lambda: None)
        return wait_for(other.poll)

    assert in_child(ignoring) == Ended()


def test_a_child_without_a_descriptor_left_is_still_a_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_pidfd(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    each = born(signal.pause)
    assert each.fd == -1
    each.send(signal.SIGTERM)
    assert wait_for(each.poll) == Ended(None, signal.SIGTERM)
    each.close()


def test_strangers_are_dead_children_that_nobody_knows() -> None:
    def body() -> tuple[bool, bool, list[int], bool]:
        known, stranger, alive = (born(lambda: None) for _ in range(3))
        living = born(signal.pause)
        for each in (known, stranger, alive):
            wait_for(lambda pid=each.pid: child.state(pid) == "Z")  # type: ignore[misc]
        found = set(child.strangers({known.pid, alive.pid}))
        child.bury(stranger.pid)
        child.bury(stranger.pid)
        child.bury(living.pid)
        gone = child.strangers({known.pid, alive.pid})
        polled = living.poll() is None
        living.send(signal.SIGKILL)
        return found == {stranger.pid}, stranger.pid in found, gone, polled

    assert in_child(body) == (True, True, [], True)


def test_a_child_is_ours_until_it_is_reaped() -> None:
    def body() -> list[bool]:
        each = born(signal.pause)
        found = [child.is_mine(each.pid), child.is_mine(os.getppid())]
        each.send(signal.SIGKILL)
        wait_for(lambda: child.state(each.pid) == "Z")
        found.append(child.is_mine(each.pid))
        each.poll()
        return [*found, child.is_mine(each.pid)]

    assert in_child(body) == [True, False, True, False]


def test_a_state_is_read_behind_any_name() -> None:
    """The name in /proc/PID/stat may hold brackets and blanks."""

    def rename() -> None:
        with open("/proc/self/comm", "w") as file:
            file.write(") Z (x) T 1")

    with living_child(rename) as pid:
        wait_for(lambda: child.state(pid) == "S")
    assert child.state(pid) == ""
    assert child.state(os.getpid()) == "R"


def test_children_are_listed() -> None:
    with living_child() as pid:
        assert pid in child.children_of(os.getpid())
    assert pid not in child.children_of(os.getpid())
    assert child.children_of(2**22 + 1) == []
