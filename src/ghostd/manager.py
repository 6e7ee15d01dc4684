"""
The manager's loop: wait, observe, plan, perform.

Signals, beats and deaths come in as plain events; what the pool wants done goes out
action by action. Nothing is decided here. The only rules of this file are about
order: signals before beats, a spirit's beats before its death.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, assert_never

from ghostd import hooks as doors_to_users
from ghostd.core.actions import Action, Call, Kill, Quit, Ready, Say, Spawn
from ghostd.core.events import (
    Beat,
    Event,
    Exited,
    Farewell,
    Grow,
    Shrink,
    Spawned,
    SpawnFailed,
    Stop,
    TimeLost,
)
from ghostd.core.pool import Pool
from ghostd.hooks import Hooks
from ghostd.logs import Log
from ghostd.settings import PoolSettings
from ghostd.spirit import Spirit, enter
from ghostd.unix import child, container, death, doors, fork
from ghostd.unix.child import Child, Ended
from ghostd.unix.lifeline import FarEnd, Kind, Lifeline, Presence
from ghostd.unix.oom import MemoryWatch
from ghostd.unix.poller import HUNG_UP, READABLE, Poller
from ghostd.unix.signals import SignalInbox

SIGNALS = {
    signal.SIGINT: "shut down at once",
    signal.SIGTERM: "shut down at once; gracefully where init systems mean that",
    signal.SIGQUIT: "shut down gracefully",
    signal.SIGTTIN: "one spirit more",
    signal.SIGTTOU: "one spirit fewer",
    signal.SIGHUP: "call hangup(): reopen the log, replace all spirits",
    signal.SIGUSR2: "call hangup()",
    signal.SIGUSR1: "reopen the log",
    signal.SIGCHLD: "look for dead children",
}
"""What each signal asks of the manager."""

HOUSEKEEPING = 60.0
STRANGER_GRACE = 1.0
MOST_MISHAPS = 3


def too_late(interval: float) -> float:
    """Say how many seconds late a turn may be before nobody is blamed for them."""
    return min(1.0, max(0.2, interval))


class Life:
    """What the shell holds of one spirit: the child, and its lifeline."""

    __slots__ = ("child", "lifeline", "proven")

    def __init__(self, born: Child, lifeline: Lifeline) -> None:
        """Keep the two together."""
        self.child: Child = born
        self.lifeline: Lifeline = lifeline
        self.proven: bool = False


def _is_no_birth(action: Action) -> bool:
    return not isinstance(action, Spawn)


class Manager:
    """
    Runs one pool until it is stopped.

    Args:
        settings: the checked figures of the pool.
        hooks: the user's code.
        log: where log lines go.
        inbox: an open signal inbox.
        become: called in each newborn with its `Spirit`, before the body runs.
        ready: called once when the pool is up.
        housekeeping: called about once a minute.
        boot_deadline: when whoever started us wants a verdict; None: never.
        clock: seconds, monotonic.

    Attributes:
        pool: the decisions, and the members.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour
        self,
        settings: PoolSettings,
        hooks: Hooks,
        log: Log,
        inbox: SignalInbox,
        *,
        become: Callable[[Spirit], None],
        ready: Callable[[], None] = lambda: None,
        housekeeping: Callable[[], None] = lambda: None,
        boot_deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `run` does everything."""
        self._settings = settings
        self._hooks = hooks
        self._log = log
        self._inbox = inbox
        self._become = become
        self._ready = ready
        self._housekeeping = housekeeping
        self._clock = clock
        self._pid = os.getpid()
        self._wishes: list[Event] = []
        self._lives: dict[int, Life] = {}
        self._by_fd: dict[int, int] = {}
        self._term = container.meaning_of_term(settings.term)
        now = clock()
        self.pool: Pool = Pool(
            settings, now, boot_deadline, seed=self._pid * 0.618 % 1.0
        )
        self._mishaps = 0
        self._listen_at = now
        self._housekeep_at = now + HOUSEKEEPING
        self._strangers_at: float | None = None
        self._inherits_orphans = False
        self._noted: frozenset[int] = frozenset()

    def wish(self, event: Event) -> None:
        """Have an event observed in the next turn; hooks may call this."""
        self._wishes.append(event)

    # -- the loop --------------------------------------------------------------

    def run(self) -> int:
        """
        Manage until the pool is stopped.

        Returns:
            The exit code: 0, or 1 when the pool gave up; `pool.failure` says why.
        """
        self._open()
        try:
            while not self.pool.over:
                self._safe_turn()
        finally:
            self._close()
        return self.pool.exit_code

    def _open(self) -> None:
        death.prepare()
        self._presence = Presence()
        self._memory = MemoryWatch()
        self._poller = Poller()
        self._poller.add(self._inbox.fd)
        # What exists now will exist in every spirit. Out of the collector's sight,
        # its pages stay shared with them.
        gc.freeze()
        self._inherits_orphans = container.inherits_orphans()
        if doors.PIDFD and not self._inherits_orphans:
            # Each death has a descriptor that wakes us; a signal would do so twice.
            self._inbox.leave(signal.SIGCHLD)
        self._noted = self._inbox.noted
        self._say_start()

    def _close(self) -> None:
        """End what may be left after an error of ours: no orphan, whatever happened."""
        for life in self._lives.values():
            life.child.send(signal.SIGKILL)
        for life in self._lives.values():
            self._let_go(life)
        self._lives.clear()
        self._presence.close()
        self._memory.close()
        self._poller.close()
        gc.unfreeze()
        self._log.info(
            "Manager %d stopped", self._pid, extra={"event": "manager.stopped"}
        )

    def _say_start(self) -> None:
        self._log.info(
            "Manager %d started", self._pid, extra={"event": "manager.started"}
        )
        if self._term.graceful and self._settings.term == "auto":
            self._log.info(
                "TERM means a graceful stop here: %s",
                self._term.why,
                extra={"event": "manager.term"},
            )

    def _safe_turn(self) -> None:
        """Turn; an error of ours, or no memory left, costs a turn and not the pool."""
        try:
            self._turn()
        except Exception:
            self._mishaps += 1
            self._log.exception(
                "Manager %d failed in its loop",
                self._pid,
                extra={"event": "manager.failed"},
            )
            if self._mishaps >= MOST_MISHAPS:
                raise
        else:
            self._mishaps = 0

    def _turn(self) -> None:
        due = self._due()
        self._call("waitup")
        if self._wishes:
            due = self._clock()
        ready = self._poller.wait(due - self._clock())
        now = self._clock()
        late = now - due
        if late > too_late(self._settings.heartbeat_interval):
            self._observe(TimeLost(late), now)
        for event in self._gather(ready, now, timed=now >= due):
            self._observe(event, now)
        while actions := self.pool.plan(self._clock()):
            # Births first: hooks and log lines can wait, a missing spirit cannot.
            for action in sorted(actions, key=_is_no_birth):
                self._perform(action)

    def _due(self) -> float:
        """Say when the next turn must come: the pool's business, or ours."""
        due = min(self._listen_at, self._housekeep_at)
        if self._strangers_at is not None:
            due = min(due, self._strangers_at)
        deadline = self.pool.next_deadline()
        return due if deadline is None else min(due, deadline)

    def _observe(self, event: Event, now: float) -> None:
        self.pool.observe(event, now)

    # -- events in -------------------------------------------------------------

    def _gather(
        self, ready: list[tuple[int, int]], now: float, *, timed: bool
    ) -> Iterator[Event]:
        """Give what happened: signals and wishes, then beats, then deaths."""
        fds = dict(ready)
        swept = False
        if self._inbox.fd in fds:
            for number, times in self._inbox.take().items():
                swept = swept or number == signal.SIGCHLD
                yield from self._signalled(number, times)
        wishes, self._wishes = self._wishes, []
        yield from wishes
        if timed:
            yield from self._keep_house(now)
        if timed or now >= self._listen_at:
            # Before anybody is judged, everybody is heard.
            self._listen_at = now + self._settings.heartbeat_interval
            heard = list(self._lives)
        else:
            heard = [self._by_fd[fd] for fd in fds if fd in self._by_fd]
        for pid in dict.fromkeys(heard):
            yield from self._hear(pid, self._lives[pid], fds)
        yield from self._bury_dead(self._perhaps_dead(fds, sweep=swept or timed))

    def _perhaps_dead(self, fds: dict[int, int], *, sweep: bool) -> list[int]:
        """List whose pidfd speaks; in a *sweep* also those that have none."""
        lives = self._lives
        dead = [pid for fd in fds if (pid := self._by_fd.get(fd)) is not None]
        dead = [pid for pid in dead if lives[pid].child.fd in fds]
        if sweep:
            dead += [pid for pid, life in lives.items() if life.child.fd < 0]
        return dead

    def _hear(self, pid: int, life: Life, fds: dict[int, int]) -> Iterator[Event]:
        """Read a lifeline; see to it that only what matters wakes us again."""
        lifeline = life.lifeline
        for kind, at in lifeline.read():
            yield Beat(pid, at) if kind == Kind.BEAT else Farewell(pid, at)
            if not life.proven:
                # The first beat wakes us, later ones wait to be read.
                life.proven = True
                self._poller.change(lifeline.fd, 0)
        if fds.get(lifeline.fd, 0) & HUNG_UP:
            self._poller.drop(lifeline.fd)

    def _bury_dead(self, pids: list[int]) -> Iterator[Event]:
        for pid in dict.fromkeys(pids):
            life = self._lives[pid]
            ended = life.child.poll()
            if ended is None:
                continue
            # Its last words before its death: a spirit may beat and exit between our
            # wait and now, and a death without a beat can stop the whole daemon.
            yield from self._hear(pid, life, {})
            del self._lives[pid]
            words = life.lifeline.last_words
            self._let_go(life)
            yield self._told(pid, ended, words)

    def _told(self, pid: int, ended: Ended, last_words: str) -> Exited:
        starved = ended.signal == signal.SIGKILL and self._memory.struck()
        words = ended.words + (" (out of memory)" if starved else "")
        foreign = ended.foreign and not starved
        return Exited(pid, words, ended.clean, foreign, last_words)

    def _signalled(self, number: int, times: int) -> Iterator[Event]:
        if number in self._inbox.adopted:
            handler = self._inbox.adopted[number]
            self._call_plain(
                f"handler of {signal.Signals(number).name}", handler, number, None
            )
            return
        match number:
            case signal.SIGINT:
                yield Stop(graceful=False)
            case signal.SIGTERM:
                # A second TERM insists, in whatever turn it comes.
                insists = times > 1 or self.pool.stopping is not None
                yield Stop(graceful=self._term.graceful and not insists)
            case signal.SIGQUIT:
                yield Stop(graceful=True)
            case signal.SIGTTIN:
                yield Grow(times)
            case signal.SIGTTOU:
                yield Shrink(times)
            case signal.SIGHUP | signal.SIGUSR2:
                self._call("hangup")
            case signal.SIGUSR1:
                self._log.reopen()
            case signal.SIGCHLD:
                self._expect_strangers()
            case _:
                pass

    # -- actions out -----------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case Spawn():
                self._spawn(action)
            case Quit():
                self._send(action.pid, signal.SIGQUIT)
            case Kill():
                self._send(action.pid, signal.SIGKILL)
            case Call():
                self._call(action.hook, *action.args)
            case Say():
                extra = {"event": action.event, **action.fields}
                self._log.log(action.level, action.text, extra=extra)
            case Ready():
                self._ready()
            case _:
                assert_never(action)

    def _spawn(self, birth: Spawn) -> None:
        try:
            lifeline = Lifeline()
        except OSError as error:
            self._observe(SpawnFailed(str(error)), self._clock())
            return

        def be_born(mask: Iterable[int]) -> NoReturn:
            settings = self._settings
            spirit = Spirit(
                birth.slot,
                birth.generation,
                FarEnd(lifeline.far_fd),
                presence=self._presence.fd,
                manager=self._pid,
                interval=settings.heartbeat_interval,
                graceful=settings.graceful_timeout,
            )
            self._become(spirit)
            enter(spirit, self._hooks, self._log, mask)

        try:
            pid = fork.fork(be_born, self._noted)
        except OSError as error:
            lifeline.close()
            self._observe(SpawnFailed(str(error)), self._clock())
            return
        lifeline.hand_over()
        born = Child(pid)
        self._lives[pid] = Life(born, lifeline)
        self._by_fd[lifeline.fd] = pid
        self._poller.add(lifeline.fd, READABLE)
        if born.fd >= 0:
            self._by_fd[born.fd] = pid
            self._poller.add(born.fd, READABLE)
        self._observe(Spawned(pid, birth.slot, birth.generation), self._clock())

    def _let_go(self, life: Life) -> None:
        for fd in (life.lifeline.fd, life.child.fd):
            if fd >= 0:
                self._poller.drop(fd)
                self._by_fd.pop(fd, None)
        life.lifeline.close()
        life.child.close()

    def _send(self, pid: int, number: signal.Signals) -> None:
        life = self._lives.get(pid)
        if life is None:
            return
        try:
            life.child.send(number)
        except PermissionError:
            self._log.error(
                "Spirit %d has become another user and cannot be signalled",
                pid,
                extra={"event": "spirit.foreign", "pid": pid},
            )

    def _call(self, hook: str, *args: object) -> None:
        self._call_plain(hook, getattr(self._hooks, hook), *args)

    def _call_plain(
        self, name: str, hook: Callable[..., object], *args: object
    ) -> None:
        slow = self._settings.heartbeat_interval
        doors_to_users.call(self._log, slow, name, hook, *args)

    # -- the house -------------------------------------------------------------

    def _keep_house(self, now: float) -> Iterator[Event]:
        if now >= self._housekeep_at:
            self._housekeep_at = now + HOUSEKEEPING
            self._housekeeping()
            # A pidfd or a SIGCHLD that got lost costs a minute, not a spirit.
            yield from self._bury_dead(list(self._lives))
        if self._strangers_at is not None and now >= self._strangers_at:
            self._strangers_at = None
            for pid in child.strangers(set(self._lives)):
                child.bury(pid)

    def _expect_strangers(self) -> None:
        """
        As PID 1 or subreaper: look for dead strangers, but not at once.

        A hook may have started a `subprocess`, and its status is the hook's to take.
        """
        if self._inherits_orphans and self._strangers_at is None:
            self._strangers_at = self._clock() + STRANGER_GRACE
