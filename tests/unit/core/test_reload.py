"""
Once new code is good: one after another, and nobody is missed meanwhile.

In these stories a canary has passed as soon as it is ready (`canary_time` is 0); what
becomes of one that has to prove itself is in `test_trial.py`.
"""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    answers,
    births,
    born,
    died,
    left,
    lines,
    reloading,
    rolling,
    said,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Kill, Quit, Reloaded, Spawn
from ghostd.core.events import Beat, Farewell, Grow, Reload, Resize, Shrink, Stop


def test_the_first_beat_of_the_new_sends_the_old_of_its_place_away() -> None:
    pool, _ = reloading()
    born(pool, 110.0, 13)

    actions = tell(pool, 111.0, Beat(13, 111.0))

    assert signals(actions) == [Quit(11)]
    assert lines(actions)[1] == (
        "info",
        "Generation 1 is good: replacing 2 spirits, one after another",
    )


def test_the_next_waits_until_there_is_room() -> None:
    pool, actions = rolling(spare=1)
    assert births(actions) == []

    assert births(tell(pool, 112.0, left(11))) == [Spawn(1, 1)]


def test_with_more_spare_the_next_comes_while_the_old_leaves() -> None:
    _, actions = rolling(spare=2)

    assert births(actions) == [Spawn(1, 1)]


def test_it_ends_with_the_last_old_one_and_whoever_asked_is_told() -> None:
    pool, _ = rolling(spare=2)
    born(pool, 111.0, 14, first_slot=1)

    actions = tell(pool, 112.0, Beat(14, 112.0))

    assert signals(actions) == [Quit(12)]
    assert answers(actions) == [Reloaded(1)]
    assert lines(actions)[-1] == ("info", "Generation 1 has replaced all others")
    assert births(tell(pool, 113.0, left(11), left(12))) == []
    assert answers(tell(pool, 114.0)) == []


def test_it_is_not_complete_before_all_wanted_ones_serve() -> None:
    pool, _ = rolling(spare=2)
    born(pool, 111.0, 14, first_slot=1)

    assert answers(tell(pool, 112.0, Beat(14, 112.0), died(13))) == []
    born(pool, 112.0, 15)
    assert answers(tell(pool, 113.0, Beat(15, 113.0))) == [Reloaded(1)]


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
    tell(pool, 101.0, Beat(11, 101.0), Reload())
    born(pool, 101.0, 13)

    assert signals(tell(pool, 102.0, Beat(13, 102.0))) == [Quit(12)]


def test_an_old_one_that_leaves_is_not_asked_again() -> None:
    pool = serving(100.0, 11, 12, spare=2)
    tell(pool, 109.0, Farewell(11, 109.0))
    born(pool, 109.0, 13)
    tell(pool, 110.0, Beat(13, 110.0), Reload())
    born(pool, 110.0, 14)

    assert signals(tell(pool, 111.0, Beat(14, 111.0))) == [Quit(13)]


def test_an_old_one_that_dies_is_replaced_by_a_new_one() -> None:
    pool, _ = rolling()

    assert births(tell(pool, 112.0, died(12))) == [Spawn(1, 1)]


def test_a_new_one_that_dies_early_ends_the_waiting_but_not_the_reload() -> None:
    """It worked as a canary, so this may pass; but nobody knows when."""
    pool, _ = rolling(spare=2)
    born(pool, 111.0, 14, first_slot=1)

    actions = tell(pool, 112.0, died(14))

    (answer,) = answers(actions)
    assert answer.generation == 1
    assert answer.reason == (
        "Spirit 14 stopped too early: exit code 1\nthe reload goes on"
    )
    assert births(actions) == [Spawn(1, 1)]
    born(pool, 112.0, 15, first_slot=1)
    assert signals(tell(pool, 113.0, Beat(15, 113.0))) == [Quit(12)]


def test_a_new_one_that_is_never_ready_ends_the_waiting_too() -> None:
    pool, _ = rolling(spare=2, boot_timeout=30)
    born(pool, 111.0, 14, first_slot=1)
    tell(pool, 140.0, Beat(12, 140.0), Beat(13, 140.0), left(11))

    actions = tell(pool, 141.0)

    assert answers(actions) == [
        Reloaded(1, "Spirit 14 is not ready after 30.0 seconds\nthe reload goes on")
    ]
    assert births(actions) == [Spawn(1, 1)]


def test_new_ones_that_die_young_never_cost_an_old_one() -> None:
    pool, _ = rolling(spare=2, restart_budget=0)
    actions = born(pool, 111.0, 20, first_slot=1)
    now = 111.0
    for pid in range(20, 60):
        if births(actions) or pid == 20:
            born(pool, now, pid, first_slot=1)
            actions = tell(pool, now, died(pid))
        assert signals(actions) == []
        deadline = pool.next_deadline()
        assert deadline is not None
        now = max(deadline, now)
        tell(pool, now, Beat(12, now), Beat(13, now))
        actions = tell(pool, now)

    assert pool.members[12].active
    assert pool.members[13].active


def test_a_reload_in_a_reload_puts_the_next_on_trial_beside_those_that_serve() -> None:
    pool, _ = rolling(spare=2)
    born(pool, 111.0, 14, first_slot=1)

    actions = tell(pool, 111.5, left(11), Reload())

    assert answers(actions) == [Reloaded(1, "another reload has begun")]
    # The one that was on its way makes room for the canary.
    assert signals(actions) == [Quit(14)]
    assert births(actions) == [Spawn(0, 2)]
    born(pool, 111.5, 15)
    assert signals(tell(pool, 112.0, Beat(15, 112.0))) == [Quit(13)]


def test_one_that_grows_meanwhile_grows_with_the_new() -> None:
    pool, _ = rolling(spare=2)

    assert births(tell(pool, 112.0, Grow(), left(11))) == [Spawn(2, 1)]


def test_one_that_shrinks_meanwhile_sends_the_old_away_and_keeps_the_new() -> None:
    """The new one is the youngest, but it would only have to be born again."""
    pool = serving(110.0, 11, 12, 13, spare=1)
    tell(pool, 110.0, Reload())
    born(pool, 110.0, 14)
    assert signals(tell(pool, 111.0, Beat(14, 111.0))) == [Quit(11)]

    actions = tell(pool, 112.0, Shrink(2))

    assert signals(actions) == [Quit(13), Quit(12)]
    assert answers(actions) == [Reloaded(1)]


def test_one_that_shrinks_before_the_next_works_sends_that_one_away_first() -> None:
    pool, _ = rolling(spare=2)
    born(pool, 111.0, 14, first_slot=1)

    assert signals(tell(pool, 112.0, Shrink())) == [Quit(14), Quit(12)]


def test_a_pool_that_wants_nobody_has_nobody_to_try() -> None:
    pool = a_pool(spirits=0)

    actions = tell(pool, 100.0, Reload())

    assert answers(actions) == [Reloaded(1)]
    assert births(tell(pool, 101.0, Resize(1))) == [Spawn(0, 1)]


def test_a_stop_ends_the_waiting() -> None:
    pool, _ = rolling()

    assert answers(tell(pool, 112.0, Stop(graceful=True))) == [
        Reloaded(1, "the daemon is stopping")
    ]


def test_a_stubborn_old_one_is_killed_after_the_graceful_time() -> None:
    pool, _ = rolling(graceful_timeout=10)

    assert signals(tell(pool, 121.0)) == [Kill(11)]


def test_how_far_it_is_can_be_asked() -> None:
    pool, _ = rolling(spare=2)
    assert (pool.replaced, pool.generation) == (1, 1)

    born(pool, 111.0, 14, first_slot=1)
    actions = tell(pool, 112.0, Beat(14, 112.0))

    assert "pool.reloaded" in said(actions)
    assert pool.replaced == 2


def test_where_some_may_be_missing_as_many_go_at_once() -> None:
    pool = serving(110.0, 11, 12, 13, 14, spare=4, max_unavailable=2)
    tell(pool, 110.0, Reload())
    born(pool, 110.0, 15)

    actions = tell(pool, 111.0, Beat(15, 111.0))

    # Four old and a new one serve, and two of four are enough.
    assert signals(actions) == [Quit(11), Quit(12), Quit(13)]
    assert births(actions) == [Spawn(1, 1), Spawn(2, 1), Spawn(3, 1)]


def test_who_is_missing_already_is_counted() -> None:
    pool = serving(110.0, 11, 12, 13, 14, spare=4, max_unavailable=2)
    tell(pool, 110.0, Reload())
    born(pool, 110.0, 15)

    actions = tell(pool, 111.0, Beat(15, 111.0), died(14))

    assert signals(actions) == [Quit(11), Quit(12)]


def test_where_some_may_be_missing_and_no_overlap_is_allowed_as_many_go() -> None:
    pool = serving(110.0, 11, 12, 13, 14, spare=0, max_unavailable=2)
    assert signals(tell(pool, 110.0, Reload())) == [Quit(11)]
    tell(pool, 111.0, left(11))
    born(pool, 111.0, 15)

    assert signals(tell(pool, 112.0, Beat(15, 112.0))) == [Quit(12), Quit(13)]
