"""
The record: what is known of a pool, and what each event adds to it.

Rules of this file: no clock, no signals, no processes, no chance. `observe` writes down
what happened and keeps its telling (hooks, log lines) in order; what is to be done
about it is the business of `core.pool`.

A life, told once: a birth is planned as `Spawn`; the shell forks and tells `Spawned`.
The first `Beat` makes the member alive, and from then on each beat only moves a
stamp. A member leaves because it said farewell, or because it was sent `Quit`: it was
silent, one too many, replaced because it was old or tired, or the pool stops. One that
leaves for too long is `Kill`ed. Only `Exited` ends a life.
"""

from __future__ import annotations

from ghostd.core.actions import Spawn
from ghostd.core.brake import SHORT_LIFE, Brake
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
from ghostd.core.member import Member
from ghostd.core.muster import Muster
from ghostd.core.reloads import Reloads
from ghostd.core.tale import Tale
from ghostd.settings import PoolSettings
from ghostd.typed import Any, Self, assert_never

UNDYING = 2.0
"""Seconds that a shutdown waits for a killed spirit that the kernel holds on to."""


class Record:
    """
    What is known of the spirits of one daemon.

    Args:
        settings: the checked figures.
        now: the time, seconds on the monotonic clock.
        boot_deadline: when whoever waits for the start wants a verdict, None: never.
        seed: 0 to 1, spreads the pauses of different daemons.

    Attributes:
        members: the living by pid, in the order of their birth.
        wanted: how many spirits there should be.
        reloads: which generation is good, and which is on trial.
        stopping: None, or the `Stop` that is being carried out.
        failure: why the pool gave up, "" if it did not.
    """

    def __init__(
        self,
        settings: PoolSettings,
        now: float,
        boot_deadline: float | None = None,
        seed: float = 0.0,
    ) -> None:
        """Begin with nobody."""
        self.settings = settings
        self.members: dict[int, Member] = {}
        self.wanted: int = settings.spirits
        self.reloads: Reloads = Reloads()
        self.stopping: Stop | None = None
        self.failure: str = ""
        self.brake: Brake = Brake(settings.budget, seed)
        self.fork_brake: Brake = Brake(0, seed)
        self._now = now
        self._boot_deadline = boot_deadline
        self._boot_death = ""
        self._booted = False
        self._proven: set[int] = set()
        self._amnesty = now
        self._abandoned = False
        self._tale = Tale()
        self._unborn: list[Spawn] = []
        self._muster: Muster | None = None
        self._stop_at = now
        self._dice = seed

    # -- what others may ask ---------------------------------------------------

    @property
    def healthy(self) -> int:
        """Count the members with at least one beat."""
        return sum(member.beat is not None for member in self.members.values())

    @property
    def generation(self) -> int:
        """Give the generation that serves; members of an older one are replaced."""
        return self.reloads.good

    @property
    def ready(self) -> bool:
        """Tell whether work may be sent here: somebody serves, no stop has begun."""
        return self.stopping is None and any(m.alive for m in self.members.values())

    @property
    def replaced(self) -> int:
        """Count the members that serve and are of the newest code."""
        newest = self.reloads.underway or self.generation
        return sum(m.alive and m.generation == newest for m in self.members.values())

    @property
    def over(self) -> bool:
        """Tell whether the shutdown is complete and everything has been told."""
        if self.stopping is None or self._tale or self._unborn:
            return False
        return all(self._undying(member) for member in self.members.values())

    @property
    def exit_code(self) -> int:
        """Give 0 for a life that ended as wanted, else 1."""
        return 1 if self.failure else 0

    # -- what happened ---------------------------------------------------------

    def observe(self, event: Event, now: float) -> None:  # noqa: C901, PLR0912 - rows
        """Record a fact. Facts about strangers change nothing."""
        self._now = now = max(now, self._now)
        match event:
            case Beat():
                self._on_beat(event, now)
                return
            case Spawned():
                self._on_spawned(event, now)
            case SpawnFailed():
                self._on_spawn_failed(event, now)
            case Stillborn():
                self._on_stillborn(event, now)
            case Farewell():
                self._on_farewell(event, now)
            case Tired():
                self._on_tired(event)
            case Exited():
                self._on_exited(event, now)
            case Stop():
                self._on_stop(event, now)
            case Grow():
                self._on_resize(self.wanted + event.count)
            case Shrink():
                self._on_resize(self.wanted - event.count)
            case Resize():
                self._on_resize(event.spirits)
            case Reload():
                self._on_reload()
            case TimeLost():
                self._on_time_lost(event, now)
            case _:
                assert_never(event)
        self._muster = None

    def _on_spawned(self, event: Spawned, now: float) -> None:
        self._born(event)
        member = Member(event.pid, event.slot, event.generation, now)
        if self.settings.max_age is not None:
            member.expires = now + self._spread(self.settings.max_age)
        self.members[event.pid] = member
        self.fork_brake.forget()
        self._tale.spawned(event.pid)

    def _born(self, event: Spawned | SpawnFailed | Stillborn) -> None:
        """Cross a birth off the list of those that have not been told of yet."""
        for spawn in self._unborn:
            if (spawn.slot, spawn.generation) == (event.slot, event.generation):
                self._unborn.remove(spawn)
                return

    def _spread(self, limit: float) -> float:
        """Lower a limit by chance, so that those born together do not end together."""
        # The golden ratio spreads any number of throws evenly, without a memory.
        self._dice = (self._dice + 0.618034) % 1.0
        return limit * (1.0 - self.settings.jitter * self._dice)

    def _on_spawn_failed(self, event: SpawnFailed, now: float) -> None:
        self._born(event)
        # What fails in one turn, however often, is one failure.
        if not self.fork_brake.holds(now):
            self.fork_brake.strike(now)
        pause = self.fork_brake.until - now
        self._tale.fork_failed(event.reason, pause)

    def _on_stillborn(self, event: Stillborn, now: float) -> None:
        self._born(event)
        reason = f"{event.words}\n{event.last_words}".strip()
        if self.stopping is not None:
            return
        if event.generation == self.reloads.trial:
            self._drop(event.generation, reason)
        elif event.generation == self.generation:
            self._tale.stillborn(event.generation, reason)
            self._on_useless_code(reason, "the code does not load", now)

    def _on_beat(self, event: Beat, now: float) -> None:
        member = self.members.get(event.pid)
        if member is None:
            return
        # The stamp is the spirit's word. A mad one may lie about itself, but neither
        # into the future nor back behind what it said before. NaN counts as now.
        # Now comes first: min() keeps its first argument beside a NaN.
        at = min(now, event.at)
        first = member.beat is None
        member.beat = max(at, member.heard)
        if first:
            member.ready_at = now
            self._muster = None
            self._proven.add(member.slot)
            self._tale.healthy(event.pid)
        self._tale.call("heartbeat", event.pid)

    def _on_farewell(self, event: Farewell, now: float) -> None:
        member = self.members.get(event.pid)
        if member is None:
            return
        if member.beat is None:
            # The first that is heard of it, so it has worked.
            self._on_beat(Beat(event.pid, event.at), now)
        if member.active:
            member.left_at = now
            self._tale.finished(event.pid)
            if self.reloads.is_canary(member):
                # Its work was short, and it has done it.
                self._prove(member.generation)

    def _on_tired(self, event: Tired) -> None:
        member = self.members.get(event.pid)
        if member is not None:
            self._tire(member, event.why)

    def _on_exited(self, event: Exited, now: float) -> None:
        member = self.members.pop(event.pid, None)
        if member is None:
            return
        pid, words = event.pid, event.words
        if not event.clean and member.killed_at is None:
            self._tale.died(pid, words)
        self._tale.reaped(pid, words)
        if self.stopping is not None or (member.told and not member.silent):
            return
        canary = self.reloads.is_canary(member) and member.active
        # Whoever sent that signal says nothing about the body, unless it comes for one
        # canary after the other.
        if (
            event.foreign
            and self._proven
            and (not canary or self.reloads.strike() <= self.settings.budget)
        ):
            return
        if canary:
            self._on_dead_canary(member, event, now)
            return
        if self.reloads.is_dropped(member):
            return
        if member.beat is None:
            self._on_early_death(event, now)
        elif now - member.born < SHORT_LIFE:
            self._slow_down(f"spirit {pid} lived for less than {SHORT_LIFE:g} s", now)

    def _on_dead_canary(self, member: Member, event: Exited, now: float) -> None:
        if member.beat is None:
            reason = f"Spirit {event.pid} ended before it was ready: {event.words}"
        else:
            age = now - member.born
            reason = f"Spirit {event.pid} ended after {age:.1f} s: {event.words}"
        self._drop(member.generation, f"{reason}\n{event.last_words}".strip())

    def _on_early_death(self, event: Exited, now: float) -> None:
        reason = f"Spirit {event.pid} stopped too early: {event.words}"
        if event.clean and not event.foreign:
            reason += "; its body returned without a tick()"
        reason = f"{reason}\n{event.last_words}".strip()
        if not self._proven:
            self._tale.too_early(event.pid, event.words)
        cause = f"spirit {event.pid} died before its first beat"
        self._on_useless_code(reason, cause, now)

    def _on_useless_code(self, reason: str, cause: str, now: float) -> None:
        """Code that serves, or should, does not even begin to work."""
        if not self._proven:
            # Nothing of this daemon has ever worked: no use in trying on.
            self._give_up(reason)
            return
        self._boot_death = reason
        self._stall(reason)
        self._slow_down(cause, now)

    def _on_stop(self, event: Stop, now: float) -> None:
        harder = self.stopping is not None and self.stopping.graceful
        if self.stopping is None or (harder and not event.graceful):
            self.stopping = event
            self._stop_at = now
            self._tale.call("finish", event.graceful)
            self._forget_reload("the daemon is stopping")

    def _on_resize(self, wanted: int) -> None:
        wanted = max(0, wanted)
        if wanted == self.wanted or self.stopping is not None:
            return
        self._tale.resized(self.wanted, wanted)
        self.wanted = wanted

    def _on_reload(self) -> None:
        if self.stopping is None:
            self._forget_reload("another reload has begun")
            self._tale.reloading(self.reloads.ask())

    def _forget_reload(self, reason: str) -> None:
        if (generation := self.reloads.underway) is not None:
            self._tale.unfinished(generation, reason)
            self.reloads.end()

    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        # Nobody can be blamed for time in which the manager could not listen, or in
        # which perhaps the whole machine slept: the stamps move as if it had not
        # been, and on top nobody is judged for one fresh interval.
        for member in self.members.values():
            member.shift(event.seconds, now)
        self._amnesty = now + self.settings.heartbeat_interval
        self._tale.late(event.seconds)

    # -- what changes, and is told ---------------------------------------------

    def _dismiss(self, member: Member, now: float) -> None:
        self._muster = None
        member.left_at = now
        member.told = True
        self._tale.quit(member.pid, self.settings.graceful_timeout)

    def _kill(self, member: Member, now: float) -> None:
        self._muster = None
        member.killed_at = now
        if member.left_at is None:
            member.left_at = now
        self._tale.kill(member.pid)

    def _tire(self, member: Member, why: str) -> None:
        if member.alive and member.tired_at is None and self.stopping is None:
            self._muster = None
            member.tired_at = self._now
            self._tale.tired(member.pid, why)
            if self._now - member.born < SHORT_LIFE:
                cause = f"spirit {member.pid} was tired within {SHORT_LIFE:g} s"
                self._slow_down(cause, self._now)

    def _prove(self, trial: int) -> None:
        """Let the generation on trial be good: everybody else is old now."""
        self._muster = None
        self.reloads.prove(trial)
        # Whatever ended too soon was other code.
        self.brake.forget()
        old = sum(m.active and self.reloads.is_old(m) for m in self.members.values())
        self._tale.proven(trial, old)

    def _drop(self, trial: int, reason: str) -> None:
        """End a trial: its canaries are to go, and everything else is as it was."""
        self._muster = None
        self.reloads.end()
        self._tale.dropped(trial, self.generation, reason)

    def _stall(self, reason: str) -> None:
        """Let nobody wait for a reload that now may take as long as it likes."""
        if (rolling := self.reloads.rolling) is not None:
            self._tale.unfinished(rolling, f"{reason}\nthe reload goes on")
            self.reloads.end()

    def _slow_down(self, cause: str, now: float) -> None:
        pause = self.brake.strike(now)
        if pause:
            self._tale.braked(cause, pause)

    def _blame(self, reason: str) -> None:
        """Have the daemon end as failed; the first reason stays."""
        self.failure = self.failure or reason

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._on_stop(Stop(graceful=False), self._now)

    def _undying(self, member: Member) -> bool:
        killed_at = member.killed_at
        return killed_at is not None and self._now >= killed_at + UNDYING

    # -- plain data ------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """
        Give the state as plain data (numbers, texts, lists, dicts); JSON can carry it.

        What has been observed but not told yet is not part of it: plan first.
        """
        return {
            "version": 2,
            "now": self._now,
            "wanted": self.wanted,
            "reloads": self.reloads.plain(),
            "unborn": [[spawn.slot, spawn.generation] for spawn in self._unborn],
            "dice": self._dice,
            "stop_at": self._stop_at,
            "stopping": None if self.stopping is None else self.stopping.graceful,
            "failure": self.failure,
            "booted": self._booted,
            "boot_deadline": self._boot_deadline,
            "boot_death": self._boot_death,
            "proven": sorted(self._proven),
            "amnesty": self._amnesty,
            "abandoned": self._abandoned,
            "brake": self.brake.plain(),
            "fork_brake": self.fork_brake.plain(),
            "members": [member.plain() for member in self.members.values()],
        }

    @classmethod
    def from_plain(cls, settings: PoolSettings, data: dict[str, Any]) -> Self:
        """
        Rebuild a pool from `plain`.

        Raises:
            ValueError: the data is of a version that this code does not know.
        """
        if data.get("version") != 2:  # noqa: PLR2004 - see `plain`
            raise ValueError(f"pool state of version {data.get('version')!r}, known: 2")
        pool = cls(settings, data["now"], data["boot_deadline"])
        pool.wanted = data["wanted"]
        pool.reloads.restore(data["reloads"])
        pool._unborn = [Spawn(*item) for item in data["unborn"]]
        pool._dice = data["dice"]
        pool._stop_at = data["stop_at"]
        stopping = data["stopping"]
        pool.stopping = None if stopping is None else Stop(graceful=stopping)
        pool.failure = data["failure"]
        pool._booted = data["booted"]
        pool._boot_death = data["boot_death"]
        pool._proven = set(data["proven"])
        pool._amnesty = data["amnesty"]
        pool._abandoned = data["abandoned"]
        pool.brake.restore(data["brake"])
        pool.fork_brake.restore(data["fork_brake"])
        members = [Member.from_plain(item) for item in data["members"]]
        pool.members = {member.pid: member for member in members}
        return pool
