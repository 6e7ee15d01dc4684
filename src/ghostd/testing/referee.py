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

from ghostd.core.actions import (
    Action,
    Call,
    Kill,
    Quit,
    Ready,
    Reloaded,
    Say,
    Spawn,
)
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
    Stillborn,
    Stop,
    TimeLost,
    Tired,
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
    "I13 generation": "a birth is of the good code, or the one canary of a trial",
    "I13 trial": "only a canary that was ready for long enough makes code good",
    "I13 dropped": "code is dropped for what its own canary did, and then at once",
    "I13 tired": "who is replaced for its age or by request was asked to be",
    "I17 healthy": "the pool counts its healthy ones as everybody does",
    "I19 deadline": "the next deadline is never in the past",
    "I20 work": "the work of one turn is bounded",
    "slot": "a newborn takes the lowest free place below wanted",
    "ready": "ready is told once, when each place has worked, not before",
    "L1 convergence": "when the storm is over, all wanted ones live and are healthy",
    "L2 stop": "a stop ends within the graceful time and a few seconds",
    "L3 refill": "a free place is filled in the same turn when no brake holds",
    "L3 canary": "a trial begins and ends in the turn in which it can",
    "L3 missed": "nothing falls due between two turns but at the deadline",
    "L4 hung": "a silent spirit is dismissed and a slow one killed when it is time",
    "L4 aged": "who is too old is to be replaced",
    "L5 busy": "no wake-ups in vain, one after another",
    "L6 forgiven": "a brake forgives what is long past",
    "L8 answer": "each reload is answered once: when it is complete or has failed",
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
        "ready_at",
        "silent",
        "slot",
        "tired",
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
        self.ready_at: float | None = None
        self.tired: bool = False
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
        self.trial: int | None = None
        self._struck = 0
        self.stop: int = 0
        self.births: int = 0
        self.ready: bool = False
        self._now = now
        self._boot_deadline = boot_deadline
        self._issued = 0
        self._rolling: int | None = None
        self._unanswered: set[int] = set()
        self._failed: deque[int] = deque()
        self._passed: deque[int] = deque()
        self._asked: deque[int] = deque()
        self._stop_at = now
        self._strikes = Streak(settings.budget)
        self._forks = Streak(0)
        self._fork_failed = False
        self._forks_fail = False
        self._proven = 0
        self._early_deaths = 0
        self._amnesty = now
        self._owed: deque[tuple[str, int]] = deque()
        self._finishes: deque[bool] = deque()
        self._pending: list[tuple[int, int, float]] = []
        self._planned = 0
        self._deadline: float | None = now
        self._events = 0
        self._actions = 0
        self._vain = 0
        self._observers: dict[type, Callable[[Any, float], None]] = {
            Spawned: self._on_spawned,
            SpawnFailed: self._on_spawn_failed,
            Stillborn: self._on_stillborn,
            Tired: self._on_tired,
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
            Reloaded: self._check_reloaded,
        }
        self._sayings: dict[str, Callable[[Say, float], None]] = {
            "spirit.hung": self._check_hung,
            "spirit.tired": self._check_tired,
            "pool.rolling": self._check_rolling,
            "pool.dropped": self._check_dropped,
        }

    # -- the book ----------------------------------------------------------------

    @property
    def living(self) -> int:
        """Count the unreaped."""
        return len(self.lives)

    @property
    def alive(self) -> int:
        """Count those that serve: active, with a beat, no canary."""
        return sum(1 for life in self._regular() if life.beat)

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
            and self.trial is None
            and not self._pending
            and not any(self._stale(life) for life in self.lives.values())
        )

    def _stale(self, life: Life) -> bool:
        return self._old(life) or life.tired

    def _old(self, life: Life) -> bool:
        return life.generation < self.generation

    def _canary(self, life: Life) -> bool:
        return life.generation == self.trial

    def _lost(self, life: Life) -> bool:
        """Tell whether its code failed its trial."""
        return life.generation > self.generation and life.generation != self.trial

    def _regular(self) -> list[Life]:
        return [
            life
            for life in self.lives.values()
            if life.active and life.generation <= self.generation
        ]

    def _canaries(self) -> int:
        """Count the canaries that live, and those whose birth has begun."""
        living = sum(life.active and self._canary(life) for life in self.lives.values())
        return living + sum(g == self.trial for _, g, _ in self._pending)

    def _coming(self) -> int:
        """Count the births under way of code that has not failed."""
        return sum(g <= self.generation or g == self.trial for _, g, _ in self._pending)

    def _surge(self) -> int:
        if not self.settings.spare:
            return 0
        stale = any(life.active and self._stale(life) for life in self.lives.values())
        return int(stale or self.trial is not None)

    def _patience(self, life: Life) -> float:
        settings = self.settings
        if not life.beat:
            return settings.boot_timeout
        return settings.heartbeat_interval + settings.heartbeat_timeout

    def _fail(self, invariant: str, words: str) -> None:
        raise Violation(invariant, words, self._now)

    # -- events ------------------------------------------------------------------

    def observed(self, event: Event, now: float) -> None:
        """Write an event into the book."""
        self._now = max(now, self._now)
        self._events += 1
        self._observers[type(event)](event, self._now)

    def _on_spawned(self, event: Spawned, now: float) -> None:
        self._told(event)
        self._forks.count = 0
        self._forks_fail = False
        self._fork_failed = False
        self.births += 1
        self.lives[event.pid] = Life(event.pid, event.slot, event.generation, now)
        self._owed.append(("spawn", event.pid))

    def _on_spawn_failed(self, event: SpawnFailed, now: float) -> None:
        planned_at = self._told(event)
        self._forks_fail = True
        # Several forks that fail in one turn are one failure, and one whose failure
        # is told late may fall into the pause after another.
        if not self._fork_failed and planned_at == now:
            self._fork_failed = True
            self._forks.add(now)

    def _told(self, event: Spawned | SpawnFailed | Stillborn) -> float:
        """Cross a birth off; say when it was planned."""
        for entry in self._pending:
            if entry[:2] == (event.slot, event.generation):
                self._pending.remove(entry)
                return entry[2]
        raise Violation("I20 work", f"{event} was not planned", self._now)

    def _on_stillborn(self, event: Stillborn, now: float) -> None:
        self._told(event)
        if self.stop:
            return
        if event.generation == self.trial:
            self._fall()
        elif event.generation == self.generation:
            self._on_useless(now)

    def _fall(self) -> None:
        """Let the generation on trial fail; whatever comes after it finds it so."""
        if self.trial is not None:
            self._failed.append(self.trial)
            self.trial = None

    def _pass(self) -> None:
        """Let the generation on trial be good."""
        if self.trial is not None:
            self.generation = self._rolling = self.trial
            self.trial = None
            self._strikes = Streak(self.settings.budget)

    def _on_useless(self, now: float) -> None:
        """Count a life, or an attempt at one, that never got to work."""
        self._early_deaths += 1
        if self._proven:
            self._strikes.add(now)
            self._rolling = None
        else:
            self._stop(AT_ONCE, now)
            self._finishes.append(False)

    def _stop(self, how: int, now: float) -> None:
        self.stop, self._stop_at = how, now
        self.trial = self._rolling = None

    def _on_beat(self, event: Beat, now: float) -> None:
        life = self.lives.get(event.pid)
        if life is None:
            return
        # Now comes first: min() keeps its first argument beside a NaN.
        stamp = min(now, event.at)
        life.heard = max(life.heard, stamp)
        if not life.beat:
            life.beat = True
            life.ready_at = now
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
            if self._canary(life):
                # Its work was short, and done: no time has to pass any more.
                self._passed.append(life.generation)
                self._pass()

    def _on_tired(self, event: Tired, now: float) -> None:
        life = self.lives.get(event.pid)
        if life is None or self.stop:
            return
        if life.active and life.beat and not life.tired:
            self._tire(life, now)
            self._asked.append(event.pid)

    def _tire(self, life: Life, now: float) -> None:
        life.tired = True
        if now - life.born < SHORT_LIFE:
            self._strikes.add(now)

    def _on_exited(self, event: Exited, now: float) -> None:
        life = self.lives.pop(event.pid, None)
        if life is None:
            return
        self._owed.append(("reap", event.pid))
        if self.stop or (life.told and not life.silent):
            return
        canary = self._canary(life) and life.active
        if event.foreign and self._proven:
            self._struck += canary
            if not canary or self._struck <= self.settings.budget:
                return
        if canary:
            self._fall()
        elif self._lost(life):
            return
        elif not life.beat:
            self._on_useless(now)
        elif now - life.born < SHORT_LIFE:
            self._strikes.add(now)

    def _on_stop(self, event: Stop, now: float) -> None:
        wished = 1 if event.graceful else AT_ONCE
        if wished > self.stop:
            self._stop(wished, now)
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
            self._issued += 1
            self.trial, self._rolling, self._struck = self._issued, None, 0
            self._unanswered.add(self._issued)

    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        for life in self.lives.values():
            life.born = min(life.born + event.seconds, now)
            life.heard = min(life.heard + event.seconds, now)
            if life.ready_at is not None:
                life.ready_at = min(life.ready_at + event.seconds, now)
            if life.left_at is not None:
                life.left_at = min(life.left_at + event.seconds, now)
            if life.killed_at is not None:
                life.killed_at = min(life.killed_at + event.seconds, now)
        self._amnesty = now + self.settings.heartbeat_interval

    # -- actions -----------------------------------------------------------------

    def planned(self, actions: Iterable[Action], now: float) -> None:
        """Check one answer of `plan`, in its order, before it is performed."""
        self._now = now = max(now, self._now)
        self._fork_failed = False
        self._planned = 0
        idle = not self._events and not self._actions
        for action in actions:
            if idle and (self._deadline is None or now < self._deadline):
                self._fail("L3 missed", f"{action} before {self._deadline}")
            self._actions += 1
            self._planners[type(action)](action, now)
        if self._planned > BURST:
            self._fail("I20 work", f"{self._planned} births in one plan")

    def _check_spawn(self, action: Spawn, now: float) -> None:
        if self.stop:
            self._fail("I2 stopped", f"{action} after a stop")
        canary = action.generation == self.trial
        if action.generation != self.generation and not canary:
            self._fail("I13 generation", f"{action}, good is {self.generation}")
        if canary and self._canaries():
            self._fail("I13 generation", f"{action} beside another canary")
        born = len(self._pending) + 1
        if self.living + born > self.wanted + self.settings.spare:
            self._fail(
                "I1 room",
                f"{action}: {self.living} + {born} living, wanted {self.wanted}, "
                f"spare {self.settings.spare}",
            )
        useful = self._coming() + 1
        if self.active + useful > self.wanted + self._surge():
            self._fail("I1 actives", f"{action}: {self.active} + {useful} active")
        self._check_brakes(action, now)
        self._check_slot(action, canary=canary)
        self._pending.append((action.slot, action.generation, now))
        self._planned += 1

    def _check_brakes(self, action: Spawn, now: float) -> None:
        if self._forks.paid(now) and now < self._forks.until - EPSILON:
            self._fail("I2 fork", f"{action} before {self._forks.until:.3f}")
        if action.generation == self.trial or not self._strikes.paid(now):
            return  # a canary does not pay for other code
        if now < self._strikes.until - EPSILON:
            self._fail(
                "I2 brake",
                f"{action} before {self._strikes.until:.3f}, after "
                f"{self._strikes.count} strikes of {self._strikes.budget} free ones",
            )
        starting = any(not life.beat for life in self._regular())
        if starting or any(g <= self.generation for _, g, _ in self._pending):
            self._fail("I2 brake", f"{action} beside another that has no beat yet")

    def _check_slot(self, action: Spawn, *, canary: bool) -> None:
        peers = self._regular()
        if canary:
            peers = [life for life in self.lives.values() if life.active]
        held = {slot for slot, g, _ in self._pending if g == action.generation}
        fresh = held | {
            life.slot
            for life in peers
            if life.generation >= action.generation and not life.tired
        }
        if canary:
            held |= {slot for slot, _, _ in self._pending}
        held |= {life.slot for life in peers}
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
        if life.silent or self._lost(life) or (self._old(life) and not life.beat):
            return
        if self._canary(life):
            self._fail("I13 dropped", f"{life} goes while its trial goes on")
        settings = self.settings
        serving = len(self._regular()) + (0 if settings.spare else self._canaries())
        stale = any(self._stale(each) for each in self._regular())
        surplus = serving > self.wanted + (
            stale and settings.spare > 0 and self.trial is None
        )
        room = self.trial is not None and not settings.spare and not self._canaries()
        if not surplus and not self._stale(life) and not room:
            self._check_silence(life, now)
            return
        alive = self.alive
        if not life.beat:
            return
        if surplus and alive < len(self._regular()):
            self._fail("I12 shrink", f"{life} goes before one without a beat")
        if surplus and not settings.spare and self._canaries():
            return  # a canary has its place, and the pool has become smaller
        if (
            not settings.spare
            and (self._stale(life) or room)
            and alive == self.wanted == self.living
        ):
            return
        spared = settings.max_unavailable if self._old(life) else 0
        if alive <= self.wanted - spared:
            self._fail(
                "I13 serving",
                f"{life} goes, {alive} of {self.wanted} serve, {self.living} live",
            )

    def _check_silence(self, life: Life, now: float) -> None:
        patience = self._patience(life)
        if now < max(life.heard + patience, self._amnesty) - EPSILON:
            self._fail(
                "I7 silence",
                f"{life}: last heard {now - life.heard:.3f} s ago, allowed "
                f"{patience:g} s and not before {self._amnesty:.3f}",
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
        self._stop(AT_ONCE, now)

    def _check_say(self, action: Say, now: float) -> None:
        check = self._sayings.get(action.event)
        if check is not None:
            check(action, now)

    def _check_hung(self, action: Say, now: float) -> None:
        life = self.lives[action.fields["pid"]]
        self._check_silence(life, now)
        life.silent = True
        if self._canary(life):
            self._fall()
        elif not life.beat:
            self._rolling = None

    def _check_tired(self, action: Say, now: float) -> None:
        pid = action.fields["pid"]
        if self._asked:
            if self._asked.popleft() != pid:
                self._fail("I13 tired", f"{pid} is, but it is another that asked")
            return
        life = self.lives.get(pid)
        most = self.settings.max_age
        if life is None or life.tired or not life.active or most is None:
            self._fail("I13 tired", f"{life or pid} did not ask")
        elif now < life.born + most * (1 - self.settings.jitter) - EPSILON:
            self._fail("I13 tired", f"{life}, born at {life.born:.3f}")
        else:
            self._tire(life, now)

    def _check_rolling(self, action: Say, now: float) -> None:
        trial = action.fields["generation"]
        if self._passed:
            if self._passed.popleft() != trial:
                self._fail("I13 trial", f"{trial} is good, and it is another that is")
            return
        if trial != self.trial:
            self._fail("I13 trial", f"{trial} is good, on trial is {self.trial}")
        time = self.settings.canary_time
        passed = any(
            life.ready_at is not None and now >= life.ready_at + time - EPSILON
            for life in self.lives.values()
            if self._canary(life)
        )
        if self.wanted and not passed:
            self._fail("I13 trial", f"{trial} is good, and no canary has shown it")
        self._pass()

    def _check_dropped(self, action: Say, _now: float) -> None:
        dropped = action.fields["generation"]
        if not self._failed or self._failed.popleft() != dropped:
            self._fail("I13 dropped", f"{dropped} has not failed now")

    def _check_reloaded(self, action: Reloaded, _now: float) -> None:
        if action.generation not in self._unanswered:
            self._fail("L8 answer", f"{action} was not asked for, or answered before")
        self._unanswered.remove(action.generation)
        if action.reason:
            return
        old = [life for life in self._regular() if self._old(life)]
        if action.generation != self._rolling or old or self.alive < self.wanted:
            self._fail("L8 answer", f"{action}, but old are {old}")
        self._rolling = None

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
        self._check_answers(now)
        if self.stop:
            self._check_stop(now)
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
                silent_at = max(life.heard + self._patience(life), self._amnesty)
                if not self.stop and limit > silent_at:
                    self._fail("L4 hung", f"{life} is silent, and nobody minds")
                self._check_age(life, limit)
            elif life.killed_at is None and limit > life.left_at + graceful:
                self._fail("L4 hung", f"{life} leaves since {life.left_at:.3f}")

    def _check_age(self, life: Life, now: float) -> None:
        most = self.settings.max_age
        if most is None or self.stop or life.tired or not life.beat:
            return
        if now > life.born + most:
            self._fail("L4 aged", f"{life}, born at {life.born:.3f}")

    def _check_answers(self, now: float) -> None:
        """Check that whoever waits for a reload waits for one that goes on."""
        underway = self._rolling if self.trial is None else self.trial
        if self._unanswered != ({underway} - {None}):
            self._fail("L8 answer", f"{self._unanswered} wait, underway: {underway}")
        if self._rolling is not None and self.settled:
            self._fail("L8 answer", f"{self._rolling} has replaced all, nobody says so")
        if self._asked:
            self._fail("I13 tired", f"{[*self._asked]} asked, and nobody says so")
        if self._failed:
            self._fail("I13 dropped", f"{self._failed} failed, and nobody says so")
        if self._passed:
            self._fail("I13 trial", f"{self._passed} are good, and nobody says so")
        passed = now - self.settings.canary_time - EPSILON
        for life in self.lives.values():
            late = life.ready_at is not None and life.ready_at < passed
            if self._canary(life) and life.active and late:
                self._fail("L3 canary", f"{life} is ready since {life.ready_at}")
            if self._lost(life) and life.active and not self.stop:
                self._fail("L3 canary", f"{life} has not heard that its code failed")

    def _check_stop(self, now: float) -> None:
        if self.stop != AT_ONCE and now < self._stop_at + self.settings.drain_delay:
            return
        for life in self.lives.values():
            if life.active or (self.stop == AT_ONCE and life.killed_at is None):
                self._fail("I10 at once", f"{life} has not heard of it")

    def _check_size(self, now: float, deadline: float | None) -> None:
        active, coming = self.active, len(self._pending)
        if active > self.wanted + self._surge():
            self._fail("I1 actives", f"{active} active, wanted {self.wanted}")
        room = self.living + coming < self.wanted + self.settings.spare
        if room and not self._forks_fail and deadline != now:
            forgiven = now >= self._strikes.last + FORGIVEN
            if forgiven and active + self._coming() < self.wanted:
                self._fail("L3 refill", f"{active} active, wanted {self.wanted}")
            self._check_hatched()
        if not self.ready:
            over = self._boot_deadline is not None and now >= self._boot_deadline
            if over or self.settled:
                self._fail("ready", "not told")

    def _check_hatched(self) -> None:
        """Check that a trial has its canary, where there is room for one."""
        if self.trial is None or self._canaries():
            return
        regulars = len(self._regular()) + self._coming()
        if regulars < self.wanted + bool(self.settings.spare):
            self._fail("L3 canary", f"{self.trial} on trial has none")

    def _check_wakes(self, now: float) -> None:
        due = self._deadline is not None and now >= self._deadline
        if self._events or self._actions:
            self._vain = 0
        elif due:
            self._vain += 1
            # Each of the leaving may have a moment at which nothing needs doing.
            if self._vain > self.living + 4:
                self._fail("L5 busy", f"{self._vain} wake-ups in vain")
