"""Forks that fail: nobody dies of it, it is tried again, more and more slowly."""

from __future__ import annotations

import re
import signal

import pytest

from ghostd.testing import Daemon
from tests.faults import kit

FORKS = "clone,clone3,fork,vfork"


def pauses(d: Daemon) -> list[float]:
    lines = d.log_lines("Cannot start a spirit")
    return [float(re.findall(r"next try in ([\d.]+) s", line)[0]) for line in lines]


@pytest.mark.root
@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM"])
def test_forks_that_fail_are_retried_with_growing_pauses(error: str) -> None:
    with kit.service() as d:
        manager = kit.up(d)
        first, *others = d.spirits
        with kit.injecting(d, manager, FORKS, f"error={error}:when=1..3") as fault:
            d.kill_spirit(first)
            d.wait_for_line("Cannot start a spirit", times=3)
            assert d.spirits == others
            d.wait_for(kit.healthy(d))
            assert fault.hits == 3

        assert d.pid == manager
        assert d.spirits[:2] == others
        waits = pauses(d)
        assert len(waits) == 3
        assert waits == sorted(waits)
        assert waits[2] > 2 * waits[0]


@pytest.mark.root
def test_a_limit_on_processes_stops_growth_and_nothing_else() -> None:
    with kit.service() as d:
        d.folder.chmod(0o777)
        assert not kit.start_by(d, *kit.as_stranger()).returncode
        d.wait_for(kit.healthy(d))
        manager, lives = d.pid, d.spirits
        assert kit.status(manager)["Uid"].split() == [str(kit.STRANGER)] * 4

        def limit(processes: int) -> None:
            # Root without CAP_SYS_RESOURCE may not, but the user itself may.
            words = (kit.need("prlimit", "util-linux"), f"--pid={manager}")
            ended = d.run(*kit.as_stranger(), *words, f"--nproc={processes}:1000")
            assert not ended.returncode, ended.stderr

        limit(4)

        d.signal(signal.SIGTTIN)
        d.wait_for_line("Cannot start a spirit", "temporarily unavailable", times=2)
        assert d.spirits == lives
        limit(100)
        d.wait_for(kit.healthy(d, 4))

        assert d.spirits[:3] == lives
        assert d.pid == manager


@pytest.mark.root
def test_a_burst_of_births_goes_on_after_a_fork_that_failed() -> None:
    with kit.service() as d:
        manager = kit.up(d)
        with kit.injecting(d, manager, FORKS, "error=EAGAIN:when=2+3") as fault:
            d.signal(signal.SIGSTOP)
            for spirit in d.spirits:
                d.kill_spirit(spirit)
            d.signal(signal.SIGCONT)
            d.wait_for_line("Cannot start a spirit")
            d.wait_for(kit.healthy(d))
            assert fault.hits

        assert d.pid == manager


@pytest.mark.root
@pytest.mark.parametrize("number", [1, 2])
def test_a_newborn_that_cannot_be_watched_is_no_extra_spirit(number: int) -> None:
    """The kernel has a limit of watches for each user."""
    with kit.service() as d:
        manager = kit.up(d)
        with kit.injecting(d, manager, "epoll_ctl", f"error=ENOSPC:when={number}") as f:
            d.signal(signal.SIGTTIN)
            d.wait_for_line("Cannot start a spirit", "No space left on device")
            d.wait_for(kit.healthy(d, 4))
            assert f.hits == 1

        d.wait_for(lambda: not d.zombies)
        assert d.pid == manager
        assert not d.log_lines("failed in its loop")
