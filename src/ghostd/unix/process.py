"""Another process, no child of ours: signals that reach nobody else, and its end."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from ghostd.unix import child, doors
from ghostd.unix.poller import milliseconds

LOOK = 0.005


class Process:
    """
    A process by its number, from the moment on at which it was surely the right one.

    Args:
        pid: its number.
        still: tells whether the number still belongs to it; asked after the door
            to the process is open, so a number given away in between is noticed.

    Raises:
        ProcessLookupError: it is gone, or its number belongs to somebody else.
    """

    def __init__(self, pid: int, still: Callable[[], bool]) -> None:
        """Open the door, then make sure who is behind it."""
        self.pid = pid
        self._still = still
        self._fd = _door(pid)
        if not still():
            self.close()
            raise ProcessLookupError(f"process {pid} is not the daemon any more")

    def send(self, number: signal.Signals) -> None:
        """
        Send a signal; one to a process that is gone is no error.

        Raises:
            PermissionError: it belongs to another user.
        """
        try:
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            elif self._still():
                os.kill(self.pid, number)
        except ProcessLookupError:
            return

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, at most so long; tell whether it came."""
        if self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            return bool(poll.poll(milliseconds(seconds)))
        deadline = time.monotonic() + seconds
        while self._still() and child.state(self.pid) != "Z":
            if time.monotonic() >= deadline:
                return False
            # Without a pidfd there is nothing to wait on but time.
            time.sleep(LOOK)
        return True

    def end_with_children(self, seconds: float) -> bool:
        """
        Kill it, but its children first, so that none of them is left behind.

        It is stopped before, or it would go on replacing them.
        """
        self.send(signal.SIGSTOP)
        deadline = time.monotonic() + seconds
        while living := [p for p in child.children_of(self.pid) if _lives(p)]:
            for pid in living:
                # Unreaped as long as their parent is stopped: nobody else's number.
                os.kill(pid, signal.SIGKILL)
            if time.monotonic() >= deadline:
                break
            time.sleep(LOOK)
        self.send(signal.SIGKILL)
        return self.ends_within(max(1.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _door(pid: int) -> int:
    """Open a pidfd, -1 where there is none: the caller then asks before each signal."""
    if not doors.PIDFD:
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1  # an old kernel says ENOSYS, a container's filter may say EPERM


def _lives(pid: int) -> bool:
    return child.state(pid) not in ("", "Z", "X")
