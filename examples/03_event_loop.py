"""
3. An event loop in each spirit, here asyncio's; all it takes is a regular tick().

The loop is made after the fork. One from init() would be shared by all spirits.
"""

import asyncio
import sys

from ghostd import Prefork

MOST = 10


class MyGhost(Prefork):
    def spirit(self) -> None:
        loop = asyncio.new_event_loop()
        i = 0

        def every_second() -> None:
            nonlocal i
            i += 1
            self.log.debug("%d> %d/%d", self.pid, i, MOST)
            if self.tick() and i < MOST:
                loop.call_later(1, every_second)
            else:
                loop.stop()

        self.tick()  # at once: its first beat makes a spirit healthy
        loop.call_later(5, self.log.info, "Timer!")
        loop.call_later(1, every_second)
        self.log.debug("Start the loop")
        loop.run_forever()
        self.log.debug("Finish the loop")


if __name__ == "__main__":
    g = MyGhost(logfile="daemon.log", pidfile="daemon.pid")
    sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else "start"))
