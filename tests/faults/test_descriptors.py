"""Descriptors: none left, far too many allowed, the first three closed, all kept."""

from __future__ import annotations

import resource
import signal
import sys
import time

import pytest

from ghostd.testing import Daemon
from tests.faults import kit

HOARDER = """
import ctypes

class Service(Prefork):
    def spirit(self):
        if self.slot == 0 and not os.path.exists(HERE + "/hoarded"):
            # Past Python, so that nothing is closed in the grandchild.
            libc = ctypes.CDLL(None)
            if libc.fork() == 0:
                os.setsid()
                if libc.fork() == 0:
                    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
                    with open(HERE + "/hoarded", "w") as file:
                        file.write(str(os.getpid()))
                    while True:
                        signal.pause()
                os._exit(0)
        while self.tick():
            self.wait(0.5)
"""


def test_a_manager_without_descriptors_waits_for_better_times() -> None:
    with kit.service() as d:
        manager = kit.up(d)
        _, *others = d.spirits
        soft, hard = resource.prlimit(manager, resource.RLIMIT_NOFILE)
        resource.prlimit(manager, resource.RLIMIT_NOFILE, (5, hard))
        began, used = time.monotonic(), kit.processor_time(manager)
        d.kill_spirit()
        d.wait_for_line("Cannot start a spirit", "Too many open files", times=4)
        assert d.spirits == others
        busy = kit.processor_time(manager) - used
        assert busy < 0.2 * (time.monotonic() - began), "a busy loop"
        resource.prlimit(manager, resource.RLIMIT_NOFILE, (soft, hard))
        d.wait_for(kit.healthy(d))

        assert d.pid == manager
        assert d.spirits[:2] == others


@pytest.mark.parametrize("doors", ["", "proc"])
def test_a_huge_limit_of_descriptors_does_not_slow_the_start(doors: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def best_of_three(limit: int) -> float:
        took = []
        for _ in range(3):
            began = time.monotonic()
            started = kit.start_by(d, kit.need("prlimit"), f"--nofile={limit}")
            took.append(time.monotonic() - began)
            assert started.returncode == 0, started.stderr
            given = resource.prlimit(d.pid, resource.RLIMIT_NOFILE)[0]
            assert given == limit
            d.stop()
        return min(took)

    # Bounds for a loop over a whole limit, which takes seconds, not for the noise.
    with kit.service(env={**kit.UNCOUNTED, "GHOSTD_CLOSED_DOORS": doors}) as d:
        assert best_of_three(hard) < 2 * best_of_three(256) + 1.0


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_are_not_given_to_a_file(closed: str) -> None:
    with kit.service() as d:
        # dash cannot start a program without standard streams, exec can.
        ended = kit.start_by(d, "sh", "-c", f'exec "$@" {closed}', "sh")
        assert ended.returncode == 0, ended.stderr
        d.wait_for(kit.healthy(d))

        for pid in (d.pid, *d.spirits):
            fds = d.descriptors(pid)
            assert [fds[fd] for fd in range(3)] == ["/dev/null"] * 3
            assert len([name for name in fds.values() if name.endswith(".log")]) == 1


def test_what_the_caller_left_open_is_closed() -> None:
    with kit.service() as d:
        ended = kit.start_by(d, "sh", "-c", 'exec 7>leak 8<leak; exec "$@"', "sh")
        assert ended.returncode == 0, ended.stderr

        for pid in (d.pid, *d.spirits):
            assert not [n for n in d.descriptors(pid).values() if n.endswith("leak")]


def test_spirits_have_what_they_need_and_nothing_of_others() -> None:
    with kit.service(spirits=5) as d:
        kit.up(d, 5)
        dead = d.kill_spirit()
        d.wait_for(lambda: dead not in d.spirits and kit.healthy(d, 5)())

        for spirit in d.spirits:
            fds = d.descriptors(spirit)
            kinds = sorted(name.split(":")[0] for fd, name in fds.items() if fd > 2)
            # The log, its lifeline, the manager's presence, its own wake-up pipe.
            assert kinds == [str(d.logfile), "pipe", "pipe", "pipe", "pipe"]


def hoard(d: Daemon) -> int:
    told = d.folder / "hoarded"
    return int(d.wait_for(lambda: told.exists() and told.read_text()))


def test_a_grandchild_that_keeps_every_descriptor_delays_nothing() -> None:
    with kit.service(HOARDER) as d:
        manager = kit.up(d)
        grandchild = hoard(d)
        pipes = [n for n in d.descriptors(grandchild).values() if n.startswith("pipe:")]
        assert len(pipes) >= 2, "it has the lifeline and the presence"

        parent = d.spirits[0]
        began = time.monotonic()
        d.kill_spirit(parent)
        d.wait_for(lambda: parent not in d.spirits and kit.healthy(d)())
        assert time.monotonic() - began < 1
        lives = d.spirits
        d.signal(signal.SIGKILL, manager)
        d.wait_for(lambda: all(map(kit.is_gone, lives)), 2, "the end of the spirits")
        assert not kit.is_gone(grandchild)
        d.start()  # the lock is not in its hands
        d.wait_for(kit.healthy(d))
        assert grandchild in d.processes
        d.signal(signal.SIGKILL, grandchild)


def test_a_grandchild_does_not_hold_up_the_one_who_called_start() -> None:
    with kit.service(HOARDER) as d:
        began = time.monotonic()
        ended = d.run("sh", "-c", f"{sys.executable} {d.script} start | cat")
        took = time.monotonic() - began
        grandchild = hoard(d)

        assert ended.stdout == f"Running {d.pid}\n"
        assert took < 3
        d.signal(signal.SIGKILL, grandchild)
