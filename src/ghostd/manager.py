"""
The manager's loop: wait, observe, plan, perform.

Signals, beats and deaths come in as plain events; what the pool wants done goes out
action by action. Nothing is decided here. The only rule of this file is one of order:
signals before beats, beats before deaths, births before hooks and log lines.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ghostd import hooks as doors_to_users
from ghostd.core.actions import Action, Call, Kill, Quit, Ready, Reloaded, Say, Spawn
from ghostd.core.events import (
    Event,
    Grow,
    Shrink,
    Stop,
    TimeLost,
)
from ghostd.core.pool import Pool
from ghostd.hooks import Hooks
from ghostd.nursery import Nursery
from ghostd.scales import Scales
from ghostd.settings import PoolSettings
from ghostd.spirit import Outside, Spirit, enter
from ghostd.typed import TYPE_CHECKING, NoReturn, assert_never
from ghostd.unix import child, container, death, doors, fork
from ghostd.unix.lifeline import FarEnd, Presence
from ghostd.unix.poller import Poller
from ghostd.unix.signals import SignalInbox

if TYPE_CHECKING:
    from ghostd.desk import Desk
    from ghostd.foundry import Foundry
    from ghostd.logs import Log
    from ghostd.mold import Mold
    from ghostd.unix.callers import Listener
    from ghostd.unix.sockets import Sockets

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


def pace(settings: PoolSettings) -> float:
    """
    Say how many seconds apart the manager looks, at most.

    Time that is lost within a wait is not noticed, so a wait must be shorter than the
    silence that ends a spirit.
    """
    return min(settings.heartbeat_interval, settings.heartbeat_timeout / 2)


def too_late(pace: float) -> float:
    """Say how many seconds late a turn may be before nobody is blamed for them."""
    return min(1.0, max(0.2, pace))


def _urgency(action: Action) -> int:
    """Say how early an action is performed: finish() comes before what it announces."""
    match action:
        case Call("finish"):
            return 0
        case Quit() | Kill():
            return 1
        case _:
            return 2


class Manager:
    """
    Runs one pool until it is stopped.

    Args:
        settings: the checked figures of the pool.
        hooks: the user's code.
        log: where log lines go.
        inbox: an open signal inbox.
        become: called in each newborn with its `Spirit` and, if it comes from a mold,
            the descriptors that it was lent; in a mold with an `Outside`.
        ready: called once when the pool is up, with how many are healthy and wanted.
        housekeeping: called about once a minute.
        sockets: what the daemon listens on; None: nothing.
        boot_deadline: when whoever started us wants a verdict; None: never.
        listener: where commands call; None: nowhere.
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
        become: Callable[[Spirit | Outside, Iterable[int] | None], None],
        ready: Callable[[int, int], None] = lambda healthy, wanted: None,  # noqa: ARG005
        housekeeping: Callable[[], None] = lambda: None,
        sockets: Sockets | None = None,
        boot_deadline: float | None = None,
        listener: Listener | None = None,
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
        self._sockets = sockets
        self._clock = clock
        self._pid = os.getpid()
        self._wishes: list[Event] = []
        self._term = container.meaning_of_term(settings.term)
        now = clock()
        self.pool: Pool = Pool(
            settings, now, boot_deadline, seed=self._pid * 0.618 % 1.0
        )
        self._mishaps = 0
        self._pace = pace(settings)
        self._listen_at = now
        self._housekeep_at = now + HOUSEKEEPING
        self._strangers_at: float | None = None
        self._inherits_orphans = False
        self._listener = listener
        self._desk: Desk | None = None
        self._scales: Scales | None = None
        self._weigh_at = now
        if settings.max_memory is not None:
            self._scales = Scales(settings.max_memory, settings.jitter)
        self._adopts = False

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
        self._presence = Presence()
        self._poller = Poller()
        self._poller.add(self._inbox.fd)
        if self._listener is not None:
            from ghostd.desk import Desk  # loaded with the listener

            self._desk = Desk(self._listener, self._poller)
        # What exists now will exist in every spirit. Out of the collector's sight,
        # its pages stay shared with them.
        gc.freeze()
        why_not = self._why_no_molds()
        self._inherits_orphans = container.inherits_orphans()
        if doors.PIDFD and not self._inherits_orphans:
            # Each death has a descriptor that wakes us; a signal would do so twice.
            self._inbox.leave(signal.SIGCHLD)
        self._nursery = Nursery(
            self._poller, self._expect, self._inbox.noted, self._lend
        )
        self._say_start()
        if why_not is None:
            self._nursery.foundry = self._open_foundry()
        elif why_not:
            self._log.warning(
                "preload=True changes nothing: %s",
                why_not,
                extra={"event": "manager.preload", "reason": why_not},
            )

    def _why_no_molds(self) -> str | None:
        """Say why spirits do not come from molds, "" if nobody wanted that."""
        if not self._settings.preload:
            return ""
        if not self._hooks._loads:  # noqa: SLF001 - see Hooks
            return "there is no load()"
        if not (doors.PROC and doors.PDEATHSIG):
            return "this system lacks what molds need; each spirit loads by itself"
        if not container.inherits_orphans():
            # Whoever forks in our place has to have children that become ours.
            self._adopts = death.adopt_orphans(True)
            if not self._adopts:
                return "the kernel gives us no orphans; each spirit loads by itself"
        return None

    def _open_foundry(self) -> Foundry:
        # Most pools need none of it.
        from ghostd.foundry import Foundry

        return Foundry(
            self._poller,
            cast=self._cast,
            welcome=self._nursery.welcome,
            words=self._nursery.words,
            log=self._log,
            patience=self._settings.boot_timeout,
            lend=self._lend,
        )

    def _close(self) -> None:
        self._nursery.close()
        if self._adopts:
            death.adopt_orphans(False)
        if self._desk is not None:
            self._desk.close()
        self._presence.close()
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
        self._inbox.arm()
        at_once = self._wishes or self._inbox.waiting
        ready = self._poller.wait(0.0 if at_once else due - self._clock())
        now = self._clock()
        late = now - due
        if late > too_late(self._pace):
            self.pool.observe(TimeLost(late), now)
            self._nursery.forgive(late)
        for event in self._gather(dict(ready), now, timed=now >= due):
            self.pool.observe(event, now)
        # Judged is as of the hour at which everybody was heard: a slow hook has run
        # since, perhaps, and nobody can be blamed for that.
        actions = self.pool.plan(now)
        # Hooks may be slow: a missing spirit, and one that is to go, need not wait.
        births = [action for action in actions if isinstance(action, Spawn)]
        if births:
            for event in self._nursery.bear(births, now):
                self.pool.observe(event, self._clock())
        for event in self._nursery.keep(self._bearable(), now):
            self.pool.observe(event, self._clock())
        if self._sockets is not None:
            self._direct(self._sockets)
        for action in sorted(actions, key=_urgency):
            self._perform(action)
        if self._desk is not None:
            self._desk.tell(self.pool)

    def _direct(self, sockets: Sockets) -> None:
        """
        Have newcomers go to those who are there for them.

        Before anybody is told to leave: what comes after that would wait for nobody.
        """
        members = self.pool.members.values()
        sockets.steer(member.slot for member in members if member.alive)
        stopping = self.pool.stopping is not None
        if stopping and not any(member.active for member in members):
            sockets.turn_away()

    def _lend(self, slot: int) -> tuple[int, ...]:
        return () if self._sockets is None else self._sockets.lend(slot)

    def _due(self) -> float:
        """Say when the next turn must come: the pool's business, or ours."""
        due = min(self._listen_at, self._housekeep_at)
        if self._scales is not None:
            due = min(due, self._weigh_at)
        if self._desk is not None and self._desk.deadline is not None:
            due = min(due, self._desk.deadline)
        if self._strangers_at is not None:
            due = min(due, self._strangers_at)
        deadlines = (self.pool.next_deadline(), self._nursery.deadline)
        return min((due, *(other for other in deadlines if other is not None)))

    def _bearable(self) -> tuple[int | None, ...]:
        """Give the generations of which a spirit may still be born."""
        if self.pool.stopping is not None:
            return ()
        return (self.pool.reloads.good, self.pool.reloads.trial)

    # -- events in -------------------------------------------------------------

    def _gather(
        self, fds: dict[int, int], now: float, *, timed: bool
    ) -> Iterator[Event]:
        """Give what happened: signals and wishes, then beats, then deaths."""
        sweep = timed
        # A signal may have come after the wait was over: a Ctrl-C ends the spirits too,
        # and nobody must replace them before the manager knows that it has to end.
        if self._inbox.fd in fds or self._inbox.waiting:
            for number, times in self._inbox.take().items():
                sweep = sweep or number == signal.SIGCHLD
                yield from self._signalled(number, times)
        if self._desk is not None:
            yield from self._answer(self._desk, fds, now)
        yield from self._take_wishes()
        # Before anybody is judged, everybody is heard.
        everybody = timed or now >= self._listen_at
        if everybody:
            self._listen_at = now + self._pace
        # Births before beats: who is born may have beaten already.
        yield from self._nursery.tend(fds, now, sweep=sweep)
        yield from self._nursery.hear(fds, everybody=everybody)
        yield from self._nursery.bury(fds, sweep=sweep)
        if timed:
            yield from self._keep_house(now)

    def _take_wishes(self) -> list[Event]:
        wishes, self._wishes = self._wishes, []
        return wishes

    def _answer(self, desk: Desk, fds: dict[int, int], now: float) -> Iterator[Event]:
        """Do what callers want; who asks for a reload is told how that ends."""
        for caller, verb in desk.hear(fds, now):
            if verb == "status":
                desk.tell_status(caller, self.pool, now)
                continue
            # The same as the signal, whatever that means to this daemon.
            yield from self._signalled(signal.SIGHUP, 1)
            yield from self._take_wishes()
            underway = self.pool.reloads.underway
            if self.pool.stopping is not None:
                desk.answer(caller, failed="the daemon is stopping")
            elif underway is None:
                desk.answer(caller, done={"generation": self.pool.generation})
            else:
                desk.await_reload(caller, underway)

    def _signalled(self, number: int, times: int) -> Iterator[Event]:
        if number in self._inbox.adopted:
            handler = self._inbox.adopted[number]
            self._call_plain(
                f"handler of {child.signal_name(number)}", handler, number, None
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
                pass  # born already
            case Quit():
                self._send(action.pid, signal.SIGQUIT)
            case Kill():
                self._send(action.pid, signal.SIGKILL)
            case Call():
                self._call(action.hook, *action.args)
            case Say():
                extra = {"event": action.event, **action.fields}
                self._log.write(action.level, action.text, extra)
            case Ready():
                self._ready(self.pool.healthy, self.pool.wanted)
            case Reloaded():
                if self._desk is not None:
                    self._desk.reloaded(action.generation, action.reason)
            case _:
                assert_never(action)

    def _expect(self, birth: Spawn, far_fd: int) -> fork.Entrance:
        """Prepare what a newborn will be: whatever is done here costs it nothing."""
        spirit = self._spirit(birth, far_fd)
        return partial(self._be_born, spirit, None, self._hooks._loads)  # noqa: SLF001 - see Hooks

    def _quicken(self, birth: Spawn, fds: tuple[int, ...]) -> fork.Entrance:
        """Prepare what an embryo will be, with the descriptors that came to it."""
        far_fd, *lent = fds
        return partial(self._be_born, self._spirit(birth, far_fd), lent, False)

    def _spirit(self, birth: Spawn, far_fd: int) -> Spirit:
        return Spirit(
            birth.slot,
            birth.generation,
            FarEnd(far_fd),
            presence=self._presence.fd,
            manager=self._pid,
            interval=self._settings.heartbeat_interval,
            graceful=self._settings.graceful_timeout,
        )

    def _be_born(
        self,
        spirit: Spirit,
        lent: Iterable[int] | None,
        loads: bool,
        mask: Iterable[int],
    ) -> NoReturn:
        """Become a spirit; runs in the newborn."""
        self._become(spirit, lent)
        enter(spirit, self._hooks, self._log, mask, loads=loads)

    def _cast(self, generation: int, far_fd: int, diary: int) -> fork.Entrance:
        """Prepare a mold."""
        from ghostd.mold import Mold

        mold = Mold(
            generation,
            far_fd,
            diary,
            manager=self._pid,
            load=self._hooks._load_in_mold,  # noqa: SLF001 - as in `spirit`
            quicken=self._quicken,
            log=self._log,
        )
        return partial(self._be_mold, mold)

    def _be_mold(self, mold: Mold, mask: Iterable[int]) -> NoReturn:
        """Become a mold; runs in the child."""
        self._become(Outside(ok=True), None)
        mold.enter(mask)

    def _send(self, pid: int, number: signal.Signals) -> None:
        try:
            self._nursery.send(pid, number)
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
            yield from self._nursery.bury_all()
        if self._scales is not None and now >= self._weigh_at:
            self._weigh_at = now + self._pace
            serving = [m.pid for m in self.pool.members.values() if m.alive]
            yield from self._scales.weigh(serving)
        if self._strangers_at is not None and now >= self._strangers_at:
            self._strangers_at = None
            if self._nursery.expecting:
                # One of them may be a spirit that we have not been told of yet.
                self._expect_strangers()
                return
            for pid in child.strangers(self._nursery.pids):
                child.bury(pid)

    def _expect_strangers(self) -> None:
        """
        As PID 1 or subreaper: look for dead strangers, but not at once.

        A hook may have started a `subprocess`, and its status is the hook's to take.
        """
        if self._inherits_orphans and self._strangers_at is None:
            self._strangers_at = self._clock() + STRANGER_GRACE
