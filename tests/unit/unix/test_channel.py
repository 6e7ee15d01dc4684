"""Channels: whole packets, descriptors with them, and an end that is heard of."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator

import pytest
from tests.helpers import in_child, is_open

from ghostd.unix import channel, fork


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    pair = channel.pair()
    yield pair
    fork.close(*pair)


def test_packets_come_whole_and_in_order(ends: tuple[int, int]) -> None:
    for data in (b"one", b"two", b"x" * 20_000):
        channel.send(ends[0], data)

    for data in (b"one", b"two", b"x" * 20_000):
        assert channel.receive(ends[1], wait=True) == (data, ())


def test_descriptors_come_along_in_order_and_end_with_an_exec(
    ends: tuple[int, int],
) -> None:
    pipes = [os.pipe() for _ in range(3)]
    channel.send(ends[0], b"!", tuple(write for _, write in pipes))
    data, fds = channel.receive(ends[1], wait=True)
    try:
        assert data == b"!"
        for fd, (read, _) in zip(fds, pipes, strict=True):
            os.write(fd, b"it is this one")
            assert os.read(read, 100) == b"it is this one"
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    finally:
        for fd in (*fds, *(fd for pipe in pipes for fd in pipe)):
            os.close(fd)


def test_nothing_to_receive_is_told_and_not_waited_for(ends: tuple[int, int]) -> None:
    with pytest.raises(BlockingIOError):
        channel.receive(ends[0], wait=False)


def test_a_full_channel_is_told_and_not_waited_for(ends: tuple[int, int]) -> None:
    def flood() -> None:
        for _ in range(10_000):
            channel.send(ends[0], b"x" * 1000)

    with pytest.raises(BlockingIOError):
        flood()


def test_the_end_of_the_other_side_is_heard_of(ends: tuple[int, int]) -> None:
    channel.send(ends[1], b"last words")
    fork.close(ends[1])

    assert channel.receive(ends[0], wait=False) == (b"last words", ())
    assert channel.receive(ends[0], wait=False) == (b"", ())
    with pytest.raises(OSError, match="pipe"):
        channel.send(ends[0], b"anybody?")


def test_an_end_with_unread_words_is_an_end(ends: tuple[int, int]) -> None:
    channel.send(ends[0], b"unread")
    fork.close(ends[1])

    assert channel.receive(ends[0], wait=False) == (b"", ())


def test_the_users_default_timeout_does_not_matter(ends: tuple[int, int]) -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.001)
    try:
        with pytest.raises(BlockingIOError):
            channel.receive(ends[0], wait=False)
        channel.send(ends[1], b"!")
        assert channel.receive(ends[0], wait=True) == (b"!", ())
        assert os.get_blocking(ends[0])
    finally:
        socket.setdefaulttimeout(before)


def test_no_child_has_an_end(ends: tuple[int, int]) -> None:
    assert in_child(lambda: [is_open(fd) for fd in ends]) == [False, False]
