"""Growing and shrinking: who comes, who goes."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    left,
    lines,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Quit, Spawn
from ghostd.core.events import Beat, Grow, Resize, Shrink


def test_growing_fills_new_places() -> None:
    actions = tell(serving(), 110.0, Grow(2))

    assert births(actions) == [Spawn(2, 0), Spawn(3, 0)]
    assert lines(actions) == [("info", "Pool size 2 -> 4")]


def test_shrinking_sends_the_youngest_away() -> None:
    pool = serving(100.0, 11)
    tell(pool, 110.0, Grow(2))
    born(pool, 110.0, 12, first_slot=1)
    born(pool, 111.0, 13, first_slot=2)
    tell(pool, 112.0, Beat(12, 112.0), Beat(13, 112.0))

    actions = tell(pool, 113.0, Shrink())

    assert signals(actions) == [Quit(13)]
    assert lines(actions)[0] == ("info", "Pool size 3 -> 2")


def test_of_those_born_together_the_last_one_goes() -> None:
    assert signals(tell(serving(110.0, 11, 12, 13), 110.0, Shrink())) == [Quit(13)]


def test_one_without_a_beat_goes_before_one_that_serves() -> None:
    pool = a_pool(spirits=3)
    born(pool, 100.0, 11, 12, 13)
    tell(pool, 101.0, Beat(12, 101.0), Beat(13, 101.0))

    assert signals(tell(pool, 102.0, Shrink())) == [Quit(11)]


def test_shrinking_below_none_is_none() -> None:
    pool = serving(110.0)

    assert signals(tell(pool, 110.0, Shrink(5))) == [Quit(12), Quit(11)]
    assert tell(pool, 111.0, Shrink()) == []
    assert pool.wanted == 0


def test_growing_again_counts_from_none() -> None:
    pool = a_pool(spirits=0)
    tell(pool, 100.0, Shrink())

    assert births(tell(pool, 101.0, Grow())) == [Spawn(0, 0)]


def test_resizing_to_the_same_is_not_said() -> None:
    assert tell(serving(), 110.0, Resize(2)) == []


def test_resizing_less_than_none_is_none() -> None:
    pool = serving()
    tell(pool, 110.0, Resize(-3))

    assert pool.wanted == 0


def test_up_and_down_in_one_turn_is_nothing() -> None:
    pool = serving()

    assert births(tell(pool, 110.0, Grow(3), Shrink(3))) == []
    assert signals(tell(pool, 111.0)) == []


def test_growth_waits_for_room_while_the_surplus_leaves() -> None:
    """Wanted 2, spare 1: with two leaving, one may be born, the other later."""
    pool = serving(110.0, spare=1)
    tell(pool, 110.0, Resize(0))

    assert births(tell(pool, 111.0, Resize(2))) == [Spawn(0, 0)]
    born(pool, 111.0, 13)
    assert births(tell(pool, 112.0, left(11))) == [Spawn(1, 0)]


def test_a_smaller_pool_fills_the_lowest_free_place() -> None:
    pool = a_pool(spirits=3)
    born(pool, 100.0, 11, 12, 13)
    tell(pool, 101.0, Beat(12, 101.0), Beat(13, 101.0))
    tell(pool, 102.0, Shrink())
    tell(pool, 103.0, left(11))

    # The places 1 and 2 are held now; when 2 falls free, 0 is the lowest.
    assert births(tell(pool, 110.0, left(13))) == [Spawn(0, 0)]
