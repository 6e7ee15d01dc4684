"""
The floor: the least that a pre-forker can be, to measure ours against.

It forks, waits and forks again. No beats, no log, no settings, no hooks, no way to
survive a mistake. Nobody should use it; whatever does more costs more, and the
benchmarks say how much. It knows nothing of ghostd.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn


def run(
    spirits: int,
    body: Callable[[], object],
    all_here: Callable[[], object] = int,
    lives: Callable[[int], object] = int,
) -> NoReturn:
    """
    Keep *spirits* children alive until TERM; then kill and reap them, and end.

    Args:
        spirits: how many.
        body: what each of them does.
        all_here: called once, when each of the first ones has said "I am here".
        lives: called with the number of the reaped, after each of them.
    """
    living: set[int] = set()
    # One pipe for all. Only the first of them are listened to: what their successors
    # say stays in it, 65,536 of them at most, more than any benchmark makes.
    read, write = os.pipe()

    def bear() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, b".")
                body()
            finally:
                os._exit(0)
        living.add(pid)

    def end(_number: int, _frame: object) -> None:
        for pid in living:
            os.kill(pid, signal.SIGKILL)
        for pid in living:
            os.waitpid(pid, 0)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for _ in range(spirits):
        bear()
    here = 0
    while here < spirits:
        here += len(os.read(read, 4096))
    all_here()
    reaped = 0
    while True:
        pid, _ = os.waitpid(-1, 0)
        living.remove(pid)
        bear()
        reaped += 1
        lives(reaped)
