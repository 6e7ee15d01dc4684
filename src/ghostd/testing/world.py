"""
A world without time or processes: a real pool, made-up spirits, a clock that jumps.

A `World` does what the manager does, turn by turn, but its kernel is a heap of
things that will happen. A day of a daemon takes milliseconds, every run of one seed
is the same run, and everything that goes wrong once in a year can be made to go
wrong now: see `Faults`, and `Temperament` for what a spirit can be like.

    settings = PoolSettings(spirits=2, graceful_timeout=10)
    world = run_in_world(settings, [STUBBORN, OBEDIENT], seconds=60)
    assert world.healthy == 2

A `Referee` watches each turn; what it may not see is told as a `Violation`.

One turn: wait until the next deadline or something loud (a signal, a first beat, a
farewell, a death), but no longer than `patience`; tell `TimeLost` if that took much
longer than meant; then signals, then beats, then deaths; then plan and perform until
nothing is left to do. Later beats are quiet: they wait to be read, and all are read
before anybody can be judged. A turn happens at one time: however long a hook takes,
what it delayed is told as lost time in the next turn, before anybody is judged.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import count
from random import Random

from ghostd.core.actions import Action, Call, Kill, Quit, Ready, Reloaded, Say, Spawn
from ghostd.core.brake import CALM, LONGEST_PAUSE
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
from ghostd.core.pool import Pool
from ghostd.core.record import UNDYING
from ghostd.settings import PoolSettings
from ghostd.testing.referee import Referee, Violation
from ghostd.values import Value

NEVER = math.inf
MOSTLY = 0.7
LONGEST_BIRTH = 10.0
PIPE = 64
"""Beats that a spirit's pipe holds."""

MOST_PLANS = 200
"""Plans in one turn, after which the pool must be talking to itself."""


class FakeClock:
    """
    A clock that stands still until it is told to move.

    It can be called like ``time.monotonic`` and slept on like ``time.sleep``.
    """

    def __init__(self, now: float = 1000.0) -> None:
        """Begin at *now* seconds."""
        self.now: float = now

    def __call__(self) -> float:
        """Read the time, seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on by *seconds*; less than nothing is nothing."""
        self.now += max(0.0, seconds)

    def until(self, time: float) -> None:
        """Move on to *time*; never back."""
        self.now = max(self.now, time)


class Temperament(Value):
    """
    What a made-up spirit is like. All durations are seconds.

    Attributes:
        name: for people.
        first: from birth to its first beat; None: it never beats.
        every: between beats; None: one each heartbeat interval.
        beats: it hangs after so many.
        life: from birth to an end of its own; None: it has none.
        ending: how that end comes: "returns", "crashes", "killed" (by a stranger),
            or "farewell" (announced, then gone after *leaves*).
        leaves: from QUIT to its death; None: it does not listen.
        dies: from KILL to its death; long: the kernel holds it (D state).
        seen: from its death to the moment at which the manager can know: a
            grandchild keeps the pipe open, and only the kernel can tell.
        lies: added to the stamps of its beats, one after another, again and again.
    """

    name: str
    first: float | None = 0.05
    every: float | None = None
    beats: float = NEVER
    life: float | None = None
    ending: str = "returns"
    leaves: float | None = 0.05
    dies: float = 0.001
    seen: float = 0.0
    lies: tuple[float, ...] = ()


OBEDIENT = Temperament("obedient")
SLOW = Temperament("slow", first=3.0, leaves=20.0)
STUBBORN = Temperament("stubborn", leaves=None)
MUTE = Temperament("mute", first=None)
HUNG = Temperament("hung", beats=3, leaves=None)
STILLBORN = Temperament("stillborn", first=None, life=0.02, ending="crashes")
CRASHING = Temperament("crashing", life=60.0, ending="crashes")
SHORT = Temperament("short", life=0.3)
RETURNING = Temperament("returning", life=90.0)
FAREWELL = Temperament("farewell", life=45.0, ending="farewell", leaves=0.5)
LYING = Temperament("lying", lies=(1e9, -1e9, math.nan, math.inf, -math.inf, 0.0))
FORKING = Temperament("forking", life=50.0, seen=7.0)
UNKILLABLE = Temperament("unkillable", leaves=None, dies=300.0)

TEMPERAMENTS = (
    OBEDIENT,
    SLOW,
    STUBBORN,
    MUTE,
    HUNG,
    STILLBORN,
    CRASHING,
    SHORT,
    RETURNING,
    FAREWELL,
    LYING,
    FORKING,
    UNKILLABLE,
)


class Faults(Value):
    """
    What goes wrong around the pool; each a chance per turn (or per thing), 0 to 1.

    Attributes:
        forks: a fork fails.
        outages: forks begin to fail for up to a minute.
        growths: Grow, Shrink or Resize comes.
        reloads: Reload comes.
        broken: the code that a Reload brings does not work.
        tired: a spirit asks to be replaced.
        births: a birth takes up to ten seconds, and may come to nothing.
        stops: Stop comes.
        freezes: the whole machine stands still for 0.1 to 1000 s.
        halts: the manager alone stands still for as long.
        slow: a hook takes as long, one in a turn at most.
        lost: a beat never arrives.
        doubled: an event arrives twice.
        shuffled: the events of a turn arrive in any order, even a beat after the
            death.
        strangers: an event about a pid that is no spirit arrives.
        murders: a stranger kills a spirit.
        reused: a new process gets the lowest free pid, not a fresh one.
        yawns: the manager wakes up for nothing.
        rebirths: the manager executes itself anew and takes its pool along as JSON.
    """

    forks: float = 0.0
    outages: float = 0.0
    growths: float = 0.0
    reloads: float = 0.0
    broken: float = 0.0
    tired: float = 0.0
    births: float = 0.0
    stops: float = 0.0
    freezes: float = 0.0
    halts: float = 0.0
    slow: float = 0.0
    lost: float = 0.0
    doubled: float = 0.0
    shuffled: float = 0.0
    strangers: float = 0.0
    murders: float = 0.0
    reused: float = 0.0
    yawns: float = 0.0
    rebirths: float = 0.0


PEACE = Faults()
Choose = Callable[[Random, int], Temperament]


def in_turn(temperaments: Iterable[Temperament]) -> Choose:
    """Give the n-th birth the n-th temperament, and all later ones the last."""
    listed = tuple(temperaments) or (OBEDIENT,)

    def choose(_rng: Random, birth: int) -> Temperament:
        return listed[min(birth, len(listed) - 1)]

    return choose


class Spirit:
    """A process of the virtual kernel."""

    __slots__ = (
        "beats",
        "dead",
        "heard",
        "how",
        "killed",
        "leaving",
        "mail",
        "pid",
        "temperament",
    )

    def __init__(self, pid: int, temperament: Temperament) -> None:
        """Begin, silently."""
        self.pid: int = pid
        self.temperament: Temperament = temperament
        self.beats: int = 0
        self.mail: list[Event] = []
        self.heard: bool = False
        self.how: str = ""
        self.leaving: bool = False
        self.killed: bool = False
        self.dead: bool = False


class World:
    """
    Time, a kernel and a manager for one pool.

    Args:
        settings: those of the pool.
        temperaments: of the spirits, by order of birth, the last for all later
            ones; or a function of a random generator and the number of births so
            far.
        seed: of everything that happens by chance.
        faults: what goes wrong.
        boot_deadline: seconds that the start may take, None: no limit.
        keep: how many of the last events and actions `history` keeps; None: all.
        pool: makes the pool, for those who want to see another one fail.

    Attributes:
        clock: the `FakeClock`.
        pool: the pool itself.
        referee: who watches.
        spirits: the processes by pid, those that are dead but unreaped included.
        history: (time, event or action), oldest first.
        turns: how many there were.
        counts: how often each kind of event and action occurred, by its name.
    """

    def __init__(  # noqa: PLR0913 - each has a default but the first
        self,
        settings: PoolSettings,
        temperaments: Iterable[Temperament] | Choose = (OBEDIENT,),
        *,
        seed: int = 0,
        faults: Faults = PEACE,
        boot_deadline: float | None = None,
        keep: int | None = None,
        pool: type[Pool] = Pool,
    ) -> None:
        """Begin a world in which nothing has happened yet."""
        self.settings = settings
        self.clock: FakeClock = FakeClock()
        now = self.clock.now
        if boot_deadline is not None:
            boot_deadline += now
        self.rng: Random = Random(seed)  # noqa: S311 - dice, no secrets
        self.faults: Faults = faults
        self.pool: Pool = pool(settings, now, boot_deadline, self.rng.random())
        self.referee: Referee = Referee(settings, now, boot_deadline)
        self.spirits: dict[int, Spirit] = {}
        self.history: deque[tuple[float, Event | Action]] = deque(maxlen=keep)
        self.turns: int = 0
        self.counts: Counter[str] = Counter()
        # Shorter than a spirit may be silent, so that a stop of the whole machine
        # can never fit in between unseen: a wait and the lateness that nobody
        # notices are together no longer than the heartbeat time-out.
        share = min(settings.heartbeat_interval, settings.heartbeat_timeout / 2)
        self.patience = share
        self.lateness = share
        self.choose: Choose = (
            temperaments if callable(temperaments) else in_turn(temperaments)
        )
        self._births = 0
        self._pids = count(100)
        self._forks_fail_until = -NEVER
        self._heap: list[tuple[float, int, str, Spirit | Spawn]] = []
        self._broken: set[int] = set()
        self._issued = 0
        self._tickets = count()
        self._frozen = 0.0
        self._signals: list[Event] = []
        self._deaths: list[Spirit] = []
        self._loud = False
        self._deadline: float | None = now
        self._listen_at = self._time = now
        self._calm = False

    # -- what one can ask ----------------------------------------------------------

    @property
    def now(self) -> float:
        """Read the clock, seconds."""
        return self.clock.now

    @property
    def healthy(self) -> int:
        """Count the spirits with a beat, as the pool does."""
        return self.pool.healthy

    @property
    def over(self) -> bool:
        """Tell whether the pool has been shut down."""
        return self.pool.over

    @property
    def births(self) -> int:
        """Count the spirits that were ever born."""
        return self._births

    def said(self, event: str) -> list[str]:
        """List the texts of the log lines with this event name, oldest first."""
        return [
            line.text
            for _, line in self.history
            if isinstance(line, Say) and line.event == event
        ]

    def calls(self, hook: str) -> list[tuple[object, ...]]:
        """List the arguments with which a hook was called, oldest first."""
        return [
            call.args
            for _, call in self.history
            if isinstance(call, Call) and call.hook == hook
        ]

    # -- what one can do -----------------------------------------------------------

    def send(self, event: Event) -> None:
        """Give the pool an event in its next turn, which is now."""
        self._signals.append(event)

    def reload(self, *, broken: bool = False) -> None:
        """Ask for new code; *broken*: its spirits end before they are ready."""
        if broken:
            self._broken.add(self._issued + 1 + self._coming_reloads())
        self._signals.append(Reload())

    def _coming_reloads(self) -> int:
        return sum(isinstance(event, Reload) for event in self._signals)

    def kill(self, pid: int, *, foreign: bool = True) -> None:
        """End a spirit from outside; not *foreign*: by a mistake of its own."""
        spirit = self.spirits.get(pid)
        if spirit is not None:
            self._at(0.0, "killed" if foreign else "crashes", spirit)

    def freeze(self, seconds: float) -> None:
        """Let the whole machine stand still for *seconds*."""
        self.clock.sleep(seconds)
        self._frozen += seconds

    def halt(self, seconds: float) -> None:
        """Let the manager alone stand still for *seconds*; the others go on."""
        self.clock.sleep(seconds)
        self._collect()

    def calm(self) -> None:
        """Let nothing go wrong from here on; what has hung already stays hung."""
        self._calm = True
        self.faults = PEACE
        self.choose = in_turn([OBEDIENT])
        self._forks_fail_until = -NEVER
        # With nobody wanted, code is good that nobody has seen fail.
        self._broken.clear()
        for spirit in self.spirits.values():
            if spirit.killed:
                self._at(0.0, "killed", spirit)

    def run(self, seconds: float) -> None:
        """Live for *seconds*, or until the pool is over."""
        end = self.clock.now + seconds
        while self.turn(end):
            pass

    def run_until(self, true: Callable[[], bool], seconds: float = 86400.0) -> bool:
        """Live until *true* says so; False if it did not for *seconds*."""
        end = self.clock.now + seconds
        while not true():
            if not self.turn(end):
                return true()
        return True

    def settle(self) -> float:
        """
        Calm down and wait until all is as wanted, for longer than one can be silent.

        Returns:
            The seconds that it took.

        Raises:
            Violation: it takes longer than it may (L1).
        """
        self.calm()
        if self.over or self.referee.stop:
            return 0.0
        settings, begun = self.settings, self.clock.now
        silence = settings.heartbeat_interval + settings.heartbeat_timeout
        silence = max(silence, settings.boot_timeout)
        people = self.referee.living + self.referee.wanted + 2
        limit = (
            3 * silence
            + people * (settings.graceful_timeout + 1)
            + LONGEST_PAUSE
            + CALM
            + settings.canary_time
            + LONGEST_BIRTH
            + 5
        )
        end = begun + limit
        while True:
            births = self._births
            if not self.run_until(self._at_rest, end - self.clock.now):
                self._fail(
                    "L1 convergence",
                    f"{limit:.1f} s after the storm {self.referee.alive} of "
                    f"{self.referee.wanted} serve, {self.referee.living} live",
                )
            took = self.clock.now - begun
            # One that hangs looks healthy until it has been silent for long enough.
            self.run(silence + 1)
            if self._births == births and self._at_rest():
                break
        self.run(LONGEST_PAUSE + CALM)
        return took

    def _at_rest(self) -> bool:
        return self.referee.settled or self.referee.stop > 0

    def forgive(self) -> None:
        """
        Let a spirit of a settled pool crash, and then the newborn in its place.

        After a long peace both are accidents: the place is filled in the same turn,
        also after the second one, whose life was short, if the budget allows any.

        Raises:
            Violation: it is not (L6).
        """
        if self.referee.stop or not self.referee.settled or not self.spirits:
            return
        self._accident(self.spirits[min(self.spirits)])
        newborn = next(reversed(self.spirits.values()))
        if self.settings.budget:
            self.run_until(lambda: self.referee.settled, 0.5)
            self._accident(newborn)

    def _accident(self, spirit: Spirit) -> None:
        births = self._births
        self.kill(spirit.pid, foreign=False)
        # Some deaths are seen late; from then on, no time may pass.
        limit = spirit.temperament.seen + 0.01
        if not self.run_until(lambda: self._births > births, limit):
            self._fail("L6 forgiven", "an accident after a long peace is not mended")

    def stop(self, *, graceful: bool = True) -> float:
        """
        Stop the pool and wait until that is done.

        Returns:
            The seconds that it took.

        Raises:
            Violation: it takes longer than it may (L2).
        """
        begun = self.clock.now
        self.send(Stop(graceful))
        at_once = not graceful
        limit = UNDYING + 2 + LONGEST_BIRTH
        if not at_once:
            limit += self.settings.graceful_timeout + self.settings.drain_delay
        self.faults = PEACE
        if not self.run_until(lambda: self.over, limit):
            self._fail("L2 stop", f"{self.referee.living} live after {limit:.1f} s")
        return self.clock.now - begun

    # -- one turn ------------------------------------------------------------------

    def turn(self, end: float = NEVER) -> bool:
        """
        Wait for something, at most until *end*, and do what the manager does then.

        Returns:
            False when there was nothing to do until *end*, or the pool is over.
        """
        if self.pool.over:
            return False
        begun = self.clock.now
        planned = self._listen_at if self.spirits else NEVER
        if self._deadline is not None:
            planned = min(planned, self._deadline)
        # An overdue turn is late, but nobody turns back the clock for it.
        wake = max(begun, planned)
        if self._signals:
            wake = begun
        elif wake < NEVER and self._chance(self.faults.yawns):
            wake = begun + (wake - begun) * self.rng.random()
        wake = self._sleep(min(wake, end))
        if not self._loud and not self._signals and wake in (end, NEVER):
            if end < NEVER:
                self.clock.until(end)
            return False
        self.clock.until(wake)
        if self.faults is not PEACE:
            self._misfortune()
        late = self.clock.now - planned
        self._take_turn(late if late > self.lateness else 0.0, timed=late >= 0)
        return True

    def _take_turn(self, late: float, *, timed: bool) -> None:
        # One time for the whole turn, also where a hook lets the clock go on.
        self._time = now = self.clock.now
        self.turns += 1
        if timed:
            self._listen_at = now + self.patience
        try:
            if late:
                self._observe(TimeLost(late))
            for event in self._inbox(timed=timed):
                self._observe(event)
            for _ in range(MOST_PLANS):
                actions = self.pool.plan(now)
                if not actions:
                    break
                self.referee.planned(actions, now)
                for action in actions:
                    self._perform(action)
            else:
                self._fail("I20 work", f"{MOST_PLANS} plans in one turn")
            if self._chance(self.faults.rebirths):
                self._rebirth()
            self._deadline = self.pool.next_deadline()
            self.referee.turned(now, self._deadline, self.pool.healthy)
        except Violation as violation:
            violation.add_note(f"turn {self.turns}; {self.settings}")
            for time, what in list(self.history)[-40:]:
                violation.add_note(f"{time:12.3f}  {what}")
            raise

    def _sleep(self, wake: float) -> float:
        """Let the kernel work until *wake*, or until something loud; say when."""
        heap = self._heap
        self._loud = bool(self._deaths)
        while heap and (time := heap[0][0] + self._frozen) <= wake:
            _, _, what, spirit = heapq.heappop(heap)
            self._happen(what, spirit, time)
            if self._loud:
                wake = max(self.clock.now, time)
        return wake

    def _misfortune(self) -> None:
        """Throw the dice for this turn."""
        faults, rng, now = self.faults, self.rng, self.clock.now
        if self._chance(faults.halts):
            self.halt(self._long())
        if self._chance(faults.growths):
            self._signals.append(self._growth())
        if self._chance(faults.reloads):
            self.reload(broken=self._chance(faults.broken))
        if self.spirits and self._chance(faults.tired):
            self._signals.append(Tired(rng.choice([*self.spirits]), "it is tired"))
        if self._chance(faults.stops):
            self._signals.append(Stop(rng.random() < MOSTLY))
        if self._chance(faults.outages):
            self._forks_fail_until = now + 60 * rng.random()
        if self.spirits and self._chance(faults.murders):
            self._at(0.0, "killed", self.spirits[rng.choice([*self.spirits])])
        if self._chance(faults.strangers):
            self._signals.append(self._stranger(now))
        if self._chance(faults.freezes):
            self.freeze(self._long())

    def _chance(self, rate: float) -> bool:
        """Throw the dice, but not for nothing: most faults are off."""
        return rate > 0.0 and self.rng.random() < rate

    def _growth(self) -> Event:
        number = self.rng.randrange(4)
        kind = self.rng.choice((Grow, Shrink, Resize))
        # Worlds stay small: large pools are slow, and their stories are the same.
        if (
            kind is Grow
            and self.referee.wanted + number > 2 * self.settings.spirits + 3
        ):
            return Resize(self.settings.spirits)
        return kind(number)

    def _stranger(self, now: float) -> Event:
        pid = self.rng.choice((0, 1, -1, 10**9))
        return self.rng.choice((Beat(pid, now), Farewell(pid, now), Exited(pid, "?")))

    def _long(self) -> float:
        return float(0.1 * 10.0 ** self.rng.uniform(0, 4))

    def _rebirth(self) -> None:
        plain = json.loads(json.dumps(self.pool.plain()))
        self.pool = type(self.pool).from_plain(self.settings, plain)
        self.referee.reborn()

    def _fail(self, invariant: str, words: str) -> None:
        raise Violation(invariant, words, self.clock.now)

    # -- events in -----------------------------------------------------------------

    def _inbox(self, *, timed: bool) -> list[Event]:
        """Give what arrived: signals, beats, deaths, unless a fault mixes them."""
        events = self._signals
        self._signals = []
        for spirit in self.spirits.values():
            if spirit.mail and (timed or not spirit.heard or spirit.dead):
                events += spirit.mail
                spirit.mail = []
                spirit.heard = True
        for spirit in self._deaths:
            # Only now is it reaped: until here its pid was taken.
            del self.spirits[spirit.pid]
            events.append(self._exited(spirit))
        self._deaths = []
        if events and self._chance(self.faults.doubled):
            events += [
                event for event in events if isinstance(event, Beat | Farewell | Exited)
            ]
        if self._chance(self.faults.shuffled):
            self.rng.shuffle(events)
            # Whoever is not known yet cannot be seen to beat or to die.
            events.sort(key=lambda event: not isinstance(event, Spawned))
        return events

    def _observe(self, event: Event) -> None:
        now = self._time
        self.history.append((now, event))
        self.counts[type(event).__name__] += 1
        self._issued += isinstance(event, Reload) and not self.referee.stop
        self.referee.observed(event, now)
        self.pool.observe(event, now)

    def _collect(self) -> None:
        """Let the kernel do all that happens until now."""
        heap, limit = self._heap, self.clock.now - self._frozen
        while heap and heap[0][0] <= limit:
            time, _, what, spirit = heapq.heappop(heap)
            self._happen(what, spirit, time + self._frozen)

    def _happen(self, what: str, spirit: Spirit | Spawn, now: float) -> None:
        if isinstance(spirit, Spawn):
            self._signals.append(self._birth(spirit, now))
            self._loud = True
        elif what == "seen":
            self._deaths.append(spirit)
            self._loud = True
        elif spirit.dead:
            return
        elif what == "beat":
            self._beat(spirit, now)
        elif what == "end":
            self._end(spirit, now)
        else:
            spirit.dead = True
            spirit.how = what
            self._at(spirit.temperament.seen, "seen", spirit, now)

    def _beat(self, spirit: Spirit, now: float) -> None:
        temperament = spirit.temperament
        stamp = now
        if temperament.lies:
            stamp += temperament.lies[spirit.beats % len(temperament.lies)]
        spirit.beats += 1
        if not self._chance(self.faults.lost):
            # A full pipe takes no more, and the spirit does not wait for it.
            if len(spirit.mail) < PIPE:
                spirit.mail.append(Beat(spirit.pid, stamp))
            self._loud = self._loud or not spirit.heard
        if spirit.beats < temperament.beats:
            every = temperament.every
            if every is None:
                every = self.settings.heartbeat_interval
            self._at(every, "beat", spirit, now)

    def _end(self, spirit: Spirit, now: float) -> None:
        temperament = spirit.temperament
        if self._calm:
            return
        if temperament.ending != "farewell":
            self._happen(temperament.ending, spirit, now)
            return
        spirit.mail.append(Farewell(spirit.pid, now))
        self._loud = True
        # A farewell is read in the turn it wakes, like a first beat.
        spirit.heard = False
        if temperament.leaves is not None:
            self._at(temperament.leaves, "death", spirit, now)

    def _exited(self, spirit: Spirit) -> Event:
        if spirit.how == "crashes":
            return Exited(spirit.pid, "exit code 1", last_words="Traceback ...")
        if spirit.how == "killed":
            return Exited(spirit.pid, "killed by SIGKILL", foreign=True)
        return Exited(spirit.pid, "exit code 0", clean=True)

    def _at(
        self,
        delay: float,
        what: str,
        spirit: Spirit | Spawn,
        now: float | None = None,
    ) -> None:
        """Let the kernel do something after *delay* seconds in which it runs."""
        if now is None:
            now = self.clock.now
        entry = (now + delay - self._frozen, next(self._tickets), what, spirit)
        heapq.heappush(self._heap, entry)

    # -- actions out ---------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        self.history.append((self._time, action))
        self.counts[type(action).__name__] += 1
        match action:
            case Spawn():
                self._fork(action)
            case Quit():
                self._quit(self.spirits[action.pid])
            case Kill():
                self._kill(self.spirits[action.pid])
            case Call():
                # Once a turn: slow hooks that are told of the beats that they have
                # delayed would never come to an end.
                if self.clock.now == self._time and self._chance(self.faults.slow):
                    self.halt(self._long())
            case Say() | Ready() | Reloaded():
                pass

    def _fork(self, action: Spawn) -> None:
        if self._chance(self.faults.births):
            self._at(LONGEST_BIRTH * self.rng.random(), "birth", action)
        else:
            self._observe(self._birth(action, self.clock.now))

    def _birth(self, action: Spawn, now: float) -> Event:
        """Fork, or do not."""
        slot, generation = action.slot, action.generation
        if self.clock.now < self._forks_fail_until or self._chance(self.faults.forks):
            return SpawnFailed("no more processes", slot, generation)
        temperament = self.choose(self.rng, self._births)
        if generation in self._broken:
            if self.rng.random() < MOSTLY:
                return Stillborn(slot, generation, "SyntaxError", "Traceback ...")
            temperament = STILLBORN
        spirit = Spirit(self._pid(), temperament)
        self._births += 1
        self.spirits[spirit.pid] = spirit
        if temperament.first is not None:
            self._at(temperament.first, "beat", spirit, now)
        if temperament.life is not None:
            self._at(temperament.life, "end", spirit, now)
        return Spawned(spirit.pid, slot, generation)

    def _pid(self) -> int:
        if self._chance(self.faults.reused):
            return next(pid for pid in count(2) if pid not in self.spirits)
        return next(pid for pid in self._pids if pid not in self.spirits)

    def _quit(self, spirit: Spirit) -> None:
        if spirit.temperament.leaves is not None and not spirit.leaving:
            spirit.leaving = True
            self._at(spirit.temperament.leaves, "death", spirit)

    def _kill(self, spirit: Spirit) -> None:
        spirit.killed = True
        self._at(0.001 if self._calm else spirit.temperament.dies, "killed", spirit)


def run_in_world(
    settings: PoolSettings,
    temperaments: Iterable[Temperament] | Choose = (OBEDIENT,),
    *,
    seed: int = 0,
    faults: Faults = PEACE,
    seconds: float = 600.0,
) -> World:
    """
    Let a pool with these settings live for a while, and give its world back.

    Args:
        settings: those of the pool.
        temperaments: of the spirits, by order of birth, the last for all later ones.
        seed: of everything that happens by chance.
        faults: what goes wrong.
        seconds: how long, in virtual time.

    Raises:
        Violation: the pool broke one of its rules.
    """
    world = World(settings, temperaments, seed=seed, faults=faults)
    world.run(seconds)
    return world
