import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from ghostd import Prefork

LONGEST = 20  # seconds that a job may take


def job(number):
    time.sleep(0.1)
    return number


def spirit(self):
    self.log.info("place %d is at work", self.slot)
    begun, number = {}, 0  # future -> when it began
    with ThreadPoolExecutor(4) as pool:
        while self.ok:
            while len(begun) < 4:
                number += 1
                begun[pool.submit(job, number)] = time.monotonic()
            done, _ = wait(begun, timeout=1, return_when=FIRST_COMPLETED)
            for future in done:
                del begun[future]
                future.result()  # raises what the job raised
            # A beat says that all jobs get around, so not while one of them is late.
            if time.monotonic() - min(begun.values(), default=1e12) < LONGEST:
                self.tick()


if __name__ == "__main__":
    sys.exit(Prefork(name="mill", logfile="mill.log", spirit=spirit).ctrl())
