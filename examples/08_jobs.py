"""
8. A job worker: no job is lost or done twice, whoever is killed and when.

INSERT INTO jobs (number) VALUES (7)      from anywhere, also while it runs

A spirit takes a job, works, then stores the result and removes the job in one
transaction: a kill -9 leaves both or none. reap() frees what the dead had taken.
"""

import os
import sqlite3
import sys
from contextlib import closing

from ghostd import Prefork

FILE = os.path.abspath(os.environ.get("JOBS", "jobs.db"))
TABLES = """PRAGMA journal_mode = WAL; -- whoever looks never holds up who works
    CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, number, pid);
    CREATE TABLE IF NOT EXISTS results (job, square, pid); UPDATE jobs SET pid = NULL"""
TAKE = """UPDATE jobs SET pid = ? WHERE id =
    (SELECT min(id) FROM jobs WHERE pid IS NULL) RETURNING id, number"""


def connect() -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(FILE, timeout=10))  # seconds to wait for a lock


class Worker(Prefork):
    def init(self) -> None:
        with connect() as db:  # closed again: no connection survives a fork
            db.executescript(TABLES)

    def reap(self, pid: int) -> None:
        with connect() as db, db:  # the second one is the transaction
            db.execute("UPDATE jobs SET pid = NULL WHERE pid = ?", (pid,))

    def spirit(self) -> None:
        with connect() as db:
            while self.tick():
                with db:
                    jobs = db.execute(TAKE, (self.pid,)).fetchall()
                for job, number in jobs:
                    result = (job, number * number, self.pid)  # the work
                    with db:  # after the manager's death two may have the same job
                        if db.execute("DELETE FROM jobs WHERE id = ?", (job,)).rowcount:
                            db.execute("INSERT INTO results VALUES (?, ?, ?)", result)
                if not jobs:
                    self.wait(0.2)


if __name__ == "__main__":
    sys.exit(Worker(logfile="daemon.log", pidfile="daemon.pid").ctrl())
