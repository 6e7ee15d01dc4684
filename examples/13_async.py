"""
13. The event loop of 03 once more, as an asynchronous body.

The loop is made for it, in the spirit, and beats by itself: `loop="uvloop"`, `"trio"`.
"""

import asyncio
import sys

from ghostd import Prefork

MOST = 10


class MyGhost(Prefork):
    async def spirit(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(5, self.log.info, "Timer!")
        self.log.debug("Start the loop")
        async for i in self.ticks(every=1.0):
            self.log.debug("%d> %d/%d, late by %.6f", self.pid, i, MOST, self.lag)
            if i == MOST:
                break
        self.log.debug("Finish the loop")


if __name__ == "__main__":
    g = MyGhost(logfile="daemon.log", pidfile="daemon.pid")
    sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else "start"))
