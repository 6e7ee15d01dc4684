"""
Forking with nothing left to chance, and what no child may inherit.

Signals are blocked around the fork. Without that a child runs the manager's handlers
until it has its own, and wakes the manager with signals that were meant for itself
(measured: a TERM sent in that window is swallowed in the child).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from ghostd.unix import doors

EVERY_SIGNAL = tuple(int(number) for number in signal.valid_signals())

_private: set[int] = set()


def keep_private(*fds: int) -> None:
    """
    Have *fds* closed in every child that this process will ever fork.

    Close-on-exec is not enough: a child that never executes anything would keep the
    pidfile's lock, or the manager's end of a lifeline, alive for as long as it lives.
    The rule also holds for children that a hook forks with ``os.fork``.
    """
    _private.update(fds)


def disown(fd: int) -> None:
    """Take *fd* off the list: somebody else closes it, or its number is free again."""
    _private.discard(fd)


def close(*fds: int) -> None:
    """Close *fds*, private or not; one that is closed already is no error."""
    for fd in fds:
        _private.discard(fd)
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Join numbers to half-open ranges: {3, 4, 5, 9} is (3, 6), (9, 10)."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _close_private() -> None:
    # Ranges, because a manager of 500 has 1,000 of them, mostly in a row, and the
    # kernel closes a range in one call.
    for low, high in _runs(_private):
        os.closerange(low, high)
    _private.clear()


os.register_at_fork(after_in_child=_close_private)


def pipe() -> tuple[int, int]:
    """Make a pipe, read end first: close-on-exec, neither end ever blocks."""
    if doors.PIPE2:
        return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def drain(fd: int) -> bytes:
    """Read a few pages at most from a descriptor that does not block."""
    try:
        return os.read(fd, 65536)
    except (BlockingIOError, InterruptedError):
        return b""


def flush() -> None:
    """Write out what is buffered, or a child would write it a second time."""
    for stream in (sys.stdout, sys.stderr):
        # A closed or broken stream has nothing that could come out twice.
        with contextlib.suppress(Exception):
            stream.flush()


Entrance = Callable[[Iterable[int]], NoReturn]
"""What a child runs: it gets the mask to restore once its own handlers stand."""


def fork_each(
    entrances: Iterable[Entrance], block: Iterable[int] = EVERY_SIGNAL
) -> tuple[list[int], OSError | None]:
    """
    Fork once for each of *entrances*, back to back; no child ever comes back here.

    Args:
        entrances: what each child runs, with signals blocked.
        block: what to block; those with a handler are enough, and each one costs 2 us.

    Returns:
        The pids, in the parent, and the error that ended it early, or None.
    """
    flush()
    pids: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, block)
    try:
        for enter in entrances:
            pid = os.fork()
            if pid == 0:
                try:
                    enter(mask)
                finally:
                    # Whatever enter() did, no frame of the parent may run here.
                    os._exit(70)
            pids.append(pid)
    except OSError as error:
        return pids, error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pids, None


def fork(enter: Entrance, block: Iterable[int] = EVERY_SIGNAL) -> int:
    """
    Fork one child; see `fork_each`.

    Raises:
        OSError: the fork failed; nothing has changed.
    """
    pids, error = fork_each([enter], block)
    if error is not None:
        raise error
    return pids[0]
