"""
Starts that go wrong at the n-th system call, or are told to end there.

The launcher waits in `preinit`, so strace counts only what a start itself does, not
what Python needs to come up. After each point the start has either worked, and the
pool with it, or it has said why, and nothing is left.

A sample runs with the others; ``-m slow`` runs every point.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import ghostd
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

CALLS = {
    "clone": "EAGAIN",
    "openat": "EMFILE",
    "write": "ENOSPC",
    "flock": "ENOLCK",
    "link,linkat": "EPERM",
    "rename": "EIO",
    "setgroups": "EPERM",
    "setresuid": "EAGAIN",
    "setresgid": "EPERM",
    "pipe2": "EMFILE",
    "epoll_create1": "EMFILE",
    "epoll_ctl": "ENOSPC",
    "pidfd_open": "ENOSYS",
    "prctl": "EPERM",
    "setsid": "EPERM",
    "fchmod": "EPERM",
    "dup2,dup3": "EBUSY",
    "fstat,newfstatat": "EACCES",
    "umask": "ENOSYS",
    "chdir": "EACCES",
    "unlink": "EROFS",
}
"""System calls of a start, with an error that each of them can really give."""

MOST = 40
"""Calls of one kind that are tried at most."""

SAMPLE = [
    *(("clone", n) for n in (1, 2, 3)),
    *(("openat", n) for n in (1, 2, 3, 5, 8)),
    *(("write", n) for n in (1, 2, 3, 5)),
    *(("flock", n) for n in (1, 2)),
    *(("pipe2", n) for n in (1, 2, 3, 4)),
    *((call, 1) for call in ("link,linkat", "rename", "setgroups", "setresuid")),
    *((call, 1) for call in ("setresgid", "epoll_create1", "pidfd_open", "unlink")),
]


@contextlib.contextmanager
def gated(*, drops_rights: bool = True) -> Iterator[Daemon]:
    """Make a daemon whose launcher waits at a gate, in a folder of its user."""
    user = {"user": kit.STRANGER, "group": kit.STRANGER} if drops_rights else {}
    with kit.service(GATED, env=kit.UNCOUNTED, spirits=2, **user) as d:
        if drops_rights:
            os.chown(d.folder, kit.STRANGER, kit.STRANGER)
        yield d


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
        started, stopped = (
            d.log_lines("Ghost process", w) for w in ("started", "stopped")
        )
        assert len(started) == len(stopped)
    elif launcher.returncode > 0:
        assert mute or "did not start" in launcher.stderr, launcher.stderr
    assert not kit.leftovers(d)


def try_point(d: Daemon, calls: str, number: int, what: str) -> bool:
    """Start with one fault; tell whether it took place."""
    if calls == "rename":
        d.pidfile.write_text("1\n")  # stale: then it is replaced, not created
    try:
        _, fault = traced_start(d, calls, f"{what}:when={number}")
    except AssertionError as failure:
        failure.add_note(f"{calls} number {number}: {what}")
        raise
    d.pidfile.unlink(missing_ok=True)
    return bool(fault.signals if "signal" in what else fault.hits)


def try_some(points: list[tuple[str, int]], what: str) -> None:
    hits = 0
    with gated() as d:
        for calls, number in points:
            hits += try_point(d, calls, number, what.format(CALLS[calls]))
    assert hits >= 0.7 * len(points), f"only {hits} of {len(points)} faults took place"


def try_all(calls: str, what: str) -> None:
    # Whoever may not read root's libraries cannot call prctl.
    with gated(drops_rights=calls != "prctl") as d:
        number = 1
        while number < MOST and try_point(d, calls, number, what.format(CALLS[calls])):
            number += 1
    sys.stdout.write(f"{calls}: {number - 1} points\n")
    assert number > 1, "no fault took place"


@pytest.mark.parametrize("part", range(4))
def test_an_error_at_any_call_of_a_start_is_survived_or_told(part: int) -> None:
    try_some(SAMPLE[part::4], "error={}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_an_error_at_every_call_of_a_start_is_survived_or_told(call: str) -> None:
    try_all(call, "error={}")


TERM_AT = [
    *(("write", n) for n in (1, 2, 3)),
    *(("flock", n) for n in (1, 2)),
    *(("openat", n) for n in (1, 3, 5)),
    *((call, 1) for call in ("setsid", "umask", "link,linkat", "unlink", "setresuid")),
    *((call, 1) for call in ("epoll_create1", "pidfd_open")),
    *(("clone", n) for n in (1, 2)),
]


@pytest.mark.parametrize("part", range(2))
def test_a_term_at_any_call_of_a_start_leaves_nothing_half_done(part: int) -> None:
    try_some(TERM_AT[part::2], "signal=SIGTERM")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", CALLS)
def test_a_term_at_every_call_of_a_start_leaves_nothing_half_done(call: str) -> None:
    try_all(call, "signal=SIGTERM")


def test_a_term_at_any_moment_of_a_start_leaves_nothing_half_done() -> None:
    """The daemon alone is told to end, by the number that it has just got."""
    seed = 4_711
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    with gated(drops_rights=False) as d:
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
        assert f"RuntimeError: user {kit.STRANGER} cannot" in ended.stderr
        assert "Traceback" in ended.stderr
        assert "Traceback" in d.log_text()
        assert not d.log_lines("lost")
        assert not kit.leftovers(d)


def test_a_user_who_cannot_read_pythons_folder_has_the_same_daemon() -> None:
    """The interpreter may lie in root's home; a copy of it surely does here."""
    body = """
class Service(Prefork):
    def spirit(self):
        self.tick()
        try:
            os.listdir(HERE + "/private")
        except PermissionError:
            self.log.info("cannot enter")
        while self.tick():
            self.wait(0.5)
            if os.path.exists(HERE + "/fail"):
                raise RuntimeError("on purpose")
"""
    with kit.service(body, user=kit.STRANGER, group=kit.STRANGER, spirits=1) as d:
        private = d.folder / "private"
        private.mkdir(mode=0o700)
        library = private / "python"
        shutil.copytree(
            os.path.dirname(os.__file__),
            library,
            ignore=shutil.ignore_patterns(
                "site-packages", "test", "idlelib", "lib2to3"
            ),
        )
        code = (
            f"import sys; sys.path[:] = [{str(library)!r}, {str(library)!r} + "
            f"'/lib-dynload', {source()!r}]; sys.argv = [{str(d.script)!r}, 'start'];"
            "import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        ended = d.run(sys.executable, "-S", "-c", code)
        assert ended.returncode == 0, ended.stderr
        d.wait_for_line("cannot enter")
        assert kit.status(d.spirits[0])["Threads"] == "1", "no PDEATHSIG, but a watch"
        d.wait_for(kit.healthy(d, 1))
        (d.folder / "fail").touch()
        d.wait_for_line("failed: RuntimeError: on purpose")

        assert "\n    Traceback" in d.log_text()
        assert not d.log_lines("lost")


def source() -> str:
    return os.path.dirname(os.path.dirname(ghostd.__file__))
