"""
Births and deaths: what the manager holds of each spirit, and how facts come of it.

Two rules of order live here. A spirit's beats are told before its death, because it
may beat and exit between our wait and our look, and a death without a beat can stop
the whole daemon. And forks come back to back, with nothing done in between: each one
write-protects every page of the manager, so what runs after it pays a page fault for
all that it touches.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator

from ghostd.core.actions import Spawn
from ghostd.core.events import (
    Beat,
    Event,
    Exited,
    Farewell,
    Spawned,
    SpawnFailed,
    Tired,
)
from ghostd.typed import TYPE_CHECKING
from ghostd.unix import fork
from ghostd.unix.child import Child, Ended
from ghostd.unix.lifeline import Kind, Lifeline
from ghostd.unix.oom import MemoryWatch
from ghostd.unix.poller import HUNG_UP, READABLE, Poller

if TYPE_CHECKING:
    from ghostd.foundry import Foundry

MOST_BEATS = 4
"""Records of one spirit that are told in one turn."""

Expect = Callable[[Spawn, int], fork.Entrance]
"""Makes, before the fork, what a newborn runs: of its birth and its end of the pipe."""


class Life:
    """What is held of one spirit: the child, and its lifeline."""

    __slots__ = ("child", "lifeline", "proven")

    def __init__(self, child: Child, lifeline: Lifeline) -> None:
        """Keep the two together."""
        self.child: Child = child
        self.lifeline: Lifeline = lifeline
        self.proven: bool = False


class Nursery:
    """
    The living, by pid.

    Args:
        poller: where their descriptors are watched.
        expect: makes what a newborn runs.
        noted: the signals that must not reach a newborn before it is ready.
        lend: says which private descriptors the newborn of a slot may keep.

    Attributes:
        foundry: where spirits come from that are not forked by the manager itself.
    """

    def __init__(
        self,
        poller: Poller,
        expect: Expect,
        noted: Iterable[int],
        lend: Callable[[int], tuple[int, ...]] = lambda slot: (),  # noqa: ARG005
    ) -> None:
        """Start empty."""
        self._poller = poller
        self._expect = expect
        self._noted = noted
        self._lend = lend
        self._lives: dict[int, Life] = {}
        self._by_fd: dict[int, int] = {}
        self._memory = MemoryWatch()
        self.foundry: Foundry | None = None

    @property
    def pids(self) -> set[int]:
        """Give the pids of the living, and of the dead that are not reaped."""
        return set(self._lives) | (self.foundry.pids if self.foundry else set())

    # -- births ----------------------------------------------------------------

    def bear(self, births: list[Spawn], now: float) -> Iterator[Event]:
        """Have each of *births* happen; tell which did, and which did not or will."""
        if self.foundry is not None:
            return self.foundry.bear(births, now)
        return self._fork(births)

    def _fork(self, births: list[Spawn]) -> Iterator[Event]:
        """Fork for each of *births*; tell which came to be and which did not."""
        failures: list[OSError] = []
        lifelines = []
        for _ in births:
            try:
                lifelines.append(Lifeline())
            except OSError as error:
                failures.append(error)
                break
        entrances = [
            (
                tuple(sorted((lifeline.far_fd, *self._lend(birth.slot)))),
                self._expect(birth, lifeline.far_fd),
            )
            for birth, lifeline in zip(births, lifelines, strict=False)
        ]
        pids, failure = fork.fork_each(entrances, self._noted)
        unborn = births[len(pids) :]
        for birth, lifeline, pid in zip(births, lifelines, pids, strict=False):
            try:
                self._raise(Child(pid), lifeline)
            except OSError as error:
                self._disown(pid)
                failures.append(error)
                unborn.append(birth)
            else:
                yield Spawned(pid, birth.slot, birth.generation)
        for lifeline in lifelines[len(pids) :]:
            lifeline.close()
        if failure is not None:
            failures.append(failure)
        for birth in unborn:
            why = failures[-1]
            words = why.strerror or str(why)
            yield SpawnFailed(words, birth.slot, birth.generation)

    def welcome(self, child: Child, lifeline: Lifeline, spawn: Spawn) -> Event:
        """Take in a spirit that somebody else has forked; tell of it."""
        try:
            self._raise(child, lifeline)
        except OSError as error:
            self._disown(child.pid)
            words = error.strerror or str(error)
            return SpawnFailed(words, spawn.slot, spawn.generation)
        return Spawned(child.pid, spawn.slot, spawn.generation)

    def _raise(self, child: Child, lifeline: Lifeline) -> None:
        lifeline.hand_over()
        self._lives[child.pid] = Life(child, lifeline)
        for fd in (lifeline.fd, child.fd):
            if fd >= 0:
                self._by_fd[fd] = child.pid
                self._poller.add(fd, READABLE)

    def _disown(self, pid: int) -> None:
        """End a newborn that cannot be watched: the kernel has a limit of watches."""
        life = self._lives[pid]
        life.proven = True
        life.child.send(signal.SIGKILL)
        # Whoever has no descriptor is looked for, so it will be reaped.
        self._poller.drop(life.child.fd)
        self._by_fd.pop(life.child.fd, None)
        life.child.close()

    # -- molds -----------------------------------------------------------------

    @property
    def expecting(self) -> bool:
        """Tell whether a child may exist that we have not been told of."""
        return self.foundry is not None and self.foundry.expecting

    @property
    def deadline(self) -> float | None:
        """Say when `tend` must be called if nothing happens before."""
        return None if self.foundry is None else self.foundry.deadline

    def tend(self, fds: dict[int, int], now: float, *, sweep: bool) -> Iterator[Event]:
        """Hear what molds say; tell of the births that they have settled."""
        if self.foundry is not None:
            yield from self.foundry.tend(fds, now, sweep=sweep)

    def keep(self, generations: Iterable[int | None], now: float) -> Iterator[Event]:
        """Keep the molds of these generations, and no others."""
        if self.foundry is not None:
            yield from self.foundry.keep(generations, now)

    def forgive(self, seconds: float) -> None:
        """Blame no mold for time in which we did not listen."""
        if self.foundry is not None:
            self.foundry.forgive(seconds)

    # -- beats -----------------------------------------------------------------

    def hear(self, fds: dict[int, int], *, everybody: bool) -> Iterator[Event]:
        """
        Read lifelines.

        Args:
            fds: the descriptors that spoke up, with what they said.
            everybody: read all of them.
        """
        pids = list(self._lives) if everybody else self._speaking(fds)
        for pid in pids:
            yield from self._hear(pid, self._lives[pid], fds)

    def _speaking(self, fds: dict[int, int]) -> list[int]:
        pids = [pid for fd in fds if (pid := self._by_fd.get(fd)) is not None]
        return list(dict.fromkeys(pids))

    def _hear(self, pid: int, life: Life, fds: dict[int, int]) -> Iterator[Event]:
        """Read one lifeline; see to it that only what matters wakes us again."""
        lifeline = life.lifeline
        # Where many came at once, the last ones tell enough: a hook that is slower than
        # the beats must not hold the loop up for longer and longer.
        for kind, at in lifeline.read()[-MOST_BEATS:]:
            yield Beat(pid, at) if kind == Kind.BEAT else Farewell(pid, at)
            if not life.proven:
                # The first beat wakes us, later ones wait to be read.
                life.proven = True
                self._poller.change(lifeline.fd, 0)
        if lifeline.tired:
            yield Tired(pid, lifeline.tired)
            lifeline.tired = ""
        if fds.get(lifeline.fd, 0) & HUNG_UP:
            self._poller.drop(lifeline.fd)

    # -- deaths ----------------------------------------------------------------

    def bury(self, fds: dict[int, int], *, sweep: bool) -> Iterator[Event]:
        """
        Reap the dead, each after its last words.

        Args:
            fds: the descriptors that spoke up.
            sweep: look also at those that have no descriptor for their death.
        """
        pids = [p for p in self._speaking(fds) if self._lives[p].child.fd in fds]
        if sweep:
            pids += [pid for pid, life in self._lives.items() if life.child.fd < 0]
        yield from self._bury(pids)

    def bury_all(self) -> Iterator[Event]:
        """Look at everybody, in case a wake-up was lost."""
        yield from self._bury(list(self._lives))

    def _bury(self, pids: list[int]) -> Iterator[Event]:
        for pid in pids:
            life = self._lives[pid]
            ended = life.child.poll()
            if ended is not None:
                yield from self._hear(pid, life, {})
                del self._lives[pid]
                words = life.lifeline.last_words
                self._let_go(life)
                yield self._told(pid, ended, words, proven=life.proven)

    def _told(self, pid: int, ended: Ended, last_words: str, *, proven: bool) -> Exited:
        if ended.signal == signal.SIGQUIT and not proven:
            # Only while a spirit loads does that signal end it; see `spirit`.
            words = "told to leave while it loaded its code"
            return Exited(pid, words, clean=True, foreign=True)
        words = self.words(ended)
        foreign = ended.foreign and words == ended.words
        return Exited(pid, words, ended.clean, foreign, last_words)

    def words(self, ended: Ended) -> str:
        """Say how a child ended, and whether memory was short."""
        starved = ended.signal == signal.SIGKILL and self._memory.struck()
        return ended.words + (" (out of memory)" if starved else "")

    def _let_go(self, life: Life) -> None:
        for fd in (life.lifeline.fd, life.child.fd):
            if fd >= 0:
                self._poller.drop(fd)
                self._by_fd.pop(fd, None)
        life.lifeline.close()
        life.child.close()

    # -- signals ---------------------------------------------------------------

    def send(self, pid: int, number: signal.Signals) -> None:
        """
        Send a signal to a spirit; one that is dead already is no error.

        Raises:
            PermissionError: it has become another user.
        """
        if (life := self._lives.get(pid)) is not None:
            life.child.send(number)

    def close(self) -> None:
        """End whoever is left after an error of ours: no orphan, whatever happened."""
        if self.foundry is not None:
            self.foundry.close()
        for life in self._lives.values():
            life.child.send(signal.SIGKILL)
        for life in self._lives.values():
            self._let_go(life)
        self._lives.clear()
        self._memory.close()
