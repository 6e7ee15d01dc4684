"""
How fast a pool ends: by signals and by commands.

By TERM, by QUIT, by TERM after a QUIT that nobody obeys, by `stop` and by `restart`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from common import ALONE, HERE, KINDS, Figure, Subject, ends, main, watched
from subject import ASKED, BODY, READY

SPIRITS = 4


def _signalled(kind: str, number: signal.Signals) -> float:
    """Give the ms from a signal to the manager until all are gone."""
    with Subject(kind, spirits=SPIRITS) as pool:
        spirits = pool.up(SPIRITS)
        with watched([pool.pid, *spirits]) as doors:
            began = time.monotonic_ns()
            os.kill(pool.pid, number)
            return (max(ends(doors).values()) - began) / 1e6


def _insisted() -> float:
    """Give the ms from TERM, after a QUIT that spirits heard and ignored."""
    with Subject("ghostd", "stubborn", spirits=SPIRITS) as pool:
        spirits = [pid for pid, _ in pool.wait_for(BODY, SPIRITS)]
        pool.wait(READY)
        with watched([pool.pid, *spirits]) as doors:
            os.kill(pool.pid, signal.SIGQUIT)
            pool.wait_for(ASKED, SPIRITS)
            began = time.monotonic_ns()
            os.kill(pool.pid, signal.SIGTERM)
            return (max(ends(doors).values()) - began) / 1e6


class Daemon:
    """A daemon that is started and stopped by commands, in a folder of its own."""

    def __init__(self) -> None:
        """Make the folder; nothing runs yet."""
        self.home = Path(tempfile.mkdtemp(prefix="ghostd-bench-"))
        self.home.chmod(0o755)
        self._pids: set[int] = set()

    def launch(self, command: str) -> subprocess.Popen[str]:
        """Give a command."""
        program = [sys.executable, *ALONE, str(HERE / "subject.py"), command, "quiet"]
        words = [f"home={self.home}", f"spirits={SPIRITS}"]
        return subprocess.Popen([*program, *words], stdout=subprocess.PIPE, text=True)

    def obey(self, command: str) -> float:
        """Give a command and wait for its end; give the ms it took."""
        began = time.monotonic_ns()
        process = self.launch(command)
        with watched([process.pid]) as doors:
            ended = ends(doors)[doors[0]]
        said, _ = process.communicate()
        assert process.returncode == 0, f"{command} said {said!r}"
        if command in {"start", "restart"}:
            self._pids.add(self.pid)
        return (ended - began) / 1e6

    @property
    def pid(self) -> int:
        """Read the pidfile."""
        return int((self.home / "pid").read_text())

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs: as orphans its daemons have become our children."""
        for pid in self._pids:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    os.kill(pid, signal.SIGTERM)
                    os.waitpid(pid, 0)
        shutil.rmtree(self.home)


def _returned(daemon: Daemon) -> float:
    """Give the ms from the end of a daemon to the return of the `stop` that asked."""
    daemon.obey("start")
    with watched([daemon.pid]) as (door,):
        command = daemon.launch("stop")
        with watched([command.pid]) as (other,):
            times = ends([door, other])
        command.communicate()
    assert command.returncode == 0
    return (times[other] - times[door]) / 1e6


def stop(options: Namespace) -> Iterator[Figure]:
    """End pools in many ways."""
    turns = 8 if options.short else 30
    for number, most in ((signal.SIGTERM, 20), (signal.SIGQUIT, 50)):
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(turns):
            # The floor knows one way to end.
            taken["floor"].append(_signalled("floor", signal.SIGTERM))
            taken["ghostd"].append(_signalled("ghostd", number))
        name = "stop." + number.name[3:].lower()
        figure = Figure(name, "ms", taken["ghostd"], taken["floor"])
        yield figure.within("median", most)

    figure = Figure("stop.term-after-quit", "ms", [_insisted() for _ in range(turns)])
    yield figure.within("median", 20)

    with Daemon() as daemon:
        late = [_returned(daemon) for _ in range(turns)]
    figure = Figure("stop.command", "ms after the daemon", late)
    yield figure.within("worst", 100)

    once, twice = [], []
    with Daemon() as daemon:
        daemon.obey("start")
        for _ in range(turns):
            twice.append(daemon.obey("stop") + daemon.obey("start"))
            once.append(daemon.obey("restart"))
        daemon.obey("stop")
    # What stands in for the floor: the two commands, one after the other.
    figure = Figure("stop.restart", "ms", once, twice, floor_is="stop, then start")
    yield figure.ratio_within("median", 1)


if __name__ == "__main__":
    sys.exit(main(stop))
