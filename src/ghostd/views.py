"""What users see of a pool: its members, and the sockets that it listens on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ghostd.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from socket import socket

    from ghostd.core.member import Member
    from ghostd.unix.sockets import Sockets


class PoolView(Mapping[int, "Member"]):
    """The members of a pool by pid, to look at; it prints as a table."""

    def __init__(self, members: Mapping[int, Member], now: float) -> None:
        """Show *members* as of *now*."""
        self._members = MappingProxyType(members)
        self._now = now

    def __getitem__(self, pid: int) -> Member:
        """Give a member."""
        return self._members[pid]

    def __iter__(self) -> Iterator[int]:
        """Go through the pids, the oldest member first."""
        return iter(self._members)

    def __len__(self) -> int:
        """Count the members."""
        return len(self._members)

    def __str__(self) -> str:
        """Print a line for each member."""
        lines = [f"{'pid':>8} slot generation phase    {'age':>9} {'last beat':>9}"]
        for pid, member in self._members.items():
            beat = "none" if member.beat is None else f"{self._now - member.beat:.1f} s"
            lines.append(
                f"{pid:>8} {member.slot:>4} {member.generation:>10} "
                f"{member.phase.value:<8} {self._now - member.born:>7.1f} s {beat:>9}"
            )
        return "\n".join(lines)

    __repr__ = __str__


class SocketView(Mapping[str, "socket"]):
    """The sockets that a pool listens on, by name, in the order of `listen`."""

    def __init__(self, sockets: Sockets | None) -> None:
        """Show *sockets*; None: there are none."""
        self._sockets = sockets
        self._listeners = {} if sockets is None else sockets.listeners

    def __getitem__(self, name: str) -> socket:
        """Give a socket."""
        return self._listeners[name].sock

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._listeners)

    def __len__(self) -> int:
        """Count them."""
        return len(self._listeners)

    def __repr__(self) -> str:
        """Show what each of them listens on."""
        pairs = (f"{name!r}: {each.where}" for name, each in self._listeners.items())
        return f"<sockets {', '.join(pairs)}>"

    def is_own(self, name: str) -> bool:
        """
        Tell whether what waits at a socket waits for this slot alone (``reuseport``).

        A spirit that leaves must accept all of it before it goes, where of a shared
        socket it can leave the rest to the others.
        """
        return self._listeners[name].queues is not None

    def leftovers(self, patience: float = 0.5) -> Iterator[socket]:
        """
        Accept what is left, in a spirit that leaves.

        Of shared sockets it is what waits there now, for nobody else may be left. To a
        queue of the slot's own connections may be on their way that began before this
        spirit was told to go; those that begin later go to somebody else.

        Args:
            patience: seconds for which they are waited for.
        """
        if self._sockets is not None:
            yield from self._sockets.leftovers(patience)
