"""
A spirit on an asyncio loop, or on one of the same kind such as uvloop's.

Imported in spirits only, after the fork. The loop is never closed: closing takes down
the handler of SIGQUIT, which must be harmless to the last instruction, and the process
ends by `os._exit` anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from time import monotonic

from ghostd.hooks import describe
from ghostd.loops import LoopSpirit, cleanup_time
from ghostd.settings import PoolSettings
from ghostd.typed import TYPE_CHECKING, Any
from ghostd.unix import fork

if TYPE_CHECKING:
    from ghostd.logs import Log


def _factory(loop: str | Callable[[], Any]) -> Callable[[], asyncio.AbstractEventLoop]:
    if callable(loop):
        return loop
    if loop == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


class AioSpirit(LoopSpirit):
    """A spirit on asyncio."""

    __slots__ = ("_cancelled", "_loop", "_task", "_waiting")

    def _prepare(self) -> None:
        super()._prepare()
        self._cancelled = False
        self._waiting: set[asyncio.Future[None]] = set()

    @staticmethod
    def prepare(loop: object) -> None:
        """Import uvloop, if it is wanted."""
        if loop == "uvloop":
            _factory("uvloop")

    def run(
        self, body: Coroutine[Any, Any, object], settings: PoolSettings, log: Log
    ) -> object:
        """Run the body to its end, and clean up after it; raise what it raises."""
        self._log = log
        self._loop = loop = _factory(settings.loop)()
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(self._complain)
        self._listen()
        self._task = loop.create_task(body, name="spirit")
        loop.call_soon(self._look_again, monotonic())
        try:
            return loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            if not self._cancelled:
                raise
            return None
        finally:
            loop.run_until_complete(self._clean_up())

    def _listen(self) -> None:
        """Have a QUIT, from wherever it comes, wake the loop."""
        self._loop.add_reader(self._bell[0], self._on_bell)
        self._loop.add_reader(self._presence, self._on_presence)
        # That makes the loop watch its wake-up descriptor, and keeps it doing so when
        # the body adds and removes handlers of its own. The handler is ours again after
        # that: it strikes also while the loop is blocked. Whichever comes first wins.
        with contextlib.suppress(NotImplementedError):
            self._loop.add_signal_handler(signal.SIGQUIT, self._on_signal)
        fork.set_handler(signal.SIGQUIT, self.on_quit)

    def _on_signal(self) -> None:
        if self.ok:
            self.on_quit(signal.SIGQUIT, None)

    def _on_presence(self) -> None:
        self._loop.remove_reader(self._presence)
        self._orphaned()

    def _on_bell(self) -> None:
        self._loop.remove_reader(self._bell[0])
        for future in self._waiting:
            _release(future)
        self._loop.call_later(self._cancel_in(), self._cancel)

    def _cancel(self) -> None:
        if not self._task.done():
            self._cancelled = True
            self._tell_cancelled()
            self._task.cancel()

    def _look_again(self, due: float) -> None:
        # By our own clock: that of another loop may stand still while it works.
        now = monotonic()
        pause = self._look(now - due)
        self._loop.call_later(pause, self._look_again, now + pause)

    async def _wait(self, seconds: float) -> bool:
        self.beat(finished=False)
        if not self.ok or seconds <= 0:
            # Others get their turn, too, or a body that does not look at what we give
            # would block the loop, and could not even be cancelled.
            await asyncio.sleep(0)
            return self.ok
        future = self._loop.create_future()
        timer = self._loop.call_later(seconds, _release, future)
        try:
            await self._until(future)
        finally:
            timer.cancel()
        return self.ok

    async def drained(self) -> None:
        """Wait until it is asked to leave."""
        if self.ok:
            await self._until(self._loop.create_future())

    async def _until(self, future: asyncio.Future[None]) -> None:
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _complain(
        self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        """Log what nobody has caught: asyncio's own words would go to /dev/null."""
        error = context.get("exception")
        words = [str(context.get("message", "Unhandled trouble in the loop"))]
        words += [describe(error)] if isinstance(error, BaseException) else []
        words += [repr(context[key]) for key in ("task", "handle") if key in context]
        trouble = ": ".join(words)
        self._log.error(
            "Spirit %d: %s",
            self.pid,
            trouble,
            exc_info=error,
            extra={"event": "spirit.loop_failed"},
        )

    async def _clean_up(self) -> None:
        """End what the body left behind: tasks first, then what they may need."""
        patience = cleanup_time(self._graceful) / 2
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await self._finish(tasks, patience)
        closing = {
            "asynchronous generators": self._loop.shutdown_asyncgens(),
            "work in the executor": self._loop.shutdown_default_executor(),
        }
        await self._finish(
            {self._loop.create_task(step, name=name) for name, step in closing.items()},
            patience,
        )

    async def _finish(self, tasks: set[asyncio.Task[Any]], patience: float) -> None:
        if not tasks:
            return
        done, pending = await asyncio.wait(tasks, timeout=patience)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                message = "A task failed while it was cancelled"
                self._complain(
                    self._loop, {"message": message, "exception": error, "task": task}
                )
        if pending:
            names = ", ".join(sorted(task.get_name() for task in pending))
            self._log.warning(
                "Spirit %d leaves behind what does not end: %s",
                self.pid,
                names,
                extra={"event": "spirit.tasks_left"},
            )


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
