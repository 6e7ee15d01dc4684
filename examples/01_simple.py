"""
1. The smallest pre-forking daemon: four spirits, each counts to ten and ends.

python 01_simple.py start      then look into daemon.log, and then
python 01_simple.py stop

The manager replaces each spirit that ends, so the counting goes on for ever.
"""

import sys

from ghostd import Prefork

MOST = 10


def spirit(self: Prefork) -> None:
    i = 0
    while self.tick():  # says "I live", and tells whether to go on
        i += 1
        self.wait(1)  # unlike time.sleep(1) it ends early when it is time to go
        self.log.debug("%d> %d/%d", self.pid, i, MOST)
        if i >= MOST:
            break


g = Prefork(logfile="daemon.log", pidfile="daemon.pid", spirit=spirit)
sys.exit(g.ctrl())
