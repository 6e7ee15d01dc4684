"""
Serving under reloads, recycling, resizing and kills: what is lost, and what it costs.

    python -m tests.chaos.serve --seconds 60              # all of it: more than an hour
    python -m tests.chaos.serve --only reload,wsgi        # cells with these words

A cell is a torment (`reload`, `recycle`, `resize`, `stop`, `kill`, `preload`: kills
when a mold is among the victims), an interface (`asgi`, `wsgi`), a way to connect
(`again`, `anew`) and a queue (`shared`, `reuseport`). Each is a daemon of its own
under open-loop load, with a share of slow requests so that every torment meets some
in flight. Before it the same daemon is loaded in peace, which is what the latencies
are compared with.

Nothing may be lost but what is inside a process when that is killed, which the kernel
tells (see `ghostd.testing.strike`). The script ends with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import select
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ghostd.testing import Daemon, Death, Load, Report, strike

SERVICE = """
import json, os, sys
from ghostd.http import HttpServer

if __name__ == "__main__":
    sys.exit(HttpServer(**json.loads(os.environ["SETTINGS"])).ctrl())
"""

APPLICATION = """
import asyncio, os, time

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.05)
    headers = [
        (b"content-length", b"2"),
        (b"x-pid", str(os.getpid()).encode()),
        (b"x-id", dict(scope["headers"]).get(b"x-id", b"")),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.05)
    start_response("200 OK", [
        ("Content-Length", "2"),
        ("X-Pid", str(os.getpid())),
        ("X-Id", environ.get("HTTP_X_ID", "")),
    ])
    return [b"ok"]
"""

RATE = 1000.0
"""Requests for each second; 50,000 are asked for in a minute."""

SLOW = 0.1
CONNECTIONS = 64
MOMENT = 0.2
"""Seconds, more than a slow request takes."""

RELOAD_EVERY = 2.0
DONE = ("Generation", "has replaced all others")
"""What the log says at the end of a reload."""

STOP_EVERY = 2.0
KILL_EVERY = 0.5
RESIZE_EVERY = 0.25
LARGEST = 8
BEAT = 0.2
"""Seconds in which it is heard once that a spirit is to be recycled."""

LIFE = 2.0
"""Seconds in which a spirit gets as many requests as it is recycled after."""

MOST_P99 = 2.0
"""What the 99th percentile under torment may be, times that in peace."""

BACK = 0.05
"""Seconds after a kill until the throughput is back, and what it is counted in."""

ENOUGH = 0.9
"""The share of the rate that counts as back."""


class Case(NamedTuple):
    """
    How is served, and how is asked.

    Attributes:
        interface: ``asgi`` or ``wsgi``.
        keepalive: connections are used again.
        queue: ``shared`` or ``reuseport``.
    """

    interface: str
    keepalive: bool
    queue: str

    def __str__(self) -> str:
        return f"{self.interface} {'again' if self.keepalive else 'anew'} {self.queue}"


class Scale(NamedTuple):
    """
    How long and how much.

    Attributes:
        seconds: of torment.
        peace: seconds before it.
        rate: requests for each second.
        warm_up: seconds before both.
        spirits: how many serve.
    """

    seconds: float = 60.0
    peace: float = 20.0
    rate: float = RATE
    warm_up: float = 1.0
    spirits: int = 4


class Bar(NamedTuple):
    """
    What has to hold, and whether it did.

    Attributes:
        what: was seen.
        met: it holds.
        timely: it is about time, which a busy machine has less of.
    """

    what: str
    met: bool
    timely: bool


class Verdict:
    """
    What came of a cell.

    Attributes:
        name: of the cell.
        report: of the time of torment.
        peace: of the time before it.
        bars: what had to hold.
        notes: what else there is to say.
    """

    def __init__(self, name: str, peace: Report, report: Report) -> None:
        """Begin with what each cell has in common."""
        self.name = name
        self.peace = peace
        self.report = report
        self.bars: list[Bar] = []
        self.notes: list[str] = []
        self.require(not peace.failed, f"{len(peace.failed)} lost in peace")

    def require(self, truth: object, what: str, *, timely: bool = False) -> None:
        """Set a bar; *what* tells what was seen."""
        self.bars.append(Bar(what, bool(truth), timely))

    def compare_p99(self) -> None:
        """Set the bar for latencies."""
        ratio = {
            slow: self.report.percentile(99, slow=slow)
            / self.peace.percentile(99, slow=slow)
            for slow in (None, False)
        }
        said = f"p99 {ratio[None]:.2f} x peace"
        self.require(ratio[None] <= MOST_P99, said, timely=True)
        self.notes.append(f"without the slow ones {ratio[False]:.2f} x")

    @property
    def missed(self) -> list[str]:
        """What did not hold."""
        return [bar.what for bar in self.bars if not bar.met]

    @property
    def lost(self) -> list[str]:
        """What did not hold, and not for want of time."""
        return [bar.what for bar in self.bars if not bar.met and not bar.timely]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        report = self.report
        figures = [
            f"{report.sent} sent",
            f"{len(report.failed)} failed",
            *(bar.what for bar in self.bars[1:] if bar.met),
            *self.notes,
            "p50 {:.1f} p99 {:.1f} p99.9 {:.1f} ms".format(
                *(1000 * report.percentile(share) for share in (50, 99, 99.9))
            ),
            "in peace {:.1f} {:.1f} {:.1f}".format(
                *(1000 * self.peace.percentile(share) for share in (50, 99, 99.9))
            ),
        ]
        missed = "".join(f"\n  MISSED: {what}" for what in self.missed)
        story = f"\n{report}" if self.lost else ""
        return f"{self.name}: {', '.join(figures)}{missed}{story}"


# -- the server ----------------------------------------------------------------


@contextlib.contextmanager
def serving(
    case: Case, spirits: int, **settings: object
) -> Iterator[tuple[Daemon, str]]:
    """Have a daemon that serves; give its address, too."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    given: dict[str, object] = {
        "app": f"application:{case.interface}",
        "listen": [address],
        "logfile": "service.log",
        "pidfile": "service.pid",
        "term": "immediate",
        "spirits": spirits,
        "reuseport": case.queue == "reuseport",
        "threads": 4 if case.interface == "wsgi" else 1,
        "access_log": False,
        "canary_time": 0.1,
        **settings,
    }
    daemon = Daemon(SERVICE, env={"SETTINGS": json.dumps(given)}, limit=60)
    with daemon as d:
        (d.folder / "application.py").write_text(APPLICATION)
        d.start()
        d.wait_for(lambda: d.healthy == spirits, what="healthy spirits")
        yield d, address
        # In the block, so that the log is shown if it does not.
        d.stop()


def load_of(address: str, case: Case, scale: Scale) -> Load:
    """Make the load."""
    return Load(
        address,
        rate=scale.rate,
        keepalive=case.keepalive,
        slow=SLOW,
        connections=CONNECTIONS,
    )


def elapse(until: float) -> None:
    """Let time go by: it is what this is about."""
    select.select([], [], [], max(0.0, until - time.monotonic()))


Torment = Callable[[Daemon, float], object]
"""Does something to a daemon until a time of the monotonic clock."""


def suffer(
    name: str, case: Case, scale: Scale, torment: Torment, **settings: object
) -> Verdict:
    """Load a daemon in peace, then under torment."""
    with serving(case, scale.spirits, **settings) as (d, address):
        with load_of(address, case, scale) as load:
            began = time.monotonic() + scale.warm_up
            quiet = began + scale.peace
            # What is on its way when it begins is tormented, too.
            middle = quiet + MOMENT
            elapse(middle)
            torment(d, middle + scale.seconds)
            end = time.monotonic()
            report = load.stop()
        verdict = Verdict(
            f"{name} {case}", report.between(began, quiet), report.between(quiet, end)
        )
    verdict.require(
        not report.unsent and verdict.report.sent >= scale.rate * scale.seconds,
        f"{report.unsent} not sent in time",
        timely=True,
    )
    return verdict


# -- torments ------------------------------------------------------------------


def reload(case: Case, scale: Scale) -> Verdict:
    """Have the application reloaded again and again."""
    times = done = before = 0

    def torment(d: Daemon, end: float) -> None:
        nonlocal times, done, before
        for at in ticks(RELOAD_EVERY, end):
            elapse(at)
            before = len(d.log_lines(*DONE))
            d.signal(signal.SIGHUP)
            times += 1
        elapse(end)
        d.wait_for(
            lambda: len(d.log_lines(*DONE)) > before, what="the end of the last reload"
        )
        done = len(d.log_lines(*DONE))

    verdict = suffer("reload", case, scale, torment)
    lost_nothing(verdict)
    # One that is not done within two seconds is superseded by the next.
    said = f"{done} of {times} reloads came to their end"
    verdict.require(2 * done >= times, said, timely=True)
    return verdict


def ticks(every: float, end: float) -> Iterator[float]:
    """Give the times at which something is to be done, the last well before *end*."""
    began = time.monotonic()
    for each in itertools.count():
        at = began + each * every
        if at > end - every / 2:
            return
        yield at


def recycle(case: Case, scale: Scale) -> Verdict:
    """Have spirits replaced after some requests, and others after them."""
    most = int(scale.rate * min(LIFE, scale.seconds / 4) / scale.spirits)
    births = 0

    def torment(d: Daemon, end: float) -> None:
        nonlocal births
        births = -len(d.log_lines("Spirit", "started"))
        elapse(end)
        births += len(d.log_lines("Spirit", "started"))

    verdict = suffer(
        "recycle", case, scale, torment, max_requests=most, heartbeat_interval=BEAT
    )
    lost_nothing(verdict)
    # A part of what the count alone would give: it is heard once in each interval, and
    # until somebody has taken over, who is to be replaced goes on.
    least = max(1, verdict.report.sent / most / 8)
    verdict.require(births >= least, f"{births} recycled, after {most} requests each")
    return verdict


def resize(case: Case, scale: Scale) -> Verdict:
    """Let the pool grow from 1 to 8 spirits and shrink again."""
    sizes: set[int] = set()

    def torment(d: Daemon, end: float) -> None:
        ways = itertools.cycle(
            (signal.SIGTTIN,) * (LARGEST - 1) + (signal.SIGTTOU,) * (LARGEST - 1)
        )
        for at, way in zip(ticks(RESIZE_EVERY, end), ways, strict=False):
            elapse(at)
            sizes.add(len(d.spirits))
            d.signal(way)
        elapse(end)

    # One alone is to be able to do it: more than four are slow at a time.
    threads = {"threads": 4 * LARGEST} if case.interface == "wsgi" else {}
    verdict = suffer("resize", case, scale._replace(spirits=1), torment, **threads)
    lost_nothing(verdict)
    verdict.notes.append(f"{min(sizes)} to {max(sizes)} processes")
    return verdict


def stop(case: Case, scale: Scale) -> Verdict:
    """
    Stop the daemon, and start it again.

    While none runs calls are refused, or knock until the next one does; nothing that
    was let in is cut off.
    """
    times = 0

    def torment(d: Daemon, end: float) -> None:
        nonlocal times
        for at in ticks(STOP_EVERY, end):
            elapse(at)
            d.stop()
            d.start()
            times += 1
        elapse(end)

    verdict = suffer("stop", case, scale, torment, keepalive_drain=0.5)
    report = verdict.report
    cut_off = len(report.failed) - report.refused
    verdict.require(not cut_off, f"{cut_off} cut off in {times} stops")
    verdict.notes.append(f"{report.refused} refused")
    return verdict


def lost_nothing(verdict: Verdict) -> None:
    """Set the bars of all torments that kill nobody."""
    verdict.require(
        not verdict.report.failed, f"{len(verdict.report.failed)} requests lost"
    )
    verdict.compare_p99()


def kill(
    case: Case, scale: Scale, seed: int | None = None, *, preload: bool = False
) -> Verdict:
    """Kill a spirit, any of them, again and again."""
    deaths: list[Death] = []
    chance = random.Random(seed)  # noqa: S311 - to be repeated

    def torment(d: Daemon, end: float) -> None:
        for at in ticks(KILL_EVERY, end):
            elapse(at)
            with contextlib.suppress(ProcessLookupError):
                deaths.append(strike(chance.choice(d.spirits)))
        elapse(end)

    name = "preload" if preload else "kill"
    verdict = suffer(name, case, scale, torment, preload=preload)
    report = verdict.report
    inside = report.in_flight(deaths)
    unexcused = report.unexcused(deaths)
    verdict.require(
        not unexcused, f"{len(unexcused)} of them not in a process that was killed"
    )
    verdict.require(
        len(report.failed) <= len(inside),
        f"{len(inside)} in flight in {len(deaths)} killed processes",
    )
    rate = ENOUGH * scale.rate
    back = [
        report.recovery(death.at, rate, BACK)
        for death in deaths
        if death.at + KILL_EVERY <= report.stop  # or it cannot be seen
    ]
    late = sum(each > BACK for each in back)
    said = f"throughput back after {1000 * max(back):.0f} ms at most"
    said += f" ({1000 * statistics.median(back):.0f} in the median)"
    if case.queue == "shared":
        said += f", {late} of {len(back)} late"
        verdict.require(not late, said, timely=True)
    else:
        # What waits in the queue of a slot waits for the next spirit there.
        verdict.notes.append(said)
    quiet = verdict.peace
    moments = [
        quiet.recovery(quiet.start + each * quiet.seconds / 60, rate, BACK)
        for each in range(58)
    ]
    verdict.notes.append(f"in peace {1000 * max(moments):.0f} ms at most")
    return verdict


def kill_preloaded(case: Case, scale: Scale, seed: int | None = None) -> Verdict:
    """Kill any process, also the one that has loaded the application for the others."""
    return kill(case, scale, seed, preload=True)


# -- the program ---------------------------------------------------------------

TORMENTS: dict[str, Callable[[Case, Scale], Verdict]] = {
    "reload": reload,
    "recycle": recycle,
    "resize": resize,
    "stop": stop,
    "kill": kill,
    "preload": kill_preloaded,
}
CASES = [
    Case(interface, keepalive, queue)
    for interface in ("asgi", "wsgi")
    for keepalive in (True, False)
    for queue in ("shared", "reuseport")
]


def main() -> int:
    """Read the command line, run the cells, print what came of them."""
    parser = argparse.ArgumentParser(description="Loss and latency under torment.")
    parser.add_argument("--seconds", type=float, default=60, help="of each cell")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--only", default="", help="cells with all of these words")
    given = parser.parse_args()
    words = set(filter(None, given.only.split(",")))
    # As long as a percentile needs to mean something, where there is time.
    peace = min(given.seconds, max(3.0, given.seconds / 3))
    scale = Scale(given.seconds, peace, given.rate)
    missed = 0
    for name, torment in TORMENTS.items():
        for case in CASES:
            if words <= {name, *str(case).split()}:
                verdict = torment(case, scale)
                print(verdict, flush=True)
                missed += len(verdict.missed)
    print(f"{missed} bars missed" if missed else "all bars met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
