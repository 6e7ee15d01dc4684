"""
Ports: what is bound to them, how it listens, and what the kernel says if it must not.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from ghostd.errors import ListenError
from ghostd.typed import Any
from ghostd.unix.addresses import Address, Inet

HINTS = {
    errno.EADDRINUSE: "Somebody listens there; 'ss -tulnp' tells who.",
    errno.EACCES: "Ports below 1024 are root's: start as root, and give user=... too.",
    errno.EADDRNOTAVAIL: "No interface of this machine has that address.",
}
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def _places(address: Inet) -> Iterator[tuple[int, Any, bool]]:
    """Give family, address and whether it is for that family alone; the best first."""
    if not address.host:
        yield socket.AF_INET6, ("::", address.port), False
        yield socket.AF_INET, ("0.0.0.0", address.port), True  # noqa: S104 - asked for
        return
    kind = socket.SOCK_DGRAM if address.udp else socket.SOCK_STREAM
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    # As bytes: as a text it would go through a codec, which takes 5 ms to load.
    found = socket.getaddrinfo(
        address.host.encode(), address.port, type=kind, flags=flags
    )
    family, _, _, _, where = min(found, key=lambda each: each[0] != socket.AF_INET)
    yield family, where, True


def bound(address: Inet, backlog: int, *, reuseport: bool = False) -> socket.socket:
    """
    Bind a socket; have it listen, with *backlog* 0 not yet.

    Raises:
        ListenError: there is no such host.
        OSError: the kernel refuses it.
    """
    try:
        places = list(_places(address))
    except socket.gaierror as error:
        raise refusal(address, f"no such host: {error.strerror}") from None
    for family, where, alone in places:
        try:
            sock = _bind(family, where, address.udp, alone=alone, reuseport=reuseport)
        except OSError as error:
            if error.errno in NO_SUCH_FAMILY and not alone:
                continue  # a machine without IPv6
            raise
        break
    if backlog and not address.udp:
        try:
            sock.listen(backlog)
        except OSError:
            sock.close()
            raise
    return sock


def _bind(
    family: int,
    where: Any,
    udp: bool,
    *,
    alone: bool,
    reuseport: bool,
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    try:
        if not udp:
            # Of connections that are over, and were here, nobody must be afraid. With
            # datagrams it would let anybody take them away from us.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(alone))
        sock.bind(where)
    except BaseException:
        sock.close()
        raise
    return sock


def another(first: socket.socket, backlog: int | None) -> socket.socket:
    """Open another queue on the address of *first*, complete."""
    alone = True
    if first.family == socket.AF_INET6:
        alone = bool(first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    udp = backlog is None
    sock = _bind(first.family, first.getsockname(), udp, alone=alone, reuseport=True)
    try:
        if backlog is not None:
            sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def is_tcp(sock: socket.socket) -> bool:
    """Tell whether connections of the network come to a socket."""
    inet = sock.family in (socket.AF_INET, socket.AF_INET6)
    return inet and sock.type == socket.SOCK_STREAM


def name(sock: socket.socket) -> str:
    """Say what a socket is bound to, for people."""
    where = sock.getsockname()
    if not isinstance(where, tuple):
        return f"unix:{os.fsdecode(where)}"
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    kind = "udp:" if sock.type == socket.SOCK_DGRAM else ""
    return f"{kind}{host}:{where[1]}"


def refusal(address: Address, why: str) -> ListenError:
    """Make the error that names the address."""
    return ListenError(f"cannot listen on {address.text}: {why}")


def explained(address: Address, error: OSError) -> ListenError:
    """Make it of what the kernel said, with a hint where there is one."""
    found = refusal(address, error.strerror or str(error))
    if hint := HINTS.get(error.errno or 0):
        found.add_note(hint)
    return found
