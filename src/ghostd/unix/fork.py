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

from ghostd.typed import Any, NoReturn
from ghostd.unix import doors

EVERY_SIGNAL = tuple(int(number) for number in signal.valid_signals())

# `signal` makes an enum member of each number that goes in and out. In a newborn that
# costs 40 page faults, so what runs there uses the functions underneath.
_raw: Any = sys.modules.get("_signal", signal)
set_handler: Callable[[int, Any], Any] = _raw.signal
set_mask: Callable[[int, Iterable[int]], Iterable[int]] = _raw.pthread_sigmask
SIG_DFL = int(signal.SIG_DFL)
SIG_BLOCK, SIG_SETMASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)


class _Private:
    """The descriptors that no child may have."""

    def __init__(self) -> None:
        self.fds: set[int] = set()
        self.spared: tuple[int, ...] | None = None
        self._runs: list[tuple[int, int]] | None = None

    def change(self, *, add: Iterable[int] = (), drop: Iterable[int] = ()) -> None:
        """Add and drop descriptors."""
        self.fds.update(add)
        self.fds.difference_update(drop)
        self._runs = None

    def runs(self) -> list[tuple[int, int]]:
        """Join them to half-open ranges: {3, 4, 5, 9} is (3, 6), (9, 10)."""
        if self._runs is None:
            self._runs = []
            for fd in sorted(self.fds):
                if self._runs and self._runs[-1][1] == fd:
                    self._runs[-1] = (self._runs[-1][0], fd + 1)
                else:
                    self._runs.append((fd, fd + 1))
        return self._runs

    def close(self) -> None:
        """
        Close all of them but the spared ones; runs first of all in every child.

        In ranges, because a manager of 500 has 1,000 of them, mostly in a row, and the
        kernel closes a range in one call.
        """
        spared = self.spared or ()
        for low, high in self.runs():
            for fd in spared:
                if low <= fd < high:
                    os.closerange(low, fd)
                    low = fd + 1  # noqa: PLW2901 - the rest of the same range
            os.closerange(low, high)
        self.fds = set()
        self._runs = None


_private = _Private()
os.register_at_fork(after_in_child=_private.close)


def keep_private(*fds: int) -> None:
    """
    Have *fds* closed in every child that this process will ever fork.

    Close-on-exec is not enough: a child that never executes anything would keep the
    pidfile's lock, or the manager's end of a lifeline, alive for as long as it lives.
    The rule also holds for children that a hook forks with ``os.fork``.
    """
    _private.change(add=fds)


def is_birth() -> bool:
    """Tell whether the fork that is going on is one of `fork_each`."""
    return _private.spared is not None


def private() -> frozenset[int]:
    """List the descriptors that no child may have."""
    return frozenset(_private.fds)


def disown(*fds: int) -> None:
    """Take *fds* off the list: somebody else closes them, or their numbers are free."""
    _private.change(drop=fds)


def close(*fds: int) -> None:
    """Close *fds*, private or not; one that is closed already is no error."""
    _private.change(drop=fds)
    for fd in fds:
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)


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
    entrances: Iterable[tuple[tuple[int, ...], Entrance]],
    block: Iterable[int] = EVERY_SIGNAL,
) -> tuple[list[int], OSError | None]:
    """
    Fork once for each of *entrances*, back to back; no child ever comes back here.

    Args:
        entrances: for each child the private descriptors that it may keep, in rising
            order, and what it runs, with signals blocked.
        block: what to block; those with a handler are enough, and each one costs 2 us.

    Returns:
        The pids, in the parent, and the error that ended it early, or None.
    """
    flush()
    pids: list[int] = []
    _private.runs()
    mask = set_mask(SIG_BLOCK, block)
    try:
        for own, enter in entrances:
            _private.spared = own
            pid = os.fork()
            if pid == 0:
                try:
                    _private.spared = None
                    enter(mask)
                finally:
                    # Whatever enter() did, no frame of the parent may run here.
                    os._exit(70)
            pids.append(pid)
    except OSError as error:
        return pids, error
    finally:
        _private.spared = None
        set_mask(SIG_SETMASK, mask)
    # The newborns first, where there are not enough processors for everybody.
    os.sched_yield()
    return pids, None


def fork(enter: Entrance, block: Iterable[int] = EVERY_SIGNAL) -> int:
    """
    Fork one child; see `fork_each`.

    Raises:
        OSError: the fork failed; nothing has changed.
    """
    pids, error = fork_each([((), enter)], block)
    if error is not None:
        raise error
    return pids[0]
