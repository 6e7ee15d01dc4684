"""From kill -9 of an idle spirit to the first line of its replacement's body."""

from __future__ import annotations

import os
import signal
import sys
import time
from argparse import Namespace
from collections import deque
from collections.abc import Iterator

from common import THREE, Figure, main, pools
from subject import BODY

SPIRITS = 4
MOST = 200
HEAP = 200
"""MiB of objects that are there before the fork, in the second round."""


def replace(options: Namespace) -> Iterator[Figure]:
    """Kill one after another, the oldest first, and see how long it takes."""
    turns = 40 if options.short else MOST
    for heap in (0, HEAP):
        taken: dict[str, list[float]] = {kind: [] for kind in THREE}
        with pools(THREE, spirits=SPIRITS, heap=heap) as all_three:
            living = {pool.kind: deque(pool.up(SPIRITS)) for pool in all_three}
            for _ in range(turns):
                for pool in all_three:
                    victim = living[pool.kind].popleft()
                    pool.settle([victim])
                    began = time.monotonic_ns()
                    os.kill(victim, signal.SIGKILL)
                    pid, entered = pool.wait(BODY)
                    living[pool.kind].append(pid)
                    taken[pool.kind].append((entered - began) / 1e6)
        name = f"replace.heap{heap}" if heap else "replace"
        figure = Figure(
            name,
            "ms",
            taken["ghostd"],
            taken["floor"],
            bare=taken["bare"],
            heap_mib=heap,
        )
        yield figure.ratio_within("median", 1.5).ratio_within("worst", 10)


if __name__ == "__main__":
    sys.exit(main(replace))
