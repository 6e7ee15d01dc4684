"""A reload: one after another, and nobody is missed meanwhile."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    died,
    left,
    lines,
    reloading,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Kill, Quit, Spawn
from ghostd.core.events import Beat, Farewell, Grow, Reload, Resize, Shrink


def test_the_new_comes_first_and_nobody_goes_before_it_works() -> None:
    pool, actions = reloading()

    assert births(actions) == [Spawn(0, 1)]
    assert signals(actions) == []
    assert lines(actions) == [("info", "Replacing 2 spirits, one after another")]
    born(pool, 110.0, 13)
    assert signals(tell(pool, 111.0)) == []


def test_the_first_beat_of_the_new_sends_the_old_of_its_place_away() -> None:
    pool, _ = reloading()
    born(pool, 110.0, 13)

    assert signals(tell(pool, 111.0, Beat(13, 111.0))) == [Quit(11)]


def test_the_next_waits_until_there_is_room() -> None:
    pool, _ = reloading(spare=1)
    born(pool, 110.0, 13)
    assert births(tell(pool, 111.0, Beat(13, 111.0))) == []

    assert births(tell(pool, 112.0, left(11))) == [Spawn(1, 1)]


def test_with_more_spare_the_next_comes_while_the_old_leaves() -> None:
    pool, _ = reloading(spare=2)
    born(pool, 110.0, 13)

    assert births(tell(pool, 111.0, Beat(13, 111.0))) == [Spawn(1, 1)]


def test_it_ends_with_the_last_old_one() -> None:
    pool, _ = reloading(spare=2)
    born(pool, 110.0, 13)
    tell(pool, 111.0, Beat(13, 111.0))
    born(pool, 111.0, 14, first_slot=1)

    assert signals(tell(pool, 112.0, Beat(14, 112.0))) == [Quit(12)]
    assert births(tell(pool, 113.0, left(11), left(12))) == []
    assert signals(tell(pool, 114.0)) == []


def test_without_spare_one_goes_first_and_the_next_waits_for_its_heir() -> None:
    pool, actions = reloading(spare=0)

    assert signals(actions) == [Quit(11)]
    assert births(actions) == []
    assert births(tell(pool, 111.0, left(11))) == [Spawn(0, 1)]
    born(pool, 111.0, 13)
    assert signals(tell(pool, 112.0)) == []
    assert signals(tell(pool, 113.0, Beat(13, 113.0))) == [Quit(12)]


def test_an_old_one_that_never_worked_goes_at_once() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 101.0, Beat(11, 101.0))

    assert signals(tell(pool, 102.0, Reload())) == [Quit(12)]


def test_an_old_one_that_leaves_is_not_asked_again() -> None:
    pool = serving(100.0, 11, 12, spare=2)
    tell(pool, 109.0, Farewell(11, 109.0))
    born(pool, 109.0, 13)

    assert signals(tell(pool, 110.0, Reload())) == [Quit(13)]


def test_an_old_one_that_dies_is_replaced_by_a_new_one() -> None:
    pool, _ = reloading()
    born(pool, 110.0, 13)

    assert births(tell(pool, 111.0, died(12))) == [Spawn(1, 1)]


def test_new_ones_that_die_young_never_cost_an_old_one() -> None:
    pool, actions = reloading()
    now = 110.0
    for pid in range(20, 60):
        if births(actions):
            born(pool, now, pid)
            actions = tell(pool, now, died(pid))
        assert signals(actions) == []
        deadline = pool.next_deadline()
        assert deadline is not None
        now = max(deadline, now)
        tell(pool, now, Beat(11, now), Beat(12, now))
        actions = tell(pool, now)

    assert pool.healthy == 2


def test_a_reload_within_a_reload_starts_anew() -> None:
    pool, _ = reloading()
    born(pool, 110.0, 13)

    actions = tell(pool, 111.0, Reload())

    assert signals(actions) == [Quit(13)]
    assert births(tell(pool, 112.0, left(13))) == [Spawn(0, 2)]


def test_one_that_grows_meanwhile_grows_with_the_new() -> None:
    pool, _ = reloading(spare=2)

    assert births(tell(pool, 110.0, Grow())) == [Spawn(2, 1), Spawn(0, 1)]


def test_one_that_shrinks_meanwhile_sends_the_old_away_and_keeps_the_new() -> None:
    """The new one is the youngest, but it would only have to be born again."""
    pool = serving(110.0, 11, 12, 13, spare=1)
    tell(pool, 110.0, Reload())
    born(pool, 110.0, 14)
    assert signals(tell(pool, 111.0, Beat(14, 111.0))) == [Quit(11)]

    actions = tell(pool, 112.0, Shrink(2))

    assert signals(actions) == [Quit(13), Quit(12)]


def test_one_that_shrinks_before_the_new_works_sends_that_one_away_first() -> None:
    pool, _ = reloading()
    born(pool, 110.0, 13)

    assert signals(tell(pool, 111.0, Shrink())) == [Quit(13), Quit(11)]


def test_an_empty_pool_has_nobody_to_replace() -> None:
    pool = a_pool(spirits=0)
    tell(pool, 100.0, Reload())

    assert births(tell(pool, 101.0, Resize(1))) == [Spawn(0, 1)]


def test_a_stubborn_old_one_is_killed_after_the_graceful_time() -> None:
    pool, _ = reloading(graceful_timeout=10)
    born(pool, 110.0, 13)
    tell(pool, 111.0, Beat(13, 111.0))

    assert signals(tell(pool, 121.0)) == [Kill(11)]
