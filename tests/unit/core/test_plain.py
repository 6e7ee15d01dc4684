"""A pool can be taken along as JSON, from any state, and goes on as if nothing was."""

from __future__ import annotations

import json

import pytest
from tests.unit.core.telling import a_pool, died, drain, settings, tell

from ghostd.core.events import (
    Beat,
    Event,
    Farewell,
    Grow,
    Reload,
    Spawned,
    SpawnFailed,
    Stillborn,
    Stop,
    TimeLost,
    Tired,
)
from ghostd.core.pool import Pool

CHANGES = {
    "restart_budget": 0,
    "canary_time": 1,
    "max_age": 50,
    "jitter": 0.5,
    "drain_delay": 2,
}
FIRST = (Spawned(11, 0, 0), Spawned(12, 1, 0))
STORIES: dict[str, list[tuple[float, tuple[Event, ...]]]] = {
    "new": [],
    "starting": [(100.0, FIRST)],
    "half up": [(100.0, FIRST), (101.0, (Beat(11, 101.0),))],
    "serving": [(100.0, FIRST), (101.0, (Beat(11, 101.0), Beat(12, 101.0)))],
    "parting": [(100.0, FIRST), (101.0, (Beat(11, 101.0), Farewell(11, 101.0)))],
    "reloading": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Beat(12, 101.0), Reload())),
    ],
    "on trial": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Beat(12, 101.0), Reload())),
        (102.0, (Spawned(13, 0, 1), Beat(13, 102.0))),
    ],
    "rolling": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Beat(12, 101.0), Reload())),
        (102.0, (Spawned(13, 0, 1), Beat(13, 102.0))),
        (103.0, ()),
    ],
    "dropped": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Beat(12, 101.0), Reload())),
        (102.0, (Stillborn(0, 1, "SyntaxError"),)),
    ],
    "tired": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Beat(12, 101.0), Tired(12, "it is"))),
    ],
    "draining": [(100.0, FIRST), (101.0, (Beat(11, 101.0), Stop(graceful=True)))],
    "grown": [(100.0, FIRST), (101.0, (Beat(11, 101.0), Grow(3)))],
    "silent": [(100.0, FIRST), (160.0, ())],
    "late": [(100.0, FIRST), (300.0, (TimeLost(150.0),))],
    "braked": [(100.0, FIRST), (101.0, (Beat(12, 101.0), died(11)))],
    "no forks": [(100.0, (SpawnFailed("no", 0, 0),))],
    "leaving": [
        (100.0, FIRST),
        (101.0, (Beat(11, 101.0), Stop(graceful=True))),
        (103.5, ()),
    ],
    "killed": [(100.0, FIRST), (101.0, (Stop(graceful=False),))],
    "given up": [(100.0, FIRST), (100.5, (died(11),))],
    "undying": [(100.0, FIRST), (101.0, (Stop(graceful=False),)), (110.0, ())],
}


def reached(story: str) -> Pool:
    pool = a_pool(100.0, 105.0, **CHANGES)
    pool.plan(100.0)
    for now, events in STORIES[story]:
        tell(pool, now, *events)
    return pool


def copied(pool: Pool) -> Pool:
    plain = json.loads(json.dumps(pool.plain(), allow_nan=False))
    return Pool.from_plain(settings(**CHANGES), plain)


@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_lost_on_the_way(story: str) -> None:
    pool = reached(story)

    assert copied(pool).plain() == pool.plain()


@pytest.mark.parametrize("story", STORIES)
def test_the_copy_goes_on_as_the_original_would(story: str) -> None:
    pool = reached(story)

    for later in (0.0, 0.1, 4.0, 10.0, 60.0, 200.0):
        now = pool.plain()["now"] + later
        copy = copied(pool)
        assert drain(copy, now) == drain(pool, now)
        assert copy.next_deadline() == pool.next_deadline()
        assert (copy.over, copy.exit_code) == (pool.over, pool.exit_code)


def test_an_unknown_version_is_refused() -> None:
    plain = a_pool().plain() | {"version": 1}

    with pytest.raises(ValueError, match="version 1, known: 2"):
        Pool.from_plain(settings(), plain)
