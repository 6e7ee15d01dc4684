"""
HTTP servers side by side: the same application, workers, event loop and load.

    make bench-http                     # all of it, about 20 minutes
    python benchmarks/bench_http.py --short --servers ghostd,uvicorn --only steady

A JSON line for each figure of each server on standard output, a table on standard error
at the end. All that is started is ended, by whatever way the benchmark itself is left,
and nothing else; everybody listens on loopback.

What is measured (`--only` takes a part of a name):

steady   as fast as 16 kept connections can ask, then by the clock at a rate that nobody
         minds; servers take turns, each with a fresh start in each turn.
reload   HUP every 2 s, by the clock, a tenth of the requests slow: what is lost.
kill     SIGKILL to one worker each second, likewise. What was inside the process that
         was killed, by the kernel's list of its connections, is told apart.
memory   200 MB of objects made by the application when it is loaded, preloaded where a
         server can do that, after a full collection in each worker: PSS of all its
         processes, and how many times that of one worker without a manager it is.

The generator is one process that shares the processors with the servers, and can ask
for about 17,000 requests a second where one worker answers 10,000.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from common import (
    HERE,
    SOURCE,
    _die_with_parent,
    become_answerable,
    ghostd_version,
    machine,
    rounded,
)

sys.path.insert(0, str(SOURCE))

from ghostd.testing import Death, Load, LoadError, Report, strike
from ghostd.testing.nanny import below

CONNECTIONS = 16
RATE = 400.0
"""Requests for each second where a figure is about anything but speed."""

SLOW = 0.1
RELOAD_EVERY = 2.0
KILL_EVERY = 1.0
GRAPH = 200
"""MB of objects."""

PER_SECOND = "requests/s"
PATIENCE = 60.0
LOOK = 0.01
SCRIPT = """
import json, sys
sys.path[:0] = {paths!r}
from ghostd.http import HttpServer

if __name__ == "__main__":
    sys.exit(HttpServer(**json.loads(sys.argv.pop())).ctrl())
"""


# -- servers -------------------------------------------------------------------


class Server:
    """
    A server that runs as a program, in a session and a folder of its own.

    Args:
        workers: how many.
        preload: load the application before the workers are made, if it can.
        mebibytes: of objects that the application holds.

    Attributes:
        name: what figures call it.
        package: whose version is told.
        can_preload: whether it knows a way.
        home: its folder.
        address: where it listens.
        pid: its first process.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    can_preload: ClassVar[bool] = False

    def __init__(self, workers: int, *, preload: bool = False, graph: int = 0) -> None:
        """Start it, and wait until all workers are there."""
        self.number = workers
        self.preload = preload and self.can_preload
        self.home = Path(tempfile.mkdtemp(prefix="ghostd-bench-"))
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._words = (self.home / "words").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, *self.command()],
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - we have no threads
            cwd=self.home,
            env={**os.environ, "GRAPH": str(graph), "PYTHONPATH": str(HERE)},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
        )
        self.pid = self._process.pid
        try:
            self._until(self._answers, "the first answer")
            self._until(lambda: len(self.workers()) >= workers, f"{workers} workers")
        except BaseException:
            self.close()
            raise

    def command(self) -> list[str]:
        """Give the arguments of Python that start it."""
        raise NotImplementedError

    def reload(self) -> None:
        """Have all workers replaced."""
        self.signal(signal.SIGHUP)

    def workers(self) -> list[int]:
        """List the processes that serve, the oldest first."""
        return [pid for pid in self.processes()[1:] if self._serves(pid)]

    def processes(self) -> list[int]:
        """List all processes of this server that live, itself first."""
        return [self.pid, *below(self.pid)]

    @property
    def lives(self) -> bool:
        """Tell whether its first process runs."""
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """Give the end of its output."""
        return (self.home / "words").read_text(errors="replace")[-2000:]

    def signal(self, number: int) -> None:
        """Send a signal to its first process."""
        if self.lives:
            # Unreaped it still has its number.
            os.kill(self.pid, number)

    def _serves(self, pid: int) -> bool:
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        # Of multiprocessing's; empty is one that is just being replaced by exec.
        return bool(words) and b"resource_tracker" not in words

    def _answers(self) -> bool:
        if not self.lives:
            raise RuntimeError(f"{self.name} did not start\n{self.said}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return sock.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: no {what} in time\n{self.said}")
            time.sleep(LOOK)

    def close(self) -> None:
        """End it and all below it, and reap whatever became ours."""
        processes = self.processes()
        if self.lives:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            # Its session is its own, and as long as one of it lives the number stays.
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pid in processes[1:]:
            # Orphans became our children; who is somebody else's child is reaped there.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._words.close()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be done with it."""
        self.close()


class Ghostd(Server):
    """Ours; the options are those that the others have."""

    name = package = "ghostd"
    can_preload = True

    def command(self) -> list[str]:
        """Say it in its own words."""
        script = self.home / "server.py"
        script.write_text(SCRIPT.format(paths=[str(SOURCE), str(HERE)]))
        settings = {
            "app": "http_app:app",
            "app_dir": str(HERE),
            "listen": [self.address],
            "spirits": self.number,
            "preload": self.preload,
            "loop": "uvloop",
            "access_log": False,
            "logfile": "log",
            "loglevel": "info",
            "pidfile": "pid",
        }
        return [str(script), "run", json.dumps(settings)]


class Uvicorn(Server):
    """The server that ours runs, under its own manager."""

    name = package = "uvicorn"

    def command(self) -> list[str]:
        """Say it in its own words."""
        words = ["-m", "uvicorn", "http_app:app", "--port", str(self.port)]
        quiet = ["--no-access-log", "--log-level", "warning"]
        return [*words, "--workers", str(self.number), *quiet]

    def workers(self) -> list[int]:
        """Its single worker is itself."""
        return super().workers() if self.number > 1 else [self.pid]


class Gunicorn(Server):
    """The usual manager of uvicorn."""

    name = "gunicorn+uvicorn"
    package = "gunicorn"
    can_preload = True
    worker = "uvicorn_worker.UvicornWorker"

    def command(self) -> list[str]:
        """Say it in its own words."""
        words = ["-m", "gunicorn", "http_app:app", "-b", self.address]
        more = ["--preload"] if self.preload else []
        return [*words, "-w", str(self.number), "-k", self.worker, *more]


class Granian(Server):
    """A server in Rust."""

    name = package = "granian"

    def command(self) -> list[str]:
        """Say it in its own words."""
        words = ["-m", "granian", "--interface", "asgi", "--port", str(self.port)]
        more = ["--loop", "uvloop", "--respawn-failed-workers", "--log-level", "error"]
        return [*words, "--workers", str(self.number), *more, "http_app:app"]


class Hypercorn(Server):
    """A server in Python that speaks HTTP/2."""

    name = package = "hypercorn"

    def command(self) -> list[str]:
        """Say it in its own words."""
        words = ["-m", "hypercorn", "http_app:app", "-b", self.address]
        return [*words, "-w", str(self.number), "-k", "uvloop"]


SERVERS: dict[str, type[Server]] = {
    each.name: each for each in (Ghostd, Uvicorn, Gunicorn, Granian, Hypercorn)
}


# -- looks at processes --------------------------------------------------------


def processor_seconds(pids: Iterable[int]) -> float:
    """Give the processor time of all threads of these processes."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            total += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return total


def pss(pids: Iterable[int]) -> float:
    """Give the proportional set size of these processes, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


# -- figures -------------------------------------------------------------------


class Figure(NamedTuple):
    """
    One figure of one server.

    Attributes:
        name: what.
        server: whose.
        unit: of the samples.
        samples: one for each repeat.
        notes: what else the line shall carry.
        bar: what is asked of ghostd, and whether it is so.
    """

    name: str
    server: type[Server]
    unit: str
    samples: list[float]
    notes: dict[str, Any]
    bar: tuple[str, bool] | None = None

    @property
    def median(self) -> float:
        """Give the median."""
        return statistics.median(self.samples)

    @property
    def ordered(self) -> list[float]:
        """Give the samples, the best first."""
        return sorted(self.samples, reverse=self.unit == PER_SECOND)

    def plain(self, place: dict[str, Any], workers: int) -> dict[str, Any]:
        """Give what goes into the JSON line."""
        return {
            "name": f"http.{self.name}",
            "server": self.server.name,
            "version": version(self.server),
            "workers": workers,
            "machine": place,
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "repeats": len(self.samples),
            "unit": self.unit,
            "median": plain(self.median),
            "best": plain(self.ordered[0]),
            "worst": plain(self.ordered[-1]),
            "samples": [plain(each) for each in self.samples],
            "bar": self.bar and self.bar[0],
            "met": self.bar and self.bar[1],
            **self.notes,
        }


def plain(number: float) -> float | None:
    """Make it JSON; what never happened is null."""
    return rounded(number) if math.isfinite(number) else None


def version(server: type[Server]) -> str:
    """Give the version of a server, with that of what it runs."""
    if server is Ghostd:
        return f"{ghostd_version()}, uvicorn {importlib.metadata.version('uvicorn')}"
    text = importlib.metadata.version(server.package)
    if server is Gunicorn:
        for name in ("uvicorn-worker", "uvicorn"):
            text += f", {name} {importlib.metadata.version(name)}"
    return text


def milliseconds(report: Report) -> dict[str, float | None]:
    """Give the percentiles that everybody asks for."""
    return {
        f"p{share:g}_ms".replace(".", ""): plain(1000 * report.percentile(share))
        for share in (50, 99, 99.9)
    }


def elapse(until: float) -> None:
    """Let time go by: it is what is measured."""
    time.sleep(max(0.0, until - time.monotonic()))


class Options(NamedTuple):
    """What the command line says."""

    servers: list[type[Server]]
    workers: int
    repeats: int
    seconds: float
    connections: int
    rate: float


# -- steady --------------------------------------------------------------------


class Steady:
    """What one server did in all its turns."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.rates: list[float] = []
        self.costs: list[float] = []
        self.fast: list[Report] = []
        self.timed: list[Report] = []


def steady(options: Options) -> Iterator[Figure]:
    """Measure throughput, latencies and balance in peace."""
    found = {server: Steady() for server in options.servers}
    for turn in range(options.repeats):
        # Each is first, last and in the middle as often as the others.
        for at in range(len(options.servers)):
            server = options.servers[(at + turn) % len(options.servers)]
            _steady_turn(server, options, found[server])
    own = found.get(Uvicorn)
    for server, seen in found.items():
        bar = None
        notes: dict[str, Any] = {}
        if server is Ghostd and own is not None:
            ratio = by_turns(seen.rates, own.rates)
            bar = (f">= 0.98 x uvicorn: {ratio:.3f}", ratio >= 0.98)  # noqa: PLR2004
            notes["cpu_times_uvicorn"] = plain(by_turns(seen.costs, own.costs))
        yield Figure(
            "steady",
            server,
            PER_SECOND,
            seen.rates,
            {
                "cpu_us": [rounded(each) for each in seen.costs],
                "balance_percent": [shares(each) for each in seen.fast],
                **milliseconds(seen.fast[-1]),
                **notes,
            },
            bar,
        )
        for share in (50, 99, 99.9):
            samples = [1000 * each.percentile(share) for each in seen.timed]
            yield Figure(
                f"latency.p{share:g}",
                server,
                f"ms at {options.rate:g}/s",
                samples,
                {"balance_percent": [shares(each) for each in seen.timed]},
            )


def by_turns(ours: list[float], theirs: list[float]) -> float:
    """Compare turn by turn, so that what the machine did meanwhile falls on both."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _steady_turn(server: type[Server], options: Options, seen: Steady) -> None:
    with server(options.workers) as it:
        with Load(it.address, connections=options.connections, seconds=1) as load:
            load.wait()
        before = processor_seconds(it.processes())
        with Load(
            it.address, connections=options.connections, seconds=options.seconds
        ) as load:
            report = load.wait()
        spent = processor_seconds(it.processes()) - before
        with Load(
            it.address,
            connections=options.connections,
            rate=options.rate,
            seconds=options.seconds,
        ) as load:
            timed = load.wait()
    for each in (report, timed):
        if each.failed:
            print(f"{server.name}: {each}", file=sys.stderr)
    seen.rates.append(report.rate)
    seen.costs.append(1e6 * spent / max(1, report.good))
    seen.fast.append(report)
    seen.timed.append(timed)


def shares(report: Report) -> list[float]:
    """Give the share of each worker in percent, the largest first."""
    counts = report.balance.values()
    return sorted((round(100 * each / report.good, 1) for each in counts), reverse=True)


# -- reload and kill -----------------------------------------------------------


def disturbed(
    server: type[Server],
    options: Options,
    every: float,
    disturb: Callable[[Server], object],
) -> tuple[Report, bool]:
    """Load a server by the clock and do something to it every so often."""
    with server(options.workers) as it:
        with Load(
            it.address,
            connections=64,
            rate=options.rate,
            slow=SLOW,
            timeout=5,
        ) as load:
            with contextlib.suppress(LoadError):
                load.more(int(options.rate))
            began = time.monotonic()
            end = began + options.seconds * 3
            while (now := time.monotonic()) < end - every / 2:
                disturb(it)
                elapse(now + every)
            elapse(end)
            report = load.stop()
        return report.between(began, end), it.lives


def reload(options: Options) -> Iterator[Figure]:
    """Measure what a reload costs."""
    for server in options.servers:
        reports, alive = [], []
        for _ in range(max(1, options.repeats // 2)):
            report, lives = disturbed(server, options, RELOAD_EVERY, server.reload)
            reports.append(report)
            alive.append(lives)
        lost = [float(len(each.failed)) for each in reports]
        sent = sum(each.sent for each in reports)
        bar = (f"nothing lost of {sent}", not any(lost)) if server is Ghostd else None
        yield Figure(
            "reload.lost",
            server,
            "requests",
            lost,
            {**kinds(reports), "alive": alive},
            bar,
        )
        p99 = [1000 * each.percentile(99) for each in reports]
        yield Figure("reload.p99", server, "ms", p99, milliseconds(reports[-1]))


def kinds(reports: list[Report]) -> dict[str, Any]:
    """Tell how requests were lost, and who answered the others."""
    return {
        "sent": [each.sent for each in reports],
        "refused": [each.refused for each in reports],
        "reset": [each.reset for each in reports],
        "timed_out": [each.timed_out for each in reports],
        "never_sent": [each.unsent for each in reports],
        "processes": [len(each.balance) for each in reports],
    }


def kill(options: Options) -> Iterator[Figure]:
    """Measure what the death of a worker costs."""
    chance = random.Random(1)  # noqa: S311 - to be repeated
    for server in options.servers:
        reports, alive, unexcused, back = [], [], [], []
        for _ in range(max(1, options.repeats // 2)):
            deaths: list[Death] = []

            def strike_one(it: Server, deaths: list[Death] = deaths) -> None:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    if workers := it.workers():
                        deaths.append(strike(chance.choice(workers)))

            report, lives = disturbed(server, options, KILL_EVERY, strike_one)
            reports.append(report)
            alive.append(lives)
            unexcused.append(float(len(report.unexcused(deaths))))
            enough = 0.9 * options.rate
            back += [
                1000 * report.recovery(death.at, enough, 0.1)
                for death in deaths
                if death.at + KILL_EVERY / 2 < report.stop
            ]
        bar = None
        if server is Ghostd:
            bar = ("nothing that no killed process held", not any(unexcused))
        yield Figure("kill.unexcused", server, "requests", unexcused, {}, bar)
        lost = [float(len(each.failed)) for each in reports]
        notes = {**kinds(reports), "alive": alive}
        yield Figure("kill.lost", server, "requests", lost, notes)
        yield Figure("kill.back", server, "ms", back, {})


# -- memory --------------------------------------------------------------------


def memory(options: Options) -> Iterator[Figure]:
    """Measure what workers share of what was loaded before them."""
    turns = max(1, options.repeats // 2)
    alone = [_collected(Uvicorn, 1) for _ in range(turns)]
    one = statistics.median(alone)
    yield Figure("memory.one", Uvicorn, "MiB PSS", alone, {"workers": 1})
    for server in options.servers:
        total = [_collected(server, options.workers) for _ in range(turns)]
        ratio = statistics.median(total) / one
        bar = (f"<= 1.3 x one: {ratio:.2f}", ratio <= 1.3) if server is Ghostd else None  # noqa: PLR2004
        yield Figure(
            "memory.all",
            server,
            "MiB PSS",
            total,
            {
                "preloaded": server.can_preload,
                "each": [rounded(size / options.workers) for size in total],
                "times_one": rounded(ratio),
            },
            bar,
        )


def _collected(server: type[Server], workers: int) -> float:
    """Give the PSS of a server after a full collection in each worker."""
    with server(workers, preload=True, graph=GRAPH) as it:
        seen: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(seen) < workers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{it.name}: only {len(seen)} workers collected")
            # Who collects is held up, so the next one is taken by another.
            with Load(
                it.address,
                path="/collect",
                keepalive=False,
                connections=8 * workers,
                rate=40,
                requests=4 * workers,
                timeout=PATIENCE,
            ) as load:
                seen |= set(load.wait().balance)
        return pss(it.processes())


# -- the program ---------------------------------------------------------------

FIGURES: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "steady": steady,
    "reload": reload,
    "kill": kill,
    "memory": memory,
}
COLUMNS = ("figure", "server", "n", "unit", "median", "best", "worst", "bar")


def table(figures: list[Figure]) -> str:
    """Draw the figures for people."""
    rows = [COLUMNS]
    for figure in figures:
        bar = figure.bar
        rows.append(
            (
                figure.name,
                figure.server.name,
                str(len(figure.samples)),
                figure.unit,
                f"{figure.median:.4g}",
                f"{figure.ordered[0]:.4g}",
                f"{figure.ordered[-1]:.4g}",
                f"{'ok' if bar[1] else 'MISSED'} {bar[0]}" if bar else "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def main() -> int:
    """
    Run: a JSON line for each figure, and a table on standard error.

    Returns:
        0, also when a bar is missed: that is a finding, not a failure.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer, shorter turns")
    parser.add_argument("--machine", default="", help="what to call this machine")
    parser.add_argument("--only", default="", help="figures whose name has this")
    parser.add_argument("--servers", default=",".join(SERVERS), help="with commas")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--repeats", type=int, help="of steady; half of them of others")
    parser.add_argument("--seconds", type=float, help="of a turn; thrice if disturbed")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--rate", type=float, default=RATE)
    given = parser.parse_args()
    options = Options(
        [SERVERS[name] for name in given.servers.split(",")],
        given.workers,
        given.repeats or (2 if given.short else 7),
        given.seconds or (2.0 if given.short else 5.0),
        given.connections,
        given.rate,
    )
    become_answerable()
    place = machine(given.machine)
    figures = []
    for name, measure in FIGURES.items():
        if given.only in name:
            for figure in measure(options):
                line = json.dumps(figure.plain(place, options.workers))
                print(line, flush=True)
                figures.append(figure)
    print(table(figures), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
