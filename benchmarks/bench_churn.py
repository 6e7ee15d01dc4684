"""
How fast a pool lives through spirits that leave at once.

The body says farewell and returns; on the floor it just returns. The brake on fork
storms is lifted. Milliseconds for each life, so less is better; lives per second are
in the notes.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from common import KINDS, Figure, Subject, main
from subject import BEGUN, LIVES

SPIRITS = 4


def churn(options: Namespace) -> Iterator[Figure]:
    """Time so many lives, in turns."""
    lives, turns = (200, 3) if options.short else (500, 8)
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(turns):
        for kind in KINDS:
            with Subject(kind, "farewell", spirits=SPIRITS, lives=lives) as pool:
                _, began = pool.wait(BEGUN)
                _, done = pool.wait(LIVES)
                taken[kind].append((done - began) / 1e6 / lives)
    figure = Figure("churn", "ms/life", taken["ghostd"], taken["floor"], lives=lives)
    figure.notes["lives_per_second"] = round(1000 / figure.median)
    figure.notes["floor_lives_per_second"] = round(1000 / figure.floors_median)
    yield figure


if __name__ == "__main__":
    sys.exit(main(churn))
