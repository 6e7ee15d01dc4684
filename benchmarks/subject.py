"""
What is measured: a small pool, ghostd's or a floor's, as a program of its own.

    subject.py bare|floor|ghostd BODY report=FD hold=FD home=DIR spirits=N ...
    subject.py COMMAND BODY home=DIR spirits=N ...

The first form stays in the foreground and tells on *report* what happens, in records
that carry a time of the monotonic clock. The second gives a daemon a command.

The floor has the same heap as ghostd: it imports all that a running manager has, and
uses none of it. That matters: each module makes every fork dearer, and `threading`,
which comes with `logging`, runs code of its own in every child. "bare" is the floor
without that, and shows what the imports alone cost.
"""

from __future__ import annotations

import gc
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

RECORD = struct.Struct("=cqq")
"""Tag, process id, value: nanoseconds on the monotonic clock unless said otherwise."""

BEGUN, BODY, READY, LIVES, ASKED = b"s", b"b", b"r", b"l", b"q"
COLLECTED, LOADED = b"c", b"o"
LOOP, EMPTY, TICK = b"L", b"E", b"T"
"""How long a block of turns, of empty calls, of ticks took: nanoseconds."""

BLOCKS, TURNS = 60, 10_000
LONGEST = 600
"""Seconds after which a daemon that everybody forgot ends by itself."""

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(os.path.dirname(HERE), "src")


class Options:
    """What the command line says, as ``name=value``."""

    def __init__(self, words: list[str]) -> None:
        """Read the words; what is not given is 0 or ""."""
        given = dict(word.split("=", 1) for word in words)
        self.report = int(given.get("report", 1))
        self.hold = int(given.get("hold", 0))
        self.spirits = int(given.get("spirits", 4))
        self.heap = int(given.get("heap", 0))
        self.lives = int(given.get("lives", 0))
        self.preload = bool(int(given.get("preload", 0)))
        self.home = given["home"]


def tell(fd: int, tag: bytes, value: int = 0) -> None:
    """Write a record; without a value it carries the time."""
    os.write(fd, RECORD.pack(tag, os.getpid(), value or time.monotonic_ns()))


def graph(mebibytes: int) -> list[object]:
    """
    Make objects of about so many MiB.

    Nested, since the collector does not even look at a flat dict of numbers.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    nodes: list[object] = []
    gc.disable()
    wanted = _pages() + mebibytes * 2**20 // page
    while mebibytes and _pages() < wanted:
        for _ in range(1000):
            number = len(nodes)
            leaf = {"name": f"node {number}", "path": [number, [str(number)]]}
            nodes.append({"number": number, "leaf": leaf, "kin": [leaf, {"up": leaf}]})
    gc.enable()
    return nodes


def _pages() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1])


# -- bodies: what a spirit does ------------------------------------------------


def idle(ghost: Any, options: Options) -> None:
    """Say when the body began, then wait to be ended."""
    tell(options.report, BODY)
    ghost.tick()
    while ghost.wait(3600):
        pass


def quiet(ghost: Any, _options: Options) -> None:
    """Be idle, and tell nobody: the body of a daemon."""
    while ghost.wait(3600):
        pass


def spin(ghost: Any, options: Options) -> None:
    """Tick as often as it goes."""
    tell(options.report, BODY)
    while ghost.tick():
        pass


def farewell(ghost: Any, _options: Options) -> None:
    """Leave at once."""
    ghost.tick(True)


def stubborn(ghost: Any, options: Options) -> None:
    """Hear the request to leave, tell that it was heard, and stay."""
    tell(options.report, BODY)
    ghost.tick()
    while True:
        signal.pause()
        if not ghost.ok:
            tell(options.report, ASKED)


def count(ghost: Any, options: Options) -> None:
    """Time blocks of bare turns, empty calls and ticks, one after the other."""
    ghost.tick()
    for _ in range(BLOCKS):
        for tag, loop in ((LOOP, _turns), (EMPTY, _empties), (TICK, _ticks)):
            began = time.monotonic_ns()
            loop(ghost)
            tell(options.report, tag, time.monotonic_ns() - began)
    tell(options.report, BODY)
    while ghost.wait(3600):
        pass


def _turns(_ghost: Any) -> None:
    for _ in range(TURNS):
        pass


def _empties(ghost: Any) -> None:
    for _ in range(TURNS):
        ghost.empty()


def _ticks(ghost: Any) -> None:
    for _ in range(TURNS):
        ghost.tick()


def keeper(ghost: Any, options: Options) -> None:
    """Be idle, and collect all garbage once whenever it is asked to by USR1."""

    def collect(_number: int, _frame: object) -> None:
        gc.collect()
        tell(options.report, COLLECTED)

    signal.signal(signal.SIGUSR1, collect)
    idle(ghost, options)


BODIES: dict[str, Callable[[Any, Options], None]] = {
    body.__name__: body
    for body in (idle, quiet, keeper, spin, farewell, stubborn, count)
}


class Floored:
    """What a body sees of the floor: nothing to tick for, and a pipe to wait on."""

    ok = True

    def __init__(self, hold: int) -> None:
        """Wait on *hold*, which ends when the benchmark does."""
        self._hold = hold

    def tick(self, _finished: bool = False) -> bool:
        """Do nothing."""
        return True

    def wait(self, _seconds: float) -> bool:
        """Wait for the benchmark's end."""
        return bool(os.read(self._hold, 1))


# -- the two kinds -------------------------------------------------------------


def floor_pool(
    body: Callable[[Any, Options], None], options: Options, *, bare: bool
) -> NoReturn:
    """Run the floor."""
    sys.path.insert(0, HERE)
    import floor

    if not bare:
        sys.path.insert(0, SOURCE)
        import ctypes  # noqa: F401 - to have them is all there is to it

        import ghostd.logs
        import ghostd.manager  # noqa: F401

    ghost = Floored(options.hold)

    def lives(number: int) -> None:
        if number == options.lives:
            tell(options.report, LIVES)

    tell(options.report, BEGUN)
    floor.run(
        options.spirits,
        lambda: body(ghost, options),
        lambda: tell(options.report, READY),
        lives,
    )


def ghostd_pool(body: Callable[[Any, Options], None], options: Options) -> Any:
    """Make a pool of ghostd's."""
    sys.path.insert(0, SOURCE)
    from ghostd import Prefork

    class Pool(Prefork):
        """A pool that says how far it is."""

        here = 0
        gone = 0

        def empty(self) -> None:
            """Do nothing: what a tick is compared with."""

        if options.preload:

            def load(self) -> None:
                """Have what a large application has."""
                self.heap = graph(options.heap)
                tell(options.report, LOADED)

        def init(self) -> None:
            """Be mortal: if the benchmark is killed, nobody else ends this daemon."""
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST)

        def spirit(self) -> None:
            """Do what is to be measured."""
            body(self, options)

        def heartbeat(self, _pid: int) -> None:
            """Count; for an idle pool the first round means that all are healthy."""
            self.here += 1
            if self.here == options.spirits:
                tell(options.report, READY)

        def reap(self, _pid: int) -> None:
            """Count."""
            self.gone += 1
            if self.gone == options.lives:
                tell(options.report, LIVES)

    return Pool(
        name="bench",
        pidfile=f"{options.home}/pid",
        logfile=f"{options.home}/log",
        spirits=options.spirits,
        term="immediate",
        preload=options.preload,
        # Lives that end at once are what the churn is about; elsewhere it is not met.
        restart_budget=100_000 if options.lives else None,
    )


def main(kind: str, name: str, *words: str) -> int:
    """Be what the command line says."""
    options = Options(list(words))
    body = BODIES[name]
    heap = [] if options.preload else graph(options.heap)
    if kind in {"bare", "floor"}:
        floor_pool(body, options, bare=kind == "bare")
    pool = ghostd_pool(body, options)
    if kind == "ghostd":
        tell(options.report, BEGUN)
        # A daemon ends like this, and the floor too. How long Python takes to clean
        # up behind a foreground program (10 ms) is not what is measured.
        os._exit(pool.startup())
    options.report = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    code: int = pool.ctrl(kind)
    del heap
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
