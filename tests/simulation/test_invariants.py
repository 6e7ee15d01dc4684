"""
Hypothesis plays kernel, users and bad luck; the referee watches; then all must calm.

Other than the lives from seeds, this shrinks by itself: what it prints is the
shortest story that it can find.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ghostd.core.events import (
    Beat,
    Event,
    Exited,
    Farewell,
    Grow,
    Resize,
    Shrink,
    Stop,
    TimeLost,
    Tired,
)
from ghostd.settings import PoolSettings
from ghostd.testing import OBEDIENT, TEMPERAMENTS, Faults, Temperament, World

seconds = st.sampled_from([0.0, 0.01, 0.1, 1.0, 5.0, 11.0, 56.0, 300.0])
counts = st.integers(0, 3)
PLACES = 6


class Storm(RuleBasedStateMachine):
    """A world in which everything is allowed to happen, at any time."""

    world: World
    next_ones: list[Temperament]

    @initialize(
        spirits=st.integers(0, 3),
        spare=st.integers(0, 2),
        graceful=st.sampled_from([0, 0.5, 10]),
        budget=st.sampled_from([None, 0, 2]),
        boot=st.sampled_from([None, 5.0]),
        canary=st.sampled_from([0, 1, 5.0]),
        missing=st.sampled_from([0, 0, 1]),
        age=st.sampled_from([None, None, 1000.0]),
        delay=st.sampled_from([0, 0, 2.0]),
    )
    def begin(  # noqa: PLR0913, PLR0917 - as many as there are settings
        self,
        spirits: int,
        spare: int,
        graceful: float,
        budget: int | None,
        boot: float | None,
        canary: float,
        missing: int,
        age: float | None,
        delay: float,
    ) -> None:
        self.next_ones = []
        self.world = World(
            PoolSettings(
                spirits=spirits,
                spare=spare,
                graceful_timeout=graceful,
                restart_budget=budget,
                boot_timeout=20,
                canary_time=canary,
                max_unavailable=missing,
                max_age=age,
                drain_delay=delay,
            ),
            lambda _rng, _birth: self.next_ones.pop() if self.next_ones else OBEDIENT,
            boot_deadline=boot,
        )

    @rule(duration=seconds)
    def live(self, duration: float) -> None:
        self.world.run(duration)

    @rule(one=st.sampled_from(TEMPERAMENTS))
    def expect(self, one: Temperament) -> None:
        self.next_ones.insert(0, one)

    @rule(event=st.one_of(st.builds(Grow, counts), st.builds(Shrink, counts)))
    def resize(self, event: Event) -> None:
        if self.world.referee.wanted < PLACES:
            self.world.send(event)
        else:
            self.world.send(Resize(1))

    @rule(broken=st.booleans())
    def reload(self, broken: bool) -> None:
        self.world.reload(broken=broken)

    @rule(nth=counts)
    def tire(self, nth: int) -> None:
        self.world.send(Tired(self._pid(nth), "it is tired"))

    @precondition(lambda self: self.world.births > PLACES)
    @rule(graceful=st.booleans())
    def stop(self, graceful: bool) -> None:
        self.world.send(Stop(graceful))

    @rule(duration=seconds)
    def freeze(self, duration: float) -> None:
        self.world.freeze(duration)

    @rule(duration=seconds)
    def halt(self, duration: float) -> None:
        self.world.halt(duration)

    @rule(lost=seconds)
    def lose_time(self, lost: float) -> None:
        self.world.send(TimeLost(lost))

    @rule(
        kind=st.sampled_from([Beat, Farewell]),
        nth=counts,
        stamp=st.floats(allow_nan=True, allow_infinity=True),
    )
    def babble(self, kind: type[Beat | Farewell], nth: int, stamp: float) -> None:
        self.world.send(kind(self._pid(nth), stamp))

    @rule(nth=counts, foreign=st.booleans())
    def kill(self, nth: int, foreign: bool) -> None:
        self.world.kill(self._pid(nth), foreign=foreign)

    @rule(pid=st.sampled_from([-1, 0, 1, 10**9]))
    def bury_a_stranger(self, pid: int) -> None:
        self.world.send(Exited(pid, "exit code 0"))

    @rule(rate=st.sampled_from([0.0, 0.5, 1.0]))
    def fail_forks(self, rate: float) -> None:
        self.world.faults = Faults(**self.world.faults.plain() | {"forks": rate})

    @rule(rate=st.sampled_from([0.0, 0.5, 1.0]))
    def delay_births(self, rate: float) -> None:
        self.world.faults = Faults(**self.world.faults.plain() | {"births": rate})

    @rule(rate=st.sampled_from([0.0, 1.0]))
    def mix(self, rate: float) -> None:
        mixed = dict.fromkeys(("doubled", "shuffled", "reused"), rate)
        # Not 1: a manager that executes itself anew in every turn does nothing else.
        mixed["rebirths"] = rate / 2
        self.world.faults = Faults(**self.world.faults.plain() | mixed)

    def _pid(self, nth: int) -> int:
        pids = [*self.world.spirits]
        return pids[nth % len(pids)] if pids else 10**9

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.forgive()
            self.world.stop()


TestStorm = Storm.TestCase
TestStorm.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
