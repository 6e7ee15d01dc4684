"""What 500 idle spirits cost their manager, by default intervals and 1,024 files."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from common import (
    KINDS,
    Figure,
    Subject,
    main,
    pools,
    processor_seconds,
    resident,
    switches,
)

SPIRITS = 500
INTERVAL = 5.0


def scale(options: Namespace) -> Iterator[Figure]:
    """Watch both managers for some intervals, and look at their size."""
    intervals = 2 if options.short else 6
    cpu: dict[str, list[float]] = {}
    wakes: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}

    def look(pool: Subject) -> tuple[float, int]:
        sizes.setdefault(pool.kind, []).append(resident(pool.pid))
        return processor_seconds(pool.pid), switches(pool.pid)[0]

    with pools(KINDS, spirits=SPIRITS) as both:
        for pool in both:
            pool.up(SPIRITS)
        files = len(list(Path(f"/proc/{both[1].pid}/fd").iterdir()))
        for _ in range(intervals):
            before = [look(pool) for pool in both]
            began = time.monotonic()
            time.sleep(INTERVAL)
            share = 100 / (time.monotonic() - began)
            for pool, (used, woken) in zip(both, before, strict=True):
                used_now, woken_now = look(pool)
                cpu.setdefault(pool.kind, []).append((used_now - used) * share)
                wakes.setdefault(pool.kind, []).append(woken_now - woken)
    notes = {"spirits": SPIRITS, "manager_files": files}
    # No floors for these two: it does not wake up, so there is nothing to divide by.
    figure = Figure(f"scale.{SPIRITS}.cpu", "% cpu", cpu["ghostd"], **notes)
    yield figure.within("median", 1)
    figure = Figure(
        f"scale.{SPIRITS}.wakes", "wakes/interval", wakes["ghostd"], **notes
    )
    yield figure.within("worst", SPIRITS)
    figure = Figure(
        f"scale.{SPIRITS}.rss", "MiB", sizes["ghostd"], sizes["floor"], **notes
    )
    yield figure.within("worst", 25)


if __name__ == "__main__":
    sys.exit(main(scale))
