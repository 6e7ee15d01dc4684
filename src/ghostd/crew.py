"""
A spirit whose body runs in several threads at once.

The threads work and the main thread oversees: it beats for all of them, with the time
of the one that has been silent for longest. So progress of one does not hide that
another is stuck, and a stuck one makes the spirit hung.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Coroutine
from time import monotonic

from ghostd.bell import BelledSpirit
from ghostd.errors import GhostError
from ghostd.hooks import describe
from ghostd.settings import PoolSettings
from ghostd.spirit import HasFileno
from ghostd.typed import TYPE_CHECKING
from ghostd.unix import fork
from ghostd.unix.poller import milliseconds

if TYPE_CHECKING:
    from ghostd.logs import Log


class Seat:
    """
    One thread's place in the crew.

    Attributes:
        name: of the thread.
        at: when it last ticked, or until when it rests in `wait`; None: never yet.
        finished: it has said farewell.
        gone: it has ended.
        error: what ended it, or None.
        warned_at: for which *at* it was told that it is late.
        ident: of the thread.
    """

    __slots__ = ("at", "error", "finished", "gone", "ident", "name", "warned_at")

    def __init__(self, name: str) -> None:
        """Be taken by nobody yet."""
        self.name: str = name
        self.at: float | None = None
        self.finished: bool = False
        self.gone: bool = False
        self.error: BaseException | None = None
        self.warned_at: float | None = None
        self.ident: int = 0

    @property
    def at_work(self) -> bool:
        """Tell whether its progress counts."""
        return not self.finished and not self.gone


class Crew(BelledSpirit):
    """A spirit of several threads."""

    __slots__ = ("_beat_at", "_going", "_log", "_news", "_seats", "_sitting", "_told")

    def _prepare(self) -> None:
        super()._prepare()
        self._going = True
        self._seats: list[Seat] = []
        self._sitting: dict[int, Seat] = {}
        self._told: list[Seat] = []
        self._beat_at: float = 0.0
        self._news = fork.pipe()
        fork.keep_private(*self._news)

    # -- what the threads call ---------------------------------------------------

    @property
    def ok(self) -> bool:
        """Go on working; False in a thread that has said farewell."""
        seat = self._sitting.get(get_ident())
        return self._going and (seat is None or not seat.finished)

    @ok.setter
    def ok(self, value: bool) -> None:
        self._going = value

    def beat(self, finished: bool) -> bool:
        """Note that the calling thread gets around; strangers vouch for nobody."""
        seat = self._sitting.get(get_ident())
        if seat is None:
            return self._going
        first = seat.at is None
        seat.at = monotonic()
        if finished:
            seat.finished = True
        if first or finished:
            self._tell()
        return self._going and not seat.finished

    def wait(self, seconds: float, *files: HasFileno | int) -> bool:
        """Sleep at most so long; it counts as progress. A QUIT ends it."""
        seat = self._sitting.get(get_ident())
        until = monotonic() + seconds
        if seat is not None:
            first = seat.at is None
            seat.at = until
            if first:
                self._tell()
        try:
            self.rest(until, *files)
        finally:
            if seat is not None:
                seat.at = monotonic()
        return self.ok

    def _tell(self) -> None:
        """Wake the overseer."""
        if os.getpid() == self.pid:
            # Full: it is awake. Closed by the body: it looks once in each interval.
            with contextlib.suppress(OSError):
                os.write(self._news[1], b"\0")

    # -- a thread ----------------------------------------------------------------

    def _work(self, seat: Seat, body: Callable[[], object]) -> None:
        seat.ident = get_ident()
        self._sitting[seat.ident] = seat
        try:
            result = body()
            if isinstance(result, Coroutine):
                result.close()
                raise GhostError("threads run plain bodies, and this is asynchronous")  # noqa: TRY301 - it ends this thread
        except BaseException as error:  # noqa: BLE001 - the overseer tells it
            seat.error = error
        finally:
            # The kernel may give the number to a thread that has no seat.
            del self._sitting[seat.ident]
            seat.gone = True
            self._tell()

    # -- the overseer --------------------------------------------------------------

    def run(
        self, body: Callable[[], object], settings: PoolSettings, log: Log
    ) -> object:
        """Run the body in all threads, until all have ended; raise what one raised."""
        self._log = log
        # Each tick comes to beat(), where it is noted whose it is.
        self.due: float = float("-inf")
        signal.set_wakeup_fd(self._news[1], warn_on_full_buffer=False)
        for number in range(settings.threads):
            seat = Seat(f"spirit-{number}")
            self._seats.append(seat)
            threading.Thread(
                target=self._work, args=(seat, body), name=seat.name, daemon=True
            ).start()
        poll = select.poll()
        poll.register(self._news[0], select.POLLIN)
        poll.register(self._presence, select.POLLIN)
        while not all(seat.gone for seat in self._seats):
            pause = self._oversee(settings.heartbeat_timeout)
            for fd, what in poll.poll(milliseconds(pause)):
                if what & select.POLLNVAL:
                    poll.unregister(fd)
                elif fd == self._presence:
                    poll.unregister(fd)
                    self._orphaned()
                else:
                    fork.drain(fd)
        self._oversee(settings.heartbeat_timeout)
        for seat in self._told:
            raise seat.error if isinstance(seat.error, SystemExit) else SystemExit(1)
        return None

    def _oversee(self, timeout: float) -> float:
        """Look at everybody, beat for all; say in how many seconds to look again."""
        for seat in self._seats:
            if seat.error is not None and seat not in self._told:
                self._on_error(seat, seat.error)
        now = monotonic()
        working = [seat for seat in self._seats if seat.at_work]
        if not working and any(seat.finished for seat in self._seats):
            self._say_farewell(now)
        stamps = [seat.at for seat in working]
        if not stamps or None in stamps:
            return self._interval  # not ready, or done: whatever changes wakes us
        oldest = min(at for at in stamps if at is not None)
        if now >= self._beat_at:
            self._beat_at = now + self._interval
            if not self._far_end.beat(min(now, oldest)) and self.ok:
                self._orphaned()
        if self.left_at is None:
            self._warn(working, now, timeout)
            late_at = oldest + timeout
            if now < late_at:
                return min(self._beat_at, late_at) - now
        return self._beat_at - now

    def _say_farewell(self, now: float) -> None:
        if self.left_at is None:
            self.leave()
            self._far_end.farewell(now)

    def _on_error(self, seat: Seat, error: BaseException) -> None:
        """
        End because one thread failed, but let the others finish what they do.

        The farewell has the replacement started, and the graceful timeout kept.
        """
        if not self._beat_at:
            raise error  # a failed start is told at once, and in full
        self._told.append(seat)
        if not isinstance(error, SystemExit):
            self._log.error(
                "Spirit %d failed in thread %s: %s",
                self.pid,
                seat.name,
                describe(error),
                exc_info=error,
                extra={"event": "spirit.failed"},
            )
        self._say_farewell(monotonic())

    def _warn(self, working: list[Seat], now: float, timeout: float) -> None:
        """Say which thread is late, and where it is."""
        for seat in working:
            at = seat.at
            if at is None or now - at < timeout or seat.warned_at == at:
                continue
            seat.warned_at = at
            frame = sys._current_frames().get(seat.ident)  # noqa: SLF001 - documented
            import traceback  # loaded already, by the log

            story = "".join(traceback.format_stack(frame)) if frame else "unknown"
            self._log.warning(
                "Spirit %d: thread %s has not ticked for %.1f seconds, it is at: %s",
                self.pid,
                seat.name,
                now - at,
                "\n" + story.rstrip(),
                extra={"event": "spirit.thread_late", "seat": seat.name},
            )
