"""Signals by the hundred thousand, and bodies that write nonsense to their manager."""

from __future__ import annotations

import os
import random
import re
import signal
import time

import pytest

from ghostd.testing import Daemon
from tests.faults import kit

STORM = 100_000
SEED = 1_924

MAD = """
class Service(Prefork):
    def spirit(self):
        self.tick()
        mad = SETTINGS_OF_THE_MAD
        if self.slot == 0 and mad:
            fd = self._daemon.spirit._far_end.fd
            os.set_blocking(fd, mad != "flood")
            chance = random.Random(self.pid)
            until = time.monotonic() + 0.4
            while time.monotonic() < until:
                data = {
                    "noise": chance.randbytes(4096),
                    "flood": chance.randbytes(65536),
                    "beats": struct.pack("=Bd", 1, float("nan")) * 400,
                    "future": struct.pack("=Bd", 1, 1e300) * 400,
                    "words": b"\\3" + bytes(8) + b"w" * 60000,
                    "halves": struct.pack("=Bd", 1, -1.0)[:chance.randrange(1, 9)],
                    "farewells": struct.pack("=Bd", 2, 0.0) * 400,
                }[mad]
                try:
                    os.write(fd, data)
                except BlockingIOError:
                    time.sleep(0.0001)
            with open(HERE + "/mad", "w") as file:
                file.write("done")
        while self.tick():
            self.wait(0.05)
"""


def wanted(d: Daemon, first: int) -> int:
    found = re.findall(r"Pool size \d+ -> (\d+)", d.log_text())
    return int(found[-1]) if found else first


def is_calm(d: Daemon, manager: int) -> bool:
    """Tell whether the manager has nothing left to do, and looks like it."""
    status = kit.status(manager)
    pending = int(status["ShdPnd"], 16) | int(status["SigPnd"], 16)
    asleep = status["State"].startswith("S")
    return asleep and not pending and kit.healthy(d, wanted(d, 3))()


def test_a_storm_of_signals_costs_no_life_and_no_order() -> None:
    chance = random.Random(SEED)  # noqa: S311 - to be repeated
    kinds = {
        signal.SIGHUP: 1,
        signal.SIGTTIN: 2,
        signal.SIGTTOU: 3,  # more often, or the pool would grow and grow
        signal.SIGUSR1: 1,
        signal.SIGCHLD: 3,
    }
    storm = chance.choices(list(kinds), list(kinds.values()), k=STORM)
    with kit.service(graceful_timeout=5) as d:
        manager = kit.up(d)
        door = os.pidfd_open(manager)
        try:
            began = time.monotonic()
            for number in storm:
                signal.pidfd_send_signal(door, number)
            took = time.monotonic() - began
        finally:
            os.close(door)
        d.wait_for(lambda: all(is_calm(d, manager) for _ in range(20)), 30, "calm")
        grown = wanted(d, 3)
        d.signal(signal.SIGTTIN)
        d.wait_for_line(f"Pool size {grown} -> {grown + 1}")
        d.wait_for(kit.healthy(d, grown + 1))

        assert took < 20, f"{STORM} signals, seed {SEED}"
        assert d.pid == manager
        assert d.log_lines("Pool size")
        assert d.log_lines("is good: replacing")
        assert not d.log_lines("[error]")
        assert not d.log_lines("[fatal]")


@pytest.mark.parametrize(
    "mad", ["noise", "flood", "beats", "future", "words", "halves", "farewells"]
)
def test_a_mad_spirit_harms_itself_only(mad: str) -> None:
    body = "import random, struct\n" + MAD.replace("SETTINGS_OF_THE_MAD", repr(mad))
    with kit.service(body, heartbeat_timeout=1) as d:
        d.start()
        manager = d.pid
        d.wait_for(lambda: len(d.spirits) >= 3)
        sane = d.spirits[1:3]
        # The manager still has an ear for others.
        began = time.monotonic()
        d.signal(signal.SIGTTIN)
        d.wait_for_line("Pool size 3 -> 4")
        assert time.monotonic() - began < 1
        d.wait_for((d.folder / "mad").exists, what="the end of the madness")
        d.signal(signal.SIGTTOU)
        d.wait_for_line("Pool size 4 -> 3")

        assert d.pid == manager
        assert not d.log_lines("failed in its loop")
        assert set(sane) <= set(d.spirits)
        for pid in sane:
            assert not d.log_lines(f"Spirit {pid} has no heartbeat")
