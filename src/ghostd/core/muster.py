"""
The muster: everybody by what they are to the pool now, and what follows from it.

A muster is one look at the members and at the births under way. It changes nothing:
it says who is to go, how many are missing, and which place a newborn gets. When
somebody comes, goes or changes sides, the pool takes another look.

| a member is | when                                      | then it                |
| ----------- | ----------------------------------------- | ---------------------- |
| regular     | its code is the good one, or older        | fills a place          |
| stale       | regular, but its code is old, or it tired | goes once replaced     |
| a canary    | its code is on trial                      | is one beside all that |
| dropped     | its code failed, or was superseded        | goes at once           |

Who is leaving already is none of these, but takes room.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count

from ghostd.core.actions import Spawn
from ghostd.core.member import Member
from ghostd.core.reloads import Reloads
from ghostd.settings import PoolSettings


class Muster:
    """
    Who is what, and what is wanted.

    Args:
        settings: the checked figures.
        wanted: how many spirits there should be.
        reloads: which code is good, and which is on trial.
        members: the living.
        unborn: the births under way.

    Attributes:
        regular: those that fill a place, in the order of their birth.
        stale: those of them that another is to replace.
        dropped: those whose code failed.
        canaries: how many are on trial, the unborn included.
        coming: how many regular ones are on their way to be born.
        alive: how many of the regular ones have a beat.
        room: how many more may live.
    """

    __slots__ = (
        "_members",
        "_reloads",
        "_settings",
        "_unborn",
        "_wanted",
        "alive",
        "canaries",
        "coming",
        "dropped",
        "regular",
        "room",
        "stale",
    )

    def __init__(
        self,
        settings: PoolSettings,
        wanted: int,
        reloads: Reloads,
        members: Collection[Member],
        unborn: Collection[Spawn],
    ) -> None:
        """Look at everybody once."""
        self._settings = settings
        self._wanted = wanted
        self._reloads = reloads
        self._members = members
        self._unborn = unborn
        self.regular: list[Member] = []
        self.stale: list[Member] = []
        self.dropped: list[Member] = []
        self.canaries: int = 0
        self.coming: int = 0
        self.alive: int = 0
        self.room: int = wanted + settings.spare - len(members) - len(unborn)
        for member in members:
            if not member.active:
                continue
            if reloads.is_canary(member):
                self.canaries += 1
            elif reloads.is_dropped(member):
                self.dropped.append(member)
            else:
                self.regular.append(member)
                self.alive += member.beat is not None
                if member.tired_at is not None or reloads.is_old(member):
                    self.stale.append(member)
        for spawn in unborn:
            self.canaries += spawn.generation == reloads.trial
            self.coming += spawn.generation <= reloads.good

    # -- who goes ----------------------------------------------------------------------

    def departures(self) -> list[Member]:
        """
        List who is to go now, in order.

        Those whose code failed; old ones that never worked, with whom nothing is lost;
        then who is one too many, or else the stale that can be spared.
        """
        useless = [m for m in self.stale if m.beat is None and self._reloads.is_old(m)]
        gone = self.dropped + useless
        stale = self.stale
        if useless:
            stale = [member for member in stale if member not in useless]
        surplus = len(self.regular) - len(useless) - self._wanted - self._surge(stale)
        if not self._settings.spare:
            surplus += self.canaries
        if surplus > 0:
            return gone + self._least(useless)[:surplus]
        if stale:
            return gone + self._ripe(stale)[: self._sparable(stale)]
        return gone or self._host()

    def _least(self, gone: list[Member]) -> list[Member]:
        """Order by how little is lost: no beat yet, then the old, then the youngest."""
        stale = set(self.stale)
        return sorted(
            set(self.regular).difference(gone),
            key=lambda m: (m.alive, m not in stale, -m.born, -m.pid),
        )

    def _ripe(self, stale: list[Member]) -> list[Member]:
        """Order the stale: those whose successors are there first, then by place."""
        successors = set(self.regular).difference(self.stale)
        fresh = {member.slot for member in successors}
        return sorted(stale, key=lambda m: (m.slot not in fresh, m.slot))

    def _sparable(self, stale: list[Member]) -> int:
        """Say how many of the stale may go before others are in their places."""
        missing = self._wanted - self.alive
        allowed = 0
        if all(map(self._reloads.is_old, stale)):
            # Only new code is worth an emptier house; the tired can wait.
            allowed = self._settings.max_unavailable
        if not self._settings.spare:
            # No overlap allowed: one goes first, but only when nobody is leaving.
            nobody_leaves = len(self._members) <= self._wanted
            allowed = max(1, allowed) if nobody_leaves else 0
        return max(0, allowed - missing)

    def _host(self) -> list[Member]:
        """Where no overlap is allowed: who makes room for a canary, if all serve."""
        if self._settings.spare or not self._wants_canary():
            return []
        if self.alive == self._wanted == len(self._members):
            return [min(self.regular, key=lambda member: member.slot)]
        return []

    # -- who comes ---------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Count the regular ones that are wanted and not even on their way."""
        places = self._places() + self._surge(self.stale)
        return max(0, places - len(self.regular) - self.coming)

    @property
    def starting(self) -> bool:
        """Tell whether a regular one is on the way to a first beat."""
        return self.coming > 0 or self.alive < len(self.regular)

    @property
    def canary_fits(self) -> bool:
        """Tell whether a canary is wanted, and nobody is in its place."""
        # One that was begun before the trial may be one too many: it goes first.
        regulars = len(self.regular) + self.coming
        return self._wants_canary() and regulars <= self._places()

    def _wants_canary(self) -> bool:
        wanted = self._reloads.trial is not None and self._wanted > 0
        return wanted and not self.canaries

    def _places(self) -> int:
        """Count the places of regular ones: one less where the canary needs one."""
        taken = self._reloads.trial is not None and not self._settings.spare
        return max(0, self._wanted - int(taken))

    def _surge(self, stale: Collection[Member]) -> int:
        """
        Say by how many the regular ones may exceed their places: by one for the stale.

        While a trial goes on its canary is the one.
        """
        trial = self._reloads.trial is not None
        return int(bool(stale and self._settings.spare and not trial))

    def slots(self, generation: int) -> Iterator[int]:
        """
        Give the places of newborns, one after another.

        First the lowest that nobody holds. A leaving member has given up its place, so
        its replacement inherits it. In a reload every place is held: then the lowest
        whose holder is stale, and that holder is the next to be dismissed.
        """
        coming = [s for s in self._unborn if s.generation == generation]
        peers: Collection[Member] = self.regular
        held = {spawn.slot for spawn in coming}
        if generation == self._reloads.trial:
            peers = [member for member in self._members if member.active]
            held = {spawn.slot for spawn in self._unborn}
        held.update(member.slot for member in peers)
        free = [slot for slot in range(self._wanted) if slot not in held]
        yield from free
        fresh = {*free, *(spawn.slot for spawn in coming)}
        fresh.update(
            member.slot
            for member in peers
            if member.generation >= generation and member.tired_at is None
        )
        yield from (slot for slot in count() if slot not in fresh)
