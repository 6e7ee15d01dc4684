"""
The referee: what must hold of every pool, told by somebody who does not believe it.

Rules of this file: it sees what everybody can see, the events that went in, the
actions that came out and the deadline, and never the pool's own state. It keeps its
own book of lives, by its own arithmetic, so that a mistake in the pool cannot hide
itself. After each event, each plan and each turn the book is compared with the
rules; the first rule that is broken is raised as a `Violation` that names it.

The rules are in `INVARIANTS`, numbered as in the list of faults that the pool was
designed against: I = must never happen, L = must happen in time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ghostd.core.actions import Action, Call, Kill, Quit, Ready, Say, Spawn
from ghostd.core.events import (
    Beat,
    Event,
    Exited,
    Farewell,
    Grow,
    Reload,
    Resize,
    Shrink,
    Spawned,
    SpawnFailed,
    Stop,
    TimeLost,
)
from ghostd.settings import PoolSettings

INVARIANTS = {
    "I1 room": "a birth never makes more living than wanted + spare",
    "I1 actives": "never more active ones than wanted, one more in a reload",
    "I2 stopped": "no birth once a stop was accepted",
    "I2 brake": "no birth in the pause after short lives; then one at a time",
    "I2 fork": "the pause before a failed fork is tried again grows",
    "I3 reap": "each life is reaped once, in the turn of its death",
    "I3 order": "hooks are told once each, in the order of what happened",
    "I4 dead": "no signal to a pid that is not a living spirit",
    "I5 kill": "no KILL before the graceful time is over, unless stopped at once",
    "I6 quit": "no second QUIT, and none to one that leaves by itself",
    "I7 silence": "nobody is dismissed for a silence that is too short",
    "I9 early": "only the first spirits of all may end the pool by an early death",
    "I10 at once": "a stop reaches every spirit in the turn it is accepted",
    "I11 finish": "finish once per kind of stop, and never back to graceful",
    "I12 shrink": "one without a beat goes before one that serves",
    "I13 serving": "no serving spirit is sent away while it is needed",
    "I13 generation": "every birth belongs to the newest generation",
    "I17 healthy": "the pool counts its healthy ones as everybody does",
    "I19 deadline": "the next deadline is never in the past",
    "I20 work": "the work of one turn is bounded",
    "slot": "a newborn takes the lowest free place below wanted",
    "ready": "ready is told once, when each place has worked, not before",
    "L1 convergence": "when the storm is over, all wanted ones live and are healthy",
    "L2 stop": "a stop ends within the graceful time and a few seconds",
    "L3 refill": "a free place is filled in the same turn when no brake holds",
    "L3 missed": "nothing falls due between two turns but at the deadline",
    "L4 hung": "a silent spirit is dismissed and a slow one killed when it is time",
    "L5 busy": "no wake-ups in vain, one after another",
    "L6 forgiven": "a brake forgives what is long past",
}
"""Every rule by the name that a `Violation` carries."""

CALM = 10.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
LEAST_JITTER = 0.8
SHORT_LIFE = 1.0
BURST = 16
AT_ONCE = 2
FORGIVEN = LONGEST_PAUSE + CALM
EPSILON = 1e-6
"""Two floats that were added up in another order may differ by this, seconds."""


class Violation(AssertionError):
    """
    A rule was broken.

    Attributes:
        invariant: which one, a key of `INVARIANTS`.
        words: how.
        now: when, virtual seconds.
    """

    def __init__(self, invariant: str, words: str, now: float) -> None:
        """Say rule, story and time in one line."""
        rule = INVARIANTS[invariant]
        super().__init__(f"{invariant} ({rule}) at {now:.3f} s: {words}")
        self.invariant = invariant
        self.words = words
        self.now = now


class Life:
    """One spirit in the referee's book; stamps in virtual seconds, None = never."""

    __slots__ = (
        "beat",
        "born",
        "generation",
        "heard",
        "killed_at",
        "left_at",
        "pid",
        "silent",
        "slot",
        "told",
    )

    def __init__(self, pid: int, slot: int, generation: int, born: float) -> None:
        """Open a page."""
        self.pid: int = pid
        self.slot: int = slot
        self.generation: int = generation
        self.born: float = born
        self.heard: float = born
        self.beat: bool = False
        self.left_at: float | None = None
        self.killed_at: float | None = None
        self.told: bool = False
        self.silent: bool = False

    @property
    def active(self) -> bool:
        """Tell whether it counts towards the wanted number."""
        return self.left_at is None and self.killed_at is None

    def __repr__(self) -> str:
        """Show what a reader of a violation wants to know."""
        return (
            f"<{self.pid} slot {self.slot} generation {self.generation}"
            f"{' active' if self.active else ''}{' with beat' if self.beat else ''}>"
        )


def least_pause(strikes: int) -> float:
    """Give the shortest pause that the brake may make after so many paid strikes."""
    if strikes <= 0:
        return 0.0
    doubled: float = FIRST_PAUSE * 2.0 ** min(strikes - 1, 10)
    return LEAST_JITTER * min(LONGEST_PAUSE, doubled)


class Streak:
    """Failures in a row, counted so that no honest brake counts fewer."""

    __slots__ = ("budget", "count", "last")

    def __init__(self, budget: int) -> None:
        """Start without one."""
        self.budget: int = budget
        self.count: int = 0
        self.last: float = float("-inf")

    def add(self, now: float) -> None:
        """Count one more."""
        self.count = 1 if self.forgiven(now) else self.count + 1
        self.last = now

    def forgiven(self, now: float) -> bool:
        """Tell whether an honest brake might have forgiven all by *now*."""
        return now >= self.until + CALM

    def paid(self, now: float) -> bool:
        """Tell whether the failures in a row are more than the budget."""
        return self.count > self.budget and not self.forgiven(now)

    @property
    def until(self) -> float:
        """Say how long every honest brake holds."""
        return self.last + least_pause(self.count - self.budget)


class Referee:
    """
    A book of lives and the rules about it.

    Tell it each event (`observed`) before the pool hears it, each answer of `plan`
    (`planned`) before it is performed, and each end of a turn (`turned`).

    Args:
        settings: those of the pool.
        now: when the pool began.
        boot_deadline: the one that the pool got.

    Attributes:
        lives: the living by pid.
        wanted: how many spirits there should be.
        stop: 0 none, 1 graceful, 2 at once.
        births: how many lives there were.

    Raises:
        Violation: from any method, at the first rule that is broken.
    """

    def __init__(
        self,
        settings: PoolSettings,
        now: float = 0.0,
        boot_deadline: float | None = None,
    ) -> None:
        """Open an empty book."""
        self.settings = settings
        self.lives: dict[int, Life] = {}
        self.wanted: int = settings.spirits
        self.generation: int = 0
        self.stop: int = 0
        self.births: int = 0
        self.ready: bool = False
        self._now = now
        self._boot_deadline = boot_deadline
        self._limit = settings.heartbeat_interval + settings.heartbeat_timeout
        self._strikes = Streak(settings.budget)
        self._forks = Streak(0)
        self._fork_failed = False
        self._proven = 0
        self._early_deaths = 0
        self._amnesty = now
        self._owed: deque[tuple[str, int]] = deque()
        self._finishes: deque[bool] = deque()
        self._pending: list[int] = []
        self._deadline: float | None = now
        self._events = 0
        self._actions = 0
        self._vain = 0
        self._observers: dict[type, Callable[[Any, float], None]] = {
            Spawned: self._on_spawned,
            SpawnFailed: self._on_spawn_failed,
            Beat: self._on_beat,
            Farewell: self._on_farewell,
            Exited: self._on_exited,
            Stop: self._on_stop,
            Grow: self._on_grow,
            Shrink: self._on_shrink,
            Resize: self._on_resize,
            Reload: self._on_reload,
            TimeLost: self._on_time_lost,
        }
        self._planners: dict[type, Callable[[Any, float], None]] = {
            Spawn: self._check_spawn,
            Quit: self._check_quit,
            Kill: self._check_kill,
            Call: self._check_call,
            Say: self._check_say,
            Ready: self._check_ready,
        }

    # -- the book ----------------------------------------------------------------

    @property
    def living(self) -> int:
        """Count the unreaped."""
        return len(self.lives)

    @property
    def alive(self) -> int:
        """Count those that serve: active, with a beat."""
        return sum(1 for life in self.lives.values() if life.beat and life.active)

    @property
    def active(self) -> int:
        """Count those that are not leaving."""
        return sum(1 for life in self.lives.values() if life.active)

    @property
    def settled(self) -> bool:
        """Tell whether exactly the wanted live, all healthy, all of the newest code."""
        return (
            len(self.lives) == self.wanted
            and self.alive == self.wanted
            and not any(self._stale(life) for life in self.lives.values())
        )

    def _stale(self, life: Life) -> bool:
        return life.generation < self.generation

    def _surge(self) -> int:
        if not self.settings.spare:
            return 0
        stale = any(life.active and self._stale(life) for life in self.lives.values())
        return 1 if stale else 0

    def _fail(self, invariant: str, words: str) -> None:
        raise Violation(invariant, words, self._now)

    # -- events ------------------------------------------------------------------

    def observed(self, event: Event, now: float) -> None:
        """Write an event into the book."""
        self._now = max(now, self._now)
        self._events += 1
        self._observers[type(event)](event, self._now)

    def _on_spawned(self, event: Spawned, now: float) -> None:
        self._pending.pop(0)
        self._forks.count = 0
        self._fork_failed = False
        self.births += 1
        self.lives[event.pid] = Life(event.pid, event.slot, event.generation, now)
        self._owed.append(("spawn", event.pid))

    def _on_spawn_failed(self, _event: SpawnFailed, now: float) -> None:
        self._pending.pop(0)
        # Several forks that fail in one turn are one failure.
        if not self._fork_failed:
            self._fork_failed = True
            self._forks.add(now)

    def _on_beat(self, event: Beat, now: float) -> None:
        life = self.lives.get(event.pid)
        if life is None:
            return
        # Now comes first: min() keeps its first argument beside a NaN.
        stamp = min(now, event.at)
        life.heard = max(life.heard, stamp)
        if not life.beat:
            life.beat = True
            self._proven += 1
        self._owed.append(("heartbeat", event.pid))

    def _on_farewell(self, event: Farewell, now: float) -> None:
        life = self.lives.get(event.pid)
        if life is None:
            return
        if not life.beat:
            # The first thing it says, so it has worked.
            self._on_beat(Beat(event.pid, event.at), now)
        if life.active:
            life.left_at = now

    def _on_exited(self, event: Exited, now: float) -> None:
        life = self.lives.pop(event.pid, None)
        if life is None:
            return
        self._owed.append(("reap", event.pid))
        if self.stop or (life.told and not life.silent):
            return
        if event.foreign and self._proven:
            return
        if event.foreign and self._proven:
            return
        if not life.beat:
            self._early_deaths += 1
            if self._proven:
                self._strikes.add(now)
            else:
                self.stop = AT_ONCE
                self._finishes.append(False)
        elif now - life.born < SHORT_LIFE:
            self._strikes.add(now)

    def _on_stop(self, event: Stop, _now: float) -> None:
        wished = 1 if event.graceful else AT_ONCE
        if wished > self.stop:
            self.stop = wished
            self._finishes.append(event.graceful)

    def _on_grow(self, event: Grow, _now: float) -> None:
        self._want(self.wanted + event.count)

    def _on_shrink(self, event: Shrink, _now: float) -> None:
        self._want(self.wanted - event.count)

    def _on_resize(self, event: Resize, _now: float) -> None:
        self._want(event.spirits)

    def _want(self, wanted: int) -> None:
        if not self.stop:
            self.wanted = max(0, wanted)

    def _on_reload(self, _event: Reload, _now: float) -> None:
        if not self.stop:
            self.generation += 1

    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        for life in self.lives.values():
            life.born = min(life.born + event.seconds, now)
            life.heard = min(life.heard + event.seconds, now)
            if life.left_at is not None:
                life.left_at = min(life.left_at + event.seconds, now)
            if life.killed_at is not None:
                life.killed_at = min(life.killed_at + event.seconds, now)
        self._amnesty = now + self.settings.heartbeat_interval

    # -- actions -----------------------------------------------------------------

    def planned(self, actions: Iterable[Action], now: float) -> None:
        """Check one answer of `plan`, in its order, before it is performed."""
        self._now = now = max(now, self._now)
        if self._pending:
            self._fail("I20 work", f"{len(self._pending)} births were not told")
        self._fork_failed = False
        idle = not self._events and not self._actions
        for action in actions:
            if idle and (self._deadline is None or now < self._deadline):
                self._fail("L3 missed", f"{action} before {self._deadline}")
            self._actions += 1
            self._planners[type(action)](action, now)
        if len(self._pending) > BURST:
            self._fail("I20 work", f"{len(self._pending)} births in one plan")

    def _check_spawn(self, action: Spawn, now: float) -> None:
        if self.stop:
            self._fail("I2 stopped", f"{action} after a stop")
        if action.generation != self.generation:
            self._fail("I13 generation", f"{action}, newest is {self.generation}")
        born = len(self._pending) + 1
        if self.living + born > self.wanted + self.settings.spare:
            self._fail(
                "I1 room",
                f"{action}: {self.living} + {born} living, wanted {self.wanted}, "
                f"spare {self.settings.spare}",
            )
        if self.active + born > self.wanted + self._surge():
            self._fail("I1 actives", f"{action}: {self.active} + {born} active")
        self._check_brakes(action, now)
        self._check_slot(action)
        self._pending.append(action.slot)

    def _check_brakes(self, action: Spawn, now: float) -> None:
        if self._forks.paid(now) and now < self._forks.until - EPSILON:
            self._fail("I2 fork", f"{action} before {self._forks.until:.3f}")
        if not self._strikes.paid(now):
            return
        if now < self._strikes.until - EPSILON:
            self._fail(
                "I2 brake",
                f"{action} before {self._strikes.until:.3f}, after "
                f"{self._strikes.count} strikes of {self._strikes.budget} free ones",
            )
        starting = any(life.active and not life.beat for life in self.lives.values())
        if starting or self._pending:
            self._fail("I2 brake", f"{action} beside another that has no beat yet")

    def _check_slot(self, action: Spawn) -> None:
        held = set(self._pending)
        fresh = set(self._pending)
        for life in self.lives.values():
            if life.active:
                held.add(life.slot)
                if not self._stale(life):
                    fresh.add(life.slot)
        free = next((slot for slot in range(self.wanted) if slot not in held), None)
        if action.slot in fresh or action.slot >= self.wanted:
            self._fail("slot", f"{action} of {self.wanted}, taken: {sorted(fresh)}")
        if free is not None and action.slot != free:
            self._fail("slot", f"{action}, but {free} is free")

    def _check_quit(self, action: Quit, now: float) -> None:
        life = self._living("I4 dead", action)
        if not life.active:
            self._fail("I6 quit", f"{action}: {life} leaves already")
        if not self.stop:
            self._check_cause(life, now)
        life.told = True
        life.left_at = now

    def _check_cause(self, life: Life, now: float) -> None:
        """Check that there is a reason to send one away, and that it can be spared."""
        if life.silent or (self._stale(life) and not life.beat):
            return
        surplus = self.active > self.wanted + self._surge()
        if not surplus and not self._stale(life):
            self._check_silence(life, now)
            return
        alive = self.alive
        if not life.beat:
            return
        if surplus and alive < self.active:
            self._fail("I12 shrink", f"{life} goes before one without a beat")
        one_by_one = not self.settings.spare and self._stale(life)
        if one_by_one and alive == self.wanted == self.living:
            return
        if alive <= self.wanted:
            self._fail(
                "I13 serving",
                f"{life} goes, {alive} of {self.wanted} serve, {self.living} live",
            )

    def _check_silence(self, life: Life, now: float) -> None:
        if now < max(life.heard + self._limit, self._amnesty) - EPSILON:
            self._fail(
                "I7 silence",
                f"{life}: last heard {now - life.heard:.3f} s ago, allowed "
                f"{self._limit:g} s and not before {self._amnesty:.3f}",
            )

    def _check_kill(self, action: Kill, now: float) -> None:
        life = self._living("I4 dead", action)
        if life.killed_at is not None and now < life.killed_at + 1.0:
            self._fail("I5 kill", f"{action} again within a second")
        if self.stop != AT_ONCE:
            graceful = self.settings.graceful_timeout
            if life.left_at is None or now < life.left_at + graceful - EPSILON:
                self._fail(
                    "I5 kill", f"{action}, leaving since {life.left_at}, {graceful:g} s"
                )
        life.killed_at = now

    def _living(self, invariant: str, action: Quit | Kill) -> Life:
        life = self.lives.get(action.pid)
        if life is None:
            raise Violation(invariant, f"{action}, living: {[*self.lives]}", self._now)
        return life

    def _check_call(self, action: Call, now: float) -> None:
        if action.hook == "finish":
            self._check_finish(action, now)
            return
        told = (action.hook, action.args[0])
        if not self._owed or self._owed[0] != told:
            invariant = "I3 reap" if action.hook == "reap" else "I3 order"
            if self._owed and self._owed[0][0] == "reap":
                invariant = "I3 reap"
            self._fail(invariant, f"{action}, expected {[*self._owed][:3]}")
        self._owed.popleft()

    def _check_finish(self, action: Call, now: float) -> None:
        graceful = action.args[0]
        if self._finishes and self._finishes[0] == graceful:
            self._finishes.popleft()
            return
        booting = self._boot_deadline is not None and now >= self._boot_deadline
        if graceful or self.stop or self._finishes:
            self._fail("I11 finish", f"{action}, expected {[*self._finishes]}")
        if self.ready or not booting or not self._early_deaths:
            self._fail("I9 early", f"{action} by itself")
        self.stop = AT_ONCE

    def _check_say(self, action: Say, now: float) -> None:
        if action.event == "spirit.hung":
            life = self.lives[action.fields["pid"]]
            self._check_silence(life, now)
            life.silent = True

    def _check_ready(self, _action: Ready, now: float) -> None:
        if self.ready:
            self._fail("ready", "told twice")
        over = self._boot_deadline is not None and now >= self._boot_deadline
        if self._proven < self.wanted and not over:
            self._fail("ready", f"{self._proven} of {self.wanted} have worked")
        self.ready = True

    # -- turns -------------------------------------------------------------------

    def turned(self, now: float, deadline: float | None, healthy: int) -> None:
        """
        Check the whole at the end of a turn.

        Args:
            now: the time of the turn.
            deadline: what `next_deadline` says.
            healthy: what the pool's `healthy` says.
        """
        self._now = now = max(now, self._now)
        self._check_debts()
        if deadline is not None and deadline < now:
            self._fail("I19 deadline", f"{deadline} lies in the past")
        beats = sum(1 for life in self.lives.values() if life.beat)
        if healthy != beats:
            self._fail("I17 healthy", f"{healthy}, but {beats} have a beat")
        self._check_lateness(now)
        if self.stop:
            self._check_stop()
        else:
            self._check_size(now, deadline)
        self._check_wakes(now)
        self._deadline = deadline
        self._events = self._actions = 0

    def reborn(self) -> None:
        """Allow one wake-up in vain: a pool that was rebuilt has to look once."""
        self._vain -= 1

    def _check_debts(self) -> None:
        if self._owed:
            hook = self._owed[0][0]
            self._fail(
                "I3 reap" if hook == "reap" else "I3 order",
                f"not told: {[*self._owed][:3]}",
            )
        if self._finishes:
            self._fail("I11 finish", f"not told: {[*self._finishes]}")

    def _check_lateness(self, now: float) -> None:
        graceful = self.settings.graceful_timeout
        limit = now - EPSILON
        for life in self.lives.values():
            if life.left_at is None:
                silent_at = max(life.heard + self._limit, self._amnesty)
                if not self.stop and limit > silent_at:
                    self._fail("L4 hung", f"{life} is silent, and nobody minds")
            elif life.killed_at is None and limit > life.left_at + graceful:
                self._fail("L4 hung", f"{life} leaves since {life.left_at:.3f}")

    def _check_stop(self) -> None:
        for life in self.lives.values():
            if life.active or (self.stop == AT_ONCE and life.killed_at is None):
                self._fail("I10 at once", f"{life} has not heard of it")

    def _check_size(self, now: float, deadline: float | None) -> None:
        active = self.active
        if active > self.wanted + self._surge():
            self._fail("I1 actives", f"{active} active, wanted {self.wanted}")
        if active < self.wanted and self.living < self.wanted + self.settings.spare:
            free = now >= self._strikes.last + FORGIVEN and not self._forks.count
            if free and deadline != now:
                self._fail("L3 refill", f"{active} active, wanted {self.wanted}")
        if not self.ready:
            over = self._boot_deadline is not None and now >= self._boot_deadline
            if over or self.settled:
                self._fail("ready", "not told")

    def _check_wakes(self, now: float) -> None:
        due = self._deadline is not None and now >= self._deadline
        if self._events or self._actions:
            self._vain = 0
        elif due:
            self._vain += 1
            # Each of the leaving may have a moment at which nothing needs doing.
            if self._vain > self.living + 4:
                self._fail("L5 busy", f"{self._vain} wake-ups in vain")
