"""Deaths: reaped once, told in words, replaced at once, judged by when they came."""

from __future__ import annotations

from tests.unit.core.telling import (
    a_pool,
    births,
    born,
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

from ghostd.core.actions import Call, Say, Spawn
from ghostd.core.events import Beat, Exited, Farewell, Shrink, Spawned, Stop


def test_a_dead_spirit_is_reaped_and_replaced_in_the_same_turn() -> None:
    pool = serving(110.0)

    assert tell(pool, 110.0, died(11, "killed by SIGSEGV (core dumped)")) == [
        Say(
            "error",
            "spirit.died",
            "Spirit 11 died: killed by SIGSEGV (core dumped)",
            {"how": "killed by SIGSEGV (core dumped)", "pid": 11},
        ),
        Say(
            "info",
            "spirit.reaped",
            "Spirit 11 stopped",
            {"how": "killed by SIGSEGV (core dumped)", "pid": 11},
        ),
        Call("reap", (11,)),
        Spawn(0, 0),
    ]


def test_a_clean_end_is_no_error() -> None:
    assert lines(tell(serving(110.0), 110.0, left(11))) == [
        ("info", "Spirit 11 stopped")
    ]


def test_a_death_that_we_caused_is_no_error() -> None:
    pool = serving(110.0, spare=0, graceful_timeout=10)
    tell(pool, 110.0, Farewell(11, 110.0))
    tell(pool, 120.0)

    assert lines(tell(pool, 120.1, died(11, "killed by SIGKILL"))) == [
        ("info", "Spirit 11 stopped")
    ]


def test_a_death_told_twice_is_one_death() -> None:
    assert hooks(tell(serving(110.0), 110.0, died(11), died(11))) == [("reap", 11)]


def test_a_dead_stranger_is_nobody() -> None:
    assert tell(serving(110.0), 110.0, died(99)) == []


def test_a_beat_after_the_death_is_nobody() -> None:
    pool = serving(110.0)

    assert hooks(tell(pool, 110.0, died(11), Beat(11, 110.0))) == [("reap", 11)]


def test_if_nobody_ever_worked_an_early_death_ends_the_pool() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    actions = tell(pool, 100.1, Exited(11, "exit code 1", last_words="NameError: x"))

    assert lines(actions)[-3:] == [
        ("info", "Spirit 11 stopped"),
        ("error", "Spirit 11 stopped too early, shutting down"),
        ("warn", "Stopping spirit 12 immediately"),
    ]
    assert hooks(actions) == [("reap", 11), ("finish", False)]
    assert pool.failure == "Spirit 11 stopped too early: exit code 1\nNameError: x"
    assert pool.exit_code == 1


def test_without_last_words_the_reason_is_one_line() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 100.1, died(11))

    assert pool.failure == "Spirit 11 stopped too early: exit code 1"


def test_a_body_that_returned_without_a_beat_is_told_so() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 100.1, left(11))

    assert pool.failure == (
        "Spirit 11 stopped too early: exit code 0; its body returned without a tick()"
    )


def test_one_that_a_stranger_asked_to_go_before_its_first_beat_did_not_return() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 100.1, Exited(11, "exit code 0", clean=True, foreign=True))

    assert pool.failure == "Spirit 11 stopped too early: exit code 0"


def test_even_a_clean_early_death_ends_the_pool() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    assert ("finish", False) in hooks(tell(pool, 100.1, left(11)))


def test_the_pool_is_over_when_the_others_are_dead_too() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 100.1, died(11))
    assert not pool.over

    tell(pool, 100.2, died(12))

    assert pool.over


def test_once_somebody_has_worked_an_early_death_is_only_replaced() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)

    actions = tell(pool, 101.0, Beat(12, 101.0), died(11))

    assert births(actions) == [Spawn(0, 0)]
    assert pool.failure == ""
    assert pool.exit_code == 0


def test_one_that_was_sent_away_before_its_first_beat_is_no_early_death() -> None:
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    tell(pool, 101.0, Shrink())

    actions = tell(pool, 101.1, left(12))

    assert "spirit.too_early" not in said(actions)
    assert hooks(actions) == [("reap", 12)]


def test_one_that_was_sent_away_for_silence_is_an_early_death() -> None:
    """It never worked, and that it went when told proves nothing."""
    pool = a_pool()
    born(pool, 100.0, 11, 12)
    assert len(signals(tell(pool, 160.0))) == 2

    assert "spirit.too_early" in said(tell(pool, 160.1, left(11)))


def test_the_verdict_on_the_start_names_an_early_death() -> None:
    pool = a_pool(100.0, 105.0)
    born(pool, 100.0, 11, 12)
    tell(pool, 101.0, Beat(12, 101.0), died(11))
    born(pool, 101.0, 13)

    assert deeds(tell(pool, 104.9)) == []
    assert ("finish", False) in hooks(tell(pool, 105.0))
    assert pool.failure == "Spirit 11 stopped too early: exit code 1"


def test_deaths_in_a_shutdown_are_replaced_by_nobody() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, Stop(graceful=True))

    assert births(tell(pool, 110.1, left(11))) == []
    assert births(tell(pool, 110.2, died(12))) == []
    assert pool.over


def test_a_death_makes_room_for_more_than_one_birth() -> None:
    pool = serving(110.0, 11, 12, 13, spare=0)
    tell(pool, 110.0, Farewell(11, 110.0), Farewell(12, 110.0))

    assert births(tell(pool, 110.1, left(11), left(12))) == [Spawn(0, 0), Spawn(1, 0)]


def test_a_newborn_can_die_in_the_turn_of_its_birth() -> None:
    pool = serving(110.0)
    tell(pool, 110.0, died(11))

    assert births(tell(pool, 110.0, Spawned(13, 0, 0), died(13))) == [Spawn(0, 0)]
