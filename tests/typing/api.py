"""The public names as a typed program; never run, read by mypy --strict."""

from __future__ import annotations

import sys
from typing import assert_type

import ghostd
from ghostd import Ghost, Prefork
from ghostd.unix.pidfile import Pidfile
from ghostd.views import PoolView


class Counter(Prefork):
    """A subclass that overrides hooks of both kinds and takes a keyword of its own."""

    queue = ""

    def again(self, *, queue: str = "jobs", **rest: object) -> Counter:
        self.queue = queue
        super().again(**rest)
        return self

    def init(self) -> None:
        self.log.info("all", "cool", extra={"event": "counter.ready"})  # noqa: PLE1205 - words are joined

    def spirit(self) -> None:
        while self.tick():
            assert_type(self.slot, int | None)
            self.wait(0.5)

    def heartbeat(self, pid: int) -> None:
        self.log.trace("Spirit %d has a heartbeat", pid)

    def finish(self, graceful: bool) -> None:
        self.log.notice("graceful" if graceful else "at once")

    def hangup(self) -> None:
        self.log.debug(self.pool)
        self.spirits = 8


def body(ghost: Prefork) -> None:
    """Be a body that is given as a keyword."""
    assert_type(ghost.tick(finished=True), bool)


class Asynchronous(Prefork):
    """A body whose waits are awaited."""

    async def spirit(self) -> None:
        self.ready()
        async for turn in self.ticks(every=0.5):
            assert_type(turn, int)
            assert_type(await self.wait(1), bool)
            if self.draining:
                break
        await self.draining
        assert_type(self.lag, float)


async def asynchronous(ghost: Prefork) -> None:
    """Be an asynchronous body that is given as a keyword."""
    while await ghost.wait(1):
        pass


class Waiting(Prefork):
    """A plain body that makes something of what a wait gives."""

    def spirit(self) -> bool:
        going: bool = self.wait(1)
        return going and not self.draining


class Plain(Ghost):
    """A plain daemon whose exit code is its own."""

    def startup(self) -> int:
        while self.ok:
            self.wait(1)
        return 3

    def cleanup(self, scope: int) -> None:
        assert_type(scope, int)


counter = Counter(queue="mail", spirits="auto")
assert_type(counter.healthy, int)
assert_type(counter.pool, PoolView)
assert_type(counter.filepid, Pidfile)
assert_type(counter.ok, bool)
assert_type(counter.pid, int)
assert_type(counter.status(), int)
assert_type(counter.ctrl("reload", "USR2"), int)
assert_type(ghostd.AlreadyRunning("x", 7).pid, int)
assert_type(Prefork(spirit=asynchronous, loop="uvloop").lag, float)
sys.exit(Prefork(spirit=body, workers=2).ctrl() or Plain().ctrl("run"))
