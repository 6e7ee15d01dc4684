"""A phase is read off the stamps, in every combination that can occur."""

from __future__ import annotations

import pytest

from ghostd.core.member import Member, Phase


def a_member(**stamps: float | None) -> Member:
    member = Member(pid=11, slot=3, generation=2, born=100.0)
    for name, value in stamps.items():
        setattr(member, name, value)
    return member


@pytest.mark.parametrize(
    ("stamps", "phase", "active", "alive"),
    [
        ({}, Phase.STARTING, True, False),
        ({"beat": 101.0}, Phase.ALIVE, True, True),
        ({"left_at": 102.0}, Phase.LEAVING, False, False),
        ({"beat": 101.0, "left_at": 102.0}, Phase.LEAVING, False, False),
        ({"left_at": 102.0, "killed_at": 103.0}, Phase.KILLED, False, False),
    ],
)
def test_a_phase_follows_from_the_stamps(
    stamps: dict[str, float], phase: Phase, *, active: bool, alive: bool
) -> None:
    member = a_member(**stamps)

    assert (member.phase, member.active, member.alive) == (phase, active, alive)


def test_silence_counts_from_birth_until_the_first_beat() -> None:
    assert a_member().heard == 100.0
    assert a_member(beat=101.0).heard == 101.0


def test_all_stamps_move_together_and_never_stays_never() -> None:
    member = a_member(beat=101.0, left_at=102.0, killed_at=103.0)
    unborn = a_member()

    member.shift(10.0, now=200.0)
    unborn.shift(10.0, now=200.0)

    assert (member.born, member.beat, member.left_at, member.killed_at) == (
        110.0,
        111.0,
        112.0,
        113.0,
    )
    assert (unborn.born, unborn.beat, unborn.left_at, unborn.killed_at) == (
        110.0,
        None,
        None,
        None,
    )


def test_what_expires_moves_as_far_as_the_birth() -> None:
    member, newborn = a_member(expires=150.0), a_member(expires=150.0)

    member.shift(10.0, now=200.0)
    newborn.shift(50.0, now=110.0)

    assert (member.born, member.expires) == (110.0, 160.0)
    assert (newborn.born, newborn.expires) == (110.0, 160.0)


def test_no_stamp_moves_beyond_now() -> None:
    member = a_member(beat=101.0, left_at=102.0, killed_at=103.0)

    member.shift(50.0, now=110.0)

    stamps = (member.born, member.beat, member.left_at, member.killed_at)
    assert stamps == (110.0, 110.0, 110.0, 110.0)


def test_a_member_prints_its_place_and_phase() -> None:
    assert repr(a_member(beat=101.0)) == (
        "Member(pid=11, slot=3, generation=2, phase=alive)"
    )


def test_a_member_is_rebuilt_from_plain_data() -> None:
    member = a_member(
        beat=101.0, ready_at=101.0, expires=200.0, tired_at=101.5, left_at=102.0
    )
    member.told = member.silent = True

    assert Member.from_plain(member.plain()).plain() == member.plain()


def test_a_misspelt_stamp_is_refused() -> None:
    with pytest.raises(AttributeError):
        a_member(quit_at=1.0)
