"""
A spirit on trio, through anyio.

Imported in spirits only, after the fork. Trio watches its wake-up descriptor by itself,
so a signal wakes it, its handler rings the bell, and the bell is read like any file.
"""

from __future__ import annotations

from collections.abc import Coroutine
from time import monotonic

import anyio
import trio  # noqa: F401 - anyio would load it late, in each spirit of a mold

from ghostd.loops import LoopSpirit
from ghostd.settings import PoolSettings
from ghostd.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ghostd.logs import Log


class TrioSpirit(LoopSpirit):
    """A spirit on trio."""

    __slots__ = ("_drained", "_failure", "_scope")

    def _prepare(self) -> None:
        super()._prepare()
        self._failure: BaseException | None = None

    def run(
        self,
        body: Coroutine[Any, Any, object],
        settings: PoolSettings,  # noqa: ARG002 - as the others have it
        log: Log,
    ) -> object:
        """Run the body to its end, and clean up after it; raise what it raises."""
        self._log = log
        anyio.run(self._main, body, backend="trio")
        if self._failure is not None:
            raise self._failure
        return None

    async def _main(self, body: Coroutine[Any, Any, object]) -> None:
        self._drained = anyio.Event()
        self._scope = anyio.CancelScope()
        async with anyio.create_task_group() as ours:
            ours.start_soon(self._watch_itself)
            ours.start_soon(self._watch_bell)
            ours.start_soon(self._watch_presence)
            # Caught here, or the group of our own tasks would wrap it.
            try:
                with self._scope:
                    await body
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised again in run()
                self._failure = _exit_of(error)
            ours.cancel_scope.cancel()

    async def _watch_itself(self) -> None:
        pause = 0.0
        while True:
            due = monotonic() + pause
            await anyio.sleep(pause)
            pause = self._look(monotonic() - due)

    async def _watch_bell(self) -> None:
        await anyio.wait_readable(self._bell[0])
        self._drained.set()
        await anyio.sleep(self._cancel_in())
        self._tell_cancelled()
        self._scope.cancel()

    async def _watch_presence(self) -> None:
        await anyio.wait_readable(self._presence)
        self._orphaned()

    async def _wait(self, seconds: float) -> bool:
        self.beat(finished=False)
        await anyio.lowlevel.checkpoint()
        if self.ok:
            with anyio.move_on_after(seconds):
                await self._drained.wait()
        return self.ok

    async def drained(self) -> None:
        """Wait until it is asked to leave."""
        await self._drained.wait()


def _exit_of(error: BaseException) -> BaseException:
    """Take a lone SystemExit out of the groups that nurseries put around it."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner if isinstance(inner, SystemExit) else error
