"""The world itself: what each temperament does, and that nobody innocent is blamed."""

from __future__ import annotations

import pytest

from ghostd.core.events import Grow, Reload, Shrink, Stop
from ghostd.core.pool import Pool
from ghostd.settings import PoolSettings
from ghostd.testing import (
    CRASHING,
    FAREWELL,
    FORKING,
    HUNG,
    LYING,
    MUTE,
    OBEDIENT,
    RETURNING,
    SHORT,
    SLOW,
    STILLBORN,
    STUBBORN,
    UNKILLABLE,
    FakeClock,
    Faults,
    Temperament,
    Violation,
    World,
    run_in_world,
)

SETTINGS = PoolSettings(spirits=2, spare=1, graceful_timeout=10)


def test_obedient_spirits_are_born_once() -> None:
    world = run_in_world(SETTINGS, seconds=86400)

    assert (world.births, world.healthy) == (2, 2)
    assert world.calls("reap") == []


def test_a_hung_spirit_is_found_killed_and_replaced() -> None:
    """Three beats up to 10.05 s, silent for 55 s, 10 s to leave."""
    world = run_in_world(SETTINGS, [HUNG, OBEDIENT], seconds=65.0)
    assert world.said("spirit.hung") == []

    world.run(0.1)
    assert world.said("spirit.hung") == [
        "Spirit 100 has no heartbeat (50 seconds), restarting"
    ]
    world.run(9.9)
    assert world.calls("reap") == []
    world.run(0.1)
    assert world.calls("reap") == [(100,)]
    assert world.healthy == 2


def test_a_mute_spirit_is_found() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, MUTE, OBEDIENT], seconds=59.9)
    assert world.said("spirit.hung") == []

    world.run(1.0)
    assert len(world.said("spirit.hung")) == 1
    assert world.healthy == 2


def test_a_stubborn_spirit_is_killed_after_the_graceful_time() -> None:
    world = run_in_world(SETTINGS, [STUBBORN], seconds=60.0)

    assert world.stop() == pytest.approx(10.0, abs=0.01)
    assert len(world.said("spirit.killed")) == 2


def test_a_slow_spirit_is_waited_for() -> None:
    settings = PoolSettings(spirits=2, graceful_timeout=120)
    world = run_in_world(settings, [SLOW], seconds=60.0)

    assert world.stop() == pytest.approx(20.0)
    assert world.said("spirit.killed") == []


def test_one_that_is_born_dead_ends_a_new_pool() -> None:
    world = run_in_world(SETTINGS, [STILLBORN], seconds=60.0)

    assert world.over
    assert world.pool.exit_code == 1


def test_one_that_is_born_dead_later_is_only_slowed_down() -> None:
    world = run_in_world(
        SETTINGS, [OBEDIENT, RETURNING, *[STILLBORN] * 20, OBEDIENT], seconds=3600
    )

    assert not world.over
    assert world.healthy == 2
    assert len(world.said("pool.braked")) > 5


def test_a_crash_is_mended() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, CRASHING, OBEDIENT], seconds=61.0)

    assert world.said("spirit.died") == ["Spirit 101 died: exit code 1"]
    assert (world.births, world.healthy) == (3, 2)


def test_short_lives_are_slowed_down() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, SHORT], seconds=3600)

    assert world.births < 150


def test_a_farewell_is_answered_before_the_death() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, FAREWELL, OBEDIENT], seconds=45.1)

    assert world.births == 3
    assert world.calls("reap") == []
    world.run(1.0)
    assert world.calls("reap") == [(101,)]


def test_a_liar_harms_nobody() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, LYING], seconds=3600)

    assert world.births == 2


def test_a_grandchild_may_hide_a_death() -> None:
    world = run_in_world(SETTINGS, [OBEDIENT, FORKING, OBEDIENT], seconds=56.9)
    assert world.births == 2

    world.run(0.2)
    assert world.births == 3


def test_one_that_the_kernel_holds_does_not_hold_a_stop() -> None:
    world = run_in_world(SETTINGS, [UNKILLABLE], seconds=60)

    assert world.stop(graceful=False) == pytest.approx(2.0)
    assert world.pool.exit_code == 1


def test_wishes_come_true() -> None:
    world = run_in_world(SETTINGS, seconds=60)

    world.send(Grow(3))
    world.run(1)
    assert world.healthy == 5
    world.send(Shrink(4))
    world.run(1)
    assert world.healthy == 1
    births = world.births
    world.send(Reload())
    world.run(1)
    assert world.births == births + 1


def test_a_stop_at_once_overtakes_a_graceful_one() -> None:
    world = run_in_world(SETTINGS, [STUBBORN], seconds=60)
    world.send(Stop(graceful=True))
    world.run(1)

    assert world.stop(graceful=False) < 0.1
    assert world.calls("finish") == [(True,), (False,)]


def test_a_condition_can_be_waited_for_in_vain() -> None:
    world = run_in_world(SETTINGS, seconds=60)

    assert not world.run_until(lambda: world.healthy == 3, 60)
    world.send(Grow())
    assert world.run_until(lambda: world.healthy == 3, 60)


def test_a_temperament_of_ones_own() -> None:
    hasty = Temperament("hasty", first=0.01, every=1.0, life=30.0, ending="killed")
    world = run_in_world(SETTINGS, [hasty], seconds=31)

    assert world.births == 4


def test_a_clock_never_goes_back() -> None:
    clock = FakeClock(10.0)
    clock.sleep(-5)
    clock.until(3.0)
    assert clock() == 10.0

    clock.sleep(5)
    assert clock() == 15.0


@pytest.mark.parametrize(("interval", "timeout"), [(5, 50), (1, 3), (0.5, 10), (5, 6)])
@pytest.mark.parametrize("fault", ["freezes", "halts", "slow"])
def test_nobody_innocent_is_blamed(fault: str, interval: float, timeout: float) -> None:
    """Whatever stands still, the machine, the manager or a hook: it was no spirit."""
    settings = PoolSettings(
        spirits=3, heartbeat_interval=interval, heartbeat_timeout=timeout
    )
    lost = 0
    for seed in range(10):
        faults = Faults(yawns=0.2, reloads=0.02, **{fault: 0.05})
        world = World(settings, seed=seed, faults=faults)
        for _ in range(300):
            world.turn()

        lost += world.counts["TimeLost"]
        assert world.said("spirit.hung") == []
    assert lost > 20


def test_a_hook_that_takes_long_is_no_silence() -> None:
    """
    A turn has one time, also when a hook makes it long.

    Planned with the time after the hook, before the beats that came meanwhile have
    been read, everybody would be silent at once.
    """

    class LooksAtTheClock(Pool):
        def plan(self, now: float) -> list[object]:  # type: ignore[override]  # wrong
            return [*super().plan(world.now or now)]

    faults = Faults(slow=0.2)
    world = World(SETTINGS, faults=faults, pool=LooksAtTheClock)
    with pytest.raises(Violation, match="I7 silence"):
        world.run(3600)
