"""
What the fault tests share: one service to hurt, and the ways to hurt it.

Each test first proves that its fault took place: `Injection.hits` counts what strace
injected, other faults are read back from the kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ghostd.testing.daemon import Daemon, Foreground
from ghostd.unix import child

STRANGER = 64123
"""A user id that nobody on the machine has."""

PLAIN: dict[str, object] = {
    "logfile": "service.log",
    "pidfile": "service.pid",
    "spirits": 3,
    "term": "immediate",  # the machine of the tests may be a container
    "heartbeat_interval": 0.1,
    "heartbeat_timeout": 5,
    "graceful_timeout": 2,
    "canary_time": 0,
}

HEAD = """
import json, os, select, signal, sys, time
from ghostd import Ghost, Prefork

SETTINGS = json.loads(os.environ["SETTINGS"])
HERE = os.path.dirname(os.path.abspath(__file__))
"""

FOOT = """
if __name__ == "__main__":
    sys.exit(Service(**SETTINGS).ctrl())
"""

CALM = """
class Service(Prefork):
    def spirit(self):
        while self.tick():
            self.wait(0.5)
"""

LINE = re.compile(
    r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{5}\] \[(\d+)\] \[([a-z]+)\] (.*)"
)
"""A line of the log: pid, level, text. What a message goes on with is indented."""

UNCOUNTED = dict.fromkeys(
    ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE")
)
"""An environment in which no coverage is measured, for tests that count syscalls."""


def service(
    body: str = CALM, *, env: dict[str, str | None] | None = None, **settings: object
) -> Daemon:
    """Make a daemon out of a class named Service; settings over `PLAIN`."""
    given = json.dumps({**PLAIN, **settings})
    logfile = settings.get("logfile", PLAIN["logfile"])
    return Daemon(
        HEAD + body + FOOT,
        env={**(env or {}), "SETTINGS": given},
        pidfile=str(settings.get("pidfile", PLAIN["pidfile"])),
        logfile=str(logfile or "syslog"),
    )


def need(program: str, package: str | None = None) -> str:
    """Give the path of a program, or skip and say what would bring it."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is missing: apt-get install {package or program}")
    return path


def healthy(d: Daemon, number: int = 3) -> Callable[[], bool]:
    """Make a condition: exactly so many spirits live, and all of them beat."""
    return lambda: d.healthy == number and len(d.spirits) == number


def up(d: Daemon, number: int = 3) -> int:
    """Start a daemon, wait until it is complete; give the manager's pid."""
    d.start()
    d.wait_for(healthy(d, number), what=f"{number} healthy spirits")
    return d.pid


def background(d: Daemon, *arguments: str, terminal: bool = False) -> Foreground:
    """Run any program beside the test."""
    code = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
    return d.run_foreground(*arguments, python=("-c", code), terminal=terminal)


def start_by(d: Daemon, *before: str) -> subprocess.CompletedProcess[str]:
    """Start the daemon by way of another program, such as setpriv."""
    return d.run(*before, sys.executable, str(d.script), "start")


def as_stranger() -> tuple[str, ...]:
    """
    Give the words that run a program as `STRANGER`.

    The interpreter may be in root's home, so the right to read everything is kept;
    it changes nothing for a test of limits and signals.
    """
    keep = "+dac_read_search"
    return (
        need("setpriv", "util-linux"),
        *(f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"),
        *(f"--inh-caps=-all,{keep}", f"--ambient-caps={keep}"),
    )


class Injection:
    """What strace did to a process so far."""

    def __init__(self, path: Path) -> None:
        """Read what strace wrote at *path*."""
        self._path = path

    @property
    def text(self) -> str:
        """All traced calls."""
        return self._path.read_text(errors="replace") if self._path.exists() else ""

    @property
    def hits(self) -> int:
        """Number of calls that were changed."""
        return self.text.count("INJECTED)")

    @property
    def signals(self) -> int:
        """Number of TERMs that were delivered at a call."""
        return self.text.count("--- SIGTERM {")


@contextlib.contextmanager
def injecting(
    d: Daemon, pid: int, calls: str, what: str, *more: str
) -> Iterator[Injection]:
    """Have strace change *calls* of a running process, see ``-e inject``."""
    path = d.folder / f"strace-{time.monotonic_ns()}"
    rules = ("-e", f"trace={calls}", "-e", f"inject={calls}:{what}")
    arguments = (need("strace"), "-qq", "-o", str(path), *rules, *more, "-p", str(pid))
    strace = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        d.wait_for(lambda: tracer(pid) == strace.pid, what="strace at work")
        yield Injection(path)
    finally:
        strace.terminate()
        strace.wait(10)


def tracer(pid: int) -> int:
    """Give the pid of who traces a process, 0 if nobody does."""
    return int(status(pid).get("TracerPid", "0"))


def status(pid: int) -> dict[str, str]:
    """Read /proc/PID/status; empty for one that is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            pairs = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in pairs}


def processor_time(pid: int) -> float:
    """Give the seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_gone(pid: int) -> bool:
    """Tell whether a process is dead, reaped or not."""
    return child.state(pid) in ("", "Z", "X")


def elapse(d: Daemon, seconds: float) -> None:
    """Let a time-out go by: time itself is what the test is about."""
    until = time.monotonic() + seconds
    d.wait_for(lambda: time.monotonic() >= until, seconds + 5)


def leftovers(d: Daemon) -> list[str]:
    """List files that only a start can have made."""
    patterns = ("*.pid", "*.new")
    return sorted(path.name for p in patterns for path in d.folder.rglob(p))


def nothing_runs(d: Daemon, limit: float = 5.0) -> None:
    """Wait until nothing lives below the test any more."""
    d.wait_for(lambda: not d.processes, limit, "the end of all processes")


def unique() -> str:
    """Make a name that nobody else uses now."""
    return f"{os.getpid()}-{time.monotonic_ns()}"


def wait_for(condition: Callable[[], object], limit: float) -> None:
    """Wait for something that belongs to no daemon."""
    until = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.01)


def send_anyway(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone by now."""
    with contextlib.suppress(ProcessLookupError):
        door = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(door, number)
        finally:
            os.close(door)
