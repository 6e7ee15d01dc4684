"""The control commands of a life that goes well: output, exit code, what is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from tests.process.scripts import ghost, pool

from ghostd.testing import Daemon

BOTH = pytest.mark.parametrize("script", [pool(), ghost()], ids=["Prefork", "Ghost"])


def outcome(ended: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return ended.returncode, ended.stdout, ended.stderr


@BOTH
def test_a_life(script: str) -> None:
    with Daemon(script) as d:
        assert outcome(d.ctrl("status")) == (3, "Not running\n", "")
        assert outcome(d.ctrl("stop")) == (0, "Not running\n", "")

        started = d.ctrl("start")
        pid = d.pid
        assert pid
        assert outcome(started) == (0, f"Running {pid}\n", "")
        assert d.pidfile.read_text() == f"{pid}\n"

        assert outcome(d.ctrl("status")) == (0, f"Running {pid}\n", "")
        assert outcome(d.ctrl("start")) == (1, "", f"Already running {pid}\n")

        assert outcome(d.ctrl("stop")) == (0, f"Stopped {pid}\n", "")
        assert d.endings[pid] == 0
        assert not d.pidfile.exists()
        assert not d.processes
        assert outcome(d.ctrl("status")) == (3, "Not running\n", "")


@BOTH
def test_restart(script: str) -> None:
    with Daemon(script) as d:
        assert outcome(d.ctrl("restart")) == (0, "Restart successful\n", "")
        first = d.pid
        assert outcome(d.ctrl("restart")) == (0, "Restart successful\n", "")
        assert d.pid not in (0, first)
        assert d.endings[first] == 0


@BOTH
def test_reload(script: str) -> None:
    with Daemon(script) as d:
        ended = d.ctrl("reload")
        pid = d.pid
        assert pid, "reload starts the daemon if none runs"
        assert outcome(ended) == (0, f"Running {pid}\n", "")
        assert outcome(d.ctrl("reload")) == (0, f"Reloading {pid}\n", "")
        assert d.pid == pid


RELOAD = """
def hangup(self):
    self.log.info("hangup called")
"""

CHOSEN = """
def ctrl(self):
    return Prefork.ctrl(self, sys.argv[1], *map(eval, sys.argv[2:]))
"""


@pytest.mark.parametrize("number", ["'USR2'", "12", "'SIGUSR2'", "'12'", "None"])
def test_reload_chooses_its_signal(number: str) -> None:
    with Daemon(pool(RELOAD, CHOSEN)) as d:
        d.start()
        assert d.ctrl("reload", number).returncode == 0
        d.wait_for_line("hangup called")


def test_reload_with_0_sends_nothing() -> None:
    with Daemon(pool(RELOAD, CHOSEN)) as d:
        d.start()
        assert outcome(d.ctrl("reload", "0")) == (0, f"Reloading {d.pid}\n", "")
        assert outcome(d.ctrl("reload", "'0'")) == (0, f"Reloading {d.pid}\n", "")
        assert d.ctrl("reload", "'HUP'").returncode == 0
        d.wait_for_line("hangup called")
        assert len(d.log_lines("hangup called")) == 1


def test_reload_with_a_signal_that_does_not_exist() -> None:
    with Daemon(pool(RELOAD, CHOSEN)) as d:
        d.start()
        ended = d.ctrl("reload", "'FOO'")
        assert ended.returncode == 1
        assert "signal is 'FOO', allowed" in ended.stderr
        assert ended.stdout == ""


@BOTH
@pytest.mark.parametrize("word", ["", "Start", "foo", "--help"])
def test_an_unknown_command(script: str, word: str) -> None:
    with Daemon(script) as d:
        code, out, err = outcome(d.ctrl(word))
        assert (code, out) == (1, "")
        assert err.startswith("Command incorrect\n")
        for name in ("start", "stop", "status", "restart", "reload", "run"):
            assert name in err
        assert not d.processes


@BOTH
def test_no_command(script: str) -> None:
    with Daemon(script) as d:
        assert d.ctrl().returncode == 1
        assert d.ctrl().stderr.startswith("Command incorrect\n")


def test_status_of_a_daemon_that_was_killed() -> None:
    """LSB: 1 is dead with a pidfile left."""
    with Daemon(pool()) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGKILL)
        d.wait_for(lambda: pid in d.endings)
        assert d.pidfile.exists()
        assert outcome(d.ctrl("status")) == (1, "Not running\n", "")
        assert outcome(d.ctrl("stop")) == (0, "Not running\n", "")
        assert not d.pidfile.exists(), "stop clears away what a dead daemon left"
        assert d.ctrl("status").returncode == 3


def test_a_start_after_a_kill() -> None:
    with Daemon(pool()) as d:
        d.start()
        first = d.pid
        d.signal(signal.SIGKILL)
        d.wait_for(lambda: first in d.endings)
        d.start()
        assert d.pid not in (0, first)


def test_status_that_cannot_be_told() -> None:
    """LSB: 4 is unknown."""
    with Daemon(pool(), descriptors=False) as d:
        fifo = d.folder / "d.pid"
        os.mkfifo(fifo)
        code, out, err = outcome(d.ctrl("status"))
        assert (code, out) == (4, "")
        assert "not a regular file" in err
        fifo.unlink()


def test_start_into_a_pipe_ends_at_once() -> None:
    """`start | cat` must not wait for the daemon."""
    with Daemon(pool()) as d:
        began = time.monotonic()
        command = f"{sys.executable} {d.script} start | cat; echo done"
        ended = d.run("/bin/sh", "-c", command)
        assert time.monotonic() - began < 10
        assert ended.stdout == f"Running {d.pid}\ndone\n"


def test_of_six_starts_at_once_one_wins() -> None:
    with Daemon(pool(spirits=1)) as d:
        command = " & ".join([f"{sys.executable} {d.script} start; echo $?"] * 6)
        ended = d.run("/bin/sh", "-c", f"({command} & wait) 2>&1")
        pid = d.pid
        lines = sorted(ended.stdout.splitlines())
        assert lines.count("0") == 1
        assert lines.count("1") == 5
        assert lines.count(f"Running {pid}") == 1
        others = [x for x in lines if x not in ("0", "1", f"Running {pid}")]
        assert len(others) == 5
        assert all("lready running" in x or "another start" in x for x in others), (
            others
        )
        d.wait_for(lambda: set(d.processes) == {pid, *d.spirits})
        assert len(d.log_lines("Ghost process")) == 1


def test_a_relative_pidfile_is_found_from_its_own_folder_and_removed() -> None:
    """F20: the daemon's folder is / for root, and the pidfile is not there."""
    with Daemon(pool(pidfile="run/d.pid"), pidfile="run/d.pid") as d:
        (d.folder / "run").mkdir()
        d.start()
        assert (d.folder / "run" / "d.pid").exists()
        d.stop()
        assert os.listdir(d.folder / "run") == []


def test_the_name_of_the_script_names_the_pidfile() -> None:
    script = pool().replace("pidfile='d.pid', ", "")
    with Daemon(script, name="my_service.py") as d:
        d.start()
        assert d.pidfile == d.folder / "my_service.pid"


# -- stop ------------------------------------------------------------------------------

SLOW = """
def spirit(self):
    while self.tick():
        self.wait(5)
    self.log.info("work goes on")
    time.sleep(1)
    self.log.info("work is done")
"""


def test_stop_waits_for_slow_spirits() -> None:
    with Daemon(pool(SLOW)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        began = time.monotonic()
        assert d.ctrl("stop").returncode == 0
        assert time.monotonic() - began >= 0.9
        assert len(d.log_lines("work is done")) == 2
        assert not d.processes


STUBBORN = """
def spirit(self):
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    while True:
        self.tick()
        time.sleep(0.05)
"""


def test_stop_of_stubborn_spirits_takes_the_graceful_timeout() -> None:
    with Daemon(pool(STUBBORN, graceful_timeout=0.5)) as d:
        d.start()
        pid = d.pid
        assert outcome(d.ctrl("stop")) == (0, f"Stopped {pid}\n", "")
        assert len(d.log_lines("[warn]", "immediately")) == 2
        assert d.endings[pid] == 0


def test_stop_of_a_stopped_daemon_wakes_it() -> None:
    with Daemon(pool()) as d:
        d.start()
        d.signal(signal.SIGSTOP)
        assert d.ctrl("stop").returncode == 0
        assert not d.processes


DEAF = """
def waitup(self):
    if self.healthy == 2:
        self.log.info("deaf now")
        for number in (signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(1000)
"""


def test_a_manager_that_answers_nothing_is_killed_after_its_spirits() -> None:
    """Never an orphan, never a kill of the manager alone."""
    with Daemon(pool(DEAF, graceful_timeout=0.2)) as d:
        d.start()
        pid = d.pid
        d.wait_for_line("deaf now")
        spirits = d.spirits
        assert len(spirits) == 2
        assert outcome(d.ctrl("stop")) == (0, f"Stopped {pid}\n", "")
        assert d.endings[pid] == -signal.SIGKILL
        assert not d.processes
        assert not d.pidfile.exists()


def test_on_a_terminal_stop_says_what_it_waits_for_and_can_be_left() -> None:
    slow = SLOW.replace("sleep(1)", "sleep(2.5)")
    with Daemon(pool(slow)) as d:
        d.start()
        pid = d.pid
        stop = d.run_foreground("stop", terminal=True)
        d.wait_for(lambda: "Waiting up to" in stop.screen)
        assert str(pid) in stop.screen
        stop.type("\x03")
        assert stop.wait() == 1
        assert "finishing on its own" in stop.screen
        d.wait_for(lambda: d.endings.get(pid) == 0)
        assert len(d.log_lines("work is done")) == 2


def test_stop_may_be_asked_for_twice_at_once() -> None:
    with Daemon(pool(SLOW)) as d:
        d.start()
        pid = d.pid
        one, two = (d.run_foreground("stop") for _ in range(2))
        assert (one.wait(), two.wait()) == (0, 0)
        assert {one.stdout, two.stdout} == {f"Stopped {pid}\n"}


# -- who else uses these words ---------------------------------------------------------


def test_the_methods_return_what_they_say() -> None:
    """start() 0, status() pid, stop() pid or 0: for scripts that print themselves."""
    script = pool().replace(
        "sys.exit(",
        """
    g = G(logfile="d.log", pidfile="d.pid", spirits=1)
    assert g.status() == 0 and g.pid == 0 and g.stop() == 0
    assert g.start() == 0
    assert g.status() == g.pid > 0
    assert not g.is_daemonized and not g.is_spirited and g.healthy == 0
    pid = g.pid
    assert g.reload(0) == 0 and g.pid == pid
    assert g.restart() == 0 and g.status() not in (0, pid)
    pid = g.status()
    assert g.stop() == pid and g.stop() == 0
    print("as said")
    sys.exit(0)
    sys.exit(""",
        1,
    )
    with Daemon(script) as d:
        ended = d.ctrl()
        assert outcome(ended) == (0, "as said\n", "")


def test_python_m_ghostd() -> None:
    with Daemon(pool(), name="jobs.py") as d:
        (d.folder / "factory.py").write_text(
            "from jobs import G\n"
            "def make(): return G(logfile='d.log', pidfile='d.pid', spirits=1)\n"
            "ready = make()\n"
            "class Inner:\n    made = staticmethod(make)\n"
        )
        run = [sys.executable, "-m", "ghostd"]
        for name in ("factory:make", "factory:ready", "factory:Inner.made"):
            assert outcome(d.run(*run, name, "status")) == (3, "Not running\n", "")
        started = d.run(*run, "factory:make", "start")
        assert outcome(started) == (0, f"Running {d.pid}\n", "")
        assert outcome(d.run(*run, "factory:ready", "stop"))[0] == 0

        assert d.run(*run, "factory:make").stderr.startswith("Command incorrect")


def test_python_m_ghostd_names_the_daemon_after_the_class() -> None:
    with Daemon(ghost(), name="jobs.py") as d:
        assert d.run(sys.executable, "-m", "ghostd", "jobs:G", "start").returncode == 0
        assert d.pidfile.name == "G.pid"
        assert d.run(sys.executable, "-m", "ghostd", "jobs:G", "stop").returncode == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("jobs:", "not of the form"),
        (":G", "not of the form"),
        ("nothing:G", "no module 'nothing'"),
        ("jobs:Nothing", "has no 'Nothing'"),
        ("jobs:os", "is a module, not a Ghost"),
    ],
)
def test_python_m_ghostd_with_a_wrong_name(name: str, words: str) -> None:
    with Daemon(pool(), name="jobs.py") as d:
        ended = d.run(sys.executable, "-m", "ghostd", name, "start")
        assert ended.returncode == 1
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not d.processes


def test_lines_have_the_format_that_was_promised() -> None:
    line = re.compile(
        r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{5}\] \[\d+\] \[[a-z]+\] .+"
    )
    with Daemon(pool()) as d:
        d.start()
        d.stop()
        lines = d.log_lines()
        assert len(lines) > 8
        assert all(line.fullmatch(each) for each in lines)


def test_the_log_lines_of_a_life() -> None:
    with Daemon(pool(spirits=1)) as d:
        d.start()
        pid, (spirit,) = d.pid, d.spirits
        d.stop()
        said = [re.sub(r"^\[[^]]*\] ", "", line) for line in d.log_lines()]
        assert [x for x in said if "[debug]" not in x and "TERM means" not in x] == [
            f"[{pid}] [info] Ghost process {pid} started",
            f"[{pid}] [info] Manager {pid} started",
            f"[{pid}] [info] Spirit {spirit} started",
            f"[{pid}] [info] Stopping spirit {spirit} gracefully (5 seconds)",
            f"[{pid}] [info] Spirit {spirit} stopped",
            f"[{pid}] [info] Manager {pid} stopped",
            f"[{pid}] [info] Ghost process {pid} stopped",
        ]
