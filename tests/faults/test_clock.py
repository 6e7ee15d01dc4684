"""Clocks that jump: only the monotonic one decides, and even that is forgiven."""

from __future__ import annotations

import glob
import signal
import sys

import pytest

from ghostd.testing import Daemon
from tests.faults import kit


def faked(*, monotonic: bool) -> dict[str, str | None]:
    libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not libraries:
        pytest.skip("libfaketime is missing: apt-get install faketime")
    env = {"LD_PRELOAD": libraries[0], "FAKETIME_NO_CACHE": "1"}
    if not monotonic:
        # The name has changed between two versions.
        names = ("DONT_FAKE_MONOTONIC", "FAKETIME_DONT_FAKE_MONOTONIC")
        env |= dict.fromkeys(names, "1")
    return dict(env)


def set_out(d: Daemon) -> None:
    """Let the clock follow a file; its folder is known only now."""
    d._environment["FAKETIME_TIMESTAMP_FILE"] = str(d.folder / "step")  # noqa: SLF001
    jump(d, "+0")


def jump(d: Daemon, step: str) -> None:
    new = d.folder / "step.new-one"
    new.write_text(step + "\n")
    new.rename(d.folder / "step")


def hours(d: Daemon) -> list[int]:
    """Give the clock of each log line, in whole hours of the month."""
    found = [line for line in d.log_text().splitlines() if kit.LINE.fullmatch(line)]
    return [int(line[9:11]) * 24 + int(line[12:14]) for line in found]


def test_steps_of_the_wall_clock_replace_nobody() -> None:
    env = faked(monotonic=False)
    with kit.service(env=env, heartbeat_timeout=0.5) as d:
        set_out(d)
        kit.up(d)
        lives = d.spirits
        for number, step in enumerate(("-3600", "+86400", "-86400", "+0")):
            jump(d, step)
            d.signal(signal.SIGTTIN)
            d.wait_for_line("Pool size 3 -> 4", times=number + 1)
            kit.elapse(d, 0.5 + 0.2)
            d.signal(signal.SIGTTOU)
            d.wait_for(kit.healthy(d))

        assert len(set(hours(d))) >= 4, "the steps were not seen"
        assert d.spirits == lives
        assert not d.log_lines("has no heartbeat")
        assert not d.log_lines("held up")


def test_a_leap_of_the_monotonic_clock_replaces_nobody() -> None:
    """So it looks when a machine has slept, or was moved."""
    env = faked(monotonic=True)
    with kit.service(env=env, heartbeat_timeout=0.5) as d:
        set_out(d)
        kit.up(d)
        lives = d.spirits
        jump(d, "+3600")
        d.wait_for_line("Manager was held up for")
        kit.elapse(d, 2 * (0.5 + 0.1))

        assert d.spirits == lives
        assert not d.log_lines("has no heartbeat")


@pytest.mark.root
@pytest.mark.parametrize("years", [0.01, 30])
def test_a_machine_that_has_been_up_for_years_is_served_as_well(years: float) -> None:
    shift = int(years * 365 * 86400)
    with kit.service(heartbeat_timeout=0.3, graceful_timeout=0.2) as d:
        unshare = (kit.need("unshare"), "--time", f"--monotonic={shift}", "--fork")
        code = "import time; print(time.monotonic())"
        shown = float(d.run(*unshare, sys.executable, "-c", code).stdout)
        assert shown > shift
        ended = kit.start_by(d, *unshare)
        assert ended.returncode == 0, ended.stderr
        d.wait_for(kit.healthy(d))

        hung = d.kill_spirit(number=signal.SIGSTOP)
        d.wait_for_line(f"Spirit {hung} stopped")
        d.wait_for(kit.healthy(d))
