import sys

from ghostd import Prefork

CUSTOMERS = range(100)
SHARES = 4


def spirit(self):
    mine = CUSTOMERS[self.slot :: SHARES]
    while self.tick():
        self.log.info("place %d looks after %d customers", self.slot, len(mine))
        self.wait(10)


if __name__ == "__main__":
    g = Prefork(logfile="shares.log", spirits=SHARES, spare=0, spirit=spirit)
    sys.exit(g.ctrl())
