"""
The lifeline: one pipe for each spirit, from the spirit to the manager.

It carries records of nine bytes: what (a beat, a farewell) and when. Who says it is
the pipe itself, so no spirit can speak for another. A spirit that is tired says why in
a few words, and last words, the traceback of its exception, may follow as text. A
write never blocks: what does not fit is dropped, since a full pipe says "alive" a
thousand times already.

A farewell closes the pipe, and that hang-up is what wakes the manager. Beats wake
nobody: the manager reads them when it looks, once in each heartbeat interval. End
of file is a hint and never a death notice, because a grandchild may hold the pipe.

The other direction needs no words: `Presence` is one pipe of the whole pool, whose
write end only the manager has. When it reports end of file, the manager is gone.

Numbers and the designs not taken: docs/adr/0001.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum

from ghostd.unix import fork

_RECORD = struct.Struct("=Bd")
LONGEST_WORDS = 16_384
LONGEST_REASON = 200


class Kind(IntEnum):
    """What a record says."""

    BEAT = 1
    FAREWELL = 2
    WORDS = 3
    TIRED = 4


KINDS = frozenset(map(int, Kind))


class Lifeline:
    """
    The manager's end of a spirit's pipe.

    Attributes:
        fd: what the manager reads.
        far_fd: what the spirit writes, until it has it.
        tired: why the spirit wants to be replaced, "" while it does not.
    """

    def __init__(self) -> None:
        """
        Make the pipe, both ends private; whoever forks disowns the far one before.

        Raises:
            OSError: no descriptor left.
        """
        self.fd: int
        self.far_fd: int
        self.fd, self.far_fd = fork.pipe()
        fork.keep_private(self.fd, self.far_fd)
        self.tired: str = ""
        self._tail = b""
        self._words = b""
        self._in_words = False

    def read(self) -> list[tuple[Kind, float]]:
        """
        Take out what has come, at most some hundred records at a time.

        Bytes that no spirit of ours writes are skipped: a mad one only harms itself.
        """
        data = self._tail + fork.drain(self.fd)
        self._tail = b""
        records: list[tuple[Kind, float]] = []
        at = 0
        while at < len(data) and not self._in_words:
            if data[at] not in KINDS:
                at += 1
                continue
            if len(data) - at < _RECORD.size:
                self._tail = data[at:]
                return records
            kind, number = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size
            if kind == Kind.WORDS:
                self._in_words = True
            elif kind != Kind.TIRED:
                records.append((Kind(kind), number))
            elif 0 <= number <= LONGEST_REASON:
                end += int(number)
                if end > len(data):
                    self._tail = data[at:]
                    return records
                self.tired = data[end - int(number) : end].decode("utf-8", "replace")
            at = end
        if self._in_words and len(self._words) < LONGEST_WORDS:
            self._words += data[at:]
        return records

    @property
    def last_words(self) -> str:
        """Give the spirit's last words so far, or ""."""
        return self._words[:LONGEST_WORDS].decode("utf-8", "replace")

    def close(self) -> None:
        """Give the manager's descriptors back, also one that no child took."""
        fork.close(self.fd, self.far_fd)
        self.fd = self.far_fd = -1

    def hand_over(self) -> None:
        """Close the spirit's end, in the manager, after the fork."""
        fork.close(self.far_fd)
        self.far_fd = -1


class FarEnd:
    """The spirit's end of its pipe."""

    def __init__(self, fd: int) -> None:
        """Speak on *fd*."""
        self.fd: int = fd
        self._inode = 0

    def keep(self) -> None:
        """Take the descriptor over; children of the spirit will not have it."""
        fork.keep_private(self.fd)
        self._inode = os.fstat(self.fd).st_ino

    def beat(self, now: float) -> bool:
        """Say alive; False: nobody can hear it any more."""
        return self._write(_RECORD.pack(Kind.BEAT, now))

    def farewell(self, now: float) -> None:
        """Say finished, and hang up: nothing can be said after that."""
        self._write(_RECORD.pack(Kind.FAREWELL, now))
        fork.close(self.fd)
        self.fd = -1

    def tired(self, why: str) -> None:
        """Say that somebody else is to take over, and why."""
        data = why.encode("utf-8", "replace")[:LONGEST_REASON]
        self._write(_RECORD.pack(Kind.TIRED, len(data)) + data)

    def last_words(self, text: str) -> None:
        """Say why it ends; after this no beat is understood."""
        data = text.encode("utf-8", "replace")
        # The end of a long traceback tells more than its beginning.
        self._write(_RECORD.pack(Kind.WORDS, 0.0) + data[-LONGEST_WORDS:])

    def _write(self, data: bytes) -> bool:
        if self.fd < 0:
            return True
        try:
            if self._inode not in (0, os.fstat(self.fd).st_ino):
                # The body closed it, and the number is a file's of its own by now.
                self.fd = -1
                return True
            os.write(self.fd, data)
        except BlockingIOError:
            return True  # full, so the manager has plenty to read
        except OSError:
            return False
        return True


class Presence:
    """
    A pipe that tells spirits that their manager lives.

    Attributes:
        fd: the spirits' end; readable means the manager is gone.
    """

    def __init__(self) -> None:
        """Make the pipe."""
        self.fd: int
        self.fd, self._write = fork.pipe()
        # A child that kept this end would make a dead manager look alive.
        fork.keep_private(self._write)

    def close(self) -> None:
        """Give the descriptors back; whoever still listens is told that we go."""
        fork.close(self.fd, self._write)
        self.fd = self._write = -1
