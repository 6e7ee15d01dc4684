"""Stopping: gracefully or at once, told once, never back."""

from __future__ import annotations

import pytest
from tests.unit.core.telling import (
    a_pool,
    births,
    deeds,
    died,
    hooks,
    left,
    lines,
    said,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Call, Kill, Quit
from ghostd.core.events import (
    Beat,
    Event,
    Farewell,
    Grow,
    Reload,
    Resize,
    Shrink,
    Spawned,
    Stop,
)

GRACEFUL, AT_ONCE = Stop(graceful=True), Stop(graceful=False)


def test_a_graceful_stop_asks_everybody_to_leave() -> None:
    assert deeds(tell(serving(), 110.0, GRACEFUL)) == [
        Call("finish", (True,)),
        Quit(11),
        Quit(12),
    ]


def test_a_stop_at_once_kills_everybody() -> None:
    actions = tell(serving(), 110.0, AT_ONCE)

    assert deeds(actions) == [Call("finish", (False,)), Kill(11), Kill(12)]
    assert lines(actions) == [
        ("warn", "Stopping spirit 11 immediately"),
        ("warn", "Stopping spirit 12 immediately"),
    ]


def test_who_does_not_leave_in_time_is_killed() -> None:
    pool = serving(graceful_timeout=10)
    tell(pool, 110.0, GRACEFUL)

    assert signals(tell(pool, 119.9)) == []
    assert signals(tell(pool, 120.0)) == [Kill(11), Kill(12)]
    assert signals(tell(pool, 121.0)) == []


def test_without_graceful_time_quit_and_kill_follow_each_other() -> None:
    pool = serving(graceful_timeout=0)

    assert signals(tell(pool, 110.0, GRACEFUL)) == [
        Quit(11),
        Quit(12),
        Kill(11),
        Kill(12),
    ]


def test_a_stop_at_once_overtakes_a_graceful_one() -> None:
    pool = serving()
    tell(pool, 110.0, GRACEFUL)

    assert deeds(tell(pool, 111.0, AT_ONCE)) == [
        Call("finish", (False,)),
        Kill(11),
        Kill(12),
    ]


def test_a_stop_at_once_kills_those_that_leave_already() -> None:
    pool = serving()
    tell(pool, 110.0, Farewell(11, 110.0))

    assert Kill(11) in tell(pool, 111.0, AT_ONCE)


@pytest.mark.parametrize("first", [GRACEFUL, AT_ONCE])
def test_a_second_graceful_stop_changes_nothing(first: Stop) -> None:
    pool = serving()
    tell(pool, 110.0, first)

    assert tell(pool, 111.0, GRACEFUL) == []


def test_a_second_stop_at_once_changes_nothing() -> None:
    pool = serving()
    tell(pool, 110.0, AT_ONCE)

    assert tell(pool, 111.0, AT_ONCE) == []


def test_both_in_one_turn_are_both_told_and_the_harder_one_wins() -> None:
    actions = tell(serving(), 110.0, GRACEFUL, AT_ONCE, GRACEFUL)

    assert hooks(actions) == [("finish", True), ("finish", False)]
    assert signals(actions) == [Kill(11), Kill(12)]


def test_the_pool_is_over_when_all_are_reaped_and_all_is_told() -> None:
    pool = serving()
    tell(pool, 110.0, GRACEFUL)
    tell(pool, 110.1, left(11))
    assert not pool.over

    pool.observe(left(12), 110.2)
    assert not pool.over
    assert hooks(tell(pool, 110.2)) == [("reap", 12)]
    assert pool.over
    assert pool.exit_code == 0


def test_a_pool_that_is_not_stopped_is_never_over() -> None:
    pool = a_pool(spirits=0)
    tell(pool, 100.0)

    assert not pool.over


def test_an_empty_pool_is_over_at_once() -> None:
    pool = a_pool(spirits=0)
    tell(pool, 100.0, GRACEFUL)

    assert pool.over


@pytest.mark.parametrize("wish", [Grow(), Shrink(), Resize(9), Reload()])
def test_wishes_after_a_stop_are_not_heard(wish: Event) -> None:
    pool = serving()
    tell(pool, 110.0, GRACEFUL)

    assert tell(pool, 111.0, wish) == []
    assert pool.wanted == 2
    assert pool.generation == 0


def test_one_born_into_a_shutdown_is_sent_away() -> None:
    pool = serving()
    tell(pool, 110.0, GRACEFUL)

    assert signals(tell(pool, 110.0, Spawned(13, 0, 0))) == [Quit(13)]


def test_nobody_is_blamed_for_silence_in_a_shutdown() -> None:
    pool = serving()
    tell(pool, 110.0, GRACEFUL)

    assert "spirit.hung" not in said(tell(pool, 160.0))


def test_one_that_the_kernel_holds_is_given_up_after_two_seconds() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, AT_ONCE)
    tell(pool, 110.1, died(11))

    assert tell(pool, 111.9) == []
    assert not pool.over
    assert lines(tell(pool, 112.0)) == [
        ("fatal", "Spirits [12] do not die: the kernel holds them")
    ]
    assert pool.over
    assert pool.exit_code == 1
    assert pool.failure == "Spirits [12] do not die: the kernel holds them"


def test_giving_up_is_said_once() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, AT_ONCE)
    tell(pool, 112.0)

    assert tell(pool, 113.0) == []


def test_those_who_may_still_die_are_waited_for() -> None:
    pool = serving(110.0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))
    tell(pool, 118.0, GRACEFUL)
    tell(pool, 120.0)

    assert "spirit.undying" not in said(tell(pool, 127.0))
    assert not pool.over


def test_the_first_reason_of_a_failure_is_kept() -> None:
    pool = a_pool()
    pool.plan(100.0)
    tell(pool, 100.0, Spawned(11, 0, 0), Spawned(12, 1, 0), died(11))

    tell(pool, 102.0)

    assert pool.over
    assert pool.failure == "Spirit 11 stopped too early: exit code 1"


def test_no_place_is_filled_after_a_stop() -> None:
    pool = a_pool()

    assert births(tell(pool, 100.0, GRACEFUL)) == []


# -- with a delay for those who send work ----------------------------------------------


def test_with_a_delay_nobody_is_told_at_first_but_the_pool_is_not_ready() -> None:
    pool = serving(drain_delay=5)
    assert pool.ready

    actions = tell(pool, 110.0, GRACEFUL)

    assert deeds(actions) == [Call("finish", (True,))]
    assert not pool.ready
    assert pool.next_deadline() == 115.0
    assert deeds(tell(pool, 114.9)) == []
    assert signals(tell(pool, 115.0)) == [Quit(11), Quit(12)]


def test_the_graceful_time_begins_after_the_delay() -> None:
    pool = serving(drain_delay=5, graceful_timeout=10)
    tell(pool, 110.0, GRACEFUL)
    tell(pool, 115.0)

    assert pool.next_deadline() == 125.0
    assert signals(tell(pool, 125.0)) == [Kill(11), Kill(12)]


def test_a_stop_at_once_knows_no_delay() -> None:
    pool = serving(drain_delay=5)
    tell(pool, 110.0, GRACEFUL)

    assert signals(tell(pool, 111.0, AT_ONCE)) == [Kill(11), Kill(12)]


def test_who_leaves_in_the_delay_is_not_replaced_and_killed_in_time() -> None:
    pool = serving(drain_delay=50, graceful_timeout=10)
    tell(pool, 110.0, GRACEFUL)

    assert births(tell(pool, 111.0, Farewell(11, 111.0))) == []
    assert pool.next_deadline() == 121.0
    assert signals(tell(pool, 121.0)) == [Kill(11)]


def test_an_empty_pool_need_not_wait_for_the_delay() -> None:
    pool = serving(drain_delay=50)
    tell(pool, 110.0, GRACEFUL)
    tell(pool, 111.0, left(11), left(12))

    assert pool.over


# -- ready -----------------------------------------------------------------------------


def test_a_pool_is_ready_while_somebody_serves() -> None:
    pool = a_pool()
    assert not pool.ready
    tell(pool, 100.0, Spawned(11, 0, 0), Beat(11, 100.0))
    assert pool.ready

    tell(pool, 101.0, Farewell(11, 101.0))
    assert not pool.ready
