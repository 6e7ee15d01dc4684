"""
One queue for each slot on one address, and who of them is given the next connection.

The kernel chooses among sockets that share an address (SO_REUSEPORT). The manager keeps
all of them open for its whole life, so no queue dies with a spirit; and it tells the
kernel, by a program of a few instructions, to choose only queues that somebody serves.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from socket import socket

from ghostd.unix import fork

MOST = 512
"""Queues of one address; spirits in slots above share them."""

Instruction = tuple[int, int, int, int]

_SOL_SOCKET = 1
_SO_ATTACH_FILTER = 26
_SO_ATTACH_REUSEPORT_CBPF = 51

# Opcodes of the classic packet filter, and the places where it finds what the kernel
# knows of a packet (linux/filter.h, linux/bpf_common.h).
_LOAD, _LOAD_HALF, _LOAD_BYTE, _LOAD_HALF_AT_X = 0x20, 0x28, 0x30, 0x48
_LENGTH_TO_X, _TO_X = 0xB1, 0x07
_ADD, _MULTIPLY, _AND, _SHIFT_RIGHT, _MODULO, _XOR_X = (
    0x04,
    0x24,
    0x54,
    0x74,
    0x94,
    0xAC,
)
_GO, _IF_EQUAL, _IF_AT_LEAST = 0x05, 0x15, 0x35
_RETURN, _RETURN_IT = 0x06, 0x16
_RANDOM = 0xFFFFF000 + 56
_NETWORK = 0xFFF00000
_GOLDEN = 0x9E3779B1

BY_CHANCE: tuple[Instruction, ...] = ((_LOAD, 0, 0, _RANDOM),)
"""Any number: connections spread evenly, whoever makes them."""

BY_SENDER: tuple[Instruction, ...] = (
    # Port and address of the sender, mixed: one who goes on talking is heard by the
    # same spirit. On a socket for both families the header may be of either.
    (_LOAD_BYTE, 0, 0, _NETWORK),
    (_AND, 0, 0, 0xF0),
    (_IF_EQUAL, 0, 5, 0x40),
    (_LENGTH_TO_X, 0, 0, _NETWORK),
    (_LOAD_HALF_AT_X, 0, 0, _NETWORK),
    (_TO_X, 0, 0, 0),
    (_LOAD, 0, 0, _NETWORK + 12),
    (_GO, 0, 0, 3),
    (_LOAD_HALF, 0, 0, _NETWORK + 40),
    (_TO_X, 0, 0, 0),
    (_LOAD, 0, 0, _NETWORK + 20),
    (_XOR_X, 0, 0, 0),
    (_MULTIPLY, 0, 0, _GOLDEN),
    (_SHIFT_RIGHT, 0, 0, 16),  # the upper half is mixed best
)

NO_NEWCOMERS: tuple[Instruction, ...] = (
    # Of the flags of a TCP header, SYN without ACK.
    (_LOAD_BYTE, 0, 0, 13),
    (_AND, 0, 0, 0x12),
    (_IF_EQUAL, 0, 1, 0x02),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, 0xFFFF),
)
"""Drops the first packet of a connection; its sender tries again after a second."""


def steering(
    active: Sequence[int], by: tuple[Instruction, ...] = BY_CHANCE
) -> tuple[Instruction, ...]:
    """
    Write the program that chooses among *active* queues, in rising order.

    A number below their count, and one more for each gap that lies at or below it:
    two instructions for a gap, where one for each queue would grow with the pool.
    """
    program = [*by, (_MODULO, 0, 0, len(active))]
    for gap in sorted(set(range(active[-1])) - set(active)):
        program += [(_IF_AT_LEAST, 0, 1, gap), (_ADD, 0, 0, 1)]
    return (*program, (_RETURN_IT, 0, 0, 0))


def attach(
    sock: socket,
    program: Sequence[Instruction],
    option: int = _SO_ATTACH_REUSEPORT_CBPF,
) -> None:
    """
    Give the kernel a program.

    Raises:
        OSError: it has no such option, or does not take the program.
    """
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    where, _ = code.buffer_info()
    sock.setsockopt(_SOL_SOCKET, option, struct.pack("@HP", len(program), where))


def turn_away(sock: socket) -> None:
    """
    Have the kernel ignore newcomers; those who wait already can be accepted.

    Raises:
        OSError: it cannot.
    """
    attach(sock, NO_NEWCOMERS, _SO_ATTACH_FILTER)


class Queues:
    """
    The queues of one address; the first one is there already.

    Args:
        first: bound, with SO_REUSEPORT set.
        make: opens another one on the same address, complete.
        by: what the choice goes by.

    Attributes:
        fds: their descriptors, by slot.
    """

    def __init__(
        self,
        first: socket,
        make: Callable[[], socket],
        by: tuple[Instruction, ...] = BY_CHANCE,
    ) -> None:
        """
        Choose the first one, until `steer` says something else.

        Raises:
            OSError: the kernel cannot be told which queue to choose.
        """
        self._full = False
        self._make = make
        self._by = by
        self._first = first
        self._active: tuple[int, ...] = (0,)
        # Before it listens, or what comes in between is given to anybody.
        attach(first, steering(self._active, by))
        fork.keep_private(first.fileno())
        # Of the others the numbers only: an object would close its number in a child
        # where that has become somebody else's.
        self.fds: list[int] = [first.fileno()]

    def of(self, slot: int) -> int:
        """Give the queue of a slot; those without one of their own share."""
        return self.fds[slot % len(self.fds)]

    def grow(self, number: int) -> str:
        """
        Open queues until there are so many, or as many as may be.

        Once that failed it is not tried again: spirits that share a queue by then
        would serve another one than they have.

        Returns:
            Why there will be no more of them, when that shows; else "".
        """
        while len(self.fds) < number and not self._full:
            try:
                if len(self.fds) >= MOST:
                    raise OSError(0, f"{MOST} are enough")  # noqa: TRY301 - one way out
                fd = self._make().detach()
            except OSError as error:
                self._full = True
                return error.strerror or str(error)
            fork.keep_private(fd)
            self.fds.append(fd)
        return ""

    def steer(self, slots: Iterable[int]) -> None:
        """
        Have only the queues of these slots be chosen; nothing to do if they are.

        Where there are none, everything stays: what waits is for the next one to come.
        """
        active = tuple(sorted({slot % len(self.fds) for slot in slots}))
        if active and active != self._active:
            # Out of memory, perhaps: the next turn tries again.
            with contextlib.suppress(OSError):
                attach(self._first, steering(active, self._by))
                self._active = active

    def each(self) -> Iterator[socket]:
        """Give each queue as a socket, for a moment."""
        for fd in self.fds:
            sock = socket(self._first.family, self._first.type, fileno=fd)
            try:
                yield sock
            finally:
                sock.detach()

    def close(self) -> None:
        """Close all of them; `first` too."""
        self._first.detach()
        fork.close(*self.fds)
        self.fds = []
