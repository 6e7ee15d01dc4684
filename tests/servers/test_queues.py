"""A breath of `make chaos-queues`, and what else the queues' examples promise."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.chaos import queues
from tests.servers import kit

SEED = 20_240_120

each_kind = pytest.mark.parametrize("kind", queues.KINDS)


@pytest.fixture(autouse=True)
def skip_what_is_missing() -> Iterator[None]:
    """Skip, and say what would bring the server."""
    for name, package in (("redis-server", "redis-server"), ("initdb", "postgresql")):
        try:
            kit.program(name, package)
        except kit.Missing as missing:
            pytest.skip(str(missing))
    return


def all_done(queue: queues.Queue, number: int) -> bool:
    return len(queue.results()) == number


@each_kind
def test_each_job_has_its_effect_once_whoever_is_killed(kind: str) -> None:
    chance = random.Random(f"{SEED} {kind}")  # noqa: S311 - to be repeated
    # More than they do between two kills, so that those hit somebody at work.
    figures = queues.storm(kind, 640, chance, at_once=40, rounds=1)

    assert "640 jobs, each with one effect" in figures


@each_kind
def test_a_stop_interrupts_no_job_and_the_next_start_goes_on(kind: str) -> None:
    with queues.KINDS[kind]() as (queue, where), queues.daemon(queue, where) as d:
        d.start()
        jobs = dict(zip(queue.give([7] * 1000), [7] * 1000, strict=True))
        d.wait_for(queue.results)
        d.signal(signal.SIGQUIT)  # the command would take a while to say so
        d.wait_for(lambda: not d.pid)
        assert not queue.abandoned()
        done = len(queue.results())
        assert 0 < done == len(jobs) - queue.left() < len(jobs)
        d.start()
        d.wait_for(lambda: not queue.left())
        d.stop()

        queues.judge(queue, jobs)
        assert not queue.abandoned()


def test_a_notice_wakes_idle_spirits() -> None:
    with queues.rows() as (queue, where), queues.daemon(queue, where, rest=600) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 4)
        # Nothing else wakes them before the limit of the test.
        for number in range(1, 11):
            queue.give([number])
            d.wait_for(partial(all_done, queue, number))


def test_a_database_that_throws_everybody_out_costs_nothing() -> None:
    with queues.rows() as (queue, where), queues.daemon(queue, where) as d:
        d.start()
        jobs = dict(zip(queue.give([7] * 100), [7] * 100, strict=True))
        d.wait_for(queue.results)
        with kit.ask_postgres(where) as db:
            thrown = db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid != pg_backend_pid() AND query LIKE '%jobs%'"
            ).fetchall()
        d.wait_for_line("AdminShutdown")
        d.wait_for(lambda: not queue.left())

        assert thrown
        queues.judge(queue, jobs)
