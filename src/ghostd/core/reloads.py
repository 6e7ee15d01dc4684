"""
Reloads: which code is good, which is on trial, and how far its way has come.

A reload does not touch what works. It puts the next generation on trial: one spirit,
the canary, is born with the new code while all others go on. Ready, and alive for
`canary_time` after that, it has proved its generation, which is good from then on, and
the others are replaced one after another (`rolling`). Whatever happens to a canary
before is the end of its generation, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from ghostd.core.member import Member
from ghostd.typed import Any


class Reloads:
    """
    The generations of one pool.

    Attributes:
        good: the generation that serves, and that a dead spirit's successor gets.
        trial: the generation that has to prove itself, None: no reload has begun.
        rolling: the proven generation whose members still have to replace older ones.
        struck: how many canaries of this trial were ended by somebody's signal.
    """

    __slots__ = ("_issued", "good", "rolling", "struck", "trial")

    def __init__(self) -> None:
        """Begin with generation 0, which proves itself by the start of the daemon."""
        self.good: int = 0
        self.trial: int | None = None
        self.rolling: int | None = None
        self.struck: int = 0
        self._issued = 0

    @property
    def underway(self) -> int | None:
        """Give the generation that a reload is about now, None if there is none."""
        return self.rolling if self.trial is None else self.trial

    def ask(self) -> int:
        """Begin a trial, instead of any other; give the number of the generation."""
        self._issued += 1
        self.trial, self.rolling, self.struck = self._issued, None, 0
        return self._issued

    def strike(self) -> int:
        """Count a canary that somebody's signal has ended; give their number."""
        self.struck += 1
        return self.struck

    def prove(self, trial: int) -> None:
        """Take the generation on trial for good."""
        self.good, self.rolling, self.trial = trial, trial, None

    def end(self) -> None:
        """Have no reload any more: it failed, is complete, or nobody cares."""
        self.trial = self.rolling = None

    def is_canary(self, member: Member) -> bool:
        """Tell whether a member is of the generation on trial."""
        return member.generation == self.trial

    def is_dropped(self, member: Member) -> bool:
        """Tell whether a member is of a generation that failed its trial."""
        return member.generation > self.good and member.generation != self.trial

    def is_old(self, member: Member) -> bool:
        """Tell whether newer code than a member's has proved itself."""
        return member.generation < self.good

    def proven_at(self, members: Iterable[Member], canary_time: float) -> float | None:
        """Say when the trial will have been passed; None: no canary is ready."""
        if self.trial is None:
            return None
        ready = [
            member.ready_at
            for member in members
            if member.ready_at is not None and member.active and self.is_canary(member)
        ]
        return min(ready) + canary_time if ready else None

    def plain(self) -> dict[str, Any]:
        """Give the state as plain data."""
        return {
            "good": self.good,
            "trial": self.trial,
            "rolling": self.rolling,
            "struck": self.struck,
            "issued": self._issued,
        }

    def restore(self, data: dict[str, Any]) -> None:
        """Take the state back from `plain`."""
        self.good, self.trial = data["good"], data["trial"]
        self.rolling, self._issued = data["rolling"], data["issued"]
        self.struck = data["struck"]
