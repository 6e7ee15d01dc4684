"""
Busy, but progressing: spirits that use all they can get, and must never be replaced.

    python tests/chaos/busy.py --minutes 5

One daemon for each kind of body, all at the same time, with a spirit more than there
are processors, so that everybody also waits for its turn. Each body computes and lets
others run, without a pause. One JSON line for each kind: the beats that were heard, the
longest silence and the longest lag in seconds, and how many were replaced: 0, or this
program fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from contextlib import ExitStack

from ghostd.testing import Daemon

INTERVAL, TIMEOUT = 0.5, 5.0

SERVICE = """
import asyncio, sys, time
from ghostd import Prefork

KIND, SPIRITS = {kind!r}, {spirits}

def compute():
    return sum(range(20_000))

class Busy(Prefork):
    heard, silence = {{}}, 0.0

    def heartbeat(self, pid):
        now = time.monotonic()
        before = self.heard.get(pid, now)
        if now - before > self.silence:
            Busy.silence = now - before
        self.heard[pid] = now
        self.log.info(f"beat, longest silence {{self.silence:.3f}}")

class Plain(Busy):
    def spirit(self):
        while self.tick():
            compute()

class Asynchronous(Busy):
    async def spirit(self):
        from {library} import sleep
        self.ready()
        worst = 0.0
        while not self.draining:
            compute()
            await sleep(0)
            if self.lag > worst:
                worst = self.lag
                self.log.info(f"longest lag {{worst:.3f}}")

kind = Plain if KIND in ("plain", "threads") else Asynchronous
settings = {{"threads": 4}} if KIND == "threads" else {{}}
if kind is Asynchronous:
    settings["loop"] = KIND
sys.exit(kind(
    spirits=SPIRITS, heartbeat_interval={interval}, heartbeat_timeout={timeout},
    graceful_timeout=20, term="immediate", logfile="busy.log", pidfile="busy.pid",
    **settings,
).ctrl())
"""


def most(d: Daemon, words: str) -> float:
    """Give the largest number that stands behind *words* in the log."""
    found = re.findall(rf"{words} ([\d.]+)", d.log_text())
    return max(map(float, found), default=0.0)


def main() -> int:
    """Run all kinds for so many minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    kinds = ("plain", "threads", "asyncio", "uvloop", "trio")
    parser.add_argument("--kinds", nargs="*", default=kinds, choices=kinds)
    arguments = parser.parse_args()
    spirits = len(os.sched_getaffinity(0)) + 1
    replaced = 0
    with ExitStack() as all_of_them:
        daemons = {}
        for kind in arguments.kinds:
            library = "trio" if kind == "trio" else "asyncio"
            text = SERVICE.format(
                kind=kind,
                library=library,
                spirits=spirits,
                interval=INTERVAL,
                timeout=TIMEOUT,
            )
            daemons[kind] = all_of_them.enter_context(Daemon(text, limit=60))
            daemons[kind].start()
        until = time.monotonic() + arguments.minutes * 60
        while time.monotonic() < until:
            time.sleep(0.5)
        for kind, d in daemons.items():
            births = len(d.log_lines("Spirit", "started"))
            hung = len(d.log_lines("has no heartbeat"))
            replaced += births - spirits
            print(
                json.dumps(
                    {
                        "kind": kind,
                        "minutes": arguments.minutes,
                        "spirits": spirits,
                        "beats": len(d.log_lines("beat, longest")),
                        "longest_silence": most(d, "longest silence"),
                        "longest_lag": most(d, "longest lag"),
                        "limit": INTERVAL + TIMEOUT,
                        "hung": hung,
                        "replaced": births - spirits,
                    }
                ),
                flush=True,
            )
    return 1 if replaced else 0


if __name__ == "__main__":
    sys.exit(main())
