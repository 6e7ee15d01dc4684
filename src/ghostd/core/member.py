"""
One spirit as the manager knows it: time stamps, from which everything follows.

| phase    | means                              | ends when                         |
| -------- | ---------------------------------- | --------------------------------- |
| STARTING | forked, no beat yet                | it beats, or is silent too long   |
| ALIVE    | has a beat, none overdue           | silent, surplus, old, or stopping |
| LEAVING  | told to quit, or has said farewell | its graceful time is over         |
| KILLED   | SIGKILL sent, not yet reaped       | it is reaped, and forgotten       |

A phase is derived, never stored, so no contradiction can be written down.
"""

from __future__ import annotations

from enum import Enum

from ghostd.typed import Any


class Phase(Enum):
    """Where a spirit stands in its life."""

    STARTING = "starting"
    ALIVE = "alive"
    LEAVING = "leaving"
    KILLED = "killed"


class Member:
    """
    One living spirit. All stamps are seconds on the monotonic clock, None = never.

    Attributes:
        pid: its process id, unique among the living.
        slot: its place in the pool, which its replacement inherits.
        generation: which reload it belongs to, 0 first.
        born: when its fork returned.
        beat: when it last ticked.
        ready_at: when its first beat was heard.
        expires: when it will be tired, if nothing else makes it so before.
        tired_at: since when it is to be replaced: its successor first, then it goes.
        left_at: since when it is leaving: told, killed, or by its own farewell.
        told: QUIT was sent to it.
        silent: QUIT was sent because it had been silent for too long.
        killed_at: when SIGKILL was last sent.
    """

    __slots__ = (
        "beat",
        "born",
        "expires",
        "generation",
        "killed_at",
        "left_at",
        "pid",
        "ready_at",
        "silent",
        "slot",
        "tired_at",
        "told",
    )

    def __init__(self, pid: int, slot: int, generation: int, born: float) -> None:
        """Begin a life."""
        self.pid: int = pid
        self.slot: int = slot
        self.generation: int = generation
        self.born: float = born
        self.beat: float | None = None
        self.ready_at: float | None = None
        self.expires: float | None = None
        self.tired_at: float | None = None
        self.left_at: float | None = None
        self.told: bool = False
        self.silent: bool = False
        self.killed_at: float | None = None

    @property
    def phase(self) -> Phase:
        """Read the phase off the stamps."""
        if self.killed_at is not None:
            return Phase.KILLED
        if self.left_at is not None:
            return Phase.LEAVING
        return Phase.STARTING if self.beat is None else Phase.ALIVE

    @property
    def active(self) -> bool:
        """Tell whether it still counts towards the wanted number."""
        return self.left_at is None

    @property
    def alive(self) -> bool:
        """Tell whether it is active and has a beat."""
        return self.beat is not None and self.left_at is None

    @property
    def heard(self) -> float:
        """Say since when it is silent: its last beat, or its birth."""
        return self.born if self.beat is None else self.beat

    def borne_until(self, booting: float, silence: float) -> float:
        """Say until when its silence is borne, so many seconds before and after."""
        beat = self.beat
        return self.born + booting if beat is None else beat + silence

    def shift(self, seconds: float, now: float) -> None:
        """Move every stamp later, as if *seconds* had not passed; none beyond now."""
        born = min(self.born + seconds, now)
        if self.expires is not None:
            self.expires += born - self.born
        self.born = born
        if self.beat is not None:
            self.beat = min(self.beat + seconds, now)
        if self.ready_at is not None:
            self.ready_at = min(self.ready_at + seconds, now)
        if self.left_at is not None:
            self.left_at = min(self.left_at + seconds, now)
        if self.killed_at is not None:
            self.killed_at = min(self.killed_at + seconds, now)

    def plain(self) -> dict[str, Any]:
        """Give the stamps as plain data; `from_plain` takes them back."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> Member:
        """Rebuild a member from `plain`."""
        member = cls(data["pid"], data["slot"], data["generation"], data["born"])
        for name in cls.__slots__:
            setattr(member, name, data[name])
        return member

    def __repr__(self) -> str:
        """Show the place and the phase."""
        return (
            f"Member(pid={self.pid}, slot={self.slot}, "
            f"generation={self.generation}, phase={self.phase.value})"
        )
