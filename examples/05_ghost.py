"""
5. One daemon without spirits, as a class: every hook that a Ghost has.

start, stop, restart, reload, status and run are there without being written.
"""

import sys

from ghostd import Ghost


class MyGhost(Ghost):
    def preinit(self) -> None:  # in the launcher: you see what it prints
        print("Starting", self.name)

    def init(self) -> None:  # in the daemon, before "Running" is printed
        self.count = 0

    def startup(self) -> None:  # the body
        while self.ok:
            self.count += 1
            self.log.debug("%d> %d", self.pid, self.count)
            self.wait(3)

    def hangup(self) -> None:  # on "reload"
        super().hangup()  # opens the log anew
        self.log.debug("Counted to %d", self.count)

    def cleanup(self, scope: int) -> None:  # the last thing
        self.log.debug("It was interrupted" if scope else "It ended by itself")


if __name__ == "__main__":
    g = MyGhost(logfile="daemon.log", pidfile="daemon.pid")
    sys.exit(g.ctrl())
