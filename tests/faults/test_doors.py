"""Kernels that lack something: the whole life of a daemon on each fallback."""

from __future__ import annotations

import errno
import os
import signal
import sys

import pytest

from ghostd.testing import Daemon
from tests.faults import kit

DOORS = ("pidfd", "pdeathsig", "epoll", "pipe2", "proc")

WITHOUT_A_SYSCALL = """
import ctypes, os, struct, sys
number, error = int(sys.argv[1]), int(sys.argv[2])
# load the number; is it ours? fail : allow
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error),
         (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *r) for r in rules))
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS"
assert libc.prctl(22, 2, program, 0, 0) == 0, "PR_SET_SECCOMP"
os.execv(sys.argv[3], sys.argv[3:])
"""
PIDFD_OPEN = 434

BODY = """
class Service(Prefork):
    def spirit(self):
        if self.slot == 2:  # one that never looks
            self.tick()
            while True:
                time.sleep(1000) if os.path.exists(HERE + "/deaf") else self.tick()
                time.sleep(0.05)
        while self.tick():
            self.wait(0.5)
"""


def lifecycle(d: Daemon) -> None:
    """Replace, hang, grow, shrink, reload, lose the manager, start again, stop."""
    d.wait_for(kit.healthy(d))
    manager, lives = d.pid, d.spirits
    dead = d.kill_spirit()
    d.wait_for(lambda: dead not in d.spirits and d.healthy == 3)
    assert d.spirits[:2] == lives[1:]

    hung = d.kill_spirit(number=signal.SIGSTOP)
    d.wait_for_line(f"Spirit {hung} has no heartbeat")
    d.wait_for_line(f"Stopping spirit {hung} immediately")
    d.wait_for_line(f"Spirit {hung} stopped")
    d.wait_for(kit.healthy(d))

    d.signal(signal.SIGTTIN)
    d.wait_for(kit.healthy(d, 4))
    d.signal(signal.SIGTTOU)
    d.wait_for(kit.healthy(d, 3))
    before = set(d.spirits)
    d.signal(signal.SIGHUP)
    d.wait_for(lambda: kit.healthy(d)() and not before.intersection(d.spirits))
    assert d.pid == manager

    (d.folder / "deaf").touch()
    orphans = d.spirits
    d.signal(signal.SIGKILL)
    d.wait_for(lambda: all(map(kit.is_gone, orphans)), 2.5, "the end of the orphans")
    assert d.ctrl("status").returncode == 1


@pytest.mark.parametrize("doors", [*DOORS, ",".join(DOORS)])
def test_each_fallback_carries_a_whole_life(doors: str) -> None:
    with kit.service(
        BODY,
        env={"GHOSTD_CLOSED_DOORS": doors},
        heartbeat_timeout=0.3,
        graceful_timeout=0.2,
    ) as d:
        code = "from ghostd.unix import doors; print(doors.%s)"
        for door in doors.split(","):
            shown = d.run(sys.executable, "-c", code % door.upper()).stdout
            assert shown == "False\n"
        kit.up(d)
        fds = "".join(d.descriptors().values())
        assert ("[pidfd]" in fds) == ("pidfd" not in doors)
        assert ("[eventpoll]" in fds) == ("epoll" not in doors)
        threads = kit.status(d.spirits[0])["Threads"]
        assert threads == ("2" if "pdeathsig" in doors else "1")

        lifecycle(d)
        (d.folder / "deaf").unlink()
        d.start()
        d.wait_for(kit.healthy(d))


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_a_kernel_without_pidfds_carries_a_whole_life(error: str) -> None:
    """EPERM is what the filter of an older container engine says."""
    with kit.service(BODY, heartbeat_timeout=0.3, graceful_timeout=0.2) as d:
        number = getattr(errno, error)
        without = (
            sys.executable,
            "-c",
            WITHOUT_A_SYSCALL,
            f"{PIDFD_OPEN}",
            f"{number}",
        )
        try_it = "import os; os.pidfd_open(os.getpid())"
        proof = d.run(*without, sys.executable, "-c", try_it)
        assert os.strerror(number) in proof.stderr

        started = kit.start_by(d, *without)
        assert started.returncode == 0, started.stderr
        d.wait_for(kit.healthy(d))
        assert "[pidfd]" not in "".join(d.descriptors().values())
        lifecycle(d)
        stopped = d.run(*without, sys.executable, str(d.script), "restart")
        assert stopped.returncode == 0, stopped.stderr
        (d.folder / "deaf").unlink()
        d.wait_for(kit.healthy(d))
        stopped = d.run(*without, sys.executable, str(d.script), "stop")
        assert stopped.returncode == 0, stopped.stderr


@pytest.mark.parametrize("how", ["closed", "filtered"])
def test_without_pidfds_a_death_is_noticed_at_once_as_well(how: str) -> None:
    """Not when the next beats are read, in a quarter of a minute."""
    closed = "pidfd" if how == "closed" else None
    env = {"GHOSTD_CLOSED_DOORS": closed}
    with kit.service(env=env, heartbeat_interval=15, heartbeat_timeout=60) as d:
        without = (sys.executable, "-c", WITHOUT_A_SYSCALL, f"{PIDFD_OPEN}", "38")
        kit.start_by(d, *(() if closed else without))
        d.wait_for(kit.healthy(d))
        assert "[pidfd]" not in "".join(d.descriptors().values())
        dead = d.kill_spirit()

        d.wait_for(lambda: dead not in d.spirits and kit.healthy(d)(), 2)
