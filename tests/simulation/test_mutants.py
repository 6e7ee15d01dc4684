"""
Each rule of the referee can fail: for each there is a pool that breaks just it.

A rule that no wrong pool ever breaks guards nothing. These pools are wrong on purpose,
each in one way that somebody could write by mistake; the same lives that the right
pool survives must catch it, and by the name of the rule that it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import pytest

from ghostd.core.actions import Action, Call, Kill, Quit, Ready, Spawn
from ghostd.core.brake import Brake
from ghostd.core.events import Beat, Exited, SpawnFailed, Stop, TimeLost, Tired
from ghostd.core.member import Member
from ghostd.core.muster import Muster
from ghostd.core.pool import Pool
from ghostd.settings import PoolSettings
from ghostd.testing import INVARIANTS, OBEDIENT, SHORT, Violation, World
from tests.simulation.lives import fails, invent

SEEDS = 400


def changed(settings: PoolSettings, **factors: float) -> PoolSettings:
    plain = settings.plain()
    return PoolSettings(
        **plain | {name: plain[name] * f for name, f in factors.items()}
    )


class Mistaken(Pool):
    """One that takes everybody for something else."""

    look: type[Muster] = Muster

    def _mustered(self) -> Muster:
        if self._muster is None:
            self._muster = self.look(
                self.settings,
                self.wanted,
                self.reloads,
                self.members.values(),
                self._unborn,
            )
        return self._muster


class OneTooManyLives(Mistaken):
    class look(Muster):  # noqa: N801 - an attribute
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.room += 1


class SpareIsAtLeastOne(Mistaken):
    class look(Muster):  # noqa: N801
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.room += not self._settings.spare


class OneTooManyActive(Mistaken):
    class look(Muster):  # noqa: N801
        @property
        def missing(self) -> int:
            return super().missing + 1


class ShrinkIsNotHeard(Pool):
    def _retire(self, now: float) -> None:
        active = sum(member.active for member in self.members.values())
        if active <= self.wanted:
            super()._retire(now)


class BirthsAfterAStop(Pool):
    def _shut_down(self, now: float) -> None:
        super()._shut_down(now)
        self._refill(now)


class NeverHolds(Brake):
    def strike(self, now: float) -> float:
        pause = super().strike(now)
        self.until = 0.0
        return pause


class NoBrake(Pool):
    def __init__(self, settings: PoolSettings, *args: Any) -> None:
        super().__init__(settings, *args)
        self.brake = NeverHolds(settings.budget)


class TiresForNothing(Pool):
    def _on_tired(self, event: Tired) -> None:
        before = self.brake.plain()
        super()._on_tired(event)
        self.brake.restore(before)


class NotOneAtATime(Pool):
    def _refill(self, now: float) -> None:
        strikes, self.brake.strikes = self.brake.strikes, 0
        super()._refill(now)
        self.brake.strikes = strikes


class ForksWithoutPause(Pool):
    def _on_spawn_failed(self, event: SpawnFailed, now: float) -> None:
        super()._on_spawn_failed(event, now)
        self.fork_brake.forget()


def is_call(action: Action, hook: str) -> bool:
    return isinstance(action, Call) and action.hook == hook


class NobodyIsReaped(Pool):
    def plan(self, now: float) -> list[Action]:
        return [a for a in super().plan(now) if not is_call(a, "reap")]


class EverybodyIsReapedTwice(Pool):
    def plan(self, now: float) -> list[Action]:
        return [b for a in super().plan(now) for b in [a] * (1 + is_call(a, "reap"))]


class BirthsAreToldTwice(Pool):
    def plan(self, now: float) -> list[Action]:
        return [b for a in super().plan(now) for b in [a] * (1 + is_call(a, "spawn"))]


class BeatsAreNotTold(Pool):
    def plan(self, now: float) -> list[Action]:
        return [a for a in super().plan(now) if not is_call(a, "heartbeat")]


class KillsTheDead(Pool):
    def _on_exited(self, event: Exited, now: float) -> None:
        super()._on_exited(event, now)
        self._tale.add(Kill(event.pid))


class KillsTooEarly(Pool):
    def __init__(self, settings: PoolSettings, *args: Any) -> None:
        super().__init__(changed(settings, graceful_timeout=0.9), *args)


class KillsAgainAndAgain(Pool):
    def plan(self, now: float) -> list[Action]:
        actions = super().plan(now)
        killed = [a for a in actions if isinstance(a, Kill)]
        return actions + killed


class QuitsTwice(Pool):
    def plan(self, now: float) -> list[Action]:
        actions = super().plan(now)
        return actions + [a for a in actions if isinstance(a, Quit)]


class QuitsThoseWhoSayFarewell(Pool):
    def _judge(self, now: float) -> None:
        for member in self.members.values():
            if member.left_at is not None and not member.told:
                self._dismiss(member, now)
        super()._judge(now)


class JudgesSilenceEarly(Pool):
    def __init__(self, settings: PoolSettings, *args: Any) -> None:
        super().__init__(changed(settings, heartbeat_timeout=0.9), *args)


class LostTimeIsSilence(Pool):
    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        beats = {pid: member.beat for pid, member in self.members.items()}
        super()._on_time_lost(event, now)
        for pid, member in self.members.items():
            member.beat = beats[pid]
        self._amnesty = now


class NoFreshInterval(Pool):
    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        amnesty = self._amnesty
        super()._on_time_lost(event, now)
        self._amnesty = amnesty


class GivesUpTooEasily(Pool):
    def _on_early_death(self, event: Exited, now: float) -> None:
        self._proven = set()
        super()._on_early_death(event, now)


class SparesTheLeaving(Pool):
    def _shut_down(self, now: float) -> None:
        leaving = [m for m in self.members.values() if not m.active and not m.killed_at]
        for member in leaving:
            member.killed_at = now
        super()._shut_down(now)
        for member in leaving:
            member.killed_at = None


class FinishesAgain(Pool):
    def _on_stop(self, event: Stop, now: float) -> None:
        if self.stopping is not None:
            self._tale.call("finish", event.graceful)
        super()._on_stop(event, now)


class TurnsBackToGraceful(Pool):
    def _on_stop(self, event: Stop, now: float) -> None:
        if event.graceful:
            self.stopping = None
        super()._on_stop(event, now)


class ShrinksFromTheOldest(Pool):
    def _retire(self, now: float) -> None:
        muster = self._mustered()
        if not muster.stale:
            for member in muster.regular[: max(0, len(muster.regular) - self.wanted)]:
                self._dismiss(member, now)
        super()._retire(now)


class ReloadsWithoutWaiting(Pool):
    def _retire(self, now: float) -> None:
        for member in self.members.values():
            if member.active and member.generation < self.generation:
                self._dismiss(member, now)
        super()._retire(now)


class KeepsTheOldCode(Pool):
    def plan(self, now: float) -> list[Action]:
        return [
            Spawn(action.slot, 0)
            if isinstance(action, Spawn) and action.generation == self.generation
            else action
            for action in super().plan(now)
        ]


class ShortTrials(Pool):
    def __init__(self, settings: PoolSettings, *args: Any) -> None:
        super().__init__(changed(settings, canary_time=0.5), *args)


class AnyCodeIsGood(Pool):
    def _on_dead_canary(self, member: Member, *_: Any) -> None:
        self._prove(member.generation)


class BlamesTheNewForAnyDeath(Pool):
    def _on_exited(self, event: Exited, now: float) -> None:
        super()._on_exited(event, now)
        if self.reloads.trial is not None:
            self._drop(self.reloads.trial, "somebody died")


class BearsDeadCanaries(Pool):
    def _on_dead_canary(self, *_: Any) -> None:
        pass


class KeepsCanariesOfDroppedCode(Mistaken):
    class look(Muster):  # noqa: N801
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.dropped = []


class AgesTwiceAsFast(Pool):
    def _spread(self, limit: float) -> float:
        return super()._spread(limit) / 2


class StaysYoung(Pool):
    def _spread(self, limit: float) -> float:
        return limit * 1.01


class ReplacesTheTirelessToo(Pool):
    def _on_time_lost(self, event: TimeLost, now: float) -> None:
        super()._on_time_lost(event, now)
        for member in self.members.values():
            self._tire(member, "the manager was")


class WaitsWithTheCanary(Pool):
    def _bear(self, generation: int, births: int) -> None:
        waits = generation == self.reloads.trial and self.brake.holds(self._now)
        super()._bear(generation, 0 if waits else births)

    def _birth_at(self) -> float | None:
        at = super()._birth_at()
        return None if at is None else max(at, self.brake.until)


class HatchesNoCanary(Mistaken):
    class look(Muster):  # noqa: N801
        def _wants_canary(self) -> bool:
            return not self._settings.spare and super()._wants_canary()


class NeverTrusts(Pool):
    def _proven_at(self) -> float | None:
        return None


class ReloadsInSilence(Pool):
    def _judge_roll(self) -> None:
        pass


class BlamesTheNewForOldSilence(Pool):
    def _stall(self, reason: str) -> None:
        self._forget_reload(reason)


class ForgetsWhoAskedBefore(Pool):
    def _forget_reload(self, *_: Any) -> None:
        self.reloads.end()


class PromisesTooMuch(Pool):
    def _prove(self, trial: int) -> None:
        super()._prove(trial)
        self._tale.reloaded(self.generation)
        self.reloads.end()


class CountsTheActiveOnly(Pool):
    @property
    def healthy(self) -> int:
        return sum(member.alive for member in self.members.values())


class LooksBack(Pool):
    def next_deadline(self) -> float | None:
        deadline = super().next_deadline()
        return deadline - 0.001 if deadline == self._now else deadline


class NoBurst(Pool):
    def plan(self, now: float) -> list[Action]:
        actions = super().plan(now)
        while self._hurry:
            actions += super().plan(now)
        return actions


class EverybodyIsTheFirst(Mistaken):
    class look(Muster):  # noqa: N801
        def slots(self, generation: int) -> Iterator[int]:
            return repeat(0 * generation)


class ReadyAgainAndAgain(Pool):
    def _judge_boot(self, now: float) -> None:
        super()._judge_boot(now)
        self._booted = False


class ReadyAtTheFirstBeat(Pool):
    def _judge_boot(self, now: float) -> None:
        if self._proven and not self._booted:
            self._booted = True
            self._tale.add(Ready())
        super()._judge_boot(now)


class NeverReady(Pool):
    def _judge_boot(self, now: float) -> None:
        pass


class NeverEndsAReload(Pool):
    def _retire(self, now: float) -> None:
        active = sum(member.active for member in self.members.values())
        if active > self.wanted + 1 or not self.settings.spare:
            super()._retire(now)


class NeverOver(Pool):
    @property
    def over(self) -> bool:
        return False


class WaitsForTwo(Mistaken):
    class look(Muster):  # noqa: N801
        @property
        def missing(self) -> int:
            missing = super().missing
            return missing if missing > 1 else 0


class Oversleeps(Pool):
    def next_deadline(self) -> float | None:
        deadline = super().next_deadline()
        return deadline and (deadline + 0.5 if deadline > self._now else deadline)


class BearsTheSilent(Pool):
    def _dismiss_silent(self, member: Member, now: float) -> None:
        member.shift(now - member.heard, now)


class NeverSleeps(Pool):
    def next_deadline(self) -> float | None:
        return self._now


class Unforgiving(Brake):
    @property
    def forgives_at(self) -> float:
        return float("inf")


class NeverForgives(Pool):
    def __init__(self, settings: PoolSettings, *args: Any) -> None:
        super().__init__(settings, *args)
        self.brake = Unforgiving(settings.budget)


# Those that the right pool once was; `seeds/` holds a life that each does not survive.


class ReadyByPlace(Pool):
    def _judge_boot(self, now: float) -> None:
        if self._proven.issuperset(range(self.wanted)) or self._boot_deadline:
            super()._judge_boot(now)


class SleepsThroughForgiveness(Pool):
    def _try_at(self, muster: Muster) -> float:
        waits = muster.starting and self.brake.cautious
        return float("inf") if waits else super()._try_at(muster)


class BelievesNoNumber(Pool):
    def _on_beat(self, event: Beat, now: float) -> None:
        super()._on_beat(event, now)
        if math.isnan(event.at) and event.pid in self.members:
            self.members[event.pid].beat = event.at


def in_any_life(pool: type[Pool]) -> Violation | None:
    """Tell the lives that everybody else survives."""
    return next(filter(None, (fails(invent(n), pool) for n in range(SEEDS))), None)


def in_a_large_pool(pool: type[Pool]) -> Violation | None:
    try:
        World(PoolSettings(spirits=40), pool=pool).run(60)
    except Violation as violation:
        return violation
    return None


def after_a_fork_storm(pool: type[Pool]) -> Violation | None:
    world = World(
        PoolSettings(spirits=2), [OBEDIENT, *[SHORT] * 12, OBEDIENT], pool=pool
    )
    try:
        world.run(120)
        world.settle()
        world.forgive()
    except Violation as violation:
        return violation
    return None


WRONG: list[tuple[type[Pool], str]] = [
    (OneTooManyLives, "I1 room"),
    (SpareIsAtLeastOne, "I1 room"),
    (OneTooManyActive, "I1 actives"),
    (ShrinkIsNotHeard, "I1 actives"),
    (BirthsAfterAStop, "I2 stopped"),
    (NoBrake, "I2 brake"),
    (TiresForNothing, "I2 brake"),
    (NotOneAtATime, "I2 brake"),
    (ForksWithoutPause, "I2 fork"),
    (NobodyIsReaped, "I3 reap"),
    (EverybodyIsReapedTwice, "I3 reap"),
    (BirthsAreToldTwice, "I3 order"),
    (BeatsAreNotTold, "I3 order"),
    (KillsTheDead, "I4 dead"),
    (KillsTooEarly, "I5 kill"),
    (KillsAgainAndAgain, "I5 kill"),
    (QuitsTwice, "I6 quit"),
    (QuitsThoseWhoSayFarewell, "I6 quit"),
    (JudgesSilenceEarly, "I7 silence"),
    (LostTimeIsSilence, "I7 silence"),
    (NoFreshInterval, "I7 silence"),
    (GivesUpTooEasily, "I9 early"),
    (SparesTheLeaving, "I10 at once"),
    (FinishesAgain, "I11 finish"),
    (TurnsBackToGraceful, "I11 finish"),
    (ShrinksFromTheOldest, "I12 shrink"),
    (ReloadsWithoutWaiting, "I13 serving"),
    (KeepsTheOldCode, "I13 generation"),
    (ShortTrials, "I13 trial"),
    (AnyCodeIsGood, "I13 trial"),
    (BlamesTheNewForAnyDeath, "I13 dropped"),
    (BearsDeadCanaries, "I13 generation"),
    (AgesTwiceAsFast, "I13 tired"),
    (ReplacesTheTirelessToo, "I13 tired"),
    (CountsTheActiveOnly, "I17 healthy"),
    (LooksBack, "I19 deadline"),
    (NoBurst, "I20 work"),
    (EverybodyIsTheFirst, "slot"),
    (ReadyAgainAndAgain, "ready"),
    (ReadyAtTheFirstBeat, "ready"),
    (NeverReady, "ready"),
    (NeverEndsAReload, "L1 convergence"),
    (NeverOver, "L2 stop"),
    (WaitsForTwo, "L3 refill"),
    (HatchesNoCanary, "L3 canary"),
    (WaitsWithTheCanary, "L3 canary"),
    (NeverTrusts, "L3 canary"),
    (KeepsCanariesOfDroppedCode, "L3 canary"),
    (Oversleeps, "L3 missed"),
    (BearsTheSilent, "L4 hung"),
    (StaysYoung, "L4 aged"),
    (NeverSleeps, "L5 busy"),
    (NeverForgives, "L6 forgiven"),
    (ReloadsInSilence, "L8 answer"),
    (ForgetsWhoAskedBefore, "L8 answer"),
    (PromisesTooMuch, "L8 answer"),
    (BlamesTheNewForOldSilence, "I13 dropped"),
    (ReadyByPlace, "ready"),
    (SleepsThroughForgiveness, "L3 missed"),
    (BelievesNoNumber, "L4 hung"),
]

ELSEWHERE = {NoBurst: in_a_large_pool, NeverForgives: after_a_fork_storm}


@pytest.mark.parametrize(
    ("pool", "invariant"), WRONG, ids=[pool.__name__ for pool, _ in WRONG]
)
def test_a_wrong_pool_is_caught_by_name(pool: type[Pool], invariant: str) -> None:
    violation = ELSEWHERE.get(pool, in_any_life)(pool)

    assert violation is not None
    assert violation.invariant == invariant, violation


def test_the_right_pool_is_not_caught_where_the_wrong_ones_are() -> None:
    assert in_a_large_pool(Pool) is None
    assert after_a_fork_storm(Pool) is None


def test_every_rule_has_a_pool_that_breaks_it() -> None:
    assert {invariant for _, invariant in WRONG} == INVARIANTS.keys()
