import sys

from ghostd import Prefork


class Words(Prefork):
    def load(self):
        import unicodedata  # here, and not at the top of the file

        names = (unicodedata.name(chr(n), "") for n in range(20_000))
        self.words = {word for name in names for word in name.split()}

    def spirit(self):
        while self.tick():
            self.log.info("place %d knows %d words", self.slot, len(self.words))
            self.wait(10)


if __name__ == "__main__":
    g = Words(logfile="words.log", preload=True)
    sys.exit(g.ctrl())
