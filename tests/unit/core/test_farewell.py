"""A farewell: the member leaves by itself, and is not asked to."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    hooks,
    left,
    lines,
    said,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Kill, Quit, Spawn
from ghostd.core.events import Beat, Farewell, Stop


def test_a_replacement_is_born_at_once_and_no_quit_is_sent() -> None:
    pool = serving()

    actions = tell(pool, 110.0, Farewell(11, 110.0))

    assert births(actions) == [Spawn(slot=0, generation=0)]
    assert signals(actions) == []
    assert lines(actions) == [("debug", "Spirit 11 has finished")]


def test_without_spare_the_replacement_waits_for_the_death() -> None:
    pool = serving(spare=0)

    assert births(tell(pool, 110.0, Farewell(11, 110.0))) == []
    assert births(tell(pool, 111.0, left(11))) == [Spawn(slot=0, generation=0)]


def test_one_that_does_not_go_is_killed_after_the_graceful_time() -> None:
    pool = serving(spare=0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert pool.next_deadline() == 120.0
    assert signals(tell(pool, 119.9)) == []
    assert signals(tell(pool, 120.0)) == [Kill(11)]


def test_a_second_farewell_does_not_extend_the_time() -> None:
    pool = serving(spare=0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert tell(pool, 115.0, Farewell(11, 115.0)) == []
    assert signals(tell(pool, 120.0)) == [Kill(11)]


def test_a_graceful_stop_leaves_the_parting_alone() -> None:
    pool = serving()
    tell(pool, 110.0, Farewell(11, 110.0))

    assert signals(tell(pool, 111.0, Stop(graceful=True))) == [Quit(12)]


def test_a_farewell_of_a_stranger_changes_nothing() -> None:
    assert tell(serving(), 110.0, Farewell(99, 110.0)) == []


def test_a_farewell_counts_as_a_first_beat() -> None:
    """A body that does one piece of work and says so has worked: no early death."""
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert hooks(tell(pool, 101.0, Farewell(11, 101.0))) == [("heartbeat", 11)]
    assert "spirit.too_early" not in said(tell(pool, 102.0, left(11)))
    assert pool.stopping is None


def test_a_farewell_after_a_beat_calls_no_hook() -> None:
    pool = serving()

    assert hooks(tell(pool, 110.0, Farewell(11, 110.0))) == []
    assert hooks(tell(pool, 110.0, Beat(11, 110.0))) == [("heartbeat", 11)]
