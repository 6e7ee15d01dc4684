"""
10. Jobs in PostgreSQL: taken with SKIP LOCKED, done and removed in one transaction.

INSERT INTO jobs (number) VALUES (7); NOTIFY jobs      from anywhere, also while it runs

Needs `pip install psycopg`. A job is locked by the transaction of whoever does it, and
a kill -9 rolls that back: the job is free again, and nothing else is there to clean up.
"""

import os
import sys

import psycopg

from ghostd import Prefork

WHERE = os.environ.get("POSTGRES", "dbname=jobs")
TABLES = """CREATE TABLE IF NOT EXISTS jobs (id bigserial PRIMARY KEY, number bigint);
    CREATE TABLE IF NOT EXISTS results (job bigint, square bigint, pid int)"""
TAKE = """DELETE FROM jobs WHERE id =
    (SELECT id FROM jobs ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1)
    RETURNING id, number"""


class Worker(Prefork):
    def work(self, number: int) -> int:
        return number * number

    def init(self) -> None:
        with psycopg.connect(WHERE) as db:  # closed again: none survives a fork
            db.execute(TABLES)

    def spirit(self) -> None:
        with psycopg.connect(WHERE, autocommit=True) as db:
            db.execute("LISTEN jobs")
            while self.tick():
                with db.transaction():
                    job = db.execute(TAKE).fetchone()
                    if job:
                        result = (job[0], self.work(job[1]), self.pid)
                        db.execute("INSERT INTO results VALUES (%s, %s, %s)", result)
                # One that came during TAKE is not in the socket any more, but noted.
                if not job and not list(db.notifies(timeout=0)):
                    self.wait(5, db)


if __name__ == "__main__":
    sys.exit(Worker(logfile="daemon.log", pidfile="daemon.pid").ctrl())
