"""The next deadline: never past, never late, never for nothing."""

from __future__ import annotations

import pytest
from tests.unit.core.telling import a_pool, births, born, died, serving, tell

from ghostd.core.actions import Spawn
from ghostd.core.events import Beat, Farewell, Spawned, SpawnFailed, Stop


def test_a_new_pool_is_due_at_once() -> None:
    assert a_pool(100.0).next_deadline() == 100.0


def test_an_empty_pool_that_wants_nobody_has_nothing_due() -> None:
    pool = a_pool(spirits=0)
    tell(pool, 100.0)

    assert pool.next_deadline() is None


def test_the_silence_of_the_first_to_be_overdue_is_due() -> None:
    pool = serving(100.0)
    tell(pool, 120.0, Beat(11, 120.0))

    assert pool.next_deadline() == 155.0


def test_an_unborn_beat_counts_from_birth() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert pool.next_deadline() == 160.0


def test_what_has_not_been_told_is_due_now() -> None:
    pool = serving(100.0)
    pool.observe(Beat(11, 110.0), 110.0)

    assert pool.next_deadline() == 110.0


def test_it_is_never_in_the_past() -> None:
    """A pool that was not asked for long is due now, not an hour ago."""
    pool = serving(100.0)

    pool.observe(Beat(99, 5000.0), 5000.0)

    assert pool.next_deadline() == 5000.0


def test_the_end_of_the_graceful_time_is_due() -> None:
    pool = serving(graceful_timeout=10)
    tell(pool, 110.0, Stop(graceful=True))

    assert pool.next_deadline() == 120.0


def test_a_killed_one_is_waited_for_two_seconds_in_a_shutdown() -> None:
    pool = serving()
    tell(pool, 110.0, Stop(graceful=False))

    assert pool.next_deadline() == 112.0


def test_a_killed_one_is_due_no_more_while_the_pool_runs() -> None:
    pool = serving(110.0, 11, spare=0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))
    tell(pool, 120.0)

    assert pool.next_deadline() is None


def test_one_that_the_kernel_holds_is_due_no_more_after_that() -> None:
    pool = serving(110.0, 11)
    tell(pool, 110.0, Stop(graceful=False))
    tell(pool, 112.0)

    assert pool.next_deadline() is None


def test_a_pool_that_stops_is_due_until_it_has_told_everybody() -> None:
    pool = serving()
    tell(pool, 110.0)
    pool.observe(Stop(graceful=True), 111.0)

    assert pool.next_deadline() == 111.0


def test_the_verdict_on_the_start_is_due() -> None:
    pool = a_pool(100.0, 105.0)
    born(pool, 100.0, 11, 12)

    assert pool.next_deadline() == 105.0


def test_the_verdict_on_the_start_is_due_once() -> None:
    pool = a_pool(100.0, 105.0)
    born(pool, 100.0, 11, 12)
    tell(pool, 105.0)

    assert pool.next_deadline() == 160.0


def test_the_end_of_a_pause_is_due() -> None:
    pool = a_pool(spirits=1)
    pool.plan(100.0)
    tell(pool, 100.0, SpawnFailed("no", 0, 0))

    deadline = pool.next_deadline()

    assert deadline is not None
    assert births(tell(pool, deadline - 0.001)) == []
    assert len(births(tell(pool, deadline))) == 1


def test_a_place_that_waits_for_room_is_not_due() -> None:
    pool = serving(110.0, 11, spare=0)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert pool.next_deadline() == 230.0


def test_forgiveness_is_due_where_a_birth_waits_for_the_first_beat_of_another() -> None:
    """
    With a brake, births go one at a time, each after the first beat of the one
    before. If that one is slow, the brake forgives before it beats, and nothing but
    this deadline would wake us to see it.
    """
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(13, 0, 0))
    tell(pool, 111.0, died(13))
    assert births(tell(pool, 112.0)) == [Spawn(0, 0)]
    tell(pool, 112.0, Spawned(14, 0, 0))

    assert births(tell(pool, 113.0, died(12))) == []
    deadline = pool.next_deadline()
    assert deadline is not None
    assert deadline == pytest.approx(121.1, abs=0.011)
    assert births(tell(pool, deadline)) == [Spawn(1, 0)]
