import logging
import sys
import warnings

from ghostd import Prefork

library = logging.getLogger("library")  # not below ghostd.NAME


class Mill(Prefork):
    def init(self):
        root = logging.getLogger()
        root.handlers = logging.getLogger("ghostd.mill").handlers
        root.setLevel("INFO")
        logging.captureWarnings(True)

    def spirit(self):
        library.info("turning")
        warnings.warn("worn out", stacklevel=1)
        while self.tick():
            self.wait(1)


if __name__ == "__main__":
    sys.exit(Mill(name="mill", logfile="mill.log").ctrl())
