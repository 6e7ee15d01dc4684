import sys
from pathlib import Path

from ghostd import Prefork

FOLDER = Path.cwd()  # absolute, and asked before root's daemon goes to /


def spirit(self):
    with open(FOLDER / f"place-{self.slot}.txt", "a") as out:
        out.write(f"{self.pid} begins\n")
        self.log.info("place %d writes to %s", self.slot, out.name)
        out.flush()  # now the kernel has it, whatever happens to this process
        while self.tick():
            self.wait(1)
        out.write(f"{self.pid} ends\n")  # written when the with block is left


if __name__ == "__main__":
    g = Prefork(logfile="closed.log", spirit=spirit)
    sys.exit(g.ctrl())
