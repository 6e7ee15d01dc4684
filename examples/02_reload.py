"""
2. A daemon as a class, with an answer of its own to HUP: it logs its pool.

python 02_reload.py            starts it
python 02_reload.py reload     sends HUP: the pool is a table in daemon.log

Without a hangup() of its own, a reload would replace all spirits one by one.
"""

import signal
import sys

from ghostd import Prefork

MOST = 10


class MyGhost(Prefork):
    def init(self) -> None:
        # hangup() is called on HUP anyway. This is how init() takes any signal over;
        # the handler runs from the manager's loop, never between two instructions.
        signal.signal(signal.SIGHUP, lambda _number, _frame: self.hangup())

    def hangup(self) -> None:
        self.log.debug(self.pool)

    def spirit(self) -> None:
        i = 0
        while self.tick() and i < MOST:
            i += 1
            self.wait(1)
            self.log.debug("%d> %d/%d", self.pid, i, MOST)


if __name__ == "__main__":
    g = MyGhost(logfile="daemon.log", pidfile="daemon.pid")
    sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else "start"))
