"""Waiting: the same answers from epoll and from poll."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from ghostd.unix import doors, fork
from ghostd.unix.poller import HUNG_UP, READABLE, Poller


@pytest.fixture(params=["epoll", "poll"])
def poller(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Poller]:
    if request.param == "poll":
        monkeypatch.setattr(doors, "EPOLL", False)
    elif not doors.EPOLL:
        pytest.skip("this door is closed")
    each = Poller()
    yield each
    each.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = fork.pipe()
    yield ends
    fork.close(*ends)


def test_readable(poller: Poller, pipe: tuple[int, int]) -> None:
    read, write = pipe
    poller.add(read)
    assert poller.wait(0) == []
    os.write(write, b"x")
    assert poller.wait(None) == [(read, READABLE)]
    assert poller.wait(-5.0) == [(read, READABLE)], "a deadline in the past is now"


def test_with_mask_0_only_a_hang_up_wakes(
    poller: Poller, pipe: tuple[int, int]
) -> None:
    read, write = pipe
    poller.add(read)
    poller.change(read, 0)
    os.write(write, b"x")
    assert poller.wait(0) == []
    fork.close(write)
    ((fd, mask),) = poller.wait(None)
    assert fd == read
    assert mask & HUNG_UP


def test_seconds_are_seconds(poller: Poller, pipe: tuple[int, int]) -> None:
    poller.add(pipe[0])
    began = time.monotonic()
    assert poller.wait(0.05) == []
    assert 0.045 <= time.monotonic() - began < 5


def test_dropped_is_not_watched(poller: Poller, pipe: tuple[int, int]) -> None:
    read, write = pipe
    poller.add(read)
    poller.drop(read)
    poller.drop(read)
    os.write(write, b"x")
    assert poller.wait(0) == []


def test_a_descriptor_closed_behind_our_back_can_be_dropped(poller: Poller) -> None:
    """U3: a hook may close anything."""
    read, write = fork.pipe()
    poller.add(read)
    os.close(read)
    os.close(write)
    poller.drop(read)
    assert poller.wait(0) == []
