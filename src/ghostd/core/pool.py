"""
The pool: who lives, who should, and what to do about the difference.

Rules of this file: no clock, no signals, no processes, no chance. Time comes in as
*now* (seconds, monotonic); what should happen goes out as actions. If you need an
effect here, add an action instead.

A life, told once: a birth is planned as `Spawn`; the shell forks and tells `Spawned`.
The first `Beat` makes the member alive, and from then on each beat only moves a
stamp. A member leaves because it said farewell, or because `plan` sent it `Quit`:
it was silent, one too many, of an old generation, or the pool stops. One that
leaves for too long is `Kill`ed. Only `Exited` ends a life, and the next `plan`
sees one too few and fills the place.

`observe` records what happened and keeps its telling (hooks, log lines) in order.
`plan` compares what is with what is wanted. Each rule stands once, in the method
that is named after it, so events may come late, twice or in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from ghostd.core.actions import Action, Ready, Spawn
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
    Stop,
    TimeLost,
)
from ghostd.core.member import Member
from ghostd.core.tale import Tale
from ghostd.settings import PoolSettings
from ghostd.typed import Any, assert_never

BURST = 16
"""Births in one plan; between two plans the shell looks at its signals."""

UNDYING = 2.0
"""Seconds that a shutdown waits for a killed spirit that the kernel holds on to."""


class Pool:
    """
    The spirits of one daemon.

    Args:
        settings: the checked figures.
        now: the time, seconds on the monotonic clock.
        boot_deadline: when whoever waits for the start wants a verdict, None: never.
        seed: 0 to 1, spreads the pauses of different daemons.

    Attributes:
        members: the living by pid, in the order of their birth.
        wanted: how many spirits there should be.
        generation: counts reloads; members of an older one are replaced.
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
        """Start empty; the first `plan` fills it."""
        self.settings = settings
        self.members: dict[int, Member] = {}
        self.wanted: int = settings.spirits
        self.generation: int = 0
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
        self._hurry = True
        self._tale = Tale()

    # -- what others may ask ---------------------------------------------------

    @property
    def healthy(self) -> int:
        """Count the members with at least one beat."""
        return sum(member.beat is not None for member in self.members.values())

    @property
    def over(self) -> bool:
        """Tell whether the shutdown is complete and everything has been told."""
        if self.stopping is None or self._tale:
            return False
        return all(self._undying(member) for member in self.members.values())

    @property
    def exit_code(self) -> int:
        """Give 0 for a life that ended as wanted, else 1."""
        return 1 if self.failure else 0

    # -- what happened ---------------------------------------------------------

    def observe(self, event: Event, now: float) -> None:  # noqa: C901 - one row each
        """Record a fact. Facts about strangers change nothing."""
        self._now = now = max(now, self._now)
        match event:
            case Spawned():
                self._on_spawned(event, now)
            case SpawnFailed():
                self._on_spawn_failed(event, now)
            case Beat():
                self._on_beat(event, now)
            case Farewell():
                self._on_farewell(event, now)
            case Exited():
                self._on_exited(event, now)
            case Stop():
                self._on_stop(event)
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

    def _on_spawned(self, event: Spawned, now: float) -> None:
        self.members[event.pid] = Member(event.pid, event.slot, event.generation, now)
        self.fork_brake.forget()
        self._tale.spawned(event.pid)

    def _on_spawn_failed(self, event: SpawnFailed, now: float) -> None:
        # What fails in one turn, however often, is one failure.
        if not self.fork_brake.holds(now):
            self.fork_brake.strike(now)
        pause = self.fork_brake.until - now
        self._tale.fork_failed(event.reason, pause)

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
        if event.foreign and self._proven:
            # Whoever sent that signal says nothing about the body.
            return
        if member.beat is None:
            self._on_early_death(event, now)
        elif now - member.born < SHORT_LIFE:
            self._slow_down(f"spirit {pid} lived for less than {SHORT_LIFE:g} s", now)

    def _on_early_death(self, event: Exited, now: float) -> None:
        reason = f"Spirit {event.pid} stopped too early: {event.words}"
        if event.clean:
            reason += "; its body returned without a tick()"
        reason = f"{reason}\n{event.last_words}".strip()
        if self._proven:
            self._boot_death = reason
            self._slow_down(f"spirit {event.pid} died before its first beat", now)
        else:
            # Nothing of this daemon has ever worked: no use in trying on.
            self._tale.too_early(event.pid, event.words)
            self._give_up(reason)

    def _on_stop(self, event: Stop) -> None:
        harder = self.stopping is not None and self.stopping.graceful
        if self.stopping is None or (harder and not event.graceful):
            self.stopping = event
            self._tale.call("finish", event.graceful)

    def _on_resize(self, wanted: int) -> None:
        wanted = max(0, wanted)
        if wanted == self.wanted or self.stopping is not None:
            return
        self._tale.resized(self.wanted, wanted)
        self.wanted = wanted

    def _on_reload(self) -> None:
        if self.stopping is None:
            self.generation += 1
            self._tale.reloading(len(self.members), self.generation)

    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        # Nobody can be blamed for time in which the manager could not listen, or in
        # which perhaps the whole machine slept: the stamps move as if it had not
        # been, and on top nobody is judged for one fresh interval.
        for member in self.members.values():
            member.shift(event.seconds, now)
        self._amnesty = now + self.settings.heartbeat_interval
        self._tale.late(event.seconds)

    # -- what to do about it ---------------------------------------------------

    def plan(self, now: float) -> list[Action]:
        """
        Say what to do now, in order; [] when all is as wanted.

        What has been planned counts as done: it is not planned again.
        """
        self._now = now = max(now, self._now)
        self._hurry = False
        self._judge(now)
        if self.stopping is None:
            self._judge_boot(now)
        # A boot that has just been judged may be a shutdown now.
        if self.stopping is not None:
            self._shut_down(now)
        else:
            self._retire(now)
            self._refill(now)
        return self._tale.take()

    def _judge(self, now: float) -> None:
        """Dismiss the silent; kill those that have been leaving for too long."""
        patience = self._patience
        graceful = self.settings.graceful_timeout
        blameless = self.stopping is not None or now < self._amnesty
        for member in self.members.values():
            if member.left_at is None:
                if not blameless and now >= member.heard + patience:
                    self._dismiss_silent(member, now)
            elif member.killed_at is None and now >= member.left_at + graceful:
                self._kill(member, now)

    def _dismiss_silent(self, member: Member, now: float) -> None:
        member.silent = True
        timeout = self.settings.heartbeat_timeout
        self._tale.hung(member.pid, timeout, now - member.heard)
        self._dismiss(member, now)

    def _judge_boot(self, now: float) -> None:
        if self._booted:
            return
        if len(self._proven) >= self.wanted:
            self._booted = True
            self._tale.add(Ready())
        elif self._boot_deadline is not None and now >= self._boot_deadline:
            self._booted = True
            if self._boot_death:
                self._give_up(self._boot_death)
            else:
                self._tale.add(Ready())

    def _shut_down(self, now: float) -> None:
        graceful = self.stopping is not None and self.stopping.graceful
        for member in self.members.values():
            if graceful and member.active:
                self._dismiss(member, now)
            elif not graceful and member.killed_at is None:
                self._kill(member, now)
        undying = [m.pid for m in self.members.values() if self._undying(m)]
        if undying and len(undying) == len(self.members) and not self._abandoned:
            self._abandoned = True
            words = f"Spirits {undying} do not die: the kernel holds them"
            self.failure = self.failure or words
            self._tale.undying(words, undying)

    def _retire(self, now: float) -> None:
        """Dismiss who is one too many, then who is old and already replaced."""
        active = [m for m in self.members.values() if m.left_at is None]
        stale = [m for m in active if m.generation < self.generation]
        for member in stale:
            if member.beat is None:
                # Nothing is lost with an old one that never worked.
                self._dismiss(member, now)
        if stale:
            active = [m for m in active if m.left_at is None]
            stale = [m for m in stale if m.left_at is None]
        surplus = len(active) - self.wanted - self._surge(stale)
        if surplus > 0:
            # Those without a beat, then the old, then the youngest.
            order = sorted(
                active,
                key=lambda m: (m.alive, m not in stale, -m.born, -m.pid),
            )
            for member in order[:surplus]:
                self._dismiss(member, now)
            return
        if not stale:
            return
        alive = sum(member.alive for member in active)
        if self.settings.spare:
            replaceable = alive - self.wanted
        else:
            # No overlap allowed: one goes first, but only while all others serve.
            replaceable = int(alive == self.wanted == len(self.members))
        fresh = {m.slot for m in active if m.generation == self.generation}
        order = sorted(stale, key=lambda m: (m.slot not in fresh, m.slot))
        for member in order[: max(0, replaceable)]:
            self._dismiss(member, now)

    def _refill(self, now: float) -> None:
        """Plan births: as many as are missing, where there is room and no brake."""
        missing, room = self._missing(), self._room()
        if missing <= 0 or room <= 0 or now < self._birth_at():
            return
        births = min(missing, room, BURST)
        self.brake.release(now)
        if self.brake.cautious:
            starting = any(m.active and m.beat is None for m in self.members.values())
            births = 0 if starting else 1
        else:
            self._hurry = births < min(missing, room)
        taken: set[int] = set()
        for _ in range(births):
            slot = self._free_slot(taken)
            taken.add(slot)
            self._tale.add(Spawn(slot, self.generation))

    def next_deadline(self) -> float | None:
        """
        Tell when the manager must look again if nothing happens before.

        Returns:
            Seconds on the monotonic clock, never earlier than the last *now* that
            the pool was told; None when nothing is due.

        Source: the seed counts heartbeat_interval + heartbeat_timeout from the last
        beat, so that a beat may be late by one whole interval.
        """
        if self._hurry or self._tale:
            return self._now
        due = min(self._dues(), default=None)
        if self.stopping is None:
            wanting = self._room() > 0 and self._missing() > 0
            birth_at = self._try_at() if wanting else None
            boot = None if self._booted else self._boot_deadline
            due = min((t for t in (due, birth_at, boot) if t is not None), default=None)
        return None if due is None else max(due, self._now)

    # -- the figures behind ----------------------------------------------------

    @property
    def _patience(self) -> float:
        """Seconds of silence that are borne."""
        return self.settings.heartbeat_interval + self.settings.heartbeat_timeout

    def _undying(self, member: Member) -> bool:
        killed_at = member.killed_at
        return killed_at is not None and self._now >= killed_at + UNDYING

    def _dues(self) -> Iterator[float]:
        """Give when something is due for each member."""
        patience, graceful = self._patience, self.settings.graceful_timeout
        stopping = self.stopping is not None
        for member in self.members.values():
            if member.killed_at is not None:
                if stopping and not self._undying(member):
                    yield member.killed_at + UNDYING
            elif member.left_at is not None:
                yield member.left_at + graceful
            else:
                yield max(member.heard + patience, self._amnesty)

    def _surge(self, stale: list[Member]) -> int:
        """Say by how many the active may exceed the wanted: one, during a reload."""
        return 1 if stale and self.settings.spare else 0

    def _missing(self) -> int:
        active = [m for m in self.members.values() if m.left_at is None]
        stale = [m for m in active if m.generation < self.generation]
        return self.wanted + self._surge(stale) - len(active)

    def _room(self) -> int:
        return self.wanted + self.settings.spare - len(self.members)

    def _birth_at(self) -> float:
        return max(self.brake.until, self.fork_brake.until)

    def _try_at(self) -> float:
        """Say when to try; who waits for a first beat may be forgiven before."""
        starting = any(m.active and m.beat is None for m in self.members.values())
        if starting and self.brake.cautious:
            return max(self._birth_at(), self.brake.forgives_at)
        return self._birth_at()

    def _free_slot(self, taken: set[int]) -> int:
        """
        Find the place of a newborn: the lowest that no active member holds.

        A leaving member has given up its place, so its replacement inherits it.
        In a reload every place is held: then the newborn takes the lowest one whose
        holder is old, and that holder is the next to be dismissed.
        """
        active = [m for m in self.members.values() if m.left_at is None]
        held = taken | {m.slot for m in active}
        for slot in range(self.wanted):
            if slot not in held:
                return slot
        fresh = taken | {m.slot for m in active if m.generation == self.generation}
        return next(slot for slot in count() if slot not in fresh)

    def _dismiss(self, member: Member, now: float) -> None:
        member.left_at = now
        member.told = True
        self._tale.quit(member.pid, self.settings.graceful_timeout)

    def _kill(self, member: Member, now: float) -> None:
        member.killed_at = now
        if member.left_at is None:
            member.left_at = now
        self._tale.kill(member.pid)

    def _slow_down(self, cause: str, now: float) -> None:
        pause = self.brake.strike(now)
        if pause:
            self._tale.braked(cause, pause)

    def _give_up(self, reason: str) -> None:
        self.failure = reason
        self._on_stop(Stop(graceful=False))

    # -- plain data ------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """
        Give the state as plain data (numbers, texts, lists, dicts); JSON can carry it.

        What has been observed but not told yet is not part of it: plan first.
        """
        return {
            "version": 1,
            "now": self._now,
            "wanted": self.wanted,
            "generation": self.generation,
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
    def from_plain(cls, settings: PoolSettings, data: dict[str, Any]) -> Pool:
        """
        Rebuild a pool from `plain`.

        Raises:
            ValueError: the data is of a version that this code does not know.
        """
        if data.get("version") != 1:
            raise ValueError(f"pool state of version {data.get('version')!r}, known: 1")
        pool = cls(settings, data["now"], data["boot_deadline"])
        pool.wanted = data["wanted"]
        pool.generation = data["generation"]
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
