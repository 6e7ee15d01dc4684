"""
What all benchmarks share: subjects to measure, looks into /proc, figures to print.

Rules of the house: times are of the monotonic clock; ghostd and the floor take turns
within one run (A B A B), so that whatever else the machine does falls on both; what
can be awaited is awaited; and a benchmark ends what it has started, nothing else, by
whatever way it is left itself. Linux only, for /proc and pidfds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from subject import BEGUN, BODY, READY, RECORD

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SOURCE = ROOT / "src"
KINDS = ("floor", "ghostd")
THREE = ("bare", *KINDS)
"""Kinds of pools; `subject` tells what they are."""

ALONE = ("-I", "-S")
"""Python without site-packages: its .pth files may import half the library."""

PATIENCE = 60.0
"""Seconds after which a benchmark gives up on what it waits for."""

LOOK = 0.0005
"""Seconds between two looks at a file in /proc, which nothing can wait for."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_prctl = ctypes.CDLL(None).prctl


# -- waiting -------------------------------------------------------------------


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Look until *condition* holds; for states that only /proc can tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(LOOK)


def ends(pidfds: Iterable[int], seconds: float = PATIENCE) -> dict[int, int]:
    """Wait until all processes have ended; give the times, in nanoseconds."""
    poll = select.poll()
    waiting = set(pidfds)
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    seen: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while waiting:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        now = time.monotonic_ns()
        if not ready:
            raise TimeoutError(f"{len(waiting)} processes live on after {seconds:g} s")
        for fd, _ in ready:
            seen[fd] = now
            waiting.discard(fd)
            poll.unregister(fd)
    return seen


@contextlib.contextmanager
def watched(pids: Iterable[int]) -> Iterator[list[int]]:
    """Hold a pidfd for each process."""
    fds: list[int] = []
    try:
        fds.extend(map(os.pidfd_open, pids))
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


# -- looks into /proc ----------------------------------------------------------


def status(pid: int) -> dict[str, str]:
    """Read /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (x.partition(":") for x in lines)}


def asleep(pid: int) -> bool:
    """Tell whether a process waits for something."""
    return status(pid)["State"].startswith("S")


def switches(pid: int) -> tuple[int, int]:
    """Count how often a process fell asleep, and how often it was put aside."""
    facts = status(pid)
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return int(facts[names[0]]), int(facts[names[1]])


def processor_seconds(pid: int) -> float:
    """Give the processor time of a process that has one thread."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def resident(pid: int) -> float:
    """Give the resident size in MiB, shared pages included."""
    return int(status(pid)["VmRSS"].split()[0]) / 1024


def rollup(pid: int) -> dict[str, float]:
    """Read where the memory of a process is: MiB by name, such as Pss."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    pairs = (line.split() for line in lines)
    return {name.rstrip(":"): int(number) / 1024 for name, number, *_ in pairs}


# -- what is measured ----------------------------------------------------------


def become_answerable() -> None:
    """Inherit every orphan of ours, and leave by the front door on TERM."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Subject:
    """
    A pool that runs as a program of its own, in a session of its own.

    Args:
        kind: ``bare``, ``floor`` or ``ghostd``.
        body: the name of a function in `subject`.
        python: which Python, ours by default.
        files: soft limit of descriptors; the usual 1,024, whatever ours is.
        options: what `subject.Options` knows.

    Attributes:
        pid: the manager.
        began: when it was launched, nanoseconds.
    """

    def __init__(
        self,
        kind: str,
        body: str = "idle",
        python: str = sys.executable,
        files: int = 1024,
        **options: int,
    ) -> None:
        """Launch it; `wait` for what it tells."""
        self.kind = kind
        self.home = Path(tempfile.mkdtemp(prefix="ghostd-bench-"))
        self._read, write = os.pipe()
        still, self._hold = os.pipe()
        self._unread: list[tuple[bytes, int, int]] = []
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        given = {"report": write, "hold": still, "home": self.home, **options}
        words = [f"{name}={value}" for name, value in given.items()]
        program = [python, *ALONE, str(HERE / "subject.py"), kind, body, *words]

        def prepare() -> None:
            import resource

            _die_with_parent()
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))

        self.began = time.monotonic_ns()
        self._process = subprocess.Popen(
            program,
            pass_fds=(write, still),
            preexec_fn=prepare,  # noqa: PLW1509 - we have no threads
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )
        os.close(write)
        os.close(still)
        self.pid = self._process.pid

    def wait(self, tag: bytes, seconds: float = PATIENCE) -> tuple[int, int]:
        """Wait for the next record of a kind; give its process id and value."""
        return self.wait_for(tag, 1, seconds)[0]

    def wait_for(
        self, tag: bytes, number: int, seconds: float = PATIENCE
    ) -> list[tuple[int, int]]:
        """Wait for so many records of a kind; others are kept."""
        deadline = time.monotonic() + seconds
        found: list[tuple[int, int]] = []
        while True:
            rest = []
            for record in self._unread:
                if record[0] == tag and len(found) < number:
                    found.append(record[1:])
                else:
                    rest.append(record)
            self._unread = rest
            if len(found) == number:
                return found
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError(f"{self.kind} did not tell {number} x {tag!r}")
            data = os.read(self._read, 1024 * RECORD.size)
            if not data:
                log = self.home / "log"
                tail = log.read_text()[-2000:] if log.exists() else ""
                raise RuntimeError(f"{self.kind} ended before it told {tag!r}\n{tail}")
            self._unread += RECORD.iter_unpack(data)

    def up(self, spirits: int) -> list[int]:
        """Wait until all bodies run and the manager has nothing to do; give pids."""
        pids = [pid for pid, _ in self.wait_for(BODY, spirits)]
        self.wait(READY)
        self.settle(pids)
        return pids

    def settle(self, spirits: Iterable[int] = ()) -> None:
        """Wait until the manager and *spirits* wait."""
        for pid in (self.pid, *spirits):
            until(lambda pid=pid: asleep(pid), f"{self.kind} to be idle")  # type: ignore[misc]

    def children(self) -> list[int]:
        """List the manager's children, whatever they are."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def start_times(self, spirits: int) -> tuple[float, float]:
        """Give the ms until all were there: from its first line of work, from exec."""
        _, first = self.wait(BEGUN)
        _, ready = self.wait(READY)
        self.wait_for(BODY, spirits)
        return (ready - first) / 1e6, (ready - self.began) / 1e6

    def close(self) -> None:
        """End it and all below it, and reap whatever became ours."""
        with contextlib.suppress(ProcessLookupError):
            # Its session is its own, and unreaped it still has its number.
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-self.pid, 0)
        os.close(self._read)
        os.close(self._hold)
        shutil.rmtree(self.home)

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be done with it."""
        self.close()


@contextlib.contextmanager
def pools(kinds: Iterable[str], **options: int) -> Iterator[list[Subject]]:
    """Launch idle pools of the same measures."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Subject(kind, **options)) for kind in kinds]


# -- figures -------------------------------------------------------------------


class Bar(NamedTuple):
    """What a figure must not exceed."""

    text: str
    seen: float
    most: float

    @property
    def met(self) -> bool:
        """Tell whether it does not."""
        return self.seen <= self.most


def p95(samples: list[float]) -> float:
    """Give the value that 95 of 100 do not exceed."""
    return sorted(samples)[min(len(samples) - 1, int(0.95 * len(samples)))]


class Figure:
    """
    One measured figure.

    Args:
        name: benchmark, then what.
        unit: of the samples.
        samples: ghostd's.
        floor: the floor's, taken in turns with ours; none where there is none.
        bare: the bare floor's, likewise.
        python: version, if it is not ours.
        notes: what else the line shall carry.
    """

    def __init__(  # noqa: PLR0913 - each is one fact of the figure
        self,
        name: str,
        unit: str,
        samples: list[float],
        floor: list[float] | None = None,
        *,
        bare: list[float] | None = None,
        python: str | None = None,
        **notes: Any,
    ) -> None:
        """Take the samples; bars are added by `within` and `ratio_within`."""
        self.bare = statistics.median(bare) if bare else None
        self.name = name
        self.unit = unit
        self.samples = samples
        self.floor = floor or []
        self.python = python or platform.python_version()
        self.notes = notes
        self.bars: list[Bar] = []

    @property
    def median(self) -> float:
        """Give the median."""
        return statistics.median(self.samples)

    @property
    def floors_median(self) -> float:
        """Give the floor's median."""
        return statistics.median(self.floor)

    def within(self, what: str, most: float) -> Self:
        """Set a bar in the figure's own unit; *what*: median, worst."""
        seen = self.median if what == "median" else max(self.samples)
        self.bars.append(Bar(f"{what} <= {most:g} {self.unit}", seen, most))
        return self

    def ratio_within(self, what: str, most: float) -> Self:
        """Set a bar in floor's medians; *what*: median, worst."""
        seen = self.median if what == "median" else max(self.samples)
        text = f"{what} <= {most:g} x floor"
        self.bars.append(Bar(text, seen / self.floors_median, most))
        return self

    @property
    def met(self) -> bool | None:
        """Tell whether all bars are met; None: there is none."""
        return all(bar.met for bar in self.bars) if self.bars else None

    def plain(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Give what goes into the JSON line."""
        floor = self.floor
        return {
            "name": self.name,
            "machine": machine,
            "load": round(os.getloadavg()[0], 1),
            "python": self.python,
            "ghostd": ghostd_version(),
            "repeats": len(self.samples),
            "unit": self.unit,
            "median": rounded(self.median),
            "p95": rounded(p95(self.samples)),
            "worst": rounded(max(self.samples)),
            "best": rounded(min(self.samples)),
            "floor_median": rounded(self.floors_median) if floor else None,
            "floor_worst": rounded(max(floor)) if floor else None,
            "ratio": rounded(self.median / self.floors_median) if floor else None,
            "bare_floor_median": rounded(self.bare) if self.bare else None,
            "bare_ratio": rounded(self.median / self.bare) if self.bare else None,
            "bar": "; ".join(bar.text for bar in self.bars) or None,
            "bars": [
                {"bar": bar.text, "seen": rounded(bar.seen), "met": bar.met}
                for bar in self.bars
            ],
            "met": self.met,
            **self.notes,
        }


def rounded(number: float) -> float:
    """Keep four digits."""
    return float(f"{number:.4g}")


def ghostd_version() -> str:
    """Give the version and, in a checkout, the commit; + means changed since."""
    text = (SOURCE / "ghostd" / "__init__.py").read_text()
    version = text.partition('__version__ = "')[2].partition('"')[0]
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({said.stdout.strip()})"


def machine(name: str = "") -> dict[str, Any]:
    """Name the machine: its processor, unless it is given a *name*."""
    model = name
    if not model:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    # Numbers of local builds say nothing to anybody else.
    return {"cpu": model, "cores": cores, "kernel": platform.release().split("-")[0]}


def pythons() -> list[str]:
    """List the Pythons that ghostd is tested with, those that are here."""
    found = subprocess.run(
        [str(ROOT / "tools" / "pythons")], capture_output=True, text=True, check=True
    )
    return found.stdout.split()


def version_of(python: str) -> str:
    """Ask a Python for its version."""
    code = "import platform; print(platform.python_version())"
    run = subprocess.run([python, "-I", "-c", code], capture_output=True, check=True)
    return run.stdout.decode().strip()


# -- the programs --------------------------------------------------------------

Benchmark = Callable[[argparse.Namespace], Iterator[Figure]]


def main(*benchmarks: Benchmark) -> int:
    """
    Run benchmarks: a JSON line for each figure, and a table on standard error.

    Returns:
        0, also when a bar is missed: that is a finding, not a failure.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="fewer, shorter turns")
    parser.add_argument("--machine", default="", help="what to call this machine")
    parser.add_argument("--only", default="", help="benchmarks whose name has this")
    options = parser.parse_args()
    become_answerable()
    place = machine(options.machine)
    figures = []
    for benchmark in benchmarks:
        if options.only not in benchmark.__module__:
            continue
        for figure in benchmark(options):
            print(json.dumps(figure.plain(place)), flush=True)
            figures.append(figure)
    print(table(figures), file=sys.stderr)
    return 0


COLUMNS = (
    "figure",
    "python",
    "n",
    "unit",
    "median",
    "p95",
    "worst",
    "best",
    "floor",
    "ratio",
    "to bare",
    "bar: seen",
)


def table(figures: list[Figure]) -> str:
    """Draw the figures for people."""
    rows = [COLUMNS]
    for figure in figures:
        ours, floor = figure.samples, figure.floor
        bars = "; ".join(
            f"{'ok' if bar.met else 'MISSED'} {bar.text}: {bar.seen:.3g}"
            for bar in figure.bars
        )
        rows.append(
            (
                figure.name,
                figure.python,
                str(len(ours)),
                figure.unit,
                f"{figure.median:.4g}",
                f"{p95(ours):.4g}",
                f"{max(ours):.4g}",
                f"{min(ours):.4g}",
                f"{figure.floors_median:.4g}" if floor else "-",
                f"{figure.median / figure.floors_median:.3g}" if floor else "-",
                f"{figure.median / figure.bare:.3g}" if figure.bare else "-",
                bars or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)
