"""Births: how many at once, in which places, and what is told of them."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
    died,
    hooks,
    lines,
    serving,
    tell,
)

from ghostd.core.actions import Call, Say, Spawn
from ghostd.core.events import Beat, Farewell, Spawned


def test_a_new_pool_fills_its_places() -> None:
    assert a_pool(spirits=3).plan(100.0) == [Spawn(0, 0), Spawn(1, 0), Spawn(2, 0)]


def test_a_birth_is_said_and_the_hook_called() -> None:
    pool = a_pool(spirits=1)

    assert born(pool, 100.0, 11) == [
        Say("info", "spirit.spawned", "Spirit 11 started", {"pid": 11}),
        Call("spawn", (11,)),
    ]


def test_the_spawn_hook_comes_before_the_beat_and_the_reap() -> None:
    pool = a_pool(spirits=1)
    events = (Spawned(11, 0, 0), Beat(11, 100.0), died(11))

    assert hooks(tell(pool, 100.0, *events)) == [
        ("spawn", 11),
        ("heartbeat", 11),
        ("reap", 11),
    ]


def test_a_full_pool_wants_nothing() -> None:
    assert tell(serving(), 101.0) == []


def test_a_large_pool_is_born_in_bursts() -> None:
    """Between two bursts the manager looks at its signals."""
    pool = a_pool(spirits=40)

    first = births(pool.plan(100.0))
    assert [spawn.slot for spawn in first] == list(range(16))
    assert pool.next_deadline() == 100.0
    second = births(born(pool, 100.0, *range(200, 216)))
    assert [spawn.slot for spawn in second] == list(range(16, 32))
    third = births(born(pool, 100.0, *range(216, 232), first_slot=16))
    assert [spawn.slot for spawn in third] == list(range(32, 40))
    born(pool, 100.0, *range(232, 240), first_slot=32)
    assert pool.next_deadline() == 160.0


def test_a_replacement_inherits_the_place_of_the_dead() -> None:
    pool = serving(110.0, 11, 12, 13)

    assert births(tell(pool, 110.0, died(12))) == [Spawn(1, 0)]


def test_two_replacements_take_the_lowest_places_first() -> None:
    pool = serving(110.0, 11, 12, 13)

    actions = tell(pool, 110.0, died(13), died(11))

    assert births(actions) == [Spawn(0, 0), Spawn(2, 0)]


def test_a_pid_may_be_used_again_at_once() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, died(11))

    assert lines(tell(pool, 110.0, Spawned(11, 0, 0))) == [
        ("info", "Spirit 11 started")
    ]
    assert pool.healthy == 1
    assert pool.members[11].slot == 0


def test_spare_bounds_how_many_live_while_others_leave() -> None:
    pool = serving(110.0, 11, 12, 13, spare=2)
    farewells = [Farewell(pid, 110.0) for pid in (11, 12, 13)]

    assert births(tell(pool, 110.0, *farewells)) == [Spawn(0, 0), Spawn(1, 0)]


def test_one_that_was_born_although_nobody_was_wanted_is_told_to_leave() -> None:
    pool = serving(110.0)

    tell(pool, 110.0, Spawned(13, 2, 0))

    assert not pool.members[13].active
    assert pool.members[11].active
