import sys
import threading

from ghostd import Prefork


def spirit(self):
    name = threading.current_thread().name  # spirit-0, spirit-1, ...
    self.log.info("%s of place %d is at work", name, self.slot)
    while self.tick():
        self.wait(1)  # what this thread does, in steps


if __name__ == "__main__":
    g = Prefork(name="mill", logfile="mill.log", spirit=spirit, threads=8)
    sys.exit(g.ctrl())
