"""
A spirit in which many wait at once: tasks of a loop, or threads.

The plain spirit has one thing to do at a time, and what ends its wait is its own
business. Here a bell tells everybody: a pipe into which one byte is written when the
spirit is asked to leave, and from which nobody reads, so whoever looks at it from then
on finds it readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from time import monotonic

from ghostd.spirit import HasFileno, Spirit
from ghostd.typed import Self
from ghostd.unix import fork
from ghostd.unix.poller import milliseconds


class BelledSpirit(Spirit):
    """
    A spirit with a bell.

    Attributes:
        left_at: since when it is asked to leave, seconds on the monotonic clock.
    """

    __slots__ = ("_bell", "_inode", "left_at")

    @classmethod
    def instead_of(cls, born: Spirit) -> Self:
        """
        Take the place of a spirit that did not know yet what its body is like.

        Raises:
            OSError: no descriptor left.
        """
        self = cls.__new__(cls)
        self._prepare()
        for name in Spirit.__slots__:
            setattr(self, name, getattr(born, name))
        self.ok = True
        # From here on a QUIT is told to us; one that came before is asked for after.
        fork.set_handler(signal.SIGQUIT, self.on_quit)
        if not born.ok:
            self.leave()
        return self

    def _prepare(self) -> None:
        self.left_at: float | None = None
        self._bell = fork.pipe()
        self._inode = os.fstat(self._bell[1]).st_ino
        fork.keep_private(*self._bell)

    def leave(self) -> None:
        """Be asked to leave, and ring the bell."""
        self.ok = False
        if self.left_at is None:
            self.left_at = monotonic()
            # A body may have closed it, and the number may be a file's of its own.
            with contextlib.suppress(OSError):
                if os.fstat(self._bell[1]).st_ino == self._inode:
                    os.write(self._bell[1], b"\0")

    def rest(self, until: float, *files: HasFileno | int) -> None:
        """
        Block until then, until the bell rings, or there is something to read.

        Raises:
            OSError: one of *files* is closed.
        """
        poll = select.poll()
        bell = self._bell[0]
        for file in (bell, *files):
            poll.register(file, select.POLLIN)
        left = 1.0
        while self.ok and left > 0:
            left = until - monotonic()
            for fd, what in poll.poll(milliseconds(left)):
                if not what & select.POLLNVAL:
                    return
                if fd != bell:
                    raise OSError(errno.EBADF, f"{fd} is not an open descriptor")
                poll.unregister(bell)  # closed by the body, which is a loss, no end
