"""
How often an idle pool wakes up: manager and spirits, by default intervals.

The floor needs no line: its processes sleep for good, and nobody would notice if
they hung.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator

from common import Figure, Subject, main, processor_seconds, switches

SPIRITS = 4
INTERVAL = 5.0
"""The default of heartbeat_interval, which is not touched here."""


def idle(options: Namespace) -> Iterator[Figure]:
    """Count context switches, of either kind, over a window."""
    window = 20.0 if options.short else 60.0
    with Subject("ghostd", spirits=SPIRITS) as pool:
        everybody = [pool.pid, *pool.up(SPIRITS)]
        before = {pid: switches(pid) for pid in everybody}
        used = processor_seconds(pool.pid)
        began = time.monotonic()
        time.sleep(window)
        took = time.monotonic() - began
        used = processor_seconds(pool.pid) - used
        after = {pid: switches(pid) for pid in everybody}
    moved = {
        pid: (after[pid][0] - before[pid][0], after[pid][1] - before[pid][1])
        for pid in everybody
    }
    intervals = took / INTERVAL
    # Whole beats: a window of 60 s may hold 13 of them. And one a minute on top.
    most = (int(intervals) + 1 + took / 60) / intervals
    for name, pids in (("manager", everybody[:1]), ("spirit", everybody[1:])):
        figure = Figure(
            f"idle.{name}",
            "switches/interval",
            [sum(moved[pid]) / intervals for pid in pids],
            window_s=window,
            voluntary=[moved[pid][0] for pid in pids],
            involuntary=[moved[pid][1] for pid in pids],
        )
        if name == "manager":
            figure.notes["manager_cpu_percent"] = round(100 * used / took, 4)
        yield figure.within("worst", round(most, 3))


if __name__ == "__main__":
    sys.exit(main(idle))
