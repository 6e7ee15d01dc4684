"""Frozen records: equal by type and fields, and strict about what they are given."""

from __future__ import annotations

import pytest

from ghostd.core.actions import Kill, Quit, Say
from ghostd.values import Value


class Point(Value):
    x: int
    y: int = 7


class Named(Point):
    name: str = "it"


def test_fields_come_in_order_or_by_name() -> None:
    assert Point(1, 2) == Point(y=2, x=1)
    assert (Point(1).x, Point(1).y) == (1, 7)


def test_a_heir_has_the_fields_of_its_parents_first() -> None:
    assert Named.__match_args__ == ("x", "y", "name")
    assert Named(1, 2, "here").plain() == {"x": 1, "y": 2, "name": "here"}


def test_it_prints_every_field() -> None:
    assert repr(Point(1)) == "Point(x=1, y=7)"


def test_records_of_two_kinds_are_never_equal() -> None:
    assert Quit(7) != Kill(7)
    assert Quit(7) != 7
    assert hash(Quit(7)) == hash(Quit(7))
    assert len({Quit(7), Kill(7), Quit(7)}) == 2


def test_it_can_be_taken_apart_by_position() -> None:
    match Point(3, 4):
        case Point(x, y):
            assert (x, y) == (3, 4)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match=r"Point.x cannot be set to 5"):
        Point(1).x = 5  # type: ignore[misc]  # that is the test


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "needs 'x'"),
        ((1, 2, 3), {}, "takes"),
        ((1,), {"x": 1}, "takes"),
        ((1,), {"z": 1}, r"has no \['z'\]"),
    ],
)
def test_wrong_fields_are_refused(
    args: tuple[int, ...], kwargs: dict[str, int], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        Point(*args, **kwargs)


def test_a_log_line_has_a_hash_although_its_fields_have_none() -> None:
    line = Say("info", "x", "y", {"pid": 1})

    assert hash(line) == hash(Say("info", "x", "y", {"pid": 2}))
    assert line != Say("info", "x", "y", {"pid": 2})


def test_a_class_without_fields_of_its_own_is_fine() -> None:
    class Empty(Value):
        pass

    assert Empty() == Empty()
    assert repr(Empty()) == "Empty()"
