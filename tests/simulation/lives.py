"""
Whole lives of pools, made up from a seed: `python -m tests.simulation.lives`.

A `Story` is all that a life needs to be told again: a seed, settings, and which
faults are on (swarm testing: each life has another few of them, so that no fault
hides behind the noise of all the others). A life that breaks a rule is shortened,
printed, and saved under `seeds/`, where `test_lives.py` tells it again for ever.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from ghostd.core.pool import Pool
from ghostd.settings import PoolSettings
from ghostd.testing import (
    OBEDIENT,
    TEMPERAMENTS,
    Faults,
    Temperament,
    Violation,
    World,
)
from ghostd.values import Value

SEEDS = Path(__file__).parent / "seeds"
TURNS = 500
RATES = {
    "forks": 0.3,
    "outages": 0.005,
    "growths": 0.05,
    "reloads": 0.02,
    "broken": 0.5,
    "tired": 0.02,
    "births": 0.2,
    "stops": 0.002,
    "freezes": 0.02,
    "halts": 0.02,
    "slow": 0.02,
    "lost": 0.2,
    "doubled": 0.1,
    "shuffled": 0.3,
    "strangers": 0.05,
    "murders": 0.05,
    "reused": 0.8,
    "yawns": 0.2,
    "rebirths": 0.05,
}


class Story(Value):
    """
    All that makes one life: the same story is the same life.

    Attributes:
        seed: of the dice.
        settings: keywords of `PoolSettings`.
        faults: keywords of `Faults`.
        temperaments: names of those that spirits may have beside the obedient.
        wildness: how often a spirit has one of them, 0 to 1.
        gentle: how many of the first births are obedient, so that the pool gets up.
        boot_deadline: seconds, or None.
        turns: how long the storm lasts.
    """

    seed: int
    settings: dict[str, Any]
    faults: dict[str, float]
    temperaments: list[str]
    wildness: float
    gentle: int
    boot_deadline: float | None
    turns: int


def invent(seed: int, turns: int = TURNS) -> Story:
    """Make up the story that belongs to *seed*."""
    rng = Random(seed)  # noqa: S311 - dice, no secrets
    spirits = rng.choice((0, 1, 1, 2, 2, 3, 4, 6))
    interval = rng.choice((0.5, 1.0, 5.0, 5.0))
    settings = {
        "spirits": spirits,
        "spare": rng.choice((0, 1, 1, 2, 2, 4)),
        "heartbeat_interval": interval,
        "heartbeat_timeout": rng.choice((0.5, 3.0, 10.0, 50.0)),
        "graceful_timeout": rng.choice((0, 0.5, 10.0, 120.0)),
        "restart_budget": rng.choice((None, None, 0, 1, 3)),
        "boot_timeout": rng.choice((2.0, 10.0, 60.0)),
        "canary_time": rng.choice((0, 0.5, 5.0)),
        "max_unavailable": rng.choice((0, 0, 1, 3)),
        "max_age": rng.choice((None, None, 900.0)),
        "drain_delay": rng.choice((0, 0, 3.0)),
    }
    half = rng.random()
    faults = {
        name: rate * rng.choice((0.2, 1.0, 1.0, 2.0))
        for name, rate in RATES.items()
        if rng.random() < half
    }
    temperaments = [one.name for one in TEMPERAMENTS if rng.random() < half]
    return Story(
        seed=seed,
        settings=settings,
        faults={name: min(rate, 1.0) for name, rate in faults.items()},
        temperaments=temperaments,
        wildness=rng.choice((0.1, 0.5, 1.0)) if temperaments else 0.0,
        gentle=rng.choice((0, 1, spirits, spirits)),
        boot_deadline=rng.choice((None, 5.0, 60.0)),
        turns=turns,
    )


def begin(story: Story, pool: type[Pool] = Pool, keep: int | None = 60) -> World:
    """Make the world of a story."""
    wild = [one for one in TEMPERAMENTS if one.name in story.temperaments]

    def choose(rng: Random, birth: int) -> Temperament:
        if birth < story.gentle or rng.random() >= story.wildness:
            return OBEDIENT
        return rng.choice(wild)

    return World(
        PoolSettings(**story.settings),
        choose,
        seed=story.seed,
        faults=Faults(**story.faults),
        boot_deadline=story.boot_deadline,
        keep=keep,
        pool=pool,
    )


def tell(story: Story, pool: type[Pool] = Pool, keep: int | None = 60) -> World:
    """
    Live a story: the storm, the peace, an accident, the end.

    Raises:
        Violation: a rule was broken.
    """
    world = begin(story, pool, keep)
    while world.turns < story.turns and world.turn():
        pass
    world.settle()
    world.forgive()
    world.stop(graceful=story.seed % 2 == 0)
    return world


def fails(story: Story, pool: type[Pool] = Pool) -> Violation | None:
    """Tell a story; give the rule that it breaks."""
    try:
        tell(story, pool)
    except Violation as violation:
        return violation
    return None


def shorten(story: Story, invariant: str, pool: type[Pool] = Pool) -> Story:
    """Drop faults, temperaments and turns as long as the same rule is broken."""
    shorter = True
    while shorter:
        shorter = False
        for changed in _shorter(story):
            violation = fails(changed, pool)
            if violation is not None and violation.invariant == invariant:
                story, shorter = changed, True
                break
    return story


def _shorter(story: Story) -> list[Story]:
    plain = story.plain()
    changes: list[dict[str, Any]] = [
        {"faults": {k: v for k, v in story.faults.items() if k != name}}
        for name in story.faults
    ]
    changes += [
        {"temperaments": [one for one in story.temperaments if one != name]}
        for name in story.temperaments
        if len(story.temperaments) > 1
    ]
    if story.temperaments:
        changes.append({"temperaments": [], "wildness": 0.0})
    changes += [
        {"turns": turns}
        for turns in (story.turns // 2, story.turns * 9 // 10, story.turns - 1)
        if 0 < turns < story.turns
    ]
    return [Story(**{**plain, **change}) for change in changes]


def save(story: Story, violation: Violation) -> Path:
    """Keep a story that broke a rule, so that it is told again for ever."""
    SEEDS.mkdir(exist_ok=True)
    word = violation.invariant.lower().replace(" ", "-")
    path = SEEDS / f"{word}-{story.seed}.json"
    path.write_text(json.dumps(story.plain(), indent=2) + "\n")
    return path


def load(path: Path) -> Story:
    """Read what `save` wrote."""
    return Story(**json.loads(path.read_text()))


class Ledger:
    """Sums over many lives."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.lives = 0
        self.turns = 0
        self.seconds = 0.0
        self.counts: Counter[str] = Counter()

    def add(self, world: World) -> None:
        """Add one life."""
        self.lives += 1
        self.turns += world.turns
        self.seconds += world.now - 1000.0
        self.counts += world.counts

    def merge(self, other: Ledger) -> None:
        """Add the sums of another one."""
        self.lives += other.lives
        self.turns += other.turns
        self.seconds += other.seconds
        self.counts += other.counts


def work(first: int, step: int, turns: int) -> tuple[Ledger, int | None]:
    """Live the seeds *first*, *first* + *step* ... for *turns*; stop at a failure."""
    ledger = Ledger()
    seed = first
    while ledger.turns < turns:
        try:
            ledger.add(tell(invent(seed)))
        except Violation:
            return ledger, seed
        seed += step
    return ledger, None


def main() -> int:
    """Live for a while; 0 when no rule was broken."""
    parser = argparse.ArgumentParser(description="Many lives of pools, from seeds.")
    parser.add_argument("--turns", type=int, default=100_000)
    parser.add_argument("--seed", type=int, help="tell this one life, in full")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    if options.seed is not None:
        return investigate(options.seed)
    begun = time.perf_counter()
    total = Ledger()
    failed: list[int] = []
    jobs, share = options.jobs, options.turns // options.jobs
    with ProcessPoolExecutor(jobs) as executor:
        tasks = [
            executor.submit(work, options.first + job, jobs, share)
            for job in range(jobs)
        ]
        for task in tasks:
            ledger, seed = task.result()
            total.merge(ledger)
            if seed is not None:
                failed.append(seed)
    took = time.perf_counter() - begun
    sys.stdout.write(
        f"{total.turns} turns, {total.lives} lives (seeds from {options.first}), "
        f"{total.seconds / 86400:.1f} virtual days in {took:.1f} s "
        f"({total.turns / took:.0f} turns/s, {jobs} jobs)\n"
    )
    common = ", ".join(f"{name} {n}" for name, n in sorted(total.counts.items()))
    sys.stdout.write(f"{common}\n")
    return max([investigate(seed) for seed in failed], default=0)


def investigate(seed: int) -> int:
    """Tell one life; shorten, print and save it when it breaks a rule."""
    story = invent(seed)
    violation = fails(story)
    if violation is None:
        sys.stdout.write(f"seed {seed}: no rule broken\n")
        return 0
    story = shorten(story, violation.invariant)
    violation = fails(story) or violation
    notes = "\n".join(getattr(violation, "__notes__", []))
    path = save(story, violation)
    sys.stdout.write(
        f"seed {seed}: {violation}\n{notes}\n{story}\nsaved: {path.name}\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
