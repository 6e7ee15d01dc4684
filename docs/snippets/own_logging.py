import logging
import sys

from ghostd import Prefork

log = logging.getLogger("ghostd.mill.stones")  # below ghostd.NAME


def spirit(self):
    log.info("turning")
    while self.tick():
        self.wait(1)


if __name__ == "__main__":
    sys.exit(Prefork(name="mill", logfile="mill.log", spirit=spirit).ctrl())
