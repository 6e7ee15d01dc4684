"""The manager dies, and nobody stays: not a spirit, not a lock, not a lifeline."""

from __future__ import annotations

import signal
import time

import pytest
from tests.process.scripts import pool

from ghostd.testing import Daemon

TICKING = """
def spirit(self):
    while self.tick():
        pass
    self.log.info("left by itself")
"""

WAITING = """
def spirit(self):
    self.tick()
    self.wait(3600)
    self.log.info("left by itself")
"""

SLEEPING = """
def spirit(self):
    self.tick()
    while self.ok:
        time.sleep(0.2)
    self.log.info("left by itself")
"""

BLIND = """
def spirit(self):
    self.tick()
    while True:
        time.sleep(3600)
"""

DEAF = """
def spirit(self):
    self.tick()
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    while self.tick():
        time.sleep(0.2)
    self.log.info("left by itself")
"""


def orphaned(d: Daemon) -> list[int]:
    """Kill the manager; give those that it leaves."""
    pid = d.pid
    spirits = d.spirits
    d.signal(signal.SIGKILL)
    d.wait_for(lambda: pid in d.endings)
    return spirits


@pytest.mark.parametrize(
    "closed", ["", "pdeathsig", "pidfd,pdeathsig,epoll,pipe2,proc"], ids=repr
)
@pytest.mark.parametrize("body", [TICKING, WAITING, SLEEPING, DEAF])
def test_spirits_leave_when_their_manager_is_gone(body: str, closed: str) -> None:
    """They notice within a second, whether they tick or not."""
    with Daemon(pool(body), env={"GHOSTD_CLOSED_DOORS": closed}) as d:
        d.start()
        spirits = orphaned(d)
        began = time.monotonic()
        d.wait_for(lambda: not d.processes, 4)
        assert time.monotonic() - began < 3
        assert len(d.log_lines("left by itself")) == 2
        # With a thread it is dead to /proc before it can be reaped.
        d.wait_for(lambda: set(spirits) <= set(d.endings))
        assert [d.endings[pid] for pid in spirits] == [0, 0]
        assert d.ctrl("status").returncode == 1


@pytest.mark.parametrize("closed", ["", "pdeathsig"], ids=repr)
def test_one_that_never_looks_is_ended_after_graceful_timeout(closed: str) -> None:
    env = {"GHOSTD_CLOSED_DOORS": closed}
    with Daemon(pool(BLIND, graceful_timeout=0.7), env=env) as d:
        d.start()
        spirits = orphaned(d)
        began = time.monotonic()
        d.wait_for(lambda: not d.processes)
        assert 0.4 < time.monotonic() - began < 5
        d.wait_for(lambda: set(spirits) <= set(d.endings))
        assert {d.endings[pid] for pid in spirits} == {-signal.SIGALRM}


def test_spirits_born_while_the_manager_dies_leave_too() -> None:
    with Daemon(pool(spirits=16)) as d:
        start = d.run_foreground("start")
        d.wait_for(lambda: d.spirits)
        d.signal(signal.SIGKILL)
        start.wait()
        d.wait_for(lambda: not d.processes, 5)


GRANDCHILDREN = """
def spirit(self):
    self.tick()
    child = subprocess.Popen(["sleep", "3600"])
    if os.fork() == 0:
        while True:
            signal.pause()
    self.log.info("has children")
    while self.tick():
        self.wait(5)
"""


def test_grandchildren_keep_neither_the_lock_nor_the_lifeline() -> None:
    """F8: the lock looks held, and the death of a spirit is not seen."""
    with Daemon(pool(GRANDCHILDREN), descriptors=False) as d:
        d.start()
        d.wait_for_line("has children", times=2)
        children = set(d.processes) - {d.pid, *d.spirits}
        assert len(children) == 4
        killed = d.kill_spirit()
        d.wait_for_line(f"Spirit {killed} died: killed by SIGKILL")
        d.wait_for_line("has children", times=3)

        spirits = orphaned(d)
        d.wait_for(lambda: not set(spirits) & set(d.processes))
        assert d.ctrl("status").returncode == 1, "only strangers are left"
        d.start()
        d.wait_for_line("has children", times=5)
        d.stop()
        for pid in d.processes:
            d.signal(signal.SIGKILL, pid)


def test_a_farewell_is_seen_though_a_grandchild_lives() -> None:
    members = """
    def spirit(self):
        self.tick()
        if self.slot == 0 and not os.path.exists(MARK):
            open(MARK, "w").close()
            subprocess.Popen(["sleep", "5"])
            self.tick(True)
            time.sleep(1)
            return
        while self.tick():
            self.wait(5)
    """
    head = "MARK = os.path.abspath('mark')\n"
    with Daemon(pool(members, head=head)) as d:
        d.start()
        d.wait_for_line("Spirit", "started", times=3)
        d.stop()
        for pid in d.processes:
            d.signal(signal.SIGKILL, pid)


def test_no_spirit_holds_a_descriptor_of_the_manager() -> None:
    with Daemon(pool(spirits=3)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 3)
        manager = d.descriptors()
        lock = [fd for fd, name in manager.items() if "d.pid" in name]
        assert len(lock) == 1
        for pid in d.spirits:
            names = d.descriptors(pid).values()
            assert not any("d.pid" in name or "anon_inode" in name for name in names)
            pipes = [name for name in names if name.startswith("pipe:")]
            assert len(set(pipes)) <= 3, "its lifeline, the presence, a wake-up pipe"


def test_a_child_that_a_hook_forks_holds_nothing_either() -> None:
    members = """
    def hangup(self):
        if os.fork() == 0:
            while True:
                signal.pause()
        self.log.info("forked")
    """
    with Daemon(pool(members)) as d:
        d.start()
        before = set(d.spirits)
        d.signal(signal.SIGHUP)
        d.wait_for_line("forked")
        (stranger,) = set(d.spirits) - before
        for _ in range(3):
            d.wait_for(lambda: len(d.spirits) == 3)
            killed = d.kill_spirit(next(p for p in d.spirits if p != stranger))
            d.wait_for_line(f"Spirit {killed} died")
        names = d.descriptors(stranger).values()
        assert not any("d.pid" in name or "anon_inode" in name for name in names)
        d.signal(signal.SIGKILL, stranger)
        d.wait_for(lambda: stranger not in d.processes)
        d.signal(signal.SIGKILL)
        d.wait_for(lambda: not d.processes)
        assert d.ctrl("status").returncode == 1
