"""Bodies in several threads: each one's progress counts, and one end of all."""

from __future__ import annotations

import signal
import time
from functools import partial

import pytest
from tests.process.scripts import pool

from ghostd.testing import Daemon
from ghostd.unix import child

HEAD = """
HERE = os.getcwd()  # a daemon of root's goes elsewhere

def first(name):
    "Tell whether this is the first to ask; spirits after it behave."
    try:
        os.close(os.open(os.path.join(HERE, name), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def me():
    return threading.current_thread().name
"""


def service(
    body: str, env: dict[str, str | None] | None = None, **settings: object
) -> Daemon:
    given = {"term": "immediate", "threads": 3, "spirits": 1, **settings}
    return Daemon(pool(body, head=HEAD, **given), env=env)


def gone(pid: int) -> bool:
    return child.state(pid) in ("", "Z", "X")


def test_it_is_ready_when_all_are_and_a_quit_reaches_all() -> None:
    body = """
    def spirit(self):
        if me() == "spirit-2":
            while not os.path.exists(os.path.join(HERE, "go")):
                time.sleep(0.01)
        self.ready()
        self.log.info(f"{me()} works")
        while self.wait(60):
            pass
        self.log.info(f"{me()} ends, draining={bool(self.draining)}")
    """
    # While it waits, a thread makes progress: none is late, however short the time-out.
    with service(
        body, start_timeout=0.3, heartbeat_interval=0.1, heartbeat_timeout=0.3
    ) as d:
        d.start()
        d.wait_for_line("works", times=2)
        assert d.healthy == 0
        (d.folder / "go").touch()
        d.wait_for_line("works", times=3)
        d.wait_for(lambda: d.healthy == 1)
        until = time.monotonic() + 0.8
        d.wait_for(lambda: time.monotonic() > until)
        assert not d.log_lines("has no")
        began = time.monotonic()
        pid = d.kill_spirit(number=signal.SIGQUIT)
        d.wait_for(partial(gone, pid))
        took = time.monotonic() - began

        assert took < 1
        for name in ("spirit-0", "spirit-1", "spirit-2"):
            assert d.log_lines(f"[{pid}]", f"{name} ends, draining=True")


@pytest.mark.parametrize(
    ("stuck", "graceful"),
    # Killed, or late but in the end asked in time.
    [("while True: pass", 0.3), ("time.sleep(1.6)", 10)],
)
def test_one_stuck_thread_makes_the_spirit_hung_and_is_named(
    stuck: str, graceful: float
) -> None:
    body = f"""
    def spirit(self):
        def in_the_mud():
            {stuck}
        def vouch():
            while True:
                self.tick()
                time.sleep(0.01)
        for turn in range(10**9):
            if me() == "spirit-1" and turn == 5 and first("stuck"):
                # Nor do helpers of a thread vouch for it.
                threading.Thread(target=vouch, daemon=True).start()
                self.log.info(f"stuck {{time.monotonic()}}")
                in_the_mud()
            if not self.wait(0.01):
                break
    """
    interval, timeout = 0.3, 0.7
    with service(
        body,
        heartbeat_interval=interval,
        heartbeat_timeout=timeout,
        graceful_timeout=graceful,
    ) as d:
        d.start()
        words = d.wait_for_line("stuck ").split()
        pid = int(words[2].strip("[]"))
        d.wait_for_line("has no heartbeat")
        took = time.monotonic() - float(words[-1])
        # The log tells it after the fact.
        d.wait_for_line(f"Spirit {pid} stopped")
        d.wait_for(lambda: d.healthy == 1)

        assert took < interval + timeout + 1
        assert bool(d.log_lines("immediately")) == (graceful < 1)
        assert len(d.log_lines("[warn]", "has not ticked for")) == 1
        assert d.log_lines("thread spirit-1 has not ticked for 0.")
        assert "in in_the_mud" in d.log_text()


def test_a_wait_of_a_thread_ends_when_there_is_something_to_read() -> None:
    body = """
    def spirit(self):
        if me() == "spirit-0" and first("asked"):
            read, write = os.pipe()
            helper = threading.Thread(target=self.wait, args=(0.01,))
            helper.start()
            helper.join()
            assert self.wait(0.01, read)
            os.write(write, b"news")
            assert self.wait(60, read)
            self.log.info("has read")
            os.close(read)
            self.wait(60, read)
        while self.wait(60):
            pass
    """
    with service(body) as d:
        d.start()
        d.wait_for_line("has read")
        d.wait_for_line("failed in thread spirit-0: OSError", "not an open descriptor")


def test_busy_threads_that_tick_are_not_hung() -> None:
    body = """
    def spirit(self):
        while self.tick():
            sum(range(1000))
    """
    with service(body, heartbeat_interval=0.1, heartbeat_timeout=0.9) as d:
        d.start()
        until = time.monotonic() + 1.5
        d.wait_for(lambda: time.monotonic() > until)
        d.stop()

        assert not d.log_lines("has no")


@pytest.mark.parametrize(
    ("end", "line", "words"),
    [
        ("raise ValueError('oh')", "failed in thread spirit-1: ValueError: oh", "1"),
        ("sys.exit(3)", "died", "3"),
    ],
)
def test_one_that_fails_ends_the_spirit_and_the_others_finish(
    end: str, line: str, words: str
) -> None:
    body = f"""
    def spirit(self):
        self.ready()
        self.wait(0.2)
        if first("failed-" + me()) and me() == "spirit-1":
            {end}
        while self.wait(60):
            pass
        self.log.info(f"{{me()}} finishes")
    """
    with service(body) as d:
        d.start()
        d.wait_for_line(line)
        d.wait_for_line(f"died: exit code {words}")
        d.wait_for(lambda: d.healthy == 1)

        assert len(d.log_lines("finishes")) == 2
        assert d.log_text().count("Traceback") == (1 if "raise" in end else 0)


def test_a_failure_of_one_before_all_are_ready_fails_the_start() -> None:
    body = """
    def spirit(self):
        if me() == "spirit-1":
            raise ValueError("no database")
        while self.wait(60):
            pass
    """
    with service(body) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "ValueError: no database" in ended.stderr
        assert "Traceback" in ended.stderr


def test_an_asynchronous_body_is_refused() -> None:
    body = """
    async def spirit(self):
        await self.wait(60)
    """
    with service(body) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "threads run plain bodies" in ended.stderr
        assert not d.log_text()


def test_a_body_that_turns_out_to_be_asynchronous_is_refused() -> None:
    body = """
    def spirit(self):
        return self.later()

    async def later(self):
        await self.wait(60)
    """
    with service(body) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "threads run plain bodies" in ended.stderr


def test_a_farewell_is_the_threads_own_until_all_have_said_it() -> None:
    body = """
    def spirit(self):
        while self.tick():
            name = os.path.join(HERE, me())
            if os.path.exists(name) and first("once-" + me()):
                self.tick(finished=True)
                self.log.info(f"{me()} ok={self.ok}")
            else:
                self.wait(0.01)
    """
    with service(body) as d:
        d.start()
        (pid,) = d.spirits
        for name in ("spirit-0", "spirit-1"):
            (d.folder / name).touch()
            d.wait_for_line(f"{name} ok=False")
        until = time.monotonic() + 0.3
        d.wait_for(lambda: time.monotonic() > until)
        assert d.spirits == [pid]
        assert not d.log_lines("has finished")
        (d.folder / "spirit-2").touch()
        d.wait_for_line(f"Spirit {pid} has finished")
        d.wait_for(lambda: pid not in d.spirits and d.healthy == 1)

        assert not d.log_lines("died")


@pytest.mark.parametrize("doors", ["", "pdeathsig"])
def test_the_managers_death_ends_all_of_them(doors: str) -> None:
    body = """
    def spirit(self):
        while self.wait(60):
            pass
        self.log.info(f"{me()} ends")
        if me() == "spirit-0":
            time.sleep(60)
    """
    with service(body, graceful_timeout=0.5, env={"GHOSTD_CLOSED_DOORS": doors}) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 1)
        d.signal(signal.SIGKILL)
        d.wait_for_line("ends", times=3)
        d.wait_for(lambda: not d.processes, 3, "the end of the spirit")


def test_a_body_that_closes_every_descriptor_is_still_told_to_end() -> None:
    body = """
    def spirit(self):
        self.ready()
        self.wait(0.1)
        if me() == "spirit-1":
            os.closerange(3, 256)
        while self.wait(0.05):
            pass
    """
    with service(body, heartbeat_interval=0.2) as d:
        d.start()
        (pid,) = d.spirits
        d.wait_for(lambda: len(d.descriptors(pid)) < 6)
        d.stop()

        assert not d.log_lines("immediately")
