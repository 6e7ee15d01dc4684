"""
9. A consumer of a Redis stream: no job is lost, and none has its effect twice.

XADD jobs * number 7      from anywhere, also while it runs; needs `pip install redis`

A job stays with whoever has read it until it is acknowledged. What the dead had read
is claimed by the living after IDLE. The effect and the acknowledgement are one script,
so a kill -9 leaves both or none, and whoever comes second has no effect.
"""

import os
import sys
from contextlib import suppress

from redis import Redis, ResponseError

from ghostd import Prefork

URL = os.environ.get("REDIS", "redis://localhost")
IDLE = 1000  # ms; more than a job takes, else two do it, and the first one counts
BLOCK = 500  # ms to wait for a job; how long a QUIT may go unseen
FINISH = """
    if redis.call('XACK', KEYS[1], 'workers', ARGV[1]) == 0 then return 0 end
    redis.call('XDEL', KEYS[1], ARGV[1])
    return redis.call('RPUSH', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])"""


class Worker(Prefork):
    def work(self, number: int) -> int:
        return number * number

    def init(self) -> None:
        with Redis.from_url(URL) as redis, suppress(ResponseError):  # it exists
            redis.xgroup_create("jobs", "workers", id="0", mkstream=True)

    def spirit(self) -> None:
        with Redis.from_url(URL, decode_responses=True) as redis:
            finish = redis.register_script(FINISH)
            name = f"{os.uname().nodename}-{self.slot}"
            while self.tick():
                _, jobs, *_ = redis.xautoclaim("jobs", "workers", name, IDLE, count=1)
                if not jobs:
                    new = redis.xreadgroup("workers", name, {"jobs": ">"}, 1, BLOCK)
                    jobs = new[0][1] if new else []
                for job, fields in jobs:
                    result = self.work(int(fields["number"]))
                    finish(["jobs", "results"], [job, result])


if __name__ == "__main__":
    sys.exit(Worker(logfile="daemon.log", pidfile="daemon.pid").ctrl())
