"""
The foundry: the molds as the manager holds them, one for each generation in use.

A birth takes an embryo from its mold's stock, where one is kept, and asks for another;
so what it costs to fork a large process is paid before anybody waits for it. Nothing
here waits: what is not there yet is told in a later turn.

Every birth that is asked for is told exactly once: `Spawned`, `SpawnFailed` where
means are lacking, or `Stillborn` where the code does not load, or nobody wants it any
more.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ghostd.core.actions import Spawn
from ghostd.core.events import Event, Spawned, SpawnFailed, Stillborn
from ghostd.mold import ASK, BROKEN, CERTIFICATE, EMBRYO, NUMBER, READY, UNBORN, WHERE
from ghostd.typed import TYPE_CHECKING, Any
from ghostd.unix import channel, child, fork
from ghostd.unix.child import Child, Ended
from ghostd.unix.lifeline import Lifeline
from ghostd.unix.poller import Poller

if TYPE_CHECKING:
    from ghostd.logs import Log

STOCK = 1
"""Embryos that a mold has ready while nothing happens."""

MOST_ASKED = 16
"""Embryos that one mold is asked for at a time."""

SAY_WHERE = 0.2
"""Seconds that a mold has to say where it hangs, before it is killed for that."""

LEAVE = 2.0
"""Seconds that a mold has to leave when nobody needs it any more."""

LOOK = 0.005

Cast = Callable[[int, int, int], fork.Entrance]
"""Makes, before the fork, what a mold runs: of its generation, channel and diary."""

Welcome = Callable[[Child, Lifeline, Spawn], Event]
"""Takes a spirit in, and tells of it."""


class _Birth:
    """A spirit that is to be."""

    __slots__ = ("lifeline", "spawn")

    def __init__(self, spawn: Spawn, lifeline: Lifeline) -> None:
        self.spawn = spawn
        self.lifeline = lifeline

    def failed(self, why: str) -> SpawnFailed:
        self.lifeline.close()
        return SpawnFailed(why, self.spawn.slot, self.spawn.generation)

    def stillborn(self, words: str, last_words: str = "") -> Stillborn:
        self.lifeline.close()
        return Stillborn(self.spawn.slot, self.spawn.generation, words, last_words)


class _Embryo:
    """A child that waits to be told who it is."""

    __slots__ = ("child", "fd")

    def __init__(self, child: Child, fd: int) -> None:
        self.child = child
        self.fd = fd


class _Mold:
    """One mold: the process, what it has made, and what is wanted of it."""

    __slots__ = (
        "asked",
        "born",
        "child",
        "deadline",
        "diary",
        "fd",
        "generation",
        "pending",
        "questioned",
        "ready",
        "stock",
    )

    def __init__(
        self, generation: int, child: Child, fd: int, diary: int, now: float
    ) -> None:
        self.generation = generation
        self.child = child
        self.fd = fd
        self.diary = diary
        self.born = now
        self.questioned = False
        self.ready = False
        self.deadline: float | None = None
        self.stock: list[_Embryo] = []
        self.asked: deque[int] = deque()
        self.pending: deque[_Birth] = deque()


class _Leaver:
    """A mold or an embryo that is on its way out."""

    __slots__ = ("child", "is_mold", "kill_at")

    def __init__(self, child: Child, *, is_mold: bool, kill_at: float) -> None:
        self.child = child
        self.is_mold = is_mold
        self.kill_at: float | None = kill_at


class Foundry:
    """
    All molds.

    Args:
        poller: where their descriptors are watched.
        cast: makes what a mold runs.
        welcome: takes a newborn spirit in.
        lend: says which more descriptors the newborn of a slot gets.
        words: says how a child ended.
        log: where its life is told.
        patience: seconds within which a mold must load, and answer.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour
        self,
        poller: Poller,
        *,
        cast: Cast,
        welcome: Welcome,
        words: Callable[[Ended], str],
        log: Log,
        patience: float,
        lend: Callable[[int], tuple[int, ...]] = lambda slot: (),  # noqa: ARG005
    ) -> None:
        """Start without any."""
        self._poller = poller
        self._cast = cast
        self._welcome = welcome
        self._lend = lend
        self._words = words
        self._log = log
        self._patience = patience
        self._molds: dict[int, _Mold] = {}
        self._leavers: dict[int, _Leaver] = {}
        self._lost: set[int] = set()

    # -- what others may ask ---------------------------------------------------

    @property
    def pids(self) -> set[int]:
        """Give the pids of all molds and embryos that are known."""
        found = set(self._leavers)
        for mold in self._molds.values():
            found.add(mold.child.pid)
            found.update(embryo.child.pid for embryo in mold.stock)
        return found

    @property
    def expecting(self) -> bool:
        """Tell whether a child may exist that has not been announced yet."""
        return any(mold.asked for mold in self._molds.values())

    @property
    def deadline(self) -> float | None:
        """Say when `tend` must be called if nothing happens before."""
        dues = [mold.deadline for mold in self._molds.values()]
        dues += [leaver.kill_at for leaver in self._leavers.values()]
        return min((due for due in dues if due is not None), default=None)

    def plain(self) -> list[dict[str, Any]]:
        """Give what there is to know of each mold, as plain data."""
        return [
            {
                "pid": mold.child.pid,
                "generation": mold.generation,
                "born": mold.born,
                "ready": mold.ready,
                "stock": len(mold.stock),
            }
            for mold in self._molds.values()
        ]

    # -- births ----------------------------------------------------------------

    def bear(self, births: Iterable[Spawn], now: float) -> Iterator[Event]:
        """Have spirits born, now or later; tell of those that are settled."""
        for spawn in births:
            try:
                lifeline = Lifeline()
            except OSError as error:
                yield _failed(spawn, error)
                continue
            birth = _Birth(spawn, lifeline)
            try:
                mold = self._molds.get(spawn.generation)
                mold = mold or self._found(spawn.generation, now)
            except OSError as error:
                yield birth.failed(_reason(error))
            else:
                mold.pending.append(birth)
        for mold in list(self._molds.values()):
            yield from self._serve(mold, now)

    def _found(self, generation: int, now: float) -> _Mold:
        """
        Make a mold.

        Raises:
            OSError: no descriptor or process is left.
        """
        near, far = channel.pair()
        read = write = -1
        try:
            read, write = fork.pipe()
            fork.keep_private(read, write)
            entrance = self._cast(generation, far, write)
            pids, error = fork.fork_each([(tuple(sorted((far, write))), entrance)])
            if error is not None:
                raise error
        except OSError:
            fork.close(near, read)
            raise
        finally:
            fork.close(far, write)
        mold = _Mold(generation, Child(pids[0]), near, read, now)
        mold.deadline = now + self._patience
        self._molds[generation] = mold
        try:
            self._watch(mold.child.fd, near)
        except OSError:
            self._part(mold, now)
            raise
        self._log.info(
            "Mold %d started (generation %d)",
            mold.child.pid,
            generation,
            extra={"event": "mold.started", "generation": generation},
        )
        if generation in self._lost:
            self._lost.discard(generation)
            self._log.warning(
                "Generation %d is loaded anew by mold %d, as its code is by now",
                generation,
                mold.child.pid,
                extra={"event": "mold.again", "generation": generation},
            )
        return mold

    def _watch(self, *fds: int) -> None:
        for fd in fds:
            if fd >= 0:
                self._poller.add(fd)

    def _unwatch(self, fd: int) -> None:
        if fd >= 0:
            self._poller.drop(fd)

    def _serve(self, mold: _Mold, now: float, spare: int = 0) -> Iterator[Event]:
        """Quicken as many as there are, and ask for as many as are missing."""
        while mold.pending and mold.stock:
            event = self._quicken(mold, mold.stock.pop(0), mold.pending.popleft())
            if isinstance(event, Spawned):
                # Only then: a stock that dies of itself is not kept up.
                spare = STOCK
            yield event
        if mold.ready:
            yield from self._order(mold, now, spare)

    def _quicken(self, mold: _Mold, embryo: _Embryo, birth: _Birth) -> Event:
        """Tell an embryo who it is."""
        spawn = birth.spawn
        certificate = CERTIFICATE.pack(spawn.slot, mold.generation)
        try:
            fds = (birth.lifeline.far_fd, *self._lend(spawn.slot))
            channel.send(embryo.fd, certificate, fds)
        except OSError as error:
            self._let_go(embryo, 0.0)
            return birth.failed(f"an embryo cannot be told: {_reason(error)}")
        fork.close(embryo.fd)
        self._unwatch(embryo.child.fd)
        return self._welcome(embryo.child, birth.lifeline, spawn)

    def _order(self, mold: _Mold, now: float, spare: int) -> Iterator[Event]:
        """Ask a mold for embryos."""
        wanted = len(mold.pending) + spare - len(mold.stock) - len(mold.asked)
        for _ in range(min(wanted, MOST_ASKED - len(mold.asked))):
            try:
                near, far = channel.pair()
            except OSError as error:
                if not mold.asked:
                    yield from self._fail(mold, _reason(error))
                return
            try:
                channel.send(mold.fd, ASK, (far,))
            except OSError:
                # It is dead, and that is told when it is reaped.
                fork.close(near)
                return
            finally:
                fork.close(far)
            mold.asked.append(near)
            mold.deadline = mold.deadline or now + self._patience

    def _fail(self, mold: _Mold, why: str) -> Iterator[Event]:
        while mold.pending:
            yield mold.pending.popleft().failed(why)

    def _lose(self, mold: _Mold, words: str, last: str = "") -> Iterator[Event]:
        while mold.pending:
            yield mold.pending.popleft().stillborn(words, last)

    # -- what molds say --------------------------------------------------------

    def tend(self, fds: dict[int, int], now: float, *, sweep: bool) -> Iterator[Event]:
        """
        Hear what molds say, and see who is dead or late.

        Args:
            fds: the descriptors that spoke up.
            now: the time.
            sweep: look at everybody, whether or not it spoke up.
        """
        for mold in list(self._molds.values()):
            if mold.fd in fds:
                yield from self._hear(mold, now)
            yield from self._look_after(mold, fds, now, sweep=sweep)
        for leaver in list(self._leavers.values()):
            self._see_off(leaver, fds, now, sweep=sweep)

    def _look_after(
        self, mold: _Mold, fds: dict[int, int], now: float, *, sweep: bool
    ) -> Iterator[Event]:
        if self._molds.get(mold.generation) is not mold:
            return  # it has just been heard that it is broken
        for embryo in list(mold.stock):
            if (sweep or embryo.child.fd in fds) and embryo.child.poll():
                mold.stock.remove(embryo)
                fork.close(embryo.fd)
                self._forget(embryo.child)
        if sweep or mold.child.fd in fds:
            ended = mold.child.poll()
            if ended is not None:
                yield from self._bury(mold, ended, now)
                return
        if mold.deadline is not None and now >= mold.deadline:
            yield from self._give_up(mold, now)

    def _hear(self, mold: _Mold, now: float) -> Iterator[Event]:
        for _ in range(MOST_ASKED):
            if mold.fd < 0:
                return
            try:
                said, strays = channel.receive(mold.fd, wait=False)
            except BlockingIOError:
                return
            fork.close(*strays)
            yield from self._understand(mold, said[:1], said[1:], now)

    def _understand(
        self, mold: _Mold, word: bytes, rest: bytes, now: float
    ) -> Iterator[Event]:
        if not word:
            # Dead, or it has closed what it must not: its death will be told.
            self._hang_up(mold)
            mold.child.send(signal.SIGKILL)
        elif word == READY:
            yield from self._be_ready(mold, now)
        elif word == EMBRYO:
            yield from self._take(mold, NUMBER.unpack(rest)[0], now)
        elif word == UNBORN:
            fork.close(mold.asked.popleft())
            self._answered(mold, now)
            number = NUMBER.unpack(rest)[0]
            words = os.strerror(number) if number else "a fork of its mold's was ended"
            yield from self._fail(mold, words)
        elif word == BROKEN:
            words, _, story = rest.decode("utf-8", "replace").partition("\n")
            yield from self._lose(mold, words, story)
            self._part(mold, now + LEAVE)

    def _be_ready(self, mold: _Mold, now: float) -> Iterator[Event]:
        mold.ready = True
        mold.deadline = None
        self._log.info(
            "Mold %d is ready after %.1f seconds",
            mold.child.pid,
            now - mold.born,
            extra={"event": "mold.ready", "seconds": now - mold.born},
        )
        yield from self._serve(mold, now, STOCK)

    def _take(self, mold: _Mold, pid: int, now: float) -> Iterator[Event]:
        """Have an embryo, if it is the child of ours that it must be."""
        near = mold.asked.popleft()
        self._answered(mold, now)
        if not child.is_mine(pid):
            fork.close(near)
            yield from self._fail(mold, f"process {pid} is no child of the manager")
            return
        embryo = _Embryo(Child(pid), near)
        try:
            self._watch(embryo.child.fd)
        except OSError as error:
            self._let_go(embryo, 0.0)
            yield from self._fail(mold, _reason(error))
            return
        mold.stock.append(embryo)
        yield from self._serve(mold, now)

    def _answered(self, mold: _Mold, now: float) -> None:
        mold.deadline = now + self._patience if mold.asked else None

    # -- ends ------------------------------------------------------------------

    def _give_up(self, mold: _Mold, now: float) -> Iterator[Event]:
        """End a mold that is too late, once it has said where it is."""
        if not mold.ready and not mold.questioned:
            mold.questioned = True
            mold.deadline = now + SAY_WHERE
            mold.child.send(WHERE)
            return
        pid, patience = mold.child.pid, self._patience
        if mold.ready:
            words = f"Mold {pid} has not answered for {patience:g} seconds"
            yield from self._fail(mold, words)
            self._lost.add(mold.generation)
        else:
            words = f"Mold {pid} has not loaded the code within {patience:g} seconds"
            said = fork.drain(mold.diary).decode("utf-8", "replace")
            yield from self._lose(mold, words, said)
        self._log.error(
            "Mold %d is late (%g seconds), killing it",
            pid,
            patience,
            extra={"event": "mold.late", "generation": mold.generation},
        )
        self._part(mold, now)

    def _bury(self, mold: _Mold, ended: Ended, now: float) -> Iterator[Event]:
        """See a mold dead that nobody has told to leave."""
        if mold.fd >= 0:
            # It may have said why.
            yield from self._hear(mold, now)
        pid, how = mold.child.pid, self._words(ended)
        if mold.generation in self._molds:
            self._log.error(
                "Mold %d died: %s",
                pid,
                how,
                extra={"event": "mold.died", "pid": pid, "how": how},
            )
            if mold.ready:
                yield from self._fail(mold, f"mold {pid} died: {how}")
                self._lost.add(mold.generation)
            else:
                words = f"Mold {pid} died before the code was loaded: {how}"
                yield from self._lose(mold, words)
            self._part(mold, now)
        self._leavers.pop(pid)
        self._forget(mold.child)
        self._say_end(pid)

    def keep(self, generations: Iterable[int | None], now: float) -> Iterator[Event]:
        """Tell all molds to leave but those of these generations."""
        wanted = set(generations)
        self._lost.intersection_update(wanted)
        for generation in self._molds.keys() - wanted:
            mold = self._molds[generation]
            yield from self._lose(
                mold, f"generation {generation} is not wanted any more"
            )
            # One that loads does not listen.
            self._part(mold, now + LEAVE if mold.ready else now)

    def _part(self, mold: _Mold, kill_at: float) -> None:
        """Have nothing to do with a mold any more, but for its burial."""
        del self._molds[mold.generation]
        self._hang_up(mold)
        for embryo in mold.stock:
            self._let_go(embryo, kill_at)
        mold.stock.clear()
        # An embryo that was asked for ends when nobody is there to tell it.
        fork.close(*mold.asked)
        mold.asked.clear()
        self._leavers[mold.child.pid] = _Leaver(
            mold.child, is_mold=True, kill_at=kill_at
        )

    def _let_go(self, embryo: _Embryo, kill_at: float) -> None:
        fork.close(embryo.fd)
        pid = embryo.child.pid
        self._leavers[pid] = _Leaver(embryo.child, is_mold=False, kill_at=kill_at)

    def _hang_up(self, mold: _Mold) -> None:
        self._unwatch(mold.fd)
        fork.close(mold.fd, mold.diary)
        mold.fd = mold.diary = -1

    def _see_off(
        self, leaver: _Leaver, fds: dict[int, int], now: float, *, sweep: bool
    ) -> None:
        due = leaver.kill_at is not None and now >= leaver.kill_at
        if due or sweep or leaver.child.fd in fds:
            if leaver.child.poll() is not None:
                self._leavers.pop(leaver.child.pid)
                self._forget(leaver.child)
                if leaver.is_mold:
                    self._say_end(leaver.child.pid)
            elif due:
                leaver.child.send(signal.SIGKILL)
                leaver.kill_at = None

    def _forget(self, child: Child) -> None:
        self._unwatch(child.fd)
        child.close()

    def _say_end(self, pid: int) -> None:
        self._log.info(
            "Mold %d stopped", pid, extra={"event": "mold.stopped", "pid": pid}
        )

    def forgive(self, seconds: float) -> None:
        """Let time count as if it had not passed."""
        for mold in self._molds.values():
            if mold.deadline is not None:
                mold.deadline += seconds

    def close(self) -> None:
        """See that nobody is left, whatever happened."""
        now = time.monotonic()
        for _ in self.keep((), now):
            pass
        until = now + LEAVE
        for leaver in self._leavers.values():
            leaver.kill_at = min(now + LEAVE / 2, leaver.kill_at or until)
        while self._leavers and now < until:
            for leaver in list(self._leavers.values()):
                self._see_off(leaver, {}, now, sweep=True)
            time.sleep(LOOK)
            now = time.monotonic()
        for leaver in self._leavers.values():
            self._forget(leaver.child)
        self._leavers.clear()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _failed(spawn: Spawn, error: OSError) -> SpawnFailed:
    return SpawnFailed(_reason(error), spawn.slot, spawn.generation)
