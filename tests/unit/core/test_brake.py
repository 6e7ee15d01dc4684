"""Short lives, again and again, are slowed down; accidents are not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.unit.core.telling import births, died, left, lines, said, serving, tell

from ghostd.core.actions import Spawn
from ghostd.core.brake import Brake
from ghostd.core.events import Beat, Exited, Spawned
from ghostd.core.pool import Pool

FOREIGN = "killed by SIGKILL"


def short_lives(pool: Pool, now: float, seconds: float) -> list[float]:
    """Let place 0 live for 0.2 s again and again; give the times of its births."""
    times: list[float] = []
    end = now + seconds
    actions = tell(pool, now, died(11))
    pid = 100
    while now < end:
        if births(actions):
            pid += 1
            times.append(now)
            tell(pool, now, Spawned(pid, 0, 0), Beat(pid, now))
            now += 0.2
            actions = tell(pool, now, left(pid))
            continue
        now = pool.next_deadline() or end
        actions = tell(pool, now, Beat(12, now))
    return times


def test_the_first_few_short_lives_cost_nothing() -> None:
    times = short_lives(serving(110.0, restart_budget=5), 110.0, 1.15)

    assert times == pytest.approx([110.0, 110.2, 110.4, 110.6, 110.8, 111.0])


def test_after_that_the_pauses_double_up_to_half_a_minute() -> None:
    times = short_lives(serving(110.0, restart_budget=0), 110.0, 600.0)
    pauses = [b - a - 0.2 for a, b in pairwise(times)]

    assert pauses[0] == pytest.approx(0.09, abs=0.011)
    assert pauses[1] == pytest.approx(0.18, abs=0.021)
    assert pauses[:9] == sorted(pauses[:9])
    assert all(24 <= pause <= 30 for pause in pauses[9:])


def test_a_fork_storm_has_few_births_a_minute() -> None:
    times = short_lives(serving(110.0), 110.0, 3600.0)

    assert len([time for time in times if time > 3600.0]) <= 4


def test_the_pause_is_said() -> None:
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))

    actions = tell(pool, 110.5, Spawned(13, 0, 0), Beat(13, 110.5), left(13))

    assert lines(actions)[-1][0] == "warn"
    assert lines(actions)[-1][1].startswith(
        "Spirits end too soon (spirit 13 lived for less than 1 s); next start in 0."
    )


def test_a_death_before_the_first_beat_is_a_strike_however_late() -> None:
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(13, 0, 0))

    assert "pool.braked" in said(tell(pool, 130.0, died(13)))


def test_a_death_after_a_second_is_no_strike() -> None:
    pool = serving(110.0, restart_budget=0)

    assert births(tell(pool, 110.0, died(11))) == [Spawn(0, 0)]


def test_a_strangers_signal_is_no_strike() -> None:
    """A script that kills spirits proves nothing against their body."""
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(13, 0, 0), Beat(13, 110.0))

    actions = tell(pool, 110.1, Exited(13, FOREIGN, foreign=True))

    assert births(actions) == [Spawn(0, 0)]


def test_with_a_brake_births_go_one_at_a_time() -> None:
    pool = serving(110.0, 11, 12, 13, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(14, 0, 0), died(14))
    tell(pool, 110.0, died(12), died(13))

    assert births(tell(pool, 111.0)) == [Spawn(0, 0)]
    assert births(tell(pool, 111.0, Spawned(15, 0, 0))) == []
    assert births(tell(pool, 111.5, Beat(15, 111.5))) == [Spawn(1, 0)]


def test_ten_calm_seconds_after_the_pause_all_is_forgiven() -> None:
    pool = serving(110.0, 11, 12, 13, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(14, 0, 0), died(14))
    tell(pool, 110.2)
    tell(pool, 110.2, Spawned(15, 0, 0))

    actions = tell(pool, 120.2, died(12), died(13))

    assert births(actions) == [Spawn(1, 0), Spawn(2, 0)]


def test_strikes_are_counted_until_it_has_been_calm() -> None:
    brake = Brake(budget=1)

    assert brake.strike(100.0) == 0.0
    assert brake.strike(109.9) > 0.0


def test_a_long_calm_forgives() -> None:
    brake = Brake(budget=1)
    brake.strike(100.0)

    assert brake.strike(110.0) == 0.0


def test_the_calm_begins_at_the_end_of_the_pause() -> None:
    brake = Brake(budget=0)
    brake.strike(100.0)

    assert brake.forgives_at == brake.until + 10.0
    brake.release(brake.forgives_at - 0.001)
    assert brake.cautious
    brake.release(brake.forgives_at)
    assert not brake.cautious


def test_it_holds_until_the_pause_is_over() -> None:
    brake = Brake(budget=0)
    pause = brake.strike(100.0)

    assert brake.holds(100.0)
    assert not brake.holds(100.0 + pause)


def test_thousands_of_strikes_stay_at_half_a_minute() -> None:
    brake = Brake(budget=0)
    pauses = [brake.strike(100.0) for _ in range(3000)]

    assert max(pauses) <= 30.0
    assert min(pauses[20:]) >= 24.0


def test_a_success_forgets_everything() -> None:
    brake = Brake(budget=0)
    brake.strike(100.0)
    brake.forget()

    assert not brake.cautious
    assert not brake.holds(100.0)


def test_two_daemons_do_not_pause_in_step() -> None:
    assert Brake(0, seed=0.1).strike(100.0) != Brake(0, seed=0.6).strike(100.0)


def test_the_same_story_has_the_same_pauses() -> None:
    one, other = Brake(0, seed=0.1), Brake(0, seed=0.1)

    assert [one.strike(t) for t in (1.0, 2.0)] == [other.strike(t) for t in (1.0, 2.0)]


def test_a_brake_is_rebuilt_from_plain_data() -> None:
    brake = Brake(budget=0, seed=0.3)
    brake.strike(100.0)
    other = Brake(budget=5)

    other.restore(brake.plain())

    assert other.plain() == brake.plain()
    assert other.strike(101.0) == brake.strike(101.0)


def test_nor_is_one_that_comes_before_the_first_beat() -> None:
    """A storm of kill -9 must not end in pauses: some of it hits newborns."""
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(13, 0, 0))

    actions = tell(pool, 110.1, Exited(13, FOREIGN, foreign=True))

    assert births(actions) == [Spawn(0, 0)]
