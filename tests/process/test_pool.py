"""The pool at work: births, deaths in words, replacement, reload, places."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest
from tests.process.scripts import pool

from ghostd.testing import Daemon


def test_a_killed_spirit_is_replaced_at_once() -> None:
    with Daemon(pool(spirits=4)) as d:
        d.start()
        for _ in range(3):
            killed = d.kill_spirit()
            d.wait_for(lambda pid=killed: d.healthy == 4 and pid not in d.spirits)  # type: ignore[misc]
            d.wait_for_line("[error]", f"Spirit {killed} died: killed by SIGKILL")
        assert not d.zombies


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("return", None),
        ("sys.exit()", None),
        ("os._exit(3)", "exit code 3"),
        ("sys.exit(4)", "exit code 4"),
        ("sys.exit('so long')", "exit code 1"),
        ("raise ValueError('oh')", "exit code 1"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "killed by signal 35"),
        ("os.abort()", "killed by SIGABRT"),
    ],
)
def test_deaths_in_words(end: str, words: str | None) -> None:
    members = f"""
    def spirit(self):
        self.tick()
        if self.wait(0.05) and self.slot == 0 and not os.path.exists(MARK):
            open(MARK, "w").close()
            {end}
            return
        while self.tick():
            self.wait(5)
    """
    head = "MARK = os.path.abspath('mark')\n"
    head += "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    with Daemon(pool(members, head=head)) as d:
        d.start()
        gone = d.wait_for_line(r"Spirit", "stopped")
        pid = int(re.search(r"Spirit (\d+) stopped", gone)[1])  # type: ignore[index]
        d.wait_for(lambda: d.healthy == 2 and pid not in d.spirits)
        died = d.log_lines(f"Spirit {pid} died: ")
        assert [line.rpartition("died: ")[2] for line in died] == (
            [] if words is None else [words]
        )
        if "raise" in end:
            assert d.log_lines(f"Spirit {pid} failed: ValueError: oh")
            assert "Traceback" in d.log_text()
        if "so long" in end:
            assert "so long" in d.log_text()


def test_a_core_dump_is_said() -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern != "core" or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("this machine keeps no core dumps in the current folder")
    members = """
    def spirit(self):
        os.chdir(FOLDER)
        resource.setrlimit(resource.RLIMIT_CORE, (10**9, 10**9))
        self.tick()
        self.wait(0.2)
        if self.generation == 0:
            os.kill(os.getpid(), signal.SIGABRT)
    """
    head = "import resource\nFOLDER = os.getcwd()\n"
    with Daemon(pool(members, spirits=1, head=head)) as d:
        d.start()
        d.wait_for_line("killed by SIGABRT, core dumped")


def test_a_silent_spirit_is_stopped_gracefully_and_replaced() -> None:
    members = """
    def spirit(self):
        self.tick()
        while self.ok and self.slot == 0 and not os.path.exists(MARK):
            time.sleep(0.05)
        open(MARK, "w").close()
        while self.tick():
            self.wait(5)
    """
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.4}
    head = "MARK = os.path.abspath('mark')\n"
    with Daemon(pool(members, spirits=1, head=head, **settings)) as d:
        d.start()
        (hung,) = d.spirits
        line = d.wait_for_line(f"Spirit {hung} has no heartbeat")
        assert line.endswith("has no heartbeat (0.4 seconds), restarting")
        assert "[error]" in line
        d.wait_for_line(f"Spirit {hung} stopped")
        d.wait_for(lambda: d.healthy == 1)
        assert not d.log_lines("immediately"), "it saw ok go"


def test_a_hung_spirit_is_killed_after_graceful_timeout() -> None:
    members = """
    def spirit(self):
        self.tick()
        while not os.path.exists(MARK):
            open(MARK, "w").close()
            time.sleep(1000)
        while self.tick():
            self.wait(5)
    """
    head = "MARK = os.path.abspath('mark')\n"
    settings = {
        "heartbeat_interval": 0.2,
        "heartbeat_timeout": 0.3,
        "graceful_timeout": 0.3,
    }
    with Daemon(pool(members, spirits=1, head=head, **settings)) as d:
        d.start()
        (hung,) = d.spirits
        d.wait_for_line("[warn]", f"Stopping spirit {hung} immediately")
        d.wait_for(lambda: d.healthy == 1 and hung not in d.spirits)


def test_a_stopped_manager_blames_nobody() -> None:
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.6}
    with Daemon(pool(**settings)) as d:
        d.start()
        spirits = d.spirits
        d.signal(signal.SIGSTOP)
        time.sleep(1.5)
        d.signal(signal.SIGCONT)
        d.wait_for_line("Manager was held up")
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 3)
        assert set(spirits) <= set(d.spirits)
        assert not d.log_lines("no heartbeat")


def test_a_tick_never_blocks_while_the_manager_is_stopped() -> None:
    members = """
    def spirit(self):
        slowest = 0.0
        while self.ok:
            began = time.monotonic()
            self._daemon.spirit.due = 0.0
            self.tick()
            slowest = max(slowest, time.monotonic() - began)
            if os.path.exists(MARK):
                os.unlink(MARK)
                self.log.info("slowest %.3f", slowest)
    """
    head = "MARK = os.path.abspath('mark')\n"
    with Daemon(pool(members, spirits=1, head=head)) as d:
        d.start()
        d.signal(signal.SIGSTOP)
        time.sleep(0.5)
        (d.folder / "mark").touch()
        line = d.wait_for_line("slowest")
        d.signal(signal.SIGCONT)
        assert float(line.split()[-1]) < 0.5


def test_tick_sends_one_beat_per_interval_however_often_it_is_called() -> None:
    members = """
    def heartbeat(self, pid):
        self.log.info("beat")
    def spirit(self):
        while self.tick():
            pass
    """
    with Daemon(pool(members, spirits=1, heartbeat_interval=0.25)) as d:
        d.start()
        began = time.monotonic()
        d.wait_for_line("beat", times=5)
        assert time.monotonic() - began > 0.7


# -- farewell --------------------------------------------------------------------------


def test_a_farewell_starts_the_replacement_at_once_and_sends_no_quit() -> None:
    members = """
    def spirit(self):
        signal.signal(signal.SIGQUIT, lambda *_: self.log.info("was sent QUIT"))
        while self.tick():
            if os.path.exists(MARK) and self.slot == 0:
                os.unlink(MARK)
                answers = self.tick(True), self.ok, self.tick(), self.tick(True)
                self.log.info("farewell %s", answers)
                time.sleep(1)
                return
            self.wait(0.05)
    """
    head = "MARK = os.path.abspath('mark')\n"
    with Daemon(pool(members, head=head, term="immediate")) as d:
        d.start()
        before = d.spirits
        (d.folder / "mark").touch()
        d.wait_for_line("farewell (False, False, False, False)")
        d.wait_for(lambda: len(d.spirits) == 3, what="old and new at once")
        assert set(before) < set(d.spirits)
        d.wait_for(lambda: len(d.spirits) == 2)
        assert not d.log_lines("was sent QUIT")
        assert not d.log_lines("died")
        assert not d.log_lines("gracefully")
        d.signal(signal.SIGTERM)
        d.wait_for(lambda: not d.processes)


def test_without_spare_the_replacement_waits_for_the_old_one() -> None:
    members = """
    def spirit(self):
        while self.tick():
            self.wait(5)
        time.sleep(0.5)
    """
    with Daemon(pool(members, spare=0)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        most = 0
        deadline = time.monotonic() + 15
        while len(d.log_lines("Spirit", "started")) < 4:
            most = max(most, len(d.spirits))
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert most == 2


# -- waiting ---------------------------------------------------------------------------


def test_wait_ends_early_on_quit_and_sleeps_otherwise() -> None:
    members = """
    def spirit(self):
        self.tick()
        began = time.monotonic()
        short = self.wait(0.3)
        took = time.monotonic() - began
        self.log.info("short %s %s", short, 0.29 < took < 5)
        long = self.wait(3600)
        self.log.info("long %s", long)
        self.log.info("again %s %s", self.wait(3600), self.ok)
    """
    with Daemon(pool(members, spirits=1)) as d:
        d.start()
        d.wait_for_line("short True True")
        began = time.monotonic()
        d.stop()
        assert time.monotonic() - began < 5
        assert d.log_lines("long False")
        assert d.log_lines("again False False")


def test_wait_keeps_the_beat_going() -> None:
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.6}
    members = """
    def spirit(self):
        self.tick()
        self.wait(1.6)
        self.log.info("still here")
        self.wait(60)
    """
    with Daemon(pool(members, spirits=1, **settings)) as d:
        d.start()
        d.wait_for_line("still here")
        assert not d.log_lines("no heartbeat")


def test_sleep_ignores_quit_but_the_next_tick_does_not() -> None:
    members = """
    def spirit(self):
        while self.tick():
            time.sleep(0.3)
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.stop()
        assert not d.log_lines("immediately")


# -- reload ----------------------------------------------------------------------------


def test_reload_replaces_all_and_never_has_fewer_than_wanted() -> None:
    """Default hangup: the log anew, then one spirit after another."""
    members = """
    def spirit(self):
        time.sleep(0.05)
        self.tick()
        self.log.info("slot %d generation %d", self.slot, self.generation)
        while self.tick():
            self.wait(5)
    def heartbeat(self, pid):
        self.look()
    def spawn(self, pid):
        self.look()
    def reap(self, pid):
        self.look()
    def look(self):
        alive = sum(m.phase.value == "alive" for m in self.pool.values())
        self.log.debug("alive %d", alive)
    """
    with Daemon(pool(members, spirits=4)) as d:
        d.start()
        before = set(d.spirits)
        d.wait_for_line("alive 4")
        at = len(d.log_text())
        d.ctrl("reload")
        d.wait_for(lambda: d.healthy == 4 and not before & set(d.spirits))
        d.wait_for(lambda: len(d.spirits) == 4)
        later = d.log_text()[at:]
        counts = [int(n) for n in re.findall(r"alive (\d+)", later)]
        assert min(counts) >= 4
        fresh = re.findall(r"slot (\d+) generation 1", later)
        assert sorted(fresh) == ["0", "1", "2", "3"]


def test_a_reload_in_a_reload() -> None:
    with Daemon(pool(spirits=3)) as d:
        d.start()
        before = set(d.spirits)
        for _ in range(3):
            d.signal(signal.SIGHUP)
            time.sleep(0.02)
        d.wait_for(lambda: d.healthy == 3 and not before & set(d.spirits))
        d.wait_for(lambda: len(d.spirits) == 3)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ("raise RuntimeError('broken')", "ended before it was ready: exit code 1"),
        ("time.sleep(60)", "is not ready after "),
        ("self.tick(); self.wait(0.1); os._exit(3)", "s: exit code 3"),
    ],
)
def test_new_code_that_cannot_work_harms_nobody(harm: str, reason: str) -> None:
    """C11: new code must prove itself before an old spirit goes."""
    members = f"""
    def spirit(self):
        if self.generation == 1:
            {harm}
        while self.tick():
            self.wait(5)
    """
    with Daemon(
        pool(members, boot_timeout=0.5, canary_time=0.3, graceful_timeout=0.2)
    ) as d:
        d.start()
        before = d.spirits
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 1 is dropped, generation 0 goes on", reason)
        d.wait_for(lambda: d.spirits == before)

        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 2 has replaced all others")
        d.wait_for(lambda: d.healthy == 2 and not set(before) & set(d.spirits))


# -- places ----------------------------------------------------------------------------


def test_a_replacement_inherits_the_lowest_free_place() -> None:
    members = """
    def spirit(self):
        self.tick()
        self.log.info("place %d is %d, generation %d", self.slot, self.pid,
                      self.generation)
        while self.tick():
            self.wait(5)
    def waitup(self):
        assert self.slot is None and self.generation is None
    """
    with Daemon(pool(members, spirits=3)) as d:
        d.start()
        d.wait_for_line("place", times=3)
        places = {
            int(p): int(pid)
            for p, pid in re.findall(r"place (\d) is (\d+), generation 0", d.log_text())
        }
        assert sorted(places) == [0, 1, 2]
        d.kill_spirit(places[1])
        d.wait_for_line("place 1 is", times=2)
        assert not d.log_lines("Hook waitup failed")


def test_spirits_auto_are_the_processors_of_this_process() -> None:
    first = min(os.sched_getaffinity(0))
    head = f"os.sched_setaffinity(0, {{{first}}})\n"
    with Daemon(pool(head=head, spirits="auto")) as d:
        d.start()
        assert d.healthy == 1


# -- the brake -------------------------------------------------------------------------


def test_bodies_that_return_at_once_are_slowed_down() -> None:
    members = """
    def spirit(self):
        self.tick()
    """
    with Daemon(pool(members, restart_budget=5)) as d:
        d.start()
        line = d.wait_for_line("[warn]", "Spirits end too soon")
        assert "next start in" in line
        time.sleep(1)
        assert len(d.log_lines("Spirit", "started")) < 30
        began = time.monotonic()
        d.stop()
        assert time.monotonic() - began < 5, "a pause is no reason to wait"


def test_the_healthy_work_on_while_others_crash() -> None:
    members = """
    def spirit(self):
        self.tick()
        if self.slot == 1 and os.path.exists(MARK):
            os._exit(1)
        while self.tick():
            self.wait(0.05)
            if self.slot == 1 and os.path.exists(MARK):
                os._exit(1)
    """
    head = "MARK = os.path.abspath('mark')\n"
    with Daemon(pool(members, head=head, restart_budget=3)) as d:
        d.start()
        good = d.spirits[0]
        (d.folder / "mark").touch()
        d.wait_for_line("Spirits end too soon", times=2)
        assert good in d.spirits
        (d.folder / "mark").unlink()
        d.wait_for(lambda: d.healthy == 2)
        assert good in d.spirits


def test_a_thread_that_does_not_end_holds_nobody() -> None:
    """U6: the interpreter would wait for it without end."""
    members = """
    def spirit(self):
        threading.Thread(target=time.sleep, args=(3600,)).start()
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(members)) as d:
        d.start()
        began = time.monotonic()
        d.stop()
        assert time.monotonic() - began < 4
        assert not d.log_lines("immediately")


def test_a_body_that_closes_everything_is_still_replaced() -> None:
    members = """
    def spirit(self):
        self.tick()
        self.wait(0.2)
        if self.slot == 0:
            os.closerange(0, 100)
            while True:
                self.tick()
                time.sleep(0.05)
        while self.tick():
            self.wait(5)
    """
    settings = {"heartbeat_timeout": 0.5, "graceful_timeout": 0.3}
    with Daemon(pool(members, **settings)) as d:
        d.start()
        d.wait_for_line("Spirit", "started", times=3)
