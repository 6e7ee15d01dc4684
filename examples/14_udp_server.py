"""
14. A UDP server: all spirits wait at one socket, and each datagram wakes one or more.

python 14_udp_server.py start && echo hello | nc -u -w 1 localhost 7000

One that is asked to quit answers what has come so far; the rest is for the others.
"""

import os
import socket
import sys
from contextlib import suppress

from ghostd import Prefork

LISTEN = os.environ.get("LISTEN", "udp:127.0.0.1:7000")
LONGEST = 65535


class Shout(Prefork):
    def answer(self, door: socket.socket) -> None:
        with suppress(BlockingIOError):  # nothing is left, or another was faster
            while True:
                words, client = door.recvfrom(LONGEST)
                with suppress(OSError):  # not to be reached
                    door.sendto(words.upper(), client)

    def spirit(self) -> None:
        (door,) = self.sockets.values()
        door.setblocking(False)
        while self.wait(60, door):
            self.answer(door)
        self.answer(door)


if __name__ == "__main__":
    g = Shout(logfile="daemon.log", pidfile="daemon.pid", listen=[LISTEN])
    sys.exit(g.ctrl())
