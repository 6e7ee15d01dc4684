"""
Every story of a small pool, breadth first: what is small enough is proven, not sampled.

A state is a pool and its referee after a turn. From each state every event that could
come next is tried; states that differ only by names of pids and by the clock are one.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from typing import Any

import pytest

from ghostd.core.actions import Kill, Quit, Spawn
from ghostd.core.events import (
    Beat,
    Event,
    Exited,
    Farewell,
    Grow,
    Reload,
    Shrink,
    Spawned,
    SpawnFailed,
    Stillborn,
    Stop,
    TimeLost,
    Tired,
)
from ghostd.core.pool import Pool
from ghostd.settings import PoolSettings
from ghostd.testing import Referee
from ghostd.testing.referee import Life

MOST = 2
STAMPS = ("born", "beat", "ready_at", "tired_at", "left_at", "killed_at")


class State:
    """A pool, its referee, and the time."""

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.now = 100.0
        self.pool = Pool(settings, self.now)
        self.referee = Referee(settings, self.now)
        self.pids = 10
        self.unborn: list[Spawn] = []
        self.turn([])

    def copied(self) -> State:
        other = copy(self)
        other.pool = Pool.from_plain(self.settings, self.pool.plain())
        other.referee = referee = Referee(self.settings)
        for name, value in vars(self.referee).items():
            if name not in {"_observers", "_planners", "_sayings"}:
                setattr(referee, name, copy(value))
        other.unborn = [*self.unborn]
        referee.lives = {pid: self._life(x) for pid, x in referee.lives.items()}
        return other

    @staticmethod
    def _life(life: Life) -> Life:
        other = Life(life.pid, life.slot, life.generation, life.born)
        for name in Life.__slots__:
            setattr(other, name, getattr(life, name))
        return other

    def turn(self, events: list[Event], how: str = "alive") -> None:
        for event in events:
            self.tell(event)
        while actions := self.pool.plan(self.now):
            self.referee.planned(actions, self.now)
            for action in actions:
                if isinstance(action, Spawn) and how == "later":
                    self.unborn.append(action)
                elif isinstance(action, Spawn):
                    self.tell(self.born(action, how))
        deadline = self.pool.next_deadline()
        self.referee.turned(self.now, deadline, self.pool.healthy)

    def born(self, action: Spawn, how: str = "alive") -> Event:
        if how == "nobody":
            return SpawnFailed("no", action.slot, action.generation)
        if how == "dead":
            return Stillborn(action.slot, action.generation, "SyntaxError")
        return Spawned(self.pids + 1, action.slot, action.generation)

    def tell(self, event: Event) -> None:
        if isinstance(event, Spawned):
            self.pids = event.pid
        self.referee.observed(event, self.now)
        self.pool.observe(event, self.now)

    def key(self) -> tuple[Any, ...]:
        """Give all that matters for what comes next, without names and dates."""
        plain = self.pool.plain()
        now, generation = self.now, plain["reloads"]["good"]

        def age(stamp: float | None) -> float | None:
            # What is older than any time-out or calm is as old as that.
            return None if stamp is None else round(max(stamp - now, -60.0), 6)

        members = tuple(
            (
                *(age(m[name]) for name in STAMPS),
                *(m["slot"], m["generation"] - generation, m["told"], m["silent"]),
            )
            for m in plain["members"]
        )
        brakes = tuple(
            (b["strikes"], age(b["until"]), age(b["last"]))
            for b in (plain["brake"], plain["fork_brake"])
        )
        reloads = tuple(
            None
            if plain["reloads"][name] is None
            else plain["reloads"][name] - generation
            for name in ("trial", "rolling", "issued")
        )
        unborn = tuple((slot, of - generation) for slot, of in plain["unborn"])
        places = (plain["wanted"], plain["booted"], tuple(plain["proven"]), unborn)
        stop = (plain["stopping"], age(plain["stop_at"]))
        return (members, brakes, places, reloads, stop, age(plain["amnesty"]))

    def moves(  # noqa: C901, PLR0912 - one row each
        self, kinds: str
    ) -> list[tuple[float, list[Event], str]]:
        """List what may come next: the pause, the events, how births end."""
        now, deadline = self.now, self.pool.next_deadline()
        moves: list[tuple[float, list[Event], str]] = []
        for birth in self.unborn:
            moves += [(0.0, [self.copied().born(birth, how)], "later") for how in HOWS]
        for pid in self.pool.members:
            moves.append((0.0, [Beat(pid, now)], "alive"))
            moves.append((0.0, [Exited(pid, "exit code 1")], "alive"))
            if "farewells" in kinds:
                moves.append((0.0, [Farewell(pid, now)], "alive"))
            if "forks" in kinds:
                moves.append((0.0, [Exited(pid, "exit code 1")], "nobody"))
            if "tired" in kinds:
                moves.append((0.0, [Tired(pid, "it is")], "alive"))
        if "reloads" in kinds:
            moves.append((0.0, [Reload()], "alive"))
            if "births" in kinds:
                moves.append((0.0, [Reload()], "dead"))
                moves.append((0.0, [Reload()], "later"))
        if "sizes" in kinds:
            moves.append((0.0, [Shrink()], "alive"))
            if self.pool.wanted < MOST:
                moves.append((0.0, [Grow()], "alive"))
        if "stops" in kinds:
            moves.append((0.0, [Stop(graceful=True)], "alive"))
            moves.append((0.0, [Stop(graceful=False)], "alive"))
        if deadline is not None:
            moves.append((deadline - now, [], "alive"))
            if "forks" in kinds:
                moves.append((deadline - now, [], "nobody"))
            if "late" in kinds:
                moves.append((deadline - now + 5.0, [TimeLost(5.0)], "alive"))
        return moves

    def after(self, pause: float, events: list[Event], how: str) -> State:
        state = self.copied()
        state.now += pause
        for event in events:
            if isinstance(event, Spawned | SpawnFailed | Stillborn):
                state.unborn.remove(Spawn(event.slot, event.generation))
        state.turn(events, how)
        return state

    def good(self, life: Life) -> Event:
        """Say what a spirit does that behaves: beat, and go when told."""
        if life.active:
            return Beat(life.pid, self.now)
        return Exited(life.pid, "exit code 0", clean=True)

    def calms(self) -> bool:
        """Let nothing go wrong any more; tell whether all becomes as wanted."""
        state = self.copied()
        for _ in range(40):
            referee = state.referee
            if state.pool.over or (referee.settled and not referee.stop):
                return True
            deadline = state.pool.next_deadline()
            soon = state.now + 0.5
            state.now = soon if deadline is None else min(soon, deadline)
            events = [state.good(life) for life in referee.lives.values()]
            for birth in state.unborn:
                state.tell(state.born(birth))
            state.unborn = []
            state.turn(events)
        return False


def explore(settings: PoolSettings, kinds: str, depth: int) -> int:
    """Visit all states up to *depth*; give their number."""
    first = State(settings)
    seen = {first.key()}
    frontier = deque([(first, 0)])
    while frontier:
        state, steps = frontier.popleft()
        if steps < depth - 1:
            assert state.calms(), state.pool.plain()
        if steps == depth or state.pool.over:
            continue
        for move in state.moves(kinds):
            after = state.after(*move)
            key = after.key()
            if key not in seen:
                seen.add(key)
                frontier.append((after, steps + 1))
    return len(seen)


HOWS = ("alive", "nobody", "dead")
ALL = "farewells forks reloads sizes stops late tired births"
MODELS = [
    (1, 0, ALL, 4),
    (1, 1, ALL, 4),
    (2, 1, ALL, 3),
    (1, 0, "deaths", 8),
    (1, 1, "reloads", 7),
    (2, 0, "reloads", 7),
    (2, 1, "reloads", 6),
    (1, 1, "farewells stops", 6),
    (1, 0, "forks", 7),
    (1, 1, "reloads births", 6),
    (1, 0, "reloads births", 6),
    (2, 1, "tired", 6),
    (1, 0, "reloads tired", 6),
]


@pytest.mark.parametrize(("spirits", "spare", "kinds", "depth"), MODELS)
def test_no_story_of_a_small_pool_breaks_a_rule(
    spirits: int, spare: int, kinds: str, depth: int
) -> None:
    settings = PoolSettings(
        spirits=spirits,
        spare=spare,
        heartbeat_interval=1,
        heartbeat_timeout=1,
        graceful_timeout=1,
        boot_timeout=2,
        canary_time=0.5,
        restart_budget=1,
    )

    assert explore(settings, kinds, depth) > 100


def test_a_mute_kernel_action_is_seen() -> None:
    """The model performs nothing but births, so these must be all it need not."""
    state = State(PoolSettings(spirits=1))

    state.pool.observe(Stop(graceful=True), state.now)
    kinds = {type(action) for action in state.pool.plan(state.now)}

    assert Quit in kinds
    assert Kill not in kinds
