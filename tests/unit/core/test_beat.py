"""A beat makes a member healthy and moves one stamp; whatever it says, it is believed
only about itself."""

from __future__ import annotations

import math

import pytest
from tests.unit.core.telling import (
    a_pool,
    born,
    deeds,
    hooks,
    lines,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Call, Ready, Say
from ghostd.core.events import Beat, Shrink


def test_the_first_beat_makes_a_member_healthy() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    actions = tell(pool, 101.0, Beat(11, 101.0))

    assert actions == [
        Say("debug", "spirit.healthy", "Spirit 11 is healthy", {"pid": 11}),
        Call("heartbeat", (11,)),
    ]
    assert pool.healthy == 1


def test_later_beats_call_the_hook_and_say_nothing() -> None:
    pool = serving()

    assert tell(pool, 105.0, Beat(11, 105.0)) == [Call("heartbeat", (11,))]


def test_a_beat_of_a_stranger_changes_nothing() -> None:
    pool = serving()

    assert tell(pool, 105.0, Beat(99, 105.0)) == []
    assert pool.healthy == 2


def test_ready_is_told_when_each_place_has_worked() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert Ready() not in tell(pool, 101.0, Beat(11, 101.0))
    assert deeds(tell(pool, 102.0, Beat(12, 102.0))) == [
        Call("heartbeat", (12,)),
        Ready(),
    ]
    assert Ready() not in tell(pool, 103.0, Beat(11, 103.0), Beat(12, 103.0))


def test_a_pool_that_shrinks_while_it_starts_is_ready_with_the_places_it_has() -> None:
    """The place without a beat goes first, so place 0 may never have worked."""
    pool = a_pool(spirits=3)
    born(pool, 100.0, 11, 12, 13)
    tell(pool, 101.0, Beat(12, 101.0), Beat(13, 101.0))

    assert Ready() in tell(pool, 102.0, Shrink())


def test_a_pool_that_wants_nobody_is_ready_at_once() -> None:
    assert a_pool(spirits=0).plan(100.0) == [Ready()]


@pytest.mark.parametrize("stamp", [1e9, math.inf, math.nan])
def test_a_stamp_from_the_future_counts_as_now(stamp: float) -> None:
    pool = serving(100.0)

    tell(pool, 105.0, Beat(11, stamp), Beat(12, 154.0))

    assert signals(tell(pool, 159.9)) == []
    # Both have been silent since 105 s now, however far ahead they said to be.
    assert len(signals(tell(pool, 160.0))) == 2


@pytest.mark.parametrize("stamp", [-1e9, -math.inf, 99.0])
def test_a_stamp_from_the_past_cannot_age_a_member(stamp: float) -> None:
    pool = serving(104.0)

    tell(pool, 105.0, Beat(11, stamp), Beat(12, stamp))

    assert pool.next_deadline() == 104.0 + 55.0
    assert signals(tell(pool, 158.9)) == []


def test_a_late_beat_counts_from_when_it_was_sent() -> None:
    pool = serving(100.0)

    tell(pool, 130.0, Beat(11, 120.0), Beat(12, 121.0))

    assert pool.next_deadline() == 120.0 + 55.0


def test_a_member_that_leaves_still_has_its_beats_told() -> None:
    pool = serving(100.0)
    tell(pool, 101.0, Shrink())

    assert hooks(tell(pool, 102.0, Beat(12, 102.0))) == [("heartbeat", 12)]


def test_a_silent_member_is_dismissed_with_its_reason() -> None:
    pool = serving(100.0)
    tell(pool, 120.0, Beat(12, 120.0))

    assert lines(tell(pool, 155.0)) == [
        ("error", "Spirit 11 has no heartbeat (50 seconds), restarting"),
        ("info", "Stopping spirit 11 gracefully (120 seconds)"),
    ]


def test_a_beat_at_the_last_moment_saves_a_member() -> None:
    pool = serving(100.0)

    assert signals(tell(pool, 155.0, Beat(11, 155.0), Beat(12, 155.0))) == []
