"""A fork that fails is said, and tried again after a pause that grows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.unit.core.telling import a_pool, births, lines, serving, tell

from ghostd.core.actions import Spawn
from ghostd.core.events import Spawned, SpawnFailed


def failing(pool_size: int = 1) -> list[float]:
    """Let forks fail for ten minutes; give the pauses between the tries."""
    pool = a_pool(spirits=pool_size)
    times = []
    now = 100.0
    while now < 700.0:
        if tries := births(pool.plan(now)):
            times.append(now)
            tell(
                pool, now, *(SpawnFailed("no more processes", t.slot, 0) for t in tries)
            )
        deadline = pool.next_deadline()
        assert deadline is not None
        now = deadline
    return [later - earlier for earlier, later in pairwise(times)]


def test_it_is_said_with_the_reason_and_the_pause() -> None:
    pool = a_pool()
    pool.plan(100.0)

    (line,) = lines(tell(pool, 100.0, SpawnFailed("Cannot allocate memory", 0, 0)))

    level, text = line
    assert level == "error"
    assert text.startswith("Cannot start a spirit: Cannot allocate memory; next try in")


def test_the_pause_doubles_up_to_half_a_minute() -> None:
    pauses = failing()

    assert pauses[0] == pytest.approx(0.09, abs=0.011)
    assert pauses[1] == pytest.approx(0.18, abs=0.021)
    assert pauses == sorted(pauses[:9]) + pauses[9:]
    assert all(24 <= pause <= 30 for pause in pauses[9:])


def test_several_failures_of_one_turn_cost_one_pause() -> None:
    """Sixteen refusals in one moment say no more than one does."""
    assert failing(pool_size=40)[:6] == pytest.approx(failing()[:6])


def test_nobody_is_born_during_the_pause() -> None:
    pool = a_pool()
    pool.plan(100.0)
    tell(pool, 100.0, SpawnFailed("no", 0, 0), SpawnFailed("no", 1, 0))

    assert births(tell(pool, 100.07)) == []
    assert len(births(tell(pool, 100.11))) == 2


def test_a_success_forgives_all_failures() -> None:
    pool = a_pool()
    tell(pool, 100.0)
    for now in (100.0, 101.0, 103.0):
        tell(pool, now, SpawnFailed("no", 0, 0), SpawnFailed("no", 1, 0))
    tell(pool, 110.0, Spawned(11, 0, 0))

    tell(pool, 110.0, SpawnFailed("no", 1, 0))

    deadline = pool.next_deadline()
    assert deadline is not None
    assert deadline < 110.2


def test_those_who_live_do_not_notice() -> None:
    pool = serving()
    tell(pool, 110.0, SpawnFailed("no", 0, 0))

    assert pool.healthy == 2
    assert tell(pool, 111.0) == []


def test_what_succeeded_beside_a_failure_is_kept() -> None:
    pool = a_pool()

    assert tell(pool, 100.0) == [Spawn(0, 0), Spawn(1, 0)]
    tell(pool, 100.0, Spawned(11, 0, 0), SpawnFailed("no", 1, 0))

    assert births(tell(pool, 100.2)) == [Spawn(1, 0)]
