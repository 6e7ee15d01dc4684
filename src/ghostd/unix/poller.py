"""Waiting for descriptors: epoll where there is one, poll elsewhere."""

from __future__ import annotations

import select

from ghostd.unix import doors, fork

READABLE = select.POLLIN
HUNG_UP = select.POLLHUP | select.POLLERR


LONGEST = 2.0**31 - 1


def milliseconds(seconds: float) -> float:
    """Give what poll() takes for so many seconds: never negative, 24 days at most."""
    return min(max(0.0, seconds) * 1000, LONGEST)


class Poller:
    """
    Waits for any of its descriptors.

    With mask 0 only a hang-up wakes: the lifeline of a healthy spirit is watched
    like that, so that its beats wait to be read while its farewell does not.
    """

    def __init__(self) -> None:
        """Open the kernel's side."""
        if doors.EPOLL:
            self._epoll = select.epoll()
            fork.keep_private(self._epoll.fileno())
            self._poll: select.epoll | select.poll = self._epoll
            self._unit = 1.0
        else:
            self._poll = select.poll()
            self._unit = 1000.0

    def add(self, fd: int, mask: int = READABLE) -> None:
        """Watch *fd*."""
        self._poll.register(fd, mask)

    def change(self, fd: int, mask: int) -> None:
        """Watch *fd* for something else."""
        self._poll.modify(fd, mask)

    def drop(self, fd: int) -> None:
        """Stop watching *fd*; one that is not watched is no error."""
        try:
            self._poll.unregister(fd)
        except (KeyError, FileNotFoundError, OSError):
            # poll, epoll, and a descriptor that a hook closed behind our back.
            return

    def wait(self, seconds: float | None) -> list[tuple[int, int]]:
        """Wait, at most so long (None: for ever); give descriptors with their masks."""
        if seconds is None:
            return self._poll.poll()
        return self._poll.poll(milliseconds(seconds) / 1000 * self._unit)

    def close(self) -> None:
        """Give the descriptor back."""
        if doors.EPOLL:
            fork.disown(self._epoll.fileno())
            self._epoll.close()
