"""Time in which the manager could not look is nobody's fault."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    died,
    lines,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Kill, Quit, Spawn
from ghostd.core.events import Beat, Farewell, Spawned, Stop, TimeLost


def test_it_is_said() -> None:
    assert lines(tell(serving(), 500.0, TimeLost(390.0))) == [
        (
            "warn",
            "Manager was held up for 390.0 seconds; no spirit is blamed for it",
        )
    ]


def test_nobody_is_blamed_for_silence_that_the_manager_caused() -> None:
    pool = serving(110.0)

    assert signals(tell(pool, 500.0, TimeLost(390.0))) == []
    assert signals(tell(pool, 554.9)) == []
    assert signals(tell(pool, 555.0)) == [Quit(11), Quit(12)]


def test_the_birth_of_one_without_a_beat_moves_too() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert signals(tell(pool, 500.0, TimeLost(390.0))) == []
    assert pool.next_deadline() == 550.0


def test_one_fresh_interval_is_given_to_one_that_was_nearly_overdue() -> None:
    pool = serving(100.0)

    tell(pool, 500.0, TimeLost(345.5))

    assert pool.next_deadline() == 505.0
    assert signals(tell(pool, 504.9)) == []
    assert len(signals(tell(pool, 505.0))) == 2


def test_beats_that_were_waiting_count() -> None:
    pool = serving(110.0)
    tell(pool, 500.0, TimeLost(390.0), Beat(11, 499.0), Beat(12, 500.0))

    assert pool.next_deadline() == 555.0


def test_the_graceful_time_is_not_used_up() -> None:
    pool = serving(graceful_timeout=10)
    tell(pool, 110.0, Stop(graceful=True))

    assert signals(tell(pool, 500.0, TimeLost(385.0))) == []
    assert signals(tell(pool, 505.0)) == [Kill(11), Kill(12)]


def test_one_that_was_killed_is_not_given_up_early() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, Stop(graceful=False))
    tell(pool, 500.0, TimeLost(389.0))

    assert not pool.over
    assert pool.next_deadline() == 501.0


def test_a_parting_one_keeps_its_time() -> None:
    pool = serving(110.0, spare=0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert signals(tell(pool, 500.0, TimeLost(385.0))) == []
    assert signals(tell(pool, 505.0)) == [Kill(11)]


def test_a_death_behind_it_is_replaced_as_ever() -> None:
    pool = serving(110.0)

    assert births(tell(pool, 500.0, TimeLost(390.0), died(11))) == [Spawn(0, 0)]


def test_a_short_life_stays_short() -> None:
    """Half a second before and half an hour of sleep is half a second."""
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(13, 0, 0), Beat(13, 110.0))

    actions = tell(pool, 2000.5, TimeLost(1890.0), died(13))

    assert births(actions) == []
    assert lines(actions)[-1][1].startswith("Spirits end too soon")


def test_one_born_within_the_lost_time_is_not_born_in_the_future() -> None:
    """A hook that takes a minute may come before a birth in the same turn."""
    pool = serving(110.0, graceful_timeout=10)
    tell(pool, 110.0, died(11))
    tell(pool, 165.0, Spawned(13, 0, 0), Farewell(12, 165.0))

    tell(pool, 166.0, TimeLost(55.0))

    assert Kill(12) in tell(pool, 176.0)
    assert Quit(13) not in tell(pool, 225.9)
    assert Quit(13) in tell(pool, 226.0)
