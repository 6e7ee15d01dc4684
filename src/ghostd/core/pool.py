"""
The pool: who lives, who should, and what to do about the difference.

Rules of this file: no clock, no signals, no processes, no chance. Time comes in as
*now* (seconds, monotonic); what should happen goes out as actions. If you need an
effect here, add an action instead.

`observe` (in `core.record`) writes down what happened. `plan` compares what is with
what is wanted: it judges those that are late, then lets go who is one too many or has
been replaced, then has born who is missing (`core.muster` says who and how many).

A reload, told once: `Reload` puts a generation on trial (see `core.reloads`), `plan`
has one canary born beside all others, and what becomes of it decides.

Each rule stands once, in the method that is named after it, so events may come late,
twice or in another order.
"""

from __future__ import annotations

import math
from itertools import islice

from ghostd.core.actions import Action, Ready, Spawn
from ghostd.core.member import Member
from ghostd.core.muster import Muster
from ghostd.core.record import UNDYING, Record
from ghostd.settings import PoolSettings

BURST = 16
"""Births in one plan; between two plans the shell looks at its signals."""


class Pool(Record):
    """
    The spirits of one daemon: `observe` what happens, `plan` what to do about it.

    Arguments and attributes are those of `Record`.
    """

    def __init__(
        self,
        settings: PoolSettings,
        now: float,
        boot_deadline: float | None = None,
        seed: float = 0.0,
    ) -> None:
        """Start empty; the first `plan` fills it."""
        super().__init__(settings, now, boot_deadline, seed)
        self._hurry = True

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

    # -- who is late -----------------------------------------------------------

    def _judge(self, now: float) -> None:
        """Dismiss the silent, tire the aged; kill who has been leaving for too long."""
        settings = self.settings
        booting, silence = settings.boot_timeout, settings.silence
        graceful = settings.graceful_timeout
        blameless = self.stopping is not None or now < self._amnesty
        for member in self.members.values():
            if member.left_at is None:
                if now >= member.borne_until(booting, silence) and not blameless:
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
        self._dismiss(member, now)
        if self.reloads.is_canary(member):
            self._drop(member.generation, reason)
        elif member.beat is None:
            self._stall(reason)

    def _judge_boot(self, now: float) -> None:
        """Tell that the pool is up, or give up, when it is time for either."""
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

    def _judge_trial(self, now: float) -> None:
        """Let the generation on trial pass, once its canary has lived long enough."""
        trial = self.reloads.trial
        if trial is None:
            return
        proven_at = self._proven_at()
        # Where nobody is wanted, nobody can show anything.
        if not self.wanted or (proven_at is not None and now >= proven_at):
            self._prove(trial)

    def _judge_roll(self) -> None:
        """Tell that a reload is complete, once nobody is left of older code."""
        rolling = self.reloads.rolling
        if rolling is None:
            return
        muster = self._mustered()
        if muster.alive >= self.wanted and not any(
            map(self.reloads.is_old, muster.stale)
        ):
            self.reloads.end()
            self._tale.reloaded(rolling)

    def _proven_at(self) -> float | None:
        return self.reloads.proven_at(self.members.values(), self.settings.canary_time)

    # -- who goes, and who comes -----------------------------------------------

    def _mustered(self) -> Muster:
        """Look at everybody, unless nothing has changed since the last look."""
        if self._muster is None:
            self._muster = Muster(
                self.settings,
                self.wanted,
                self.reloads,
                self.members.values(),
                self._unborn,
            )
        return self._muster

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
            self._blame(words)
            self._tale.undying(words, undying)

    def _retire(self, now: float) -> None:
        for member in self._mustered().departures():
            self._dismiss(member, now)

    def _refill(self, now: float) -> None:
        """Plan births: as many as are missing, where there is room and no brake."""
        muster = self._mustered()
        room, missing = muster.room, muster.missing
        if room <= 0 or self.fork_brake.holds(now):
            return
        births = wishes = min(missing, room)
        self.brake.release(now)
        if self.brake.holds(now):
            births = 0
        elif self.brake.cautious:
            births = min(births, 0 if muster.starting else 1)
        else:
            births = min(births, BURST)
            self._hurry = births < wishes
        self._bear(self.generation, births)
        # What the brake holds against the code that serves says nothing about other
        # code, which may well be the repair.
        trial = self.reloads.trial
        if trial is not None and births < min(room, BURST):
            self._bear(trial, int(self._mustered().canary_fits))

    def _bear(self, generation: int, births: int) -> None:
        if births:
            slots = self._mustered().slots(generation)
            for slot in islice(slots, births):
                spawn = Spawn(slot, generation)
                self._unborn.append(spawn)
                self._tale.add(spawn)
            self._muster = None

    # -- when to look again ----------------------------------------------------

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
        due = self._soonest()
        if self.stopping is None:
            boot = None if self._booted else self._boot_deadline
            dues = (due, boot, self._birth_at(), self._proven_at())
            due = min(time for time in dues if time is not None)
        return None if due == math.inf else max(due, self._now)

    def _soonest(self) -> float:
        """Give when something is due for one of the members, infinity: never."""
        settings, amnesty = self.settings, self._amnesty
        booting, silence = settings.boot_timeout, settings.silence
        graceful, stopping = settings.graceful_timeout, self.stopping is not None
        soonest = math.inf
        for member in self.members.values():
            if member.left_at is None:
                if stopping:
                    due = self._stop_at + settings.drain_delay
                else:
                    due = max(member.borne_until(booting, silence), amnesty)
                    ages = member.beat is not None and member.tired_at is None
                    if ages and member.expires is not None:
                        due = min(due, member.expires)
            elif member.killed_at is None:
                due = member.left_at + graceful
            elif stopping and not self._undying(member):
                due = member.killed_at + UNDYING
            else:
                continue
            soonest = min(soonest, due)
        return soonest

    def _birth_at(self) -> float | None:
        """Say when the next birth is to be tried, None: none is wanted."""
        muster = self._mustered()
        if muster.room <= 0:
            return None
        if muster.canary_fits:
            return self.fork_brake.until
        return self._try_at(muster) if muster.missing else None

    def _try_at(self, muster: Muster) -> float:
        """Say when to try; who waits for a first beat may be forgiven before."""
        at = max(self.brake.until, self.fork_brake.until)
        if muster.starting and self.brake.cautious:
            return max(at, self.brake.forgives_at)
        return at
