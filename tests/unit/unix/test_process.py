"""A process that is no child of ours: stopped for good, and nobody else with it."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.helpers import living_child, wait_for

from ghostd.unix import child
from ghostd.unix.process import Process


def alive(pid: int) -> bool:
    return child.state(pid) not in ("", "Z", "X")


def test_a_number_that_belongs_to_somebody_else_by_now_is_refused() -> None:
    with living_child() as pid, pytest.raises(ProcessLookupError):
        Process(pid, lambda: False)


def test_a_number_that_nobody_has_is_refused() -> None:
    with pytest.raises(ProcessLookupError):
        Process(2**22 + 1, lambda: False)


def test_signals_and_the_end() -> None:
    with living_child() as pid:
        process = Process(pid, lambda: alive(pid))
        began = time.monotonic()
        assert not process.ends_within(0.05)
        assert time.monotonic() - began >= 0.045
        process.send(signal.SIGTERM)
        assert process.ends_within(10)
        process.send(signal.SIGTERM)
        os.waitpid(pid, 0)
        process.send(signal.SIGTERM)
        assert process.ends_within(0)
        process.close()
        process.close()


def test_children_go_before_their_parent() -> None:
    """C5, C9: KILL to a manager alone would leave its spirits orphans."""
    pids, pid_of = os.pipe()

    def manager() -> None:
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.write(pid_of, b"%d " % os.getpid())
                while True:
                    signal.pause()

    with living_child(manager) as pid:
        spirits: list[int] = []
        while len(spirits) < 3:
            spirits += map(int, os.read(pids, 100).split())
        os.kill(pid, signal.SIGSTOP)
        process = Process(pid, lambda: alive(pid))
        assert process.end_with_children(10)
        for spirit in spirits:
            wait_for(lambda each=spirit: not alive(each))  # type: ignore[misc]
        process.close()
    os.close(pids)
    os.close(pid_of)
