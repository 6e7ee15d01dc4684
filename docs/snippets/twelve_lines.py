import sys

from ghostd import Prefork


def spirit(self):
    while self.tick():  # says "I live", and tells whether to go on
        self.log.info("at work in place %d", self.slot)
        self.wait(1)  # a sleep that ends early when it is time to go


sys.exit(Prefork(logfile="twelve.log", spirits=4, spirit=spirit).ctrl())
