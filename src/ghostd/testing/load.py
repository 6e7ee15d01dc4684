"""
Load: requests to an HTTP server, each of them accounted for.

    with Load("127.0.0.1:8000", rate=500, slow=0.1) as load:
        load.more(200)
        d.signal(SIGHUP)
        load.more(500)
        report = load.stop()
    assert not report.failed, report

Who sends is a process of its own (`caller`). Nothing is ever sent again: a request has
one outcome, and ``sent == good + len(failed)``. What is no failure, because nothing was
lost: a connection that the server closes while nothing is on its way. What is one: any
end of a connection after the first byte of a request and before the last one of its
answer, however rightful in HTTP; a status from 400; an answer to something else.

With a *rate* a request is due at its time, whether or not the ones before it are
answered, and its latency counts from then, so that a server which stands still for a
second is seen by all that would have called in that second (without that, each of the
connections would see it once: "coordinated omission").

Let the application answer with the headers ``x-pid``, its process, and ``x-id``, what
the request had in its own: then it is known who answered, and that answers are not
mixed up. `strike` kills a process and tells which connections died with it, by the
kernel's own list, so that a lost request is either excused (`Report.in_flight`) or is
not (`Report.unexcused`).

Needs Linux: epoll, memfd, pidfds, abstract Unix addresses.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import enum
import itertools
import json
import math
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from ghostd.testing import caller

_LIMIT = 15.0
_STEP = 0.002
_GETFD = 438
"""Number of the system call `pidfd_getfd`, the same on every machine."""

_NO_TIME_WAIT = {"01", "02", "03", "04", "05", "08", "09"}
"""States in /proc/net/tcp of connections that a process may hold."""


Columns = dict[str, "array[Any]"]


class LoadError(AssertionError):
    """No load could be made, or not what was waited for."""


class Outcome(enum.IntEnum):
    """
    What became of a request.

    Attributes:
        ANSWERED: the whole answer came, of whatever status.
        REFUSED: nobody listened.
        RESET: the connection ended before the whole answer was there.
        TIMED_OUT: it was not there in time.
        GARBLED: what came was no HTTP, or the answer to something else.
    """

    ANSWERED = caller.ANSWERED
    REFUSED = caller.REFUSED
    RESET = caller.RESET
    TIMED_OUT = caller.TIMED_OUT
    GARBLED = caller.GARBLED


class Request(NamedTuple):
    """
    A request and what became of it; times are seconds of the monotonic clock.

    Attributes:
        number: its place in the run, from 0; sent as ``X-Id``.
        due: when it should have been begun; without a rate, when it was.
        begun: when it was, with the making of a connection if it needed one.
        sent: when it was given to the kernel; 0.0: it never was.
        done: when its outcome was known.
        outcome: what became of it.
        slow: it asked for the slow path.
        status: of the answer; 0: none came.
        pid: who answered, or else who had answered on the same connection before; 0:
            not known.
        port: our end of its connection: TCP port, or number of the Unix address.
        link: number of its connection.
        turn: how many requests that connection had carried before.
        received: bytes of the answer.
    """

    number: int
    due: float
    begun: float
    sent: float
    done: float
    outcome: Outcome
    slow: bool
    status: int
    pid: int
    port: int
    link: int
    turn: int
    received: int

    @property
    def latency(self) -> float:
        """Seconds from when it was due until its outcome was known."""
        return self.done - self.due

    @property
    def good(self) -> bool:
        """Whether it was answered, with a status below 400."""
        return self.outcome is Outcome.ANSWERED and self.status < 400  # noqa: PLR2004


class Death(NamedTuple):
    """
    A process that was killed by `strike`.

    Attributes:
        pid: its process id.
        at: when it did not run any more, seconds of the monotonic clock.
        gone: when it was seen to be gone.
        ports: the other ends of all connections that it had accepted.
    """

    pid: int
    at: float
    gone: float
    ports: frozenset[int]

    def held(self, request: Request) -> bool:
        """Tell whether the request was on its way in this process at its end."""
        in_time = request.begun <= self.gone and request.done >= self.at
        return in_time and request.port in self.ports


def strike(pid: int) -> Death:
    """
    Kill a process with SIGKILL and tell which connections died with it.

    It is stopped for the time of a look at its descriptors, some milliseconds: what it
    has accepted then is all that it ever will have, and what still waits in a queue is
    not its own.

    Raises:
        LoadError: its descriptors may not be looked at, or it cannot be killed.
        ProcessLookupError: it is gone.
    """
    door = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(door, signal.SIGSTOP)
        try:
            _wait_until_stopped(pid)
            at = time.monotonic()
            ports = ports_of(pid, door)
        finally:
            # Also if the look failed: nobody else would make it go on.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(door, signal.SIGKILL)
        if not select.select([door], [], [], _LIMIT)[0]:
            raise LoadError(f"process {pid} cannot be killed")
        return Death(pid, at, time.monotonic(), ports)
    finally:
        os.close(door)


def _wait_until_stopped(pid: int) -> None:
    """Wait until no thread of a process runs any more."""
    deadline = time.monotonic() + _LIMIT
    while True:
        states = set()
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/stat", "rb") as file,
            ):
                states.add(file.read().rpartition(b")")[2].split()[0])
        if states <= {b"T", b"Z", b"X"}:
            return
        if time.monotonic() > deadline:
            raise LoadError(f"process {pid} does not stop: its threads are {states}")
        time.sleep(0.0001)


def ports_of(pid: int, door: int) -> frozenset[int]:
    """
    Tell the other ends of the connections of a process.

    Args:
        pid: its process id.
        door: a pidfd of it.

    Raises:
        LoadError: that may not be looked at.
    """
    inodes: dict[int, str] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            name = os.readlink(f"/proc/{pid}/fd/{fd}")
            if name.startswith("socket:["):
                inodes[int(fd)] = name[len("socket:[") : -1]
    try:
        return frozenset(filter(None, (_port_behind(door, fd) for fd in inodes)))
    except PermissionError:
        # A sandbox may forbid that; the slow way, which knows no Unix sockets.
        return frozenset(_ports_by_table(pid, set(inodes.values())))


def _port_behind(door: int, fd: int) -> int:
    """Give the number of the other end of a socket of another process, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours = libc.syscall(_GETFD, door, fd, 0)
    if ours < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "pidfd_getfd")
    with socket.socket(fileno=ours) as sock:
        try:
            peer = sock.getpeername()
        except OSError:
            return 0  # it listens, or is not connected any more
        if sock.family == socket.AF_UNIX:
            name = peer[1:] if isinstance(peer, bytes) else b""
            return int(name, 16) if len(name) == 5 else 0  # noqa: PLR2004 - as bound
        return int(peer[1])


def _ports_by_table(pid: int, inodes: set[str]) -> Iterator[int]:
    for table in ("tcp", "tcp6"):
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"/proc/{pid}/net/{table}") as file,
        ):
            next(file)
            for line in file:
                words = line.split()
                if words[3] in _NO_TIME_WAIT and words[9] in inodes:
                    yield int(words[2].rpartition(":")[2], 16)


class Report:
    """
    What a `Load` knows of all its requests.

    Its length is their number, and iterating over it gives each as a `Request`.

    Attributes:
        start: when the first was due, seconds of the monotonic clock.
        stop: when the last could have been begun.
        opened: connections that were made.
        closed_idle: connections that the server closed while nothing was on its way.
        unsent: requests that were due and never begun: all connections were in use.
    """

    def __init__(
        self,
        columns: Columns,
        numbers: Sequence[int],
        start: float,
        stop: float,
        **facts: int,
    ) -> None:
        """Know the requests with these numbers."""
        self.start: float = start
        self.stop: float = stop
        self.opened: int = facts.get("opened", 0)
        self.closed_idle: int = facts.get("closed_idle", 0)
        self.unsent: int = facts.get("unsent", 0)
        self._columns = columns
        self._numbers = numbers

    def __len__(self) -> int:
        """Give the number of requests that were sent."""
        return len(self._numbers)

    def __iter__(self) -> Iterator[Request]:
        """Give all requests, in the order in which they were begun."""
        return map(self.request, self._numbers)

    def request(self, number: int) -> Request:
        """Give a request by its number."""
        row = {name: column[number] for name, column in self._columns.items()}
        row["outcome"] = Outcome(row["outcome"])
        row["slow"] = bool(row["slow"])
        return Request(number, **row)

    def between(self, start: float, stop: float) -> Report:
        """Give the part of the requests that were due in this time."""
        due = self._columns["due"]
        numbers = [number for number in self._numbers if start <= due[number] < stop]
        return Report(
            self._columns, numbers, max(start, self.start), min(stop, self.stop)
        )

    # -- counts ----------------------------------------------------------------

    @property
    def sent(self) -> int:
        """Number of requests."""
        return len(self._numbers)

    @cached_property
    def outcomes(self) -> Counter[Outcome]:
        """How many had which outcome."""
        column = self._columns["outcome"]
        counts = Counter(column[number] for number in self._numbers)
        return Counter({Outcome(key): value for key, value in counts.items()})

    @cached_property
    def statuses(self) -> Counter[int]:
        """How many were answered with which status."""
        column, outcome = self._columns["status"], self._columns["outcome"]
        return Counter(column[n] for n in self._numbers if not outcome[n])

    @cached_property
    def balance(self) -> Counter[int]:
        """How many were answered by which process; 0: it did not say."""
        column = self._columns["pid"]
        return Counter(column[number] for number in self._good)

    @property
    def good(self) -> int:
        """Number of requests that were answered with a status below 400."""
        return len(self._good)

    @cached_property
    def _good(self) -> list[int]:
        outcome, status = self._columns["outcome"], self._columns["status"]
        return [n for n in self._numbers if not outcome[n] and status[n] < 400]  # noqa: PLR2004

    @cached_property
    def failed(self) -> list[Request]:
        """All requests that were not."""
        good = set(self._good)
        return [self.request(number) for number in self._numbers if number not in good]

    @property
    def answered(self) -> int:
        """Number of requests whose whole answer came, of whatever status."""
        return self.outcomes[Outcome.ANSWERED]

    @property
    def refused(self) -> int:
        """Number of requests for which nobody listened."""
        return self.outcomes[Outcome.REFUSED]

    @property
    def reset(self) -> int:
        """Number of requests whose connection ended before the whole answer came."""
        return self.outcomes[Outcome.RESET]

    @property
    def timed_out(self) -> int:
        """Number of requests whose answer did not come in time."""
        return self.outcomes[Outcome.TIMED_OUT]

    @property
    def garbled(self) -> int:
        """Number of requests whose answer made no sense."""
        return self.outcomes[Outcome.GARBLED]

    def late(self, limit: float) -> int:
        """Count the good answers that took longer than *limit* seconds."""
        done, due = self._columns["done"], self._columns["due"]
        return sum(done[number] - due[number] > limit for number in self._good)

    # -- times -----------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long requests were sent."""
        return self.stop - self.start

    @property
    def rate(self) -> float:
        """Good answers for each second."""
        return self.good / self.seconds if self.seconds > 0 else 0.0

    def percentile(self, share: float, *, slow: bool | None = False) -> float:
        """
        Give the latency that this share of the good answers did not exceed.

        Args:
            share: percent, as in 99.9; 100 gives the longest.
            slow: False: without the requests for the slow path; True: only these;
                None: all.

        Returns:
            Seconds from when a request was due; NaN if there was none.
        """
        fast, late = self._latencies
        latencies = sorted(fast + late) if slow is None else late if slow else fast
        if not latencies:
            return math.nan
        # 99.9 % of 1,000 are 999, whatever a binary fraction makes of them.
        rank = math.ceil(round(share * len(latencies) / 100, 6))
        return latencies[max(0, rank - 1)]

    @cached_property
    def _latencies(self) -> tuple[list[float], list[float]]:
        done, due, slow = (self._columns[name] for name in ("done", "due", "slow"))
        both: tuple[list[float], list[float]] = [], []
        for number in self._good:
            both[slow[number]].append(done[number] - due[number])
        for latencies in both:
            latencies.sort()
        return both

    @cached_property
    def _times(self) -> list[float]:
        done = self._columns["done"]
        return sorted(done[number] for number in self._good)

    def answers(self, start: float, stop: float) -> int:
        """Count the good answers that came in this time."""
        times = self._times
        return bisect.bisect_left(times, stop) - bisect.bisect_left(times, start)

    def throughput(self, width: float) -> list[int]:
        """Count the good answers in each slice of the run, of *width* seconds."""
        slices = int(self.seconds / width)
        edges = [self.start + width * each for each in range(slices + 1)]
        return [self.answers(*pair) for pair in itertools.pairwise(edges)]

    def recovery(self, at: float, rate: float, width: float = 0.05) -> float:
        """
        Tell how long after *at* the throughput was back.

        Args:
            at: when something happened, seconds of the monotonic clock.
            rate: good answers for each second that count as that.
            width: of the window in which they are counted, seconds.

        Returns:
            Seconds from *at* to the beginning of the first window that holds enough;
            infinity if none does.
        """
        wanted = rate * width
        times = self._times
        for start in (at, *times[bisect.bisect_left(times, at) :]):
            if start + width > self.stop:
                break
            if self.answers(start, start + width) >= wanted:
                return start - at
        return math.inf

    # -- whose fault -----------------------------------------------------------

    def in_flight(self, deaths: Iterable[Death]) -> list[Request]:
        """List the requests that were inside of processes when these were killed."""
        by_port: dict[int, list[Death]] = {}
        for death in deaths:
            for port in death.ports:
                by_port.setdefault(port, []).append(death)
        ports = self._columns["port"]
        candidates = (self.request(n) for n in self._numbers if ports[n] in by_port)
        return [
            request
            for request in candidates
            if any(death.held(request) for death in by_port[request.port])
        ]

    def unexcused(self, deaths: Iterable[Death] = ()) -> list[Request]:
        """List the failed requests that were in none of the killed processes."""
        excused = {request.number for request in self.in_flight(deaths)}
        return [request for request in self.failed if request.number not in excused]

    def __str__(self) -> str:
        """Say what there is to know in a few lines."""
        parts = [f"{self.sent} sent, {self.good} good"]
        parts += [
            f"{self.outcomes[outcome]} {outcome.name.lower().replace('_', ' ')}"
            for outcome in Outcome
            if outcome and self.outcomes[outcome]
        ]
        parts += [
            f"{count} of status {status}"
            for status, count in sorted(self.statuses.items())
            if status >= 400  # noqa: PLR2004 - the protocol's
        ]
        if self.unsent:
            parts.append(f"{self.unsent} never sent")
        times = "  ".join(
            f"p{share:g} {1000 * self.percentile(share):.1f} ms"
            for share in (50, 99, 99.9, 100)
        )
        done = f"{', '.join(parts)} in {self.seconds:.1f} s ({self.rate:.0f}/s)"
        if self.opened:
            times += f" on {self.opened} connections"
        if self.closed_idle:
            times += f", {self.closed_idle} of them closed while idle"
        lines = [done, times]
        for request in self.failed[:10]:
            at = request.begun - self.start
            lines.append(
                f"  {request.outcome.name} {request.status or ''} request "
                f"{request.number} at {at:.3f} s, after {request.latency:.3f} s and "
                f"{request.received} bytes, turn {request.turn} of connection "
                f"{request.link} (port {request.port}), process {request.pid or '?'}"
            )
        return "\n".join(lines)


def _shared(name: str) -> IO[bytes]:
    """Make a file that is nowhere, for another process to write to."""
    return open(os.memfd_create(name), "w+b", buffering=0)


class Load:
    """
    Requests to a server, for the time of a ``with`` block.

    Args:
        address: ``"127.0.0.1:8000"``, ``"[::1]:8000"`` or ``"unix:/run/shop.sock"``.
        connections: at most so many at a time.
        rate: requests for each second; None: as many as the connections can carry.
        keepalive: use a connection again and again; else each request has its own.
        path: what is asked for.
        slow_path: what is asked for by the slow share.
        slow: this share of the requests, from 0 to 1, evenly spread.
        timeout: seconds from the begin of a request until it counts as lost.
        requests: stop after so many.
        seconds: stop after so long.
    """

    def __init__(  # noqa: PLR0913 - all but the first are keywords
        self,
        address: str,
        *,
        connections: int = 16,
        rate: float | None = None,
        keepalive: bool = True,
        path: str = "/",
        slow_path: str = "/slow",
        slow: float = 0.0,
        timeout: float = 10.0,
        requests: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Note the arguments; the ``with`` block begins to send."""
        if address.startswith("unix:"):
            family, target, host = socket.AF_UNIX, address[5:], "localhost"
        else:
            name, _, port = address.rpartition(":")
            family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
            target, host = (name.strip("[]"), int(port)), address  # type: ignore[assignment]  # JSON takes both
        self._plan: dict[str, object] = {
            "family": int(family),
            "target": target,
            "host": host,
            "connections": connections,
            "rate": rate,
            "keepalive": keepalive,
            "path": path,
            "slow_path": slow_path,
            "slow": slow,
            "timeout": timeout,
            "requests": requests,
            "seconds": seconds,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._report: Report | None = None
        self._board: Sequence[int] = (0,) * len(caller.BOARD)

    # -- the block -------------------------------------------------------------

    def __enter__(self) -> Self:
        """
        Begin to send.

        Raises:
            LoadError: the sending process did not come up.
        """
        with contextlib.ExitStack() as stack:
            memory = stack.enter_context(_shared("board"))
            os.ftruncate(memory.fileno(), 8 * len(caller.BOARD))
            board = mmap.mmap(memory.fileno(), 0)
            stack.callback(board.close)
            view = memoryview(board).cast("q")
            stack.callback(view.release)
            self._book = stack.enter_context(_shared("book"))
            self._words = stack.enter_context(_shared("words"))
            fds = [memory.fileno(), self._book.fileno()]
            words = [json.dumps(self._plan), *map(str, fds)]
            self._process = subprocess.Popen(  # noqa: S603 - ours
                [sys.executable, "-I", "-S", caller.__file__, *words],
                pass_fds=fds,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                start_new_session=True,
            )
            stack.callback(self._end)
            assert self._process.stdout is not None  # noqa: S101 - a pipe, see above
            if not self._process.stdout.read(1):
                raise self._broken()
            self._board = view
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; what was not stopped before is forgotten."""
        # Who reads them afterwards shall find them.
        self._board = tuple(self._board)
        self._stack.close()
        if error is not None and self._report is not None:
            error.add_note(str(self._report))

    def _end(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - inside the block
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None  # noqa: S101 - as above
            pipe.close()

    def _broken(self) -> LoadError:
        self._words.seek(0)
        said = self._words.read().decode(errors="replace")
        return LoadError(f"the load broke down\n{said}")

    # -- while it runs ---------------------------------------------------------

    @property
    def begun(self) -> int:
        """Number of requests so far."""
        return self._board[0]

    @property
    def answered(self) -> int:
        """Number of good answers so far."""
        return self._board[1]

    @property
    def failed(self) -> int:
        """Number of failed requests so far."""
        return self._board[2]

    def more(self, answers: int, limit: float = _LIMIT) -> None:
        """
        Wait for so many more good answers.

        Raises:
            LoadError: they did not come within *limit* seconds, or the load has ended.
        """
        wanted = self.answered + answers
        deadline = time.monotonic() + limit
        assert self._process is not None  # noqa: S101 - inside the block
        while self.answered < wanted:
            if self._process.poll() is not None and self.answered < wanted:
                raise LoadError(f"the load ended after {self.answered} good answers")
            if time.monotonic() > deadline:
                raise LoadError(
                    f"{wanted - self.answered} of {answers} good answers did not come "
                    f"within {limit:g} seconds ({self.failed} requests have failed)"
                )
            time.sleep(_STEP)

    def stop(self) -> Report:
        """
        Send nothing more, wait for what is on its way, and give the report.

        Raises:
            LoadError: the sending process broke down.
        """
        assert self._process is not None  # noqa: S101 - inside the block
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.close()
        return self.wait()

    def wait(self) -> Report:
        """
        Wait until all *requests* are sent or *seconds* are over; give the report.

        Raises:
            LoadError: the sending process broke down.
        """
        if self._report is None:
            assert self._process is not None  # noqa: S101 - inside the block
            if self._process.wait():
                raise self._broken()
            self._report = self._read()
        return self._report

    def _read(self) -> Report:
        file = self._book
        file.seek(0)
        facts = json.loads(file.readline())
        requests = facts.pop("requests")
        columns: Columns = {}
        for name, code in caller.COLUMNS.items():
            column = columns[name] = array(code)
            column.fromfile(file, requests)
        return Report(columns, range(requests), **facts)
