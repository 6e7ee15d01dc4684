"""The lifeline: nine bytes that cannot block, be forged or confuse the manager."""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import in_child, is_open

from ghostd.unix import fork
from ghostd.unix.lifeline import LONGEST_WORDS, FarEnd, Kind, Lifeline, Presence

BEAT = struct.Struct("=Bd")


@pytest.fixture
def pipe() -> Iterator[tuple[Lifeline, FarEnd]]:
    lifeline = Lifeline()
    far_end = FarEnd(lifeline.far_fd)
    yield lifeline, far_end
    fork.close(far_end.fd)
    if lifeline.far_fd == far_end.fd:
        lifeline.far_fd = -1
    lifeline.close()


def test_beats_come_in_order_with_their_times(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    assert lifeline.read() == []
    assert far_end.beat(1.5)
    assert far_end.beat(2.25)
    assert lifeline.read() == [(Kind.BEAT, 1.5), (Kind.BEAT, 2.25)]
    assert lifeline.read() == []


def test_a_farewell_hangs_up_and_wakes_who_waits_for_that_only(
    pipe: tuple[Lifeline, FarEnd],
) -> None:
    lifeline, far_end = pipe
    far_end.beat(1.0)
    poll = select.poll()
    poll.register(lifeline.fd, 0)
    assert poll.poll(0) == []
    lifeline.far_fd = -1  # the very same descriptor, in this test
    far_end.farewell(2.0)
    assert poll.poll(0) == [(lifeline.fd, select.POLLHUP)]
    assert lifeline.read() == [(Kind.BEAT, 1.0), (Kind.FAREWELL, 2.0)]
    assert lifeline.read() == []


def test_after_a_farewell_nothing_is_said(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    lifeline.far_fd = -1
    far_end.farewell(1.0)
    reused = os.open(os.devnull, os.O_RDWR)  # most likely the same number
    try:
        assert far_end.beat(2.0)
        far_end.farewell(3.0)
        far_end.last_words("too late")
        assert lifeline.read() == [(Kind.FAREWELL, 1.0)]
        assert is_open(reused)
    finally:
        os.close(reused)


def test_a_torn_record_waits_for_its_rest(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    data = BEAT.pack(Kind.BEAT, 7.0) * 2
    for at, byte in enumerate(data):
        os.write(far_end.fd, bytes([byte]))
        records = lifeline.read()
        assert records == ([(Kind.BEAT, 7.0)] if at in (8, 17) else [])


def test_garbage_is_skipped(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    os.write(far_end.fd, bytes(n for n in range(256) if n not in (1, 2, 3)) * 4)
    far_end.beat(1.0)
    os.write(far_end.fd, b"hello\n")
    far_end.beat(2.0)
    assert lifeline.read() == [(Kind.BEAT, 1.0), (Kind.BEAT, 2.0)]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_whatever_hurt_the_reader(chunks: list[bytes]) -> None:
    """A mad spirit may write anything: it only harms itself."""
    lifeline = Lifeline()
    try:
        for chunk in chunks:
            os.write(lifeline.far_fd, chunk)
            for kind, at in lifeline.read():
                assert kind in (Kind.BEAT, Kind.FAREWELL)
                assert isinstance(at, float)
        assert isinstance(lifeline.last_words, str)
    finally:
        lifeline.close()


@given(st.lists(st.floats(allow_nan=False)), st.binary())
def test_all_beats_are_found_between_garbage(times: list[float], noise: bytes) -> None:
    noise = bytes(byte for byte in noise if byte > max(Kind))
    lifeline = Lifeline()
    try:
        for at in times[:200]:
            os.write(lifeline.far_fd, noise[:20] + BEAT.pack(Kind.BEAT, at))
        assert lifeline.read() == [(Kind.BEAT, at) for at in times[:200]]
    finally:
        lifeline.close()


def test_a_full_pipe_never_blocks(pipe: tuple[Lifeline, FarEnd]) -> None:
    """A stopped manager reads nothing; its spirits work on."""
    lifeline, far_end = pipe
    began = time.monotonic()
    for at in range(20_000):
        assert far_end.beat(float(at))
    far_end.last_words("x" * 100_000)
    assert time.monotonic() - began < 5

    records = lifeline.read()
    assert records[:2] == [(Kind.BEAT, 0.0), (Kind.BEAT, 1.0)]
    assert all(kind == Kind.BEAT for kind, _ in records)
    while lifeline.read():
        pass
    lifeline.far_fd = -1
    far_end.farewell(1e6)
    assert lifeline.read()[-1] == (Kind.FAREWELL, 1e6)


def test_nobody_at_the_other_end_is_told_to_the_spirit() -> None:
    lifeline = Lifeline()
    far_end = FarEnd(lifeline.far_fd)
    fork.close(lifeline.fd)
    assert not far_end.beat(1.0)
    far_end.last_words("nobody hears this")
    lifeline.close()


def test_last_words_follow_the_beats(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    far_end.beat(1.0)
    far_end.last_words("Traceback\nValueError: \N{SNOWMAN}\1\2\3")
    assert lifeline.read() == [(Kind.BEAT, 1.0)]
    assert lifeline.last_words == "Traceback\nValueError: \N{SNOWMAN}\1\2\3"
    far_end.beat(2.0)
    assert lifeline.read() == []


def test_of_long_last_words_the_end_is_kept(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, far_end = pipe
    far_end.last_words("begin" + "x" * 50_000 + "end \ud800")
    while lifeline.read():
        pass
    assert lifeline.last_words.endswith("xend ?")
    assert "begin" not in lifeline.last_words
    assert len(lifeline.last_words) <= LONGEST_WORDS


def test_words_without_end_are_not_collected_without_end(
    pipe: tuple[Lifeline, FarEnd],
) -> None:
    lifeline, far_end = pipe
    far_end.last_words("")
    for _ in range(100):
        os.write(far_end.fd, b"y" * 30_000)
        lifeline.read()
    assert len(lifeline._words) < LONGEST_WORDS + 70_000  # noqa: SLF001
    assert len(lifeline.last_words) == LONGEST_WORDS


def test_the_managers_end_is_open_in_no_child(pipe: tuple[Lifeline, FarEnd]) -> None:
    lifeline, _ = pipe
    assert in_child(lambda: is_open(lifeline.fd)) is False
    assert is_open(lifeline.fd)


def test_the_spirits_end_is_open_in_none_of_its_children() -> None:
    def spirit() -> tuple[bool, bool, bool]:
        lifeline = Lifeline()
        siblings = in_child(lambda: is_open(lifeline.far_fd))
        fork.disown(lifeline.far_fd)
        reachable = in_child(lambda: is_open(lifeline.far_fd))
        far_end = FarEnd(lifeline.far_fd)
        far_end.keep()
        return siblings, reachable, in_child(lambda: is_open(far_end.fd))

    assert in_child(spirit) == (False, True, False)


def test_presence_is_read_as_gone_when_the_write_end_is() -> None:
    presence = Presence()
    reader = os.dup(presence.fd)
    try:
        assert not select.select([reader], [], [], 0)[0]
        assert in_child(lambda: bool(select.select([reader], [], [], 0)[0])) is False
        presence.close()
        presence.close()
        assert select.select([reader], [], [], 0)[0]
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_who_is_tired_says_why_between_two_beats() -> None:
    lifeline = Lifeline()
    far = FarEnd(lifeline.far_fd)
    far.beat(1.0)
    far.tired("1000 réquests")
    far.beat(2.0)

    assert lifeline.read() == [(Kind.BEAT, 1.0), (Kind.BEAT, 2.0)]
    assert lifeline.tired == "1000 réquests"
    lifeline.close()


def test_a_reason_that_comes_in_two_parts_is_put_together() -> None:
    lifeline = Lifeline()
    record = struct.pack("=Bd", Kind.TIRED, 10) + b"0123456789"
    os.write(lifeline.far_fd, record[:12])

    assert lifeline.read() == []
    assert lifeline.tired == ""
    os.write(lifeline.far_fd, record[12:] + struct.pack("=Bd", Kind.BEAT, 3.0))
    assert lifeline.read() == [(Kind.BEAT, 3.0)]
    assert lifeline.tired == "0123456789"
    lifeline.close()


@pytest.mark.parametrize("length", [-1.0, 1e9, float("nan"), float("inf")])
def test_a_mad_reason_is_skipped(length: float) -> None:
    lifeline = Lifeline()
    os.write(lifeline.far_fd, struct.pack("=Bd", Kind.TIRED, length))
    os.write(lifeline.far_fd, struct.pack("=Bd", Kind.BEAT, 3.0))

    assert lifeline.read() == [(Kind.BEAT, 3.0)]
    assert lifeline.tired == ""
    lifeline.close()
