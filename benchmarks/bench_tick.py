"""
What a tick costs: against an empty method call, and the manager.

The first is measured in the body of a real spirit, on each Python that is here: the
class's own empty method stands in for the floor. For the second, four spirits tick as
fast as they can, and the manager's processor time is read.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator

from common import Figure, Subject, main, processor_seconds, pythons, version_of
from subject import BLOCKS, BODY, EMPTY, LOOP, READY, TICK, TURNS

SPIRITS = 4


def _counted(pool: Subject, tag: bytes) -> list[float]:
    return [took / TURNS for _, took in pool.wait_for(tag, BLOCKS)]


def tick(options: Namespace) -> Iterator[Figure]:
    """Count blocks of ticks, then watch the manager under a flood of them."""
    for python in pythons():
        version = version_of(python)
        with Subject("ghostd", "count", python, spirits=1) as pool:
            pool.wait(BODY)
            loops, empties = _counted(pool, LOOP), _counted(pool, EMPTY)
            figure = Figure("tick", "ns", _counted(pool, TICK), empties)
        figure.python = version
        loop = sorted(loops)[BLOCKS // 2]
        # The loop around the call is in both, and flatters the tick.
        net = (figure.median - loop) / (figure.floors_median - loop)
        figure.notes = {"loop_ns": round(loop, 1), "ratio_without_loop": round(net, 2)}
        yield figure.ratio_within("median", 5)

    window, windows = (2, 3) if options.short else (5, 4)
    shares = []
    with Subject("ghostd", "spin", spirits=SPIRITS) as pool:
        pool.wait_for(BODY, SPIRITS)
        pool.wait(READY)
        for _ in range(windows):
            began, used = time.monotonic(), processor_seconds(pool.pid)
            time.sleep(window)
            spent = processor_seconds(pool.pid) - used
            shares.append(100 * spent / (time.monotonic() - began))
    figure = Figure("tick.manager", "% cpu", shares, spirits=SPIRITS, window_s=window)
    yield figure.within("worst", 1)


if __name__ == "__main__":
    sys.exit(main(tick))
