"""
The pool: who lives, who should, and what to do about the difference.

Rules of this file: no clock, no signals, no processes, no chance. Time comes in as
*now* (seconds, monotonic); what should happen goes out as actions. If you need an
effect here, add an action instead.

A life, told once: a birth is planned as `Spawn`; the shell forks and tells `Spawned`.
The first `Beat` makes the member alive, and from then on each beat only moves a
stamp. A member leaves because it said farewell, or because `plan` sent it `Quit`:
it was silent, one too many, replaced because it was old or tired, or the pool stops.
One that leaves for too long is `Kill`ed. Only `Exited` ends a life, and the next
`plan` sees one too few and fills the place.

A reload, told once: `Reload` puts a generation on trial (see `core.reloads`), `plan`
has one canary born beside all others, and what becomes of it decides.

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
    Stillborn,
    Stop,
    TimeLost,
    Tired,
)
from ghostd.core.member import Member
from ghostd.core.reloads import Reloads
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
        """Start empty; the first `plan` fills it."""
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
        self._hurry = True
        self._tale = Tale()
        self._unborn: list[Spawn] = []
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
            case Spawned():
                self._on_spawned(event, now)
            case SpawnFailed():
                self._on_spawn_failed(event, now)
            case Stillborn():
                self._on_stillborn(event, now)
            case Beat():
                self._on_beat(event, now)
            case Farewell():
                self._on_farewell(event, now)
            case Tired():
                self._on_tired(event, now)
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
            self._drop(reason, now)
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
                self._prove()

    def _on_tired(self, event: Tired, _now: float) -> None:
        member = self.members.get(event.pid)
        if member is not None:
            self._tire(member, event.why)

    def _tire(self, member: Member, why: str) -> None:
        if member.alive and member.tired_at is None and self.stopping is None:
            member.tired_at = self._now
            self._tale.tired(member.pid, why)

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
        if self.reloads.is_canary(member) and member.active:
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
        self._drop(f"{reason}\n{event.last_words}".strip(), now)

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
        if (rolling := self.reloads.rolling) is not None:
            # Whoever waits need not wait for all the pauses that this will cost.
            self._tale.unfinished(rolling, f"{reason}\nthe reload goes on")
            self.reloads.end()
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
            self._judge_trial(now)
        # A boot that has just been judged may be a shutdown now.
        if self.stopping is not None:
            self._shut_down(now)
        else:
            self._retire(now)
            self._refill(now)
            self._judge_roll()
        return self._tale.take()

    def _judge(self, now: float) -> None:
        """Dismiss the silent; kill those that have been leaving for too long."""
        graceful = self.settings.graceful_timeout
        blameless = self.stopping is not None or now < self._amnesty
        for member in self.members.values():
            if member.left_at is None:
                if not blameless and now >= member.heard + self._patience(member):
                    self._dismiss_silent(member, now)
                elif member.expires is not None and now >= member.expires:
                    self._tire(member, f"it is {now - member.born:.0f} seconds old")
            elif member.killed_at is None and now >= member.left_at + graceful:
                self._kill(member, now)

    def _dismiss_silent(self, member: Member, now: float) -> None:
        member.silent = True
        silent = now - member.heard
        if member.beat is None:
            timeout = self.settings.boot_timeout
            reason = f"Spirit {member.pid} is not ready after {silent:.1f} seconds"
        else:
            timeout = self.settings.heartbeat_timeout
            reason = f"Spirit {member.pid} has been silent for {silent:.1f} seconds"
        self._tale.hung(member.pid, timeout, silent)
        canary = self.reloads.is_canary(member)
        self._dismiss(member, now)
        if canary:
            self._drop(reason, now)
        elif member.beat is None:
            self._forget_reload(f"{reason}\nthe reload goes on")

    def _judge_trial(self, now: float) -> None:
        """Let the generation on trial pass, once its canary has lived long enough."""
        proven_at = self._proven_at()
        nobody_wanted = self.reloads.trial is not None and not self.wanted
        if nobody_wanted or (proven_at is not None and now >= proven_at):
            self._prove()

    def _prove(self) -> None:
        generation = self.reloads.prove()
        # Whatever ended too soon was other code.
        self.brake.forget()
        old = sum(m.active and self._stale(m) for m in self.members.values())
        self._tale.proven(generation, old)

    def _drop(self, reason: str, now: float) -> None:
        """End a trial: its canaries go, and everything else is as it was."""
        trial = self.reloads.trial
        if trial is not None:
            self.reloads.end()
            self._tale.dropped(trial, self.generation, reason)
            self._dismiss_dropped(now)

    def _dismiss_dropped(self, now: float) -> None:
        for member in self.members.values():
            if member.active and self.reloads.is_dropped(member):
                self._dismiss(member, now)

    def _judge_roll(self) -> None:
        """Tell that a reload is complete, once nobody is left of older code."""
        rolling = self.reloads.rolling
        if rolling is None or any(
            m.active and self.reloads.is_old(m) for m in self.members.values()
        ):
            return
        if sum(m.alive for m in self.members.values()) >= self.wanted:
            self.reloads.end()
            self._tale.reloaded(rolling)

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
        if graceful and now < self._stop_at + self.settings.drain_delay:
            return  # whoever sends us work has yet to notice that we stop
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
        """Dismiss who is one too many, then the old and the tired, once replaced."""
        self._dismiss_dropped(now)
        for member in self.members.values():
            if member.active and member.beat is None and self.reloads.is_old(member):
                # Nothing is lost with an old one that never worked.
                self._dismiss(member, now)
        regular = self._regular()
        stale = [m for m in regular if self._stale(m)]
        serving = len(regular) + (0 if self.settings.spare else self._canaries())
        surplus = serving - self.wanted - self._surge(stale)
        if surplus > 0:
            # Those without a beat, then the old, then the youngest.
            order = sorted(
                regular,
                key=lambda m: (m.alive, m not in stale, -m.born, -m.pid),
            )
            for member in order[:surplus]:
                self._dismiss(member, now)
            return
        fresh = {m.slot for m in regular if not self._stale(m)}
        order = sorted(stale, key=lambda m: (m.slot not in fresh, m.slot))
        for member in order[: self._replaceable(regular, stale)]:
            self._dismiss(member, now)
        self._make_room_for_a_canary(now)

    def _replaceable(self, regular: list[Member], stale: list[Member]) -> int:
        """Say how many of the stale may go now."""
        if not stale:
            return 0
        missing = self.wanted - sum(member.alive for member in regular)
        # Only new code is worth an emptier house; the tired can wait.
        allowed = 0
        if all(map(self.reloads.is_old, stale)):
            allowed = self.settings.max_unavailable
        if not self.settings.spare:
            # No overlap allowed: one goes first, but only when nobody is leaving.
            allowed = max(1, allowed) if len(self.members) <= self.wanted else 0
        return max(0, allowed - missing)

    def _make_room_for_a_canary(self, now: float) -> None:
        """Where no overlap is allowed, dismiss one that serves while all others do."""
        if self.settings.spare or not self._wants_canary():
            return
        regular = self._regular()
        if len(regular) == self.wanted == len(self.members) and all(
            member.alive for member in regular
        ):
            self._dismiss(min(regular, key=lambda member: member.slot), now)

    def _refill(self, now: float) -> None:
        """Plan births: as many as are missing, where there is room and no brake."""
        room = self._room()
        if room <= 0 or self.fork_brake.holds(now):
            return
        births = wishes = min(self._missing(), room)
        self.brake.release(now)
        if self.brake.holds(now):
            births = 0
        elif self.brake.cautious:
            births = min(births, 0 if self._starting() else 1)
        else:
            births = min(births, BURST)
            self._hurry = births < wishes
        for _ in range(births):
            self._bear(self.generation)
        # What the brake holds against the code that serves says nothing about other
        # code, which may well be the repair.
        trial = self.reloads.trial
        if trial is not None and births < min(room, BURST) and self._canary_fits():
            self._bear(trial)

    def _bear(self, generation: int) -> None:
        spawn = Spawn(self._free_slot(generation), generation)
        self._unborn.append(spawn)
        self._tale.add(spawn)

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
            room = self._room() > 0
            birth_at = self._try_at() if room and self._missing() > 0 else None
            hatch_at = self.fork_brake.until if room and self._canary_fits() else None
            boot = None if self._booted else self._boot_deadline
            dues = (due, birth_at, hatch_at, boot, self._proven_at())
            due = min((time for time in dues if time is not None), default=None)
        return None if due is None else max(due, self._now)

    # -- the figures behind ----------------------------------------------------

    def _patience(self, member: Member) -> float:
        """Say how many seconds of silence are borne."""
        settings = self.settings
        if member.beat is None:
            return settings.boot_timeout
        return settings.heartbeat_interval + settings.heartbeat_timeout

    def _undying(self, member: Member) -> bool:
        killed_at = member.killed_at
        return killed_at is not None and self._now >= killed_at + UNDYING

    def _dues(self) -> Iterator[float]:
        """Give when something is due for each member."""
        graceful = self.settings.graceful_timeout
        stopping = self.stopping is not None
        delayed = self._stop_at + self.settings.drain_delay
        for member in self.members.values():
            if member.killed_at is not None:
                if stopping and not self._undying(member):
                    yield member.killed_at + UNDYING
            elif member.left_at is not None:
                yield member.left_at + graceful
            elif stopping:
                yield delayed
            else:
                yield max(member.heard + self._patience(member), self._amnesty)
                if member.alive and member.expires and member.tired_at is None:
                    yield member.expires

    def _stale(self, member: Member) -> bool:
        """Tell whether another is to take a member's place before it goes."""
        return member.tired_at is not None or self.reloads.is_old(member)

    def _regular(self) -> list[Member]:
        """List the active members that are no canaries."""
        reloads = self.reloads
        return [
            m
            for m in self.members.values()
            if m.active and not reloads.is_canary(m) and not reloads.is_dropped(m)
        ]

    def _regulars(self) -> int:
        """Count the regular ones, and those that are about to be born."""
        unborn = sum(spawn.generation <= self.generation for spawn in self._unborn)
        return len(self._regular()) + unborn

    def _places(self) -> int:
        """Count the places of regular ones: one less where the canary needs one."""
        taken = self.reloads.trial is not None and not self.settings.spare
        return max(0, self.wanted - int(taken))

    def _canaries(self) -> int:
        """Count the active members on trial, and those that are about to be born."""
        reloads = self.reloads
        if reloads.trial is None:
            return 0
        living = sum(m.active and reloads.is_canary(m) for m in self.members.values())
        return living + sum(s.generation == reloads.trial for s in self._unborn)

    def _wants_canary(self) -> bool:
        return (
            self.reloads.trial is not None and self.wanted > 0 and not self._canaries()
        )

    def _proven_at(self) -> float | None:
        return self.reloads.proven_at(self.members.values(), self.settings.canary_time)

    def _canary_fits(self) -> bool:
        """Tell whether a canary is wanted, and nobody is in its place."""
        # One that was begun before the trial may be one too many: it goes first.
        return self._wants_canary() and self._regulars() <= self._places()

    def _starting(self) -> bool:
        """Tell whether a regular one is on the way to a first beat."""
        trial = self.reloads.trial
        return any(m.beat is None for m in self._regular()) or any(
            spawn.generation != trial for spawn in self._unborn
        )

    def _surge(self, stale: list[Member]) -> int:
        """
        Say by how many the regular ones may exceed their places: by one for the stale.

        While a trial goes on its canary is the one.
        """
        return int(bool(stale and self.settings.spare and self.reloads.trial is None))

    def _missing(self) -> int:
        """Count the regular ones that are wanted and not even on their way."""
        stale = [m for m in self._regular() if self._stale(m)]
        regulars, places = self._regulars(), self._places()
        return max(0, places + self._surge(stale) - regulars)

    def _room(self) -> int:
        living = len(self.members) + len(self._unborn)
        return self.wanted + self.settings.spare - living

    def _birth_at(self) -> float:
        return max(self.brake.until, self.fork_brake.until)

    def _try_at(self) -> float:
        """Say when to try; who waits for a first beat may be forgiven before."""
        if self._starting() and self.brake.cautious:
            return max(self._birth_at(), self.brake.forgives_at)
        return self._birth_at()

    def _free_slot(self, generation: int) -> int:
        """
        Find the place of a newborn: the lowest that no active member holds.

        A leaving member has given up its place, so its replacement inherits it.
        In a reload every place is held: then the newborn takes the lowest one whose
        holder is stale, and that holder is the next to be dismissed.
        """
        unborn = {s.slot for s in self._unborn if s.generation == generation}
        peers, coming = self._regular(), unborn
        if generation == self.reloads.trial:
            peers = [m for m in self.members.values() if m.active]
            coming = {s.slot for s in self._unborn}
        held = coming | {m.slot for m in peers}
        for slot in range(self.wanted):
            if slot not in held:
                return slot
        fresh = unborn | {
            m.slot for m in peers if m.generation >= generation and m.tired_at is None
        }
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
        self._on_stop(Stop(graceful=False), self._now)

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
    def from_plain(cls, settings: PoolSettings, data: dict[str, Any]) -> Pool:
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
