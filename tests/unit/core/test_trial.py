"""New code on trial: what becomes of one canary decides, and nobody else is touched."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.telling import (
    a_pool,
    answers,
    births,
    born,
    deeds,
    died,
    left,
    lines,
    reloading,
    said,
    serving,
    signals,
    tell,
)

from ghostd.core.actions import Action, Kill, Quit, Reloaded, Say, Spawn
from ghostd.core.events import (
    Beat,
    Exited,
    Farewell,
    Grow,
    Reload,
    Resize,
    Shrink,
    Spawned,
    SpawnFailed,
    Stillborn,
    Stop,
    TimeLost,
    Tired,
)
from ghostd.core.pool import Pool

FOREIGN = Exited(13, "killed by SIGKILL", foreign=True)


def on_trial(**changes: Any) -> Pool:
    """Give a serving pool (11, 12) whose canary 13 was born at 110 s."""
    pool, _ = reloading(**{"canary_time": 5, **changes})
    born(pool, 110.0, 13)
    return pool


def dropped(actions: list[Action], reason: str, generation: int = 1) -> bool:
    """Tell whether the trial has ended so, and nobody but the canary was touched."""
    assert answers(actions) == [Reloaded(generation, reason)]
    assert {signal.pid for signal in signals(actions)} <= {13}
    (line,) = [a for a in actions if isinstance(a, Say) and a.event == "pool.dropped"]
    assert line.level == "error"
    assert line.fields == {"generation": generation, "reason": reason}
    return line.text == (
        f"Generation {generation} is dropped, generation 0 goes on: {reason}"
    )


# -- it begins -------------------------------------------------------------------------


def test_one_spirit_is_born_beside_those_that_serve() -> None:
    _, actions = reloading(canary_time=5)

    assert births(actions) == [Spawn(0, 1)]
    assert signals(actions) == []
    assert lines(actions) == [
        ("info", "Generation 1 is on trial: one spirit, then all others")
    ]


def test_it_needs_no_more_than_one_place_of_a_large_pool() -> None:
    pool = serving(110.0, *range(20, 40), spare=5, canary_time=5)

    assert births(tell(pool, 110.0, Reload())) == [Spawn(0, 1)]


def test_a_canary_waits_for_room() -> None:
    pool = serving(110.0, 11, 12, 13, spare=1, canary_time=5)
    tell(pool, 110.0, Shrink())

    assert births(tell(pool, 111.0, Reload())) == []
    assert births(tell(pool, 112.0, left(13))) == [Spawn(0, 1)]


def test_who_is_missing_comes_before_the_canary() -> None:
    pool = serving(110.0, 11, 12, 13, spare=1, canary_time=5)

    actions = tell(pool, 110.0, Reload(), died(12))

    assert births(actions) == [Spawn(1, 0), Spawn(0, 1)]


def test_with_no_room_for_both_only_the_missing_one_comes() -> None:
    pool = serving(110.0, 11, 12, spare=1, canary_time=5)
    tell(pool, 110.0, Farewell(11, 110.0))

    assert births(tell(pool, 110.0, SpawnFailed("no", 0, 0))) == []
    assert births(tell(pool, 111.0, Reload())) == [Spawn(0, 0)]


def test_one_that_was_on_its_way_to_the_old_place_makes_room_for_it() -> None:
    """A successor of a tired one is one too many while a trial goes on."""
    pool = serving(110.0, canary_time=5)
    assert births(tell(pool, 110.0, Tired(11, "it is old"))) == [Spawn(0, 0)]
    born(pool, 110.0, 14)

    actions = tell(pool, 111.0, Reload())

    assert signals(actions) == [Quit(14)]
    assert births(tell(pool, 112.0, left(14))) == [Spawn(0, 1)]


def test_a_large_pool_is_filled_in_bursts_in_a_trial_too() -> None:
    pool = serving(110.0, spare=4, canary_time=5)

    assert len(births(tell(pool, 110.0, Resize(18), Reload()))) == 16
    assert pool.next_deadline() == 110.0
    assert births(pool.plan(110.0)) == [Spawn(0, 1)]


def test_without_spare_one_that_serves_makes_room() -> None:
    pool, actions = reloading(canary_time=5, spare=0)
    assert signals(actions) == [Quit(11)]

    assert births(tell(pool, 111.0, left(11))) == [Spawn(0, 1)]
    born(pool, 111.0, 13)
    assert deeds(tell(pool, 112.0)) == []


def test_without_spare_nobody_goes_while_another_does_not_serve() -> None:
    pool = serving(110.0, spare=0, canary_time=5)
    tell(pool, 110.0, died(11))
    born(pool, 110.0, 14)

    assert signals(tell(pool, 110.0, Reload())) == []
    assert signals(tell(pool, 111.0, Beat(14, 111.0))) == [Quit(14)]


def test_without_spare_a_free_place_is_the_canarys() -> None:
    pool = serving(110.0, spare=0, canary_time=5)

    assert births(tell(pool, 110.0, Reload(), died(11))) == [Spawn(0, 1)]


# -- it passes -------------------------------------------------------------------------


def test_a_canary_that_stays_ready_for_long_enough_has_passed() -> None:
    pool = on_trial()
    tell(pool, 112.0, Beat(13, 112.0))

    assert pool.next_deadline() == 117.0
    assert signals(tell(pool, 116.9, Beat(13, 116.0))) == []
    assert pool.generation == 0
    actions = tell(pool, 117.0)
    assert signals(actions) == [Quit(11)]
    assert "pool.rolling" in said(actions)
    assert (pool.generation, pool.healthy) == (1, 3)


def test_the_time_counts_from_the_first_beat_however_late_it_comes() -> None:
    pool = on_trial(canary_time=20)
    tell(pool, 150.0, Beat(13, 150.0), Beat(11, 150.0), Beat(12, 150.0))

    assert signals(tell(pool, 169.0)) == []
    assert signals(tell(pool, 170.0)) == [Quit(11)]


def test_the_time_counts_from_when_the_beat_is_heard() -> None:
    """Its stamp is the canary's own word, and new code may be mad."""
    pool = on_trial()

    tell(pool, 112.0, Beat(13, -1e9))

    assert pool.next_deadline() == 117.0


def test_lost_time_does_not_count() -> None:
    pool = on_trial()
    tell(pool, 112.0, Beat(13, 112.0))

    tell(pool, 512.0, TimeLost(399.0))

    assert pool.next_deadline() == 516.0
    assert signals(tell(pool, 516.0)) == [Quit(11)]


def test_a_canary_whose_work_was_short_has_passed_with_its_farewell() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, Farewell(13, 111.0))

    assert pool.generation == 1
    assert births(actions) == []
    assert births(tell(pool, 112.0, left(13))) == [Spawn(0, 1)]


def test_where_nobody_is_wanted_there_is_nothing_to_show() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, Resize(0))

    assert answers(actions) == [Reloaded(1)]
    assert signals(actions) == [Quit(13), Quit(12), Quit(11)]


def test_what_ended_too_soon_before_was_other_code() -> None:
    """New code that has passed begins with a budget of its own."""
    pool = serving(110.0, restart_budget=0, spare=2)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(14, 0, 0), died(14))
    assert births(tell(pool, 110.0, Reload())) == [Spawn(0, 1)]

    actions = tell(pool, 110.0, Spawned(13, 0, 1), Beat(13, 110.0))

    assert births(actions) == [Spawn(1, 1)]


# -- it fails --------------------------------------------------------------------------


def test_a_canary_that_dies_before_it_is_ready_drops_its_code() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, Exited(13, "exit code 1", last_words="NameError: x"))

    reason = "Spirit 13 ended before it was ready: exit code 1\nNameError: x"
    assert dropped(actions, reason)
    assert births(actions) == []
    assert (pool.generation, pool.healthy) == (0, 2)
    assert deeds(tell(pool, 112.0)) == []


def test_a_canary_that_dies_after_it_was_ready_drops_its_code() -> None:
    pool = on_trial()
    tell(pool, 111.0, Beat(13, 111.0))

    actions = tell(pool, 113.5, died(13, "killed by SIGSEGV"))

    assert dropped(actions, "Spirit 13 ended after 3.5 s: killed by SIGSEGV")


def test_a_body_that_returns_in_its_trial_has_failed() -> None:
    pool = on_trial()
    tell(pool, 111.0, Beat(13, 111.0))

    actions = tell(pool, 112.0, left(13))

    assert dropped(actions, "Spirit 13 ended after 2.0 s: exit code 0")


def test_a_canary_that_is_never_ready_is_dismissed_and_its_code_dropped() -> None:
    pool = on_trial(boot_timeout=30)
    tell(pool, 135.0, Beat(11, 135.0), Beat(12, 135.0))

    assert pool.next_deadline() == 140.0
    actions = tell(pool, 140.0)
    assert dropped(actions, "Spirit 13 is not ready after 30.0 seconds")
    assert signals(actions) == [Quit(13)]
    assert said(actions)[0] == "spirit.hung"


def test_a_canary_that_hangs_is_dismissed_and_its_code_dropped() -> None:
    pool = on_trial(canary_time=100)
    tell(pool, 111.0, Beat(13, 111.0))
    tell(pool, 140.0, Beat(11, 140.0), Beat(12, 140.0))

    actions = tell(pool, 166.0)

    assert dropped(actions, "Spirit 13 has been silent for 55.0 seconds")
    assert signals(actions) == [Quit(13)]


def test_one_that_was_dropped_and_does_not_leave_is_killed() -> None:
    pool = on_trial(boot_timeout=30, graceful_timeout=10)
    tell(pool, 135.0, Beat(11, 135.0), Beat(12, 135.0))
    tell(pool, 140.0)

    assert signals(tell(pool, 150.0)) == [Kill(13)]
    actions = tell(pool, 150.1, died(13, "killed by SIGKILL"))
    assert births(actions) == []
    assert answers(actions) == []


def test_code_that_does_not_load_is_dropped() -> None:
    pool, _ = reloading(canary_time=5)

    actions = tell(pool, 110.5, Stillborn(0, 1, "SyntaxError: x", "Traceback ..."))

    assert dropped(actions, "SyntaxError: x\nTraceback ...")
    assert deeds(tell(pool, 111.0)) == []


def test_the_failure_of_new_code_costs_the_old_nothing() -> None:
    """No strike, no pause: the next death is replaced at once."""
    pool = on_trial(restart_budget=0)
    tell(pool, 110.1, died(13))

    assert births(tell(pool, 110.2, died(11))) == [Spawn(0, 0)]


def test_one_that_a_stranger_kills_has_shown_nothing() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, FOREIGN)

    assert answers(actions) == []
    assert births(actions) == [Spawn(0, 1)]


def test_signals_that_end_canary_after_canary_are_its_own_fault() -> None:
    pool = on_trial(restart_budget=2)
    for now in (111.0, 112.0):
        assert births(tell(pool, now, FOREIGN)) == [Spawn(0, 1)]
        born(pool, now, 13)

    actions = tell(pool, 113.0, FOREIGN)

    assert dropped(actions, "Spirit 13 ended before it was ready: killed by SIGKILL")
    assert births(actions) == []


def test_a_new_trial_begins_without_the_strangers_of_the_last() -> None:
    pool = on_trial(restart_budget=1)
    tell(pool, 111.0, FOREIGN)
    born(pool, 111.0, 13)

    tell(pool, 112.0, Reload())
    tell(pool, 112.0, FOREIGN)
    born(pool, 113.0, 14)
    actions = tell(pool, 114.0, Exited(14, "killed by SIGKILL", foreign=True))

    assert births(actions) == [Spawn(0, 2)]
    assert answers(actions) == []


def test_what_a_stranger_ends_before_anything_has_worked_is_a_failure() -> None:
    pool = a_pool(canary_time=5)
    born(pool, 100.0, 11, 12)
    tell(pool, 101.0, Reload())
    born(pool, 101.0, 13)

    actions = tell(pool, 102.0, FOREIGN)

    assert dropped(actions, "Spirit 13 ended before it was ready: killed by SIGKILL")
    assert pool.stopping is None


def test_a_fork_that_fails_is_tried_again() -> None:
    pool, _ = reloading(canary_time=5)

    actions = tell(pool, 110.0, SpawnFailed("no", 0, 1))

    assert answers(actions) == []
    assert births(actions) == []
    deadline = pool.next_deadline()
    assert deadline == pytest.approx(110.09, abs=0.011)
    assert births(tell(pool, deadline)) == [Spawn(0, 1)]


def test_after_a_failure_the_next_reload_gets_its_chance() -> None:
    pool = on_trial()
    tell(pool, 111.0, died(13))

    assert births(tell(pool, 112.0, Reload())) == [Spawn(0, 2)]


# -- while it goes on ------------------------------------------------------------------


def test_an_old_one_that_dies_meanwhile_is_replaced_by_an_old_one() -> None:
    pool = on_trial(spare=2)

    assert births(tell(pool, 111.0, died(12))) == [Spawn(1, 0)]


def test_an_old_one_that_is_never_ready_says_nothing_about_the_new_code() -> None:
    pool = serving(110.0, canary_time=100, boot_timeout=30, spare=2)
    tell(pool, 110.0, died(12))
    tell(pool, 110.0, Spawned(14, 1, 0), Reload())
    tell(pool, 111.0, Spawned(13, 0, 1), Beat(13, 111.0), Beat(11, 111.0))

    actions = tell(pool, 140.0)

    assert signals(actions) == [Quit(14)]
    assert answers(actions) == []
    assert births(actions) == [Spawn(1, 0)]


def test_code_that_does_not_stay_alive_can_be_replaced() -> None:
    """A brake holds against the code that serves, and the new one may be the cure."""
    pool = serving(110.0, restart_budget=0, canary_time=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(14, 0, 0), died(14))
    deadline = pool.next_deadline()
    assert deadline is not None
    assert deadline > 110.0

    actions = tell(pool, 110.0, Reload())

    assert births(actions) == [Spawn(0, 1)]
    tell(pool, 110.0, Spawned(13, 0, 1))
    # Nor does the canary, which may take its time, hold up the one that is missing.
    assert births(tell(pool, deadline)) == [Spawn(0, 0)]


def test_a_canary_that_waits_for_a_fork_is_due_although_a_brake_holds() -> None:
    pool = serving(110.0, restart_budget=0, canary_time=0)
    tell(pool, 110.0, died(11))
    tell(pool, 110.0, Spawned(14, 0, 0), died(14))
    tell(pool, 110.0, Reload())
    tell(pool, 110.0, SpawnFailed("no", 0, 1))

    deadline = pool.next_deadline()

    assert deadline is not None
    assert deadline < 110.11
    assert Spawn(0, 1) in births(tell(pool, deadline))


def test_a_second_reload_supersedes_the_first() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, Reload())

    assert answers(actions) == [Reloaded(1, "another reload has begun")]
    assert signals(actions) == [Quit(13)]
    assert births(actions) == []
    assert births(tell(pool, 112.0, left(13))) == [Spawn(0, 2)]


def test_what_becomes_of_a_superseded_canary_is_nobodys_concern() -> None:
    pool = on_trial(spare=2)
    assert births(tell(pool, 111.0, Reload())) == [Spawn(0, 2)]
    tell(pool, 111.0, Spawned(14, 0, 2))

    actions = tell(pool, 111.5, died(13))

    assert answers(actions) == []
    assert births(actions) == []
    assert births(tell(pool, 111.6, died(11))) == [Spawn(0, 0)]


def test_three_reloads_in_one_turn_are_one_trial() -> None:
    pool = serving(110.0, canary_time=5)

    actions = tell(pool, 110.0, Reload(), Reload(), Reload())

    assert births(actions) == [Spawn(0, 3)]
    assert [answer.generation for answer in answers(actions)] == [1, 2]


def test_growth_in_a_trial_is_of_the_old_code() -> None:
    pool = on_trial(spare=2)

    assert births(tell(pool, 111.0, Grow())) == [Spawn(2, 0)]


def test_a_pool_that_shrinks_in_a_trial_keeps_its_canary() -> None:
    pool = on_trial()

    assert signals(tell(pool, 111.0, Shrink())) == [Quit(12)]
    tell(pool, 112.0, left(12), Beat(13, 112.0))
    assert signals(tell(pool, 117.0)) == [Quit(11)]


def test_without_spare_shrinking_keeps_the_canary_too() -> None:
    pool, _ = reloading(canary_time=5, spare=0)
    tell(pool, 111.0, left(11))
    born(pool, 111.0, 13)

    assert signals(tell(pool, 112.0, Shrink())) == [Quit(12)]


def test_a_stop_ends_the_trial_and_whoever_asked_is_told() -> None:
    pool = on_trial()

    actions = tell(pool, 111.0, Stop(graceful=True))

    assert answers(actions) == [Reloaded(1, "the daemon is stopping")]
    assert signals(actions) == [Quit(11), Quit(12), Quit(13)]
    assert answers(tell(pool, 112.0, died(13))) == []


def test_a_tired_one_waits_for_the_end_of_the_trial() -> None:
    """The canary is the one extra spirit that `spare` would allow."""
    pool = on_trial(spare=2)

    assert births(tell(pool, 111.0, Tired(12, "it is old"))) == []
    actions = tell(pool, 112.0, died(13))
    assert births(actions) == [Spawn(1, 0)]


def test_a_canary_may_be_tired_and_pass() -> None:
    pool = on_trial()
    tell(pool, 111.0, Beat(13, 111.0), Tired(13, "it has done its work"))

    actions = tell(pool, 116.0)

    assert pool.generation == 1
    # There are two old ones and a tired one to replace, the latter's place first.
    assert signals(actions) == [Quit(11)]
    assert births(tell(pool, 117.0, left(11))) == [Spawn(0, 1)]


def test_how_far_a_trial_is_can_be_asked() -> None:
    pool = on_trial()
    assert (pool.reloads.underway, pool.replaced) == (1, 0)

    tell(pool, 111.0, Beat(13, 111.0))
    assert pool.replaced == 1

    tell(pool, 112.0, died(13))
    assert (pool.reloads.underway, pool.replaced) == (None, 2)


# -- births that are told later --------------------------------------------------------


def test_a_place_counts_as_taken_until_its_birth_is_told() -> None:
    pool = serving(110.0)

    assert births(tell(pool, 110.0, died(11))) == [Spawn(0, 0)]
    assert births(tell(pool, 115.0)) == []
    assert births(tell(pool, 120.0, died(12))) == [Spawn(1, 0)]
    assert births(tell(pool, 121.0, Spawned(14, 1, 0), Spawned(13, 0, 0))) == []


def test_a_birth_of_dropped_code_that_is_told_late_is_sent_away() -> None:
    pool, _ = reloading(canary_time=5, spare=2)
    tell(pool, 111.0, Reload())

    actions = tell(pool, 112.0, Spawned(13, 0, 1))

    assert signals(actions) == [Quit(13)]
    assert births(actions) == []
    assert answers(actions) == []


def test_the_unborn_of_dropped_code_takes_room_until_it_is_told() -> None:
    pool, _ = reloading(canary_time=5, spare=1)

    assert births(tell(pool, 111.0, Reload())) == []
    assert births(tell(pool, 112.0, SpawnFailed("no", 0, 1))) == []
    deadline = pool.next_deadline()
    assert deadline is not None
    assert births(tell(pool, deadline)) == [Spawn(0, 2)]


def test_old_code_that_does_not_load_any_more_harms_no_new_code() -> None:
    pool, _ = reloading(canary_time=5, spare=2)
    tell(pool, 111.0, Reload())

    actions = tell(pool, 112.0, Stillborn(0, 1, "SyntaxError"))

    assert answers(actions) == []
    assert lines(actions) == []


def test_a_birth_that_is_told_after_a_stop_is_sent_away_and_waited_for() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, died(11))
    tell(pool, 111.0, Stop(graceful=True))
    tell(pool, 112.0, left(12))
    assert not pool.over

    assert signals(tell(pool, 113.0, Spawned(13, 0, 0))) == [Quit(13)]
    assert not pool.over
    tell(pool, 114.0, left(13))
    assert pool.over


@pytest.mark.parametrize(
    "told", [SpawnFailed("no", 0, 0), Stillborn(0, 0, "SyntaxError")]
)
def test_a_birth_that_comes_to_nothing_after_a_stop_is_waited_for(
    told: SpawnFailed | Stillborn,
) -> None:
    pool = serving(110.0)
    tell(pool, 110.0, died(11))
    tell(pool, 111.0, Stop(graceful=True), left(12))
    assert not pool.over

    assert births(tell(pool, 113.0, told)) == []
    assert pool.over
    assert pool.exit_code == 0


def test_a_birth_that_nobody_planned_is_a_member_like_any_other() -> None:
    pool = serving(110.0, 11, 12)
    tell(pool, 110.0, died(11))

    tell(pool, 111.0, Spawned(13, 5, 0))

    assert births(tell(pool, 111.0, SpawnFailed("no", 0, 0))) == []
    assert pool.members[13].active


# -- code that does not load -----------------------------------------------------------


def test_if_nothing_ever_worked_code_that_does_not_load_ends_the_pool() -> None:
    pool = a_pool()
    pool.plan(100.0)

    actions = tell(
        pool, 100.5, Stillborn(0, 0, "No module named 'shop'", "Traceback ...")
    )

    assert pool.failure == "No module named 'shop'\nTraceback ..."
    assert pool.exit_code == 1
    assert lines(actions) == [
        (
            "error",
            f"Cannot start a spirit of generation 0: {pool.failure}",
        )
    ]
    tell(pool, 100.6, Stillborn(1, 0, "No module named 'shop'"))
    assert pool.over


def test_good_code_that_does_not_load_any_more_is_slowed_down() -> None:
    pool = serving(110.0, restart_budget=0)
    tell(pool, 110.0, died(11))

    actions = tell(pool, 111.0, Stillborn(0, 0, "No module named 'shop'"))

    assert births(actions) == []
    assert said(actions) == ["spirit.stillborn", "pool.braked"]
    assert lines(actions)[1][1].startswith(
        "Spirits end too soon (the code does not load); next start in 0."
    )
    assert pool.healthy == 1
    assert births(tell(pool, 111.2)) == [Spawn(0, 0)]


def test_the_verdict_on_the_start_names_code_that_does_not_load() -> None:
    pool = a_pool(100.0, 105.0)
    pool.plan(100.0)
    tell(pool, 101.0, Spawned(11, 0, 0), Beat(11, 101.0))
    tell(pool, 102.0, Stillborn(1, 0, "No module named 'shop'"))

    tell(pool, 105.0)

    assert pool.failure == "No module named 'shop'"


def test_code_that_stops_loading_in_a_reload_ends_the_waiting() -> None:
    pool, _ = reloading(canary_time=0, spare=2)
    tell(pool, 111.0, Spawned(13, 0, 1), Beat(13, 111.0))

    actions = tell(pool, 112.0, Stillborn(1, 1, "No module named 'shop'"))

    assert answers(actions) == [
        Reloaded(1, "No module named 'shop'\nthe reload goes on")
    ]
