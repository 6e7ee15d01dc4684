"""
What spirits with an asynchronous body have in common, whatever loop it runs on.

The beat comes from the loop itself: it looks at itself once in a second, notes how late
it is, and beats if that is due. So a loop that is blocked falls silent, and the manager
sees a hung spirit. Nothing here imports a loop; `aio` and `trios` do.
"""

from __future__ import annotations

import os
from _thread import get_ident
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from types import TracebackType

from ghostd.bell import BelledSpirit
from ghostd.errors import GhostError
from ghostd.settings import PoolSettings
from ghostd.spirit import HasFileno
from ghostd.typed import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from ghostd.logs import Log

CLEANUP = 5.0
"""Seconds to clean up in after a cancellation, at most; see `cleanup_time`."""

LOOK = 1.0
"""Seconds between two looks of a loop at itself, at most."""

NEEDS = {"uvloop": ("uvloop",), "trio": ("anyio", "trio")}
"""What has to be installed for a loop; the extra is called like the loop."""


def check(settings: PoolSettings) -> None:
    """
    See to it, before any fork, that an asynchronous body can run.

    Raises:
        GhostError: it cannot.
    """
    if settings.threads > 1:
        raise GhostError(
            f"threads is {settings.threads}, and the body is asynchronous: "
            "threads run plain bodies"
        )
    loop = settings.loop
    if isinstance(loop, str) and loop in NEEDS:
        from importlib.util import find_spec

        missing = [name for name in NEEDS[loop] if find_spec(name) is None]
        if missing:
            words = " and ".join(missing)
            error = GhostError(f"loop is {loop!r}, and {words} cannot be imported")
            error.add_note(f'Install the extra: pip install "ghostd[{loop}]"')
            raise error


def cleanup_time(graceful: float) -> float:
    """
    Say how long before its end a body is cancelled.

    Args:
        graceful: seconds from being told to quit to SIGKILL.

    Returns:
        Seconds: a quarter of *graceful*, at most `CLEANUP`.
    """
    return min(CLEANUP, graceful / 4)


class LoopSpirit(BelledSpirit):
    """
    A spirit whose body runs on a loop, in the main thread.

    Attributes:
        silent: it sends no beats although its loop is well, because what the loop is
            there for is not.
    """

    __slots__ = ("_beat_at", "_log", "_told_unawaited", "lag", "silent")

    _log: Log

    def _prepare(self) -> None:
        super()._prepare()
        self.lag: float = 0.0
        self.silent: bool = False
        self._told_unawaited = False
        self._beat_at: float | None = None

    @staticmethod
    def prepare(loop: object) -> None:
        """Import what importing this class has not, in a mold."""

    def run(
        self, body: Coroutine[Any, Any, object], settings: PoolSettings, log: Log
    ) -> object:
        """Run the body to its end, and clean up after it; raise what it raises."""
        raise NotImplementedError

    def beat(self, finished: bool) -> bool:
        """
        Send the first beat, or the farewell; all the others come from `_look`.

        Neither a thread beside the loop may vouch for it, nor a body that ticks on and
        on without letting the loop run.
        """
        if get_ident() == self._thread and self._beat_at is None:
            self.due: float = float("inf")
            self._send(monotonic())
        if finished and self.ok:
            self.leave()
            self._far_end.farewell(monotonic())
        return self.ok

    def _send(self, now: float) -> None:
        self._beat_at = now + self._interval
        if os.getpid() == self.pid and not self._far_end.beat(now) and self.ok:
            self._orphaned()

    def wait(self, seconds: float, *files: HasFileno | int) -> bool:
        """Give what is to be awaited; block in another thread than the loop's."""
        if get_ident() != self._thread:
            if self.ok:
                self.rest(monotonic() + seconds, *files)
            return self.ok
        if files:
            raise TypeError(
                "an asynchronous body waits for files by the means of its loop"
            )
        return Awaiting(self._wait(seconds), self._tell_unawaited)  # type: ignore[return-value]  # see Answer

    async def _wait(self, seconds: float) -> bool:
        raise NotImplementedError

    def _look(self, late: float) -> float:
        """Note how many seconds late the loop is, and beat; say when to look again."""
        self.lag = max(0.0, late)
        pace = min(LOOK, self._interval)
        if self._beat_at is None or self.silent:
            return pace  # it has not said yet that it is ready, or is not well
        now = monotonic()
        if now >= self._beat_at:
            self._send(now)
        return min(pace, self._beat_at - now)

    def _cancel_in(self) -> float:
        """Say in how many seconds a body that is still running is cancelled."""
        now = monotonic()
        left_at = now if self.left_at is None else self.left_at
        patience = self._graceful - cleanup_time(self._graceful)
        return max(0.0, left_at + patience - now)

    def _tell_cancelled(self) -> None:
        self._log.warning(
            "Spirit %d is not finished after %g seconds, cancelling its body",
            self.pid,
            self._graceful - cleanup_time(self._graceful),
            extra={"event": "spirit.cancelled"},
        )

    def _tell_unawaited(self) -> None:
        if not self._told_unawaited:
            self._told_unawaited = True
            self._log.error(
                "Spirit %d does not wait: write `await self.wait(...)`",
                self.pid,
                extra={"event": "spirit.unawaited"},
            )


class Awaiting(Coroutine[Any, Any, bool]):
    """
    A wait that must be awaited, and says so to whoever forgets it.

    Args:
        inner: what waits.
        forgotten: called if nobody has ever awaited it.
    """

    __slots__ = ("_forgotten", "_inner")

    def __init__(
        self, inner: Coroutine[Any, Any, bool], forgotten: Callable[[], None]
    ) -> None:
        """Be *inner*, but for its truth."""
        self._inner = inner
        self._forgotten: Callable[[], None] | None = forgotten

    def __del__(self) -> None:
        """Tell: Python's own warning goes where no daemon's words are read."""
        if self._forgotten is not None:
            self._inner.close()
            self._forgotten()

    def __bool__(self) -> bool:
        """Refuse: a coroutine would be true, and a loop around it would spin."""
        self.close()
        raise TypeError("this body is asynchronous: write `await self.wait(...)`")

    def __await__(self) -> Generator[Any, Any, bool]:
        """Wait."""
        self._forgotten = None
        return self._inner.__await__()

    def send(self, value: Any) -> Any:
        """Go on."""
        self._forgotten = None
        return self._inner.send(value)

    def throw(
        self,
        kind: Any,
        value: Any = None,
        trace: TracebackType | None = None,  # noqa: ARG002 - see below
    ) -> Any:
        """Go on with an exception."""
        self._forgotten = None
        # The exception is what has remained of the three since Python 3.12.
        return self._inner.throw(kind if value is None else value)

    def close(self) -> None:
        """End it."""
        self._forgotten = None
        self._inner.close()


class Ticking(Protocol):
    """What `Ticks` wants from a body."""

    def tick(self, finished: bool = False) -> bool:
        """Send the beat if one is due, and tell whether to go on."""

    def wait(self, seconds: float) -> Any:
        """Sleep, when awaited, and tell whether to go on."""


class Ticks:
    """Turns of an asynchronous body, a fixed time apart; each gives its number."""

    def __init__(self, body: Ticking, every: float) -> None:
        """Begin with the first `anext`."""
        self._body = body
        self._every = every
        self._turn = -1
        self._next = 0.0

    def __aiter__(self) -> Self:
        """Be the iterator."""
        return self

    async def __anext__(self) -> int:
        """Wait for the next turn; its number, from 0."""
        now = monotonic()
        if self._turn < 0:
            self._next = now
            ok = self._body.tick()
        else:
            # A turn that came late does not make the next ones come in a burst.
            self._next = max(self._next + self._every, now)
            ok = await self._body.wait(self._next - now)
        if not ok:
            raise StopAsyncIteration
        self._turn += 1
        return self._turn
