"""
A large application: how fast a spirit of it is replaced, and what it takes of memory.

The floor loads it in the manager and forks from there, which is what a mold is to
cost no more than, and what ghostd itself does not do: a reload would change nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator

from common import Figure, Subject, main, pools, rollup, rounded
from subject import BODY, COLLECTED

SPIRITS = 4
MOST = 100
HEAP = 200
"""MiB of objects that the application has."""


def _taken(pool: Subject, living: deque[int]) -> float:
    """Kill the oldest; give the ms until its replacement's body begins."""
    victim = living.popleft()
    pool.settle([victim])
    began = time.monotonic_ns()
    os.kill(victim, signal.SIGKILL)
    pid, entered = pool.wait(BODY)
    living.append(pid)
    return (entered - began) / 1e6


def replace(options: Namespace) -> Iterator[Figure]:
    """Kill one after another at leisure; then two at once, where one has to wait."""
    turns = 20 if options.short else MOST
    taken: dict[str, list[float]] = {"floor": [], "ghostd": []}
    second: dict[str, list[float]] = {"floor": [], "ghostd": []}
    with (
        Subject("floor", heap=HEAP) as floor,
        Subject("ghostd", heap=HEAP, preload=1) as ours,
    ):
        living = {pool.kind: deque(pool.up(SPIRITS)) for pool in (floor, ours)}
        for _ in range(turns):
            for pool in (floor, ours):
                taken[pool.kind].append(_taken(pool, living[pool.kind]))
                # The next one is made while nobody waits for it.
                time.sleep(0.1)
        for _ in range(turns // 2):
            for pool in (floor, ours):
                mine = living[pool.kind]
                victims = [mine.popleft(), mine.popleft()]
                pool.settle(victims)
                began = time.monotonic_ns()
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                pair = pool.wait_for(BODY, 2)
                mine.extend(pid for pid, _ in pair)
                last = max(entered for _, entered in pair)
                second[pool.kind].append((last - began) / 1e6)
                time.sleep(0.1)
    figure = Figure(
        "mold.replace", "ms", taken["ghostd"], taken["floor"], heap_mib=HEAP
    )
    yield figure.ratio_within("median", 1.0).within("worst", 50)
    figure = Figure(
        "mold.replace.two", "ms", second["ghostd"], second["floor"], heap_mib=HEAP
    )
    yield figure.within("worst", 100)


def memory(_options: Namespace) -> Iterator[Figure]:
    """Collect all garbage once in each spirit, and look who has which pages."""
    with pools(["ghostd"], spirits=1, body="keeper", heap=HEAP) as (alone,):
        (only,) = alone.up(1)
        _collect(alone, [only])
        # What it would take without anybody to share with.
        one = rollup(only)["Rss"]
    with pools(["ghostd"], spirits=SPIRITS, body="keeper", heap=HEAP, preload=1) as (
        pool,
    ):
        spirits = pool.up(SPIRITS)
        time.sleep(0.2)
        _collect(pool, spirits)
        helpers = [pid for pid in pool.children() if pid not in spirits]
        every = {pid: rollup(pid) for pid in (pool.pid, *spirits, *helpers)}
    total = sum(figures["Pss"] for figures in every.values())
    own = {pid: figures["Private_Dirty"] for pid, figures in every.items()}
    yield Figure(
        "mold.memory",
        "x one process",
        [total / one],
        one_mib=rounded(one),
        total_mib=rounded(total),
        manager_mib=rounded(every[pool.pid]["Pss"]),
        private_mib=[rounded(own[pid]) for pid in spirits],
        shared_mib=[rounded(every[pid]["Rss"] - own[pid]) for pid in spirits],
        mold_and_stock_private_mib=[rounded(own[pid]) for pid in helpers],
    ).within("worst", 1.3)


def _collect(pool: Subject, spirits: list[int]) -> None:
    for pid in spirits:
        os.kill(pid, signal.SIGUSR1)
    pool.wait_for(COLLECTED, len(spirits))
    pool.settle(spirits)


def mold(options: Namespace) -> Iterator[Figure]:
    """Replace, and count pages."""
    yield from replace(options)
    yield from memory(options)


if __name__ == "__main__":
    sys.exit(main(mold))
