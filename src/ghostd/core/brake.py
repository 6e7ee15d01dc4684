"""
The brake: how fast the dead may be replaced when lives are short again and again.

A *strike* is a life that ended before its first beat, or within a second of its
birth, unless somebody's signal ended it; or a fork that failed. The first few in a
row (the budget) cost nothing: one death is an accident and is repaired at once.
After that each strike makes the pause before the next birth longer, 0.1 s, 0.2 s ...
up to 30 s, and births go one at a time.
When `CALM` seconds have gone by after a pause without a strike, all is forgiven.

Source: the numbers, and the designs not taken, are in docs/adr/0004.
"""

from __future__ import annotations

from ghostd.typed import Any

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
CALM = 10.0
SHORT_LIFE = 1.0
GOLDEN = 0.6180339887498949


class Brake:
    """
    A counter of strikes that turns into pauses.

    Args:
        budget: strikes in a row that cost nothing.
        seed: where the jitter starts, 0 to 1, so that two daemons that fail for
            the same reason do not retry in step. The jitter is a sequence, not
            chance: the core gives the same answer to the same story.
    """

    def __init__(self, budget: int, seed: float = 0.0) -> None:
        """Start without a strike."""
        self.budget = budget
        self.strikes: int = 0
        self.until: float = 0.0
        self.last: float = 0.0
        self.jitter: float = seed

    def strike(self, now: float) -> float:
        """Count a strike; give the pause, in seconds, that it costs."""
        self.release(now)
        self.strikes += 1
        self.last = now
        over = self.strikes - self.budget
        if over <= 0:
            return 0.0
        self.jitter = (self.jitter + GOLDEN) % 1.0
        # Capped before the power: 2 ** 1100 is no float.
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(over - 1, 10))
        pause *= 0.8 + 0.2 * self.jitter
        self.until = max(self.until, now + pause)
        return pause

    def release(self, now: float) -> None:
        """Forgive everything once it has been calm for long enough."""
        if now >= self.forgives_at:
            self.strikes = 0

    @property
    def forgives_at(self) -> float:
        """Say when all is forgiven if there is no strike before."""
        return max(self.until, self.last) + CALM

    def holds(self, now: float) -> bool:
        """Tell whether no spirit may be born at *now*."""
        return now < self.until

    @property
    def cautious(self) -> bool:
        """Tell whether births go one at a time."""
        return self.strikes > self.budget

    def forget(self) -> None:
        """Forgive at once: what was tried has just succeeded."""
        self.strikes = 0
        self.until = 0.0

    def plain(self) -> dict[str, Any]:
        """Give the state as plain data; `restore` takes it back."""
        return dict(vars(self))

    def restore(self, data: dict[str, Any]) -> None:
        """Take the state of `plain` back."""
        vars(self).update(data)
