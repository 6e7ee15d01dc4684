"""PID 1 of a namespace, as in a container: signals, strangers, hooks' children."""

from __future__ import annotations

import signal
import sys

import pytest

from ghostd.unix import child
from tests.faults import kit

pytestmark = pytest.mark.root

BODY = """
import subprocess

class Service(Prefork):
    rounds = 0

    def waitup(self):
        self.rounds += 1
        if self.rounds % 3 == 0:
            ended = subprocess.run(["sh", "-c", "exit 7"])
            self.log.info("hook's child ended with %d", ended.returncode)

    def reap(self, pid):
        self.log.info("reap hook of %d", pid)

    def spirit(self):
        if self.slot == 0:
            for _ in range(5):
                pid = os.fork()
                if pid == 0:
                    if os.fork() == 0:
                        time.sleep(0.2)
                    os._exit(0)
                os.waitpid(pid, 0)
        while self.tick():
            self.wait(0.1)
        self.wait(0)
        self.log.info("spirit of place %d finished its work", self.slot)
"""


def test_as_pid_1_everything_is_as_anywhere() -> None:
    with kit.service(BODY, term="auto") as d:
        unshare = kit.need("unshare")
        words = ("--pid", "--fork", "--mount-proc", "--kill-child=KILL")
        run = kit.background(d, unshare, *words, sys.executable, str(d.script), "run")
        d.wait_for_line("TERM means a graceful stop here: the manager is PID 1")
        d.wait_for_line("is healthy", times=3)
        (manager,) = child.children_of(run.pid)
        assert kit.status(manager)["NSpid"].split()[-1] == "1"

        def children(*, dead: bool) -> list[int]:
            pids = child.children_of(manager)
            return [pid for pid in pids if (child.state(pid) == "Z") == dead]

        d.wait_for(lambda: len(children(dead=False)) > 3, what="orphans")
        d.wait_for(lambda: len(children(dead=False)) == 3, what="their ends")
        d.wait_for(lambda: not children(dead=True), 5, "their burials")
        d.signal(signal.SIGKILL, children(dead=False)[0])
        d.wait_for_line("is healthy", times=4)
        d.wait_for_line("hook's child ended with 7", times=5)
        d.signal(signal.SIGTERM, manager)
        code = run.wait(10)

        assert code == 0
        assert len(d.log_lines("finished its work")) == 3
        assert len(d.log_lines("reap hook of")) == 4
        ended = d.log_lines("hook's child ended with")
        assert all(line.endswith(" 7") for line in ended)
        assert not d.log_lines("Hook", "failed")


def test_a_second_term_to_pid_1_is_immediate() -> None:
    stubborn = """
class Service(Prefork):
    def spirit(self):
        while True:
            self.tick()
            time.sleep(0.05)
"""
    with kit.service(stubborn, term="auto", graceful_timeout=60) as d:
        unshare = kit.need("unshare")
        words = ("--pid", "--fork", "--mount-proc", "--kill-child=KILL")
        run = kit.background(d, unshare, *words, sys.executable, str(d.script), "run")
        d.wait_for_line("is healthy", times=3)
        (manager,) = child.children_of(run.pid)
        d.signal(signal.SIGTERM, manager)
        d.wait_for_line("gracefully (60 seconds)", times=3)
        assert run.returncode is None
        d.signal(signal.SIGTERM, manager)

        assert run.wait(5) == 0


def test_when_pid_1_is_killed_nothing_is_left() -> None:
    with kit.service(term="auto") as d:
        unshare = kit.need("unshare")
        words = ("--pid", "--fork", "--mount-proc", "--kill-child=KILL")
        run = kit.background(d, unshare, *words, sys.executable, str(d.script), "run")
        d.wait_for_line("is healthy", times=3)
        (manager,) = child.children_of(run.pid)
        d.signal(signal.SIGKILL, manager)
        run.wait(5)
        kit.nothing_runs(d)

        # The number in the file is 1, which is somebody here.
        assert d.ctrl("status").returncode == 1
        assert d.ctrl("stop").stdout == "Not running\n"
