"""Who is tired is replaced before it goes: its successor first, one after another."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    deeds,
    died,
    left,
    lines,
    said,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Quit, Spawn
from ghostd.core.events import (
    Beat,
    Farewell,
    Grow,
    Reload,
    Shrink,
    Spawned,
    Stop,
    TimeLost,
    Tired,
)


def test_the_successor_comes_first() -> None:
    pool = serving()

    actions = tell(pool, 110.0, Tired(12, "it has done 1000 ticks"))

    assert lines(actions) == [
        ("info", "Spirit 12 is to be replaced: it has done 1000 ticks")
    ]
    assert births(actions) == [Spawn(1, 0)]
    assert signals(actions) == []


def test_it_is_sent_away_when_its_successor_serves() -> None:
    pool = serving()
    tell(pool, 110.0, Tired(12, "it is old"))
    born(pool, 110.0, 13, first_slot=1)
    assert signals(tell(pool, 111.0)) == []

    actions = tell(pool, 112.0, Beat(13, 112.0))

    assert signals(actions) == [Quit(12)]
    assert deeds(tell(pool, 113.0, left(12)))[1:] == []


def test_without_spare_it_goes_first() -> None:
    pool = serving(spare=0)

    assert signals(tell(pool, 110.0, Tired(11, "it is old"))) == [Quit(11)]
    assert births(tell(pool, 111.0, left(11))) == [Spawn(0, 0)]


def test_several_go_one_after_another() -> None:
    pool = serving(110.0, 11, 12, 13, spare=2)

    actions = tell(pool, 110.0, *(Tired(pid, "it is old") for pid in (13, 11, 12)))

    assert births(actions) == [Spawn(0, 0)]
    born(pool, 110.0, 14)
    actions = tell(pool, 111.0, Beat(14, 111.0))
    assert signals(actions) == [Quit(11)]
    assert births(actions) == [Spawn(1, 0)]


def test_an_emptier_house_is_not_worth_it() -> None:
    """`max_unavailable` is for reloads: who is only tired can wait."""
    pool = serving(110.0, 11, 12, 13, spare=2, max_unavailable=2)

    actions = tell(pool, 110.0, Tired(11, "it is old"), Tired(12, "it is old"))

    assert signals(actions) == []


def test_it_is_said_once() -> None:
    pool = serving()
    tell(pool, 110.0, Tired(12, "it is old"))

    assert tell(pool, 111.0, Tired(12, "it is very old")) == []


def test_one_that_has_not_worked_yet_cannot_be_tired() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert tell(pool, 101.0, Tired(11, "of nothing")) == []


def test_nor_can_one_that_leaves_or_a_stranger() -> None:
    pool = serving(spare=0)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert tell(pool, 110.5, Tired(11, "too late"), Tired(99, "who?")) == []


def test_in_a_shutdown_nobody_is_to_be_replaced() -> None:
    pool = serving(drain_delay=10, max_age=50)
    tell(pool, 110.0, Stop(graceful=True))

    assert tell(pool, 111.0, Tired(11, "it is old")) == []
    assert "spirit.tired" not in said(tell(pool, 120.0 + 60.0))


def test_one_that_dies_before_its_successor_serves_is_succeeded_by_it() -> None:
    pool = serving()
    tell(pool, 110.0, Tired(12, "it is old"))
    born(pool, 110.0, 13, first_slot=1)

    assert births(tell(pool, 111.0, died(12))) == []
    assert signals(tell(pool, 112.0, Beat(13, 112.0))) == []


def test_a_pool_that_shrinks_lets_the_tired_go() -> None:
    pool = serving()
    tell(pool, 110.0, Tired(11, "it is old"), Shrink())

    assert not pool.members[11].active
    assert pool.members[12].active


def test_one_that_is_both_old_and_tired_is_replaced_once() -> None:
    pool = serving(spare=2)
    tell(pool, 110.0, Tired(12, "it is old"))
    tell(pool, 110.0, Spawned(13, 1, 0), Beat(13, 110.0))
    tell(pool, 111.0, left(12), Reload())
    tell(pool, 111.0, Spawned(14, 0, 1))

    assert signals(tell(pool, 112.0, Beat(14, 112.0))) == [Quit(11)]


# -- age -------------------------------------------------------------------------------


def test_one_that_is_too_old_is_tired() -> None:
    pool = serving(max_age=50)
    tell(pool, 140.0, Beat(11, 140.0), Beat(12, 140.0))
    assert pool.next_deadline() == 150.0

    assert deeds(tell(pool, 149.9)) == []
    actions = tell(pool, 150.0)
    assert lines(actions) == [
        ("info", "Spirit 11 is to be replaced: it is 50 seconds old"),
        ("info", "Spirit 12 is to be replaced: it is 50 seconds old"),
    ]
    assert births(actions) == [Spawn(0, 0)]


def test_age_that_has_been_told_is_due_no_more() -> None:
    pool = serving(max_age=50)
    tell(pool, 150.0, Beat(11, 150.0), Beat(12, 150.0))
    tell(pool, 150.0, Spawned(13, 0, 0))

    assert pool.next_deadline() == 205.0


def test_one_that_is_old_before_it_works_is_tired_when_it_does() -> None:
    pool = a_pool(spirits=1, max_age=10)
    born(pool, 100.0, 11)
    assert pool.next_deadline() == 160.0

    assert births(tell(pool, 130.0, Beat(11, 130.0))) == [Spawn(0, 0)]


def test_those_born_together_do_not_end_together() -> None:
    pool = a_pool(spirits=50, spare=0, max_age=1000, jitter=0.1)
    pool.plan(100.0)
    for slot in range(50):
        pool.observe(Spawned(200 + slot, slot, 0), 100.0)

    ages = [(member.expires or 0.0) - 100.0 for member in pool.members.values()]

    assert all(900.0 <= age <= 1000.0 for age in ages)
    assert max(ages) - min(ages) > 90.0
    # Evenly: no two of fifty are closer than a fifth of their mean distance.
    steps = [b - a for a, b in zip(sorted(ages), sorted(ages)[1:], strict=False)]
    assert min(steps) > 0.4


def test_lost_time_does_not_age() -> None:
    pool = serving(max_age=50)
    tell(pool, 120.0, Beat(11, 120.0), Beat(12, 120.0))

    tell(pool, 420.0, TimeLost(300.0))

    assert pool.next_deadline() == 450.0


def test_growth_beside_a_tired_one_is_filled_first() -> None:
    pool = serving(spare=1)

    actions = tell(pool, 110.0, Tired(11, "it is old"), Grow())

    assert births(actions) == [Spawn(2, 0), Spawn(0, 0)]


def test_those_who_tire_at_once_are_no_storm() -> None:
    pool = serving(100.1, restart_budget=1)
    assert births(tell(pool, 100.2, Tired(11, "it is lazy"))) == [Spawn(0, 0)]
    born(pool, 100.2, 13, first_slot=0)
    tell(pool, 100.3, Beat(13, 100.3))
    tell(pool, 100.4, left(11))

    actions = tell(pool, 100.5, Tired(13, "it is lazy"))

    assert births(actions) == []
    assert lines(actions)[-1][1].startswith(
        "Spirits end too soon (spirit 13 was tired within 1 s); next start in"
    )
    assert births(tell(pool, 100.7)) == [Spawn(0, 0)]
    assert signals(tell(pool, 100.7)) == []


def test_those_who_tire_later_are_no_strike() -> None:
    pool = serving(100.1, restart_budget=0)

    assert births(tell(pool, 101.0, Tired(11, "it is old"))) == [Spawn(0, 0)]
