"""
From the first line of work to all spirits healthy, for 64 and for 500 spirits.

ghostd: from the call of `startup` to the last first beat that the manager received.
The floor: from its first fork to the last "I am here". Also from the launch of the
interpreter, as somebody sees it who waits for it.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator

from common import THREE, Figure, Subject, main


def start(options: Namespace) -> Iterator[Figure]:
    """Start and end pools in turns."""
    for spirits, turns in ((64, 20), (500, 6)):
        inside: dict[str, list[float]] = {kind: [] for kind in THREE}
        launch: dict[str, list[float]] = {kind: [] for kind in THREE}
        for _ in range(max(3, turns // 4) if options.short else turns):
            for kind in THREE:
                with Subject(kind, spirits=spirits) as pool:
                    work, whole = pool.start_times(spirits)
                    inside[kind].append(work)
                    launch[kind].append(whole)
        for name, taken in (("", inside), (".launch", launch)):
            figure = Figure(
                f"start.{spirits}{name}",
                "ms",
                taken["ghostd"],
                taken["floor"],
                bare=taken["bare"],
            )
            yield figure.ratio_within("median", 1.5)


if __name__ == "__main__":
    sys.exit(main(start))
