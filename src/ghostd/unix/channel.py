"""
A channel between two processes of one daemon: packets, and descriptors with them.

A packet comes whole or not at all, so nobody has to look for its end. Neither end
survives an exec. Ends are plain numbers, as every descriptor of this house that is to
be closed in a child: an object that closes what it holds, in a process that has closed
it already, closes what somebody else has opened since. Linux only.
"""

from __future__ import annotations

import socket
import struct

from ghostd.unix import fork

LONGEST = 32_768
"""Bytes of the longest packet."""

MOST_FDS = 32
"""Descriptors that can come with one packet."""

_INT = struct.calcsize("i")

# gevent patches in another one, whose waits run a hub: one that a fork has copied.
_socket = socket.socket


def pair() -> tuple[int, int]:
    """
    Make a channel: both its ends, private; whoever gets one must disown it.

    Raises:
        OSError: no descriptor left.
    """
    ends = [
        end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ]
    fork.keep_private(*ends)
    return ends[0], ends[1]


def send(fd: int, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """
    Send a packet; never waits.

    Raises:
        BlockingIOError: the other end has too much to read already.
        OSError: nobody is there to read it, or too many descriptors are on their way.
    """
    sock = _borrow(fd)
    # Python's own send_fds() and recv_fds() take flags and ignore them (3.11 to 3.13).
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))
    try:
        sock.sendmsg([data], [rights] if fds else [], flags)
    finally:
        sock.detach()


def receive(fd: int, *, wait: bool) -> tuple[bytes, tuple[int, ...]]:
    """
    Receive a packet, with the descriptors that come with it, all close-on-exec.

    Returns:
        b"" and nothing when the other end is closed.

    Raises:
        BlockingIOError: nothing has come, and *wait* is false.
    """
    sock = _borrow(fd)
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    room = socket.CMSG_SPACE(MOST_FDS * _INT)
    try:
        data, extras, _, _ = sock.recvmsg(LONGEST, room, flags)
    except ConnectionError:
        return b"", ()  # it left without reading all that was sent
    finally:
        sock.detach()
    fds: list[int] = []
    for level, kind, packed in extras:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += struct.unpack(f"{len(packed) // _INT}i", packed)
    return data, tuple(fds)


def _borrow(fd: int) -> socket.socket:
    """Make a socket object of a number, for one call: its owner detaches it again."""
    sock = _socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
    # Whatever the user made the default of all sockets.
    sock.settimeout(None)
    return sock
