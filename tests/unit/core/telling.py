"""Words for stories about a pool: literals in, actions out."""

from __future__ import annotations

from typing import Any

from ghostd.core.actions import Action, Call, Kill, Quit, Reloaded, Say, Spawn
from ghostd.core.events import Beat, Event, Exited, Reload, Spawned
from ghostd.core.pool import Pool
from ghostd.settings import PoolSettings

DEFAULTS: dict[str, Any] = {
    "spirits": 2,
    "spare": 1,
    "heartbeat_interval": 5,
    "heartbeat_timeout": 50,
    "graceful_timeout": 120,
    "boot_timeout": 60,
    "canary_time": 0,
    "jitter": 0,
}


def settings(**changes: Any) -> PoolSettings:
    return PoolSettings(**{**DEFAULTS, **changes})


def a_pool(
    now: float = 100.0, boot_deadline: float | None = None, **changes: Any
) -> Pool:
    """Make a pool that begins at 100 s: two spirits, one spare."""
    return Pool(settings(**changes), now, boot_deadline)


def drain(pool: Pool, now: float) -> list[Action]:
    """Plan until nothing is left or somebody must be born first."""
    actions: list[Action] = []
    while planned := pool.plan(now):
        actions += planned
        if births(planned):
            break
    return actions


def tell(pool: Pool, now: float, *events: Event) -> list[Action]:
    """Let a turn happen; forks are not made."""
    for event in events:
        pool.observe(event, now)
    return drain(pool, now)


def deeds(actions: list[Action]) -> list[Action]:
    """Leave the log lines out."""
    return [action for action in actions if not isinstance(action, Say)]


def signals(actions: list[Action]) -> list[Action]:
    """Keep what is sent to spirits."""
    return [action for action in actions if isinstance(action, Quit | Kill)]


def births(actions: list[Action]) -> list[Spawn]:
    return [action for action in actions if isinstance(action, Spawn)]


def answers(actions: list[Action]) -> list[Reloaded]:
    """Keep what whoever asked for a reload is told."""
    return [action for action in actions if isinstance(action, Reloaded)]


def hooks(actions: list[Action]) -> list[tuple[Any, ...]]:
    return [(a.hook, *a.args) for a in actions if isinstance(a, Call)]


def lines(actions: list[Action]) -> list[tuple[str, str]]:
    """Keep level and text of the log lines."""
    return [
        (action.level, action.text) for action in actions if isinstance(action, Say)
    ]


def said(actions: list[Action]) -> list[str]:
    """Keep the names of the log lines."""
    return [action.event for action in actions if isinstance(action, Say)]


def born(pool: Pool, now: float, *pids: int, first_slot: int = 0) -> list[Action]:
    """Tell of births in the places from *first_slot* on, with the newest code."""
    slots = range(first_slot, first_slot + len(pids))
    generation = pool.reloads.underway or pool.generation
    events = [
        Spawned(pid, slot, generation) for pid, slot in zip(pids, slots, strict=True)
    ]
    return tell(pool, now, *events)


def serving(now: float = 100.0, *pids: int, **changes: Any) -> Pool:
    """Make a pool whose spirits *pids* (default 11, 12) were born at 100 s and beat."""
    pids = pids or (11, 12)
    pool = a_pool(spirits=len(pids), **changes)
    pool.plan(100.0)
    born(pool, 100.0, *pids)
    tell(pool, now, *(Beat(pid, now) for pid in pids))
    return pool


def reloading(**changes: Any) -> tuple[Pool, list[Action]]:
    """Give a serving pool (11, 12) that was told to reload at 110 s, and its answer."""
    pool = serving(110.0, **changes)
    return pool, tell(pool, 110.0, Reload())


def rolling(**changes: Any) -> tuple[Pool, list[Action]]:
    """Give one whose canary 13 has passed at 111 s, and the answer to that."""
    pool, _ = reloading(**changes)
    born(pool, 110.0, 13)
    return pool, tell(pool, 111.0, Beat(13, 111.0))


def died(pid: int, words: str = "exit code 1") -> Exited:
    return Exited(pid, words)


def left(pid: int) -> Exited:
    return Exited(pid, "exit code 0", clean=True)
