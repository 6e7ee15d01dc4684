"""
Starts that go wrong at the n-th system call, or are told to end there.

The launcher waits in `preinit`, so strace counts only what a start itself does, not
what Python needs to come up. After each point the start has either worked, and the
pool with it, or it has said why, and nothing is left.

A sample runs with the others; ``-m slow`` runs every point.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from ghostd.testing import Daemon
from ghostd.testing.daemon import Foreground
from tests.faults import kit

pytestmark = pytest.mark.root

GATED = """
class Service(Prefork):
    def preinit(self):
        with open(HERE + "/gate") as gate:
            gate.read()

    def spirit(self):
        while self.tick():
            self.wait(0.5)
"""

# Which error each call really gives, and how often a start makes it in one process.
CALLS = {
    "clone": ("EAGAIN", 4),
    "openat": ("EMFILE", 14),
    "write": ("ENOSPC", 12),
    "flock": ("ENOLCK", 2),
    "link,linkat": ("EPERM", 1),
    "rename": ("EIO", 1),
    "setgroups": ("EPERM", 1),
    "setresuid": ("EAGAIN", 1),
    "setresgid": ("EPERM", 1),
    "pipe2": ("EMFILE", 7),
    "epoll_create1": ("EMFILE", 1),
    "epoll_ctl": ("ENOSPC", 8),
    "pidfd_open": ("ENOSYS", 3),
    "prctl": ("EPERM", 2),
    "setsid": ("EPERM", 1),
    "fchmod": ("EPERM", 1),
    "dup2,dup3": ("EBUSY", 3),
    "fstat,newfstatat": ("EACCES", 12),
    "rt_sigaction": ("EINVAL", 12),
    "umask": ("ENOSYS", 1),
    "chdir": ("EACCES", 1),
    "unlink": ("EROFS", 1),
}

SAMPLE = [
    *(("clone", n) for n in (1, 2, 3)),
    *(("openat", n) for n in (1, 2, 3, 5, 8)),
    *(("write", n) for n in (1, 2, 3, 5)),
    *(("flock", n) for n in (1, 2)),
    *(("pipe2", n) for n in (1, 2, 3, 4)),
    *((call, 1) for call in ("link,linkat", "rename", "setgroups", "setresuid")),
    *((call, 1) for call in ("setresgid", "epoll_create1", "pidfd_open", "prctl")),
]
EVERY = [(call, n + 1) for call, (_, times) in CALLS.items() for n in range(times)]


def gated(**settings: object) -> Daemon:
    return kit.service(GATED, env=kit.UNCOUNTED, spirits=2, **settings)


def at_the_gate(d: Daemon) -> tuple[Foreground, int]:
    """Run a launcher as far as preinit; give it and what opens the gate."""
    gate = d.folder / "gate"
    if not gate.exists():
        os.mkfifo(gate)
    launcher = d.run_foreground("start")

    def reached() -> int:
        try:
            return os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return 0

    return launcher, d.wait_for(reached, what="a launcher at the gate")


def traced_start(d: Daemon, calls: str, what: str) -> tuple[Foreground, kit.Injection]:
    """Start the daemon with a fault at one of its system calls; wait for the word."""
    launcher, gate = at_the_gate(d)
    path = d.folder / f"strace-{kit.unique()}"
    rules = ("-e", f"trace={calls}", "-e", f"inject={calls}:{what}")
    strace = subprocess.Popen(
        [kit.need("strace"), "-fqqo", path, *rules, "-p", f"{launcher.pid}"],
        stderr=subprocess.DEVNULL,
    )
    try:
        d.wait_for(lambda: kit.tracer(launcher.pid) == strace.pid)
        os.close(gate)
        launcher.wait(20)
        # The launcher's own words may be what could not be written.
        check(d, launcher, mute=calls == "write", told_to_end="SIGTERM" in what)
    finally:
        # It ends with the last one that it traces.
        strace.terminate()
        strace.wait(10)
    return launcher, kit.Injection(path)


def check(
    d: Daemon, launcher: Foreground, *, mute: bool = False, told_to_end: bool = False
) -> None:
    """The start has either worked, or has failed and left nothing."""
    # Whoever is told to end before there are handlers may still be on its way out.
    d.wait_for(
        lambda: kit.healthy(d, 2)() or not d.processes, what="a pool, or nothing at all"
    )
    if d.pid:
        if launcher.returncode == 0:
            assert launcher.stdout == f"Running {d.pid}\n"
        d.stop()
        kit.nothing_runs(d)
    elif launcher.returncode == 0:
        assert told_to_end, "it said Running"
        assert d.log_lines("Ghost process", "stopped")
    elif launcher.returncode > 0:
        assert mute or "did not start" in launcher.stderr, launcher.stderr
    assert not kit.leftovers(d)
    d.logfile.unlink(missing_ok=True)


def errors(points: list[tuple[str, int]]) -> None:
    hits = 0
    with gated(user=kit.STRANGER, group=kit.STRANGER) as d:
        os.chown(d.folder, kit.STRANGER, kit.STRANGER)
        for calls, number in points:
            if calls == "rename":
                d.pidfile.write_text("1\n")  # stale: then it is replaced, not created
            error, _ = CALLS[calls]
            try:
                _, fault = traced_start(d, calls, f"error={error}:when={number}")
            except AssertionError as failure:
                failure.add_note(f"{calls} number {number} gave {error}")
                raise
            hits += bool(fault.hits)
            d.pidfile.unlink(missing_ok=True)
    assert hits >= 0.7 * len(points), f"only {hits} of {len(points)} faults took place"


@pytest.mark.parametrize("part", range(4))
def test_an_error_at_any_call_of_a_start_is_survived_or_told(part: int) -> None:
    errors(SAMPLE[part::4])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_an_error_at_every_call_of_a_start_is_survived_or_told(call: str) -> None:
    errors([point for point in EVERY if point[0] == call])


TERM_AT = [
    *(("write", n) for n in (1, 2, 3)),
    *(("flock", n) for n in (1, 2)),
    *(("rt_sigaction", n) for n in (1, 3, 8)),
    *((call, 1) for call in ("setsid", "umask", "link,linkat", "unlink", "setresuid")),
    *((call, 1) for call in ("epoll_create1", "pidfd_open", "prctl")),
    *(("clone", n) for n in (2, 3)),
]


def terms(points: list[tuple[str, int]]) -> None:
    hits = 0
    with gated(user=kit.STRANGER, group=kit.STRANGER) as d:
        os.chown(d.folder, kit.STRANGER, kit.STRANGER)
        for calls, number in points:
            try:
                _, fault = traced_start(d, calls, f"signal=SIGTERM:when={number}")
            except AssertionError as failure:
                failure.add_note(f"TERM at {calls} number {number}")
                raise
            hits += bool(fault.signals)
    assert hits >= 0.7 * len(points), f"only {hits} of {len(points)} signals struck"


@pytest.mark.parametrize("part", range(2))
def test_a_term_at_any_call_of_a_start_leaves_nothing_half_done(part: int) -> None:
    terms(TERM_AT[part::2])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_a_term_at_every_call_of_a_start_leaves_nothing_half_done(call: str) -> None:
    terms([point for point in EVERY if point[0] == call])


def test_a_term_at_any_moment_of_a_start_leaves_nothing_half_done() -> None:
    """The daemon alone is told to end, by the number that it has just got."""
    seed = 4_711
    chance = random.Random(seed)
    with gated() as d:
        ended = 0
        for _ in range(25):
            launcher, gate = at_the_gate(d)
            delay = chance.uniform(0.0, 0.05)
            os.close(gate)
            until = time.perf_counter() + delay
            while time.perf_counter() < until:
                pass
            for pid in d.processes:
                if pid != launcher.pid:
                    kit.send_anyway(pid, signal.SIGTERM)
                    ended += 1
                    break
            launcher.wait(20)
            check(d, launcher, told_to_end=True)
        assert ended > 5, f"seed {seed}"


def test_a_start_that_fails_behind_the_drop_of_rights_leaves_no_pidfile() -> None:
    """The daemon may not remove it from root's folder, but the launcher may."""
    body = """
class Service(Prefork):
    def init(self):
        raise RuntimeError(f"user {os.geteuid()} cannot")

    spirit = init
"""
    with kit.service(body, user=kit.STRANGER, group=kit.STRANGER) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert f"user {kit.STRANGER} cannot" in ended.stderr
        assert not kit.leftovers(d)
