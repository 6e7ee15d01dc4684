"""Processes that are stopped: spirits are replaced, nobody pays for the manager."""

from __future__ import annotations

import signal
import time

import pytest

from ghostd.unix import child
from tests.faults import kit

COUNTING = """
class Service(Prefork):
    beats = 0

    def heartbeat(self, pid):
        self.beats += 1
        self.log.info("beat %d of %d", self.beats, pid)

    def spirit(self):
        while self.tick():
            self.wait(0.05)
"""


def test_a_stopped_spirit_is_asked_then_killed_and_replaced() -> None:
    with kit.service(heartbeat_timeout=0.4, graceful_timeout=0.3) as d:
        kit.up(d)
        began = time.monotonic()
        hung = d.kill_spirit(number=signal.SIGSTOP)
        d.wait_for(lambda: child.state(hung) == "T", what="a stopped spirit")
        others = [pid for pid in d.spirits if pid != hung]
        d.wait_for_line(f"Spirit {hung} stopped")
        took = time.monotonic() - began
        d.wait_for(kit.healthy(d))

        story = [line.split("] ", 3)[3] for line in d.log_lines(str(hung))]
        assert story[-4:] == [
            f"Spirit {hung} has no heartbeat (0.4 seconds), restarting",
            f"Stopping spirit {hung} gracefully (0.3 seconds)",
            f"Stopping spirit {hung} immediately",
            f"Spirit {hung} stopped",
        ]
        assert 0.4 < took < 2.5
        assert d.spirits[:2] == others


def test_a_spirit_that_goes_on_in_time_leaves_by_itself() -> None:
    with kit.service(heartbeat_timeout=0.3, graceful_timeout=10) as d:
        kit.up(d)
        hung = d.kill_spirit(number=signal.SIGSTOP)
        d.wait_for_line(f"Stopping spirit {hung} gracefully")
        d.signal(signal.SIGCONT, hung)
        d.wait_for_line(f"Spirit {hung} stopped")

        assert not d.log_lines(f"Spirit {hung} died")
        assert not d.log_lines(f"Stopping spirit {hung} immediately")


@pytest.mark.parametrize("body", [kit.CALM, COUNTING], ids=["calm", "busy"])
def test_a_stopped_manager_blames_nobody(body: str) -> None:
    with kit.service(body, heartbeat_timeout=0.5) as d:
        manager = kit.up(d)
        lives = d.spirits
        d.signal(signal.SIGSTOP, manager)
        d.wait_for(lambda: child.state(manager) == "T", what="a stopped manager")
        kit.elapse(d, 2 * (0.5 + 0.1))
        d.signal(signal.SIGCONT, manager)
        line = d.wait_for_line("Manager was held up for")
        kit.elapse(d, 2 * (0.5 + 0.1))

        assert "[warn]" in line
        assert d.spirits == lives
        assert not d.log_lines("has no heartbeat")


def test_a_stopped_manager_does_not_stop_its_spirits_working() -> None:
    """A tick never blocks, although nobody reads the lifeline."""
    body = """
class Service(Prefork):
    def spirit(self):
        spirit = self._daemon.spirit
        while self.tick():
            if os.path.exists(HERE + "/go"):
                slowest = 0.0
                for _ in range(20000):  # more than a pipe takes
                    spirit.due = 0.0
                    began = time.monotonic()
                    self.tick()
                    slowest = max(slowest, time.monotonic() - began)
                os.unlink(HERE + "/go")
                with open(HERE + "/slowest", "w") as file:
                    file.write(str(slowest))
            self.wait(0.02)
"""
    with kit.service(body, spirits=1, heartbeat_timeout=30) as d:
        d.start()
        manager = d.pid
        d.signal(signal.SIGSTOP, manager)
        d.wait_for(lambda: child.state(manager) == "T")
        told = d.folder / "slowest"
        (d.folder / "go").touch()
        slowest = float(d.wait_for(lambda: told.exists() and told.read_text()))
        d.signal(signal.SIGCONT, manager)

        assert slowest < 0.5
