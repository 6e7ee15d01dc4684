"""
The scales: who has grown too big is tired.

One heavy moment is no reason, since a big answer is gone a second later: a spirit must
be too heavy several times in a row, once in each heartbeat interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ghostd.core.events import Tired
from ghostd.unix import memory

IN_A_ROW = 3
MIB = 1 << 20


class Scales:
    """
    Weighs spirits.

    Args:
        limit: bytes, or a share of what there is, as settings have it.
        jitter: by which share of itself the limit is lowered at most.
    """

    def __init__(self, limit: int | str, jitter: float) -> None:
        """Know the limit; nobody has been weighed yet."""
        self._limit: int = memory.amount(limit)
        self._jitter = jitter
        self._heavy: dict[int, int] = {}

    def weigh(self, pids: Iterable[int]) -> Iterator[Tired]:
        """Weigh everybody; give those that are too heavy once more."""
        heavy = {}
        for pid in pids:
            weight, limit = memory.resident(pid), self._limit_of(pid)
            if weight > limit:
                # What is shared with others would not be free without it.
                weight = memory.proportional(pid) or weight
            if weight > limit:
                heavy[pid] = self._heavy.get(pid, 0) + 1
                if heavy[pid] == IN_A_ROW:
                    yield Tired(
                        pid, f"it has {weight // MIB} MiB, allowed {limit // MIB}"
                    )
        self._heavy = heavy

    def _limit_of(self, pid: int) -> int:
        # The same for one pid each time, and spread evenly over neighbours.
        return int(self._limit * (1.0 - self._jitter * (pid * 0.618034 % 1.0)))
