"""
6. A daemon that is started by root, logs to syslog, and is nobody from then on.

sudo python 06_nobody.py start

Names are looked up before the fork. Groups, group and user are given up in this
order, read back, and becoming root again must fail, before init() is called.
"""

import os
import sys

from ghostd import Prefork


def spirit(self: Prefork) -> None:
    self.log.info("I am %d:%d, and so are my files", os.getuid(), os.getgid())
    while self.tick():
        self.wait(5)


g = Prefork(
    name="nobody",
    ident="ghost-nobody",  # what syslog calls it; there is no logfile
    pidfile=os.environ.get("PIDFILE", "/run/ghost-nobody.pid"),
    user="nobody",
    group="nogroup",
    spirits=2,
    spirit=spirit,
)
sys.exit(g.ctrl())
