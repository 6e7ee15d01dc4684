"""
Queues under kills: every job has its effect once, whoever is killed and when.

    python -m tests.chaos.queues --jobs 20000 --seed 7

It runs examples/09_redis_streams.py and 10_postgres_jobs.py with a server of its own,
feeds them, and kills a spirit with SIGKILL every 50 ms. Meanwhile it reloads, stops and
starts the daemon, and kills the manager as well. At the end each job must have exactly
one result, the right one, and nothing may be left in the queue.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import redis

from ghostd.testing import Daemon, DaemonError
from tests.servers import kit

EXAMPLES = Path(__file__).parents[2] / "examples"
PAUSE = 0.05
"""Seconds between two kills."""

SLOW = """
import runpy, sys, time

class Slow(runpy.run_path(EXAMPLE)["Worker"]):
    def work(self, number):
        time.sleep(0.005)  # so that most kills hit somebody at work
        return super().work(number)

    def wait(self, seconds, *files):
        return super().wait(REST or seconds, *files)

if __name__ == "__main__":
    # Among so many kills a canary would hardly ever live for a second. Nobody's code is
    # blamed for a stranger's signal, so it would not be dropped, but tried for ever.
    files = {"logfile": "daemon.log", "pidfile": "daemon.pid"}
    sys.exit(Slow(**files, canary_time=0.1).ctrl())
"""
ROUNDS = 4
PATIENCE = 20.0
"""Seconds without a job done after which those that are left count as lost."""


class Queue(ABC):
    """A queue as a client sees it: who gives work, and counts what has come of it."""

    script: str
    variable: str
    trace: str
    """What `interrupted` counts, in words."""

    @abstractmethod
    def give(self, numbers: list[int]) -> list[str]:
        """Add a job for each number; give the jobs' names."""

    @abstractmethod
    def left(self) -> int:
        """Count the jobs that are not acknowledged yet."""

    @abstractmethod
    def results(self) -> list[tuple[str, int]]:
        """Give job and square of each effect, however often a job had one."""

    @abstractmethod
    def interrupted(self) -> int:
        """Count what the killed had begun; see `trace`."""

    @abstractmethod
    def abandoned(self) -> int:
        """Count the jobs that were begun and not finished, while nobody works."""


class Streams(Queue):
    """That of examples/09_redis_streams.py."""

    script = "09_redis_streams.py"
    variable = "REDIS"
    trace = "jobs or more were left half done"  # one that is claimed soon is not seen

    def __init__(self, client: redis.Redis) -> None:
        """Use this connection."""
        self._redis = client
        self._orphans: set[str] = set()

    def give(self, numbers: list[int]) -> list[str]:
        with self._redis.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.xadd("jobs", {"number": number})
            return list(pipe.execute())

    def left(self) -> int:
        # A job takes a few milliseconds. One that somebody has held for so long, he
        # has left.
        held = self._redis.xpending_range("jobs", "workers", "-", "+", 1000, idle=300)
        self._orphans.update(each["message_id"] for each in held)
        return int(self._redis.xlen("jobs"))

    def results(self) -> list[tuple[str, int]]:
        rows = [row.split() for row in self._redis.lrange("results", 0, -1)]
        return [(job, int(square)) for job, square in rows]

    def interrupted(self) -> int:
        return len(self._orphans)

    def abandoned(self) -> int:
        (group,) = self._redis.xinfo_groups("jobs")
        return int(group["pending"])


class Rows(Queue):
    """That of examples/10_postgres_jobs.py."""

    script = "10_postgres_jobs.py"
    variable = "POSTGRES"
    trace = "transactions were rolled back"

    def __init__(self, connection: psycopg.Connection) -> None:
        """Use this connection."""
        self._db = connection

    def give(self, numbers: list[int]) -> list[str]:
        rows = self._db.execute(
            "INSERT INTO jobs (number) SELECT unnest(%s::bigint[]) RETURNING id",
            (numbers,),
        ).fetchall()
        self._db.execute("NOTIFY jobs")
        return [str(job) for (job,) in rows]

    def _number(self, question: str) -> int:
        (number,) = self._db.execute(question).fetchone() or (0,)
        return int(number)

    def left(self) -> int:
        return self._number("SELECT count(*) FROM jobs")

    def results(self) -> list[tuple[str, int]]:
        rows = self._db.execute("SELECT job, square FROM results").fetchall()
        return [(str(job), int(square)) for job, square in rows]

    def interrupted(self) -> int:
        # Nobody else rolls back here: neither example raises.
        return self._number(
            "SELECT xact_rollback FROM pg_stat_database"
            " WHERE datname = current_database()"
        )

    def abandoned(self) -> int:
        return self.interrupted()


@contextlib.contextmanager
def streams() -> Iterator[tuple[Queue, str]]:
    """Run Redis; give its queue, and where it is."""
    with kit.redis_server() as url, kit.ask_redis(url) as client:
        yield Streams(client), url


@contextlib.contextmanager
def rows() -> Iterator[tuple[Queue, str]]:
    """Run PostgreSQL; give its queue, and where it is."""
    with kit.postgres() as where, kit.ask_postgres(where) as connection:
        yield Rows(connection), where


KINDS = {"redis": streams, "postgres": rows}


def daemon(queue: Queue, where: str, *, rest: float = 0) -> Daemon:
    """Make the daemon that takes its jobs from there; *rest*: seconds of its waits."""
    head = f"EXAMPLE, REST = {str(EXAMPLES / queue.script)!r}, {rest!r}\n"
    return Daemon(
        head + SLOW,
        env={queue.variable: where},
        pidfile="daemon.pid",
        logfile="daemon.log",
        limit=60,
    )


def storm(
    kind: str,
    many: int,
    chance: random.Random,
    *,
    at_once: int = 20,
    rounds: int = ROUNDS,
) -> str:
    """
    Have *many* jobs done under kills; give the figures.

    Args:
        kind: which of `KINDS`.
        many: number of jobs.
        chance: who is killed, and what the jobs are.
        at_once: so many jobs are added between two kills.
        rounds: how often all the other troubles come: four reloads, a stop and a
            start, the death of the manager.

    Raises:
        AssertionError: a job was lost, or had its effect twice, or a wrong one.
    """
    numbers = [chance.randrange(10**6) for _ in range(many)]
    jobs: dict[str, int] = {}
    count: Counter[str] = Counter()
    with (
        KINDS[kind]() as (queue, where),
        daemon(queue, where) as d,
    ):
        d.start()
        round_ = _troubles(d, count)
        troubles = round_ * rounds
        began = changed = time.monotonic()
        left, done = many, 0
        while len(jobs) < many or left:
            some = numbers[len(jobs) : len(jobs) + at_once]
            if some:
                jobs.update(zip(queue.give(some), some, strict=True))
            if len(troubles) > len(round_) * rounds * (1 - len(jobs) / many):
                troubles.pop(0)()
            with contextlib.suppress(DaemonError, IndexError):  # gone by itself
                d.signal(signal.SIGKILL, chance.choice(d.spirits))
                count["spirits"] += 1
            time.sleep(PAUSE)
            left = queue.left()
            # By what is done: who keeps up with us has nothing left all the time.
            done, before = len(jobs) - left, done
            changed = changed if done == before else time.monotonic()
            stuck = time.monotonic() - changed > PATIENCE
            assert not stuck, f"{left} jobs are left, and nobody does them"
        seconds = time.monotonic() - began
        assert not troubles, "the work was done before all of the troubles had come"
        d.stop()
        judge(queue, jobs)
        interrupted = queue.interrupted()
        passed = len(d.log_lines("Generation", "is good:"))
        complete = len(d.log_lines("Generation", "has replaced all others"))
    assert passed or rounds < ROUNDS, "no reload has got beyond its trial"
    assert interrupted, "no kill has hit a job"
    return (
        f"{kind}: {many} jobs, each with one effect, in {seconds:.1f} s; "
        f"{count['spirits']} spirits killed, {interrupted} {queue.trace}; "
        f"{count['reloads']} reloads, {passed} passed their trial, {complete} were "
        f"completed; {count['stops']} stops, {count['managers']} managers killed"
    )


def _troubles(d: Daemon, count: Counter[str]) -> list[Callable[[], None]]:
    """List what is to happen beside the kills, in order."""

    def reload() -> None:
        d.signal(signal.SIGHUP)
        count["reloads"] += 1

    def restart() -> None:
        d.stop()
        d.start()
        count["stops"] += 1

    def behead() -> None:
        d.signal(signal.SIGKILL)
        d.wait_for(lambda: not d.pid, what="a free pidfile")
        d.start()
        count["managers"] += 1

    return [reload, reload, restart, reload, reload, behead]


def judge(queue: Queue, jobs: dict[str, int]) -> None:
    """
    Compare what was given with what has come of it.

    Raises:
        AssertionError: they do not match.
    """
    results = queue.results()
    times = Counter(job for job, _ in results)
    twice = [job for job, number in times.items() if number > 1]
    lost = jobs.keys() - times.keys()
    wrong = [job for job, square in results if square != jobs.get(job, -1) ** 2]
    assert not lost, f"{len(lost)} jobs are lost, such as {sorted(lost)[:5]}"
    assert not twice, f"{len(twice)} jobs had their effect twice, such as {twice[:5]}"
    assert not wrong, f"{len(wrong)} wrong results, such as {wrong[:5]}"


def main() -> int:
    """Read the command line, do what it says, print figures."""
    parser = argparse.ArgumentParser(description="Chaos for the queues' examples.")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="redis, postgres")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**9) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    for kind in given.kinds or KINDS:
        chance = random.Random(f"{seed} {kind}")  # noqa: S311 - to be repeated
        print(storm(kind, given.jobs, chance), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
