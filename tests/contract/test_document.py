"""
The ancestor's document, line by line: each test is named after a heading.

The text is Acme::Ghost::Prefork's; where it says something in Perl, the test says it
in Python. A test that fails here is a promise that is not kept.
"""

from __future__ import annotations

import inspect
import signal
import time

import pytest
from tests.process.scripts import ghost, pool

from ghostd import Ghost, Prefork
from ghostd.testing import Daemon

HEAD = """
import os, sys, signal, time
from ghostd import Prefork
"""


# -- SYNOPSIS --------------------------------------------------------------------------

SYNOPSIS = (
    HEAD
    + """
def body(self):
    max = 10
    i = 0
    while self.tick():
        i += 1
        time.sleep(1 / 50)
        self.log.debug("%d> %d/%d" % (os.getpid(), i, max))
        if i >= max:
            break

g = Prefork(
    logfile="daemon.log",
    pidfile="daemon.pid",
    spirit=body,
)

sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else ""))
"""
)


def test_synopsis() -> None:
    with Daemon(SYNOPSIS) as d:
        assert d.ctrl().returncode == 1
        assert d.ctrl("start").stdout == f"Running {d.pid}\n"
        assert len(d.spirits) <= 6
        d.wait_for_line("10/10")
        d.wait_for_line("Spirit", "started", times=8)
        assert d.ctrl("stop").returncode == 0
        assert not d.log_lines("[error]")


def test_description_pre_forking_ghost_daemon() -> None:
    with Daemon(pool()) as d:
        d.start()
        assert d.pid not in d.spirits
        assert len(d.spirits) == 2


# -- ATTRIBUTES ------------------------------------------------------------------------


def test_attributes_this_class_inherits_all_attributes_from_ghost() -> None:
    assert issubclass(Prefork, Ghost)
    names = (
        *("name", "pidfile", "logfile", "loghandle", "logger", "loglevel", "ident"),
        *("facility", "logopt", "user", "group", "umask", "start_timeout"),
    )
    for kind in (Ghost, Prefork):
        made = kind()
        for name in names:
            assert hasattr(made.settings, name)
    settings = Ghost().settings
    assert settings.loglevel == "debug"
    assert settings.facility == "user"
    assert settings.logopt == ("ndelay", "pid")
    assert settings.umask == 0o022
    assert settings.start_timeout == 5
    assert settings.logfile is settings.user is settings.group is None


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("graceful_timeout", 120),
        ("heartbeat_interval", 5),
        ("heartbeat_timeout", 50),
        ("spare", 2),
        ("spirits", 4),
        ("workers", 4),
    ],
)
def test_attributes_defaults(name: str, default: int) -> None:
    assert getattr(Prefork(), name) == default
    assert getattr(Prefork(**{name: 3}), name) == 3


def test_graceful_timeout_the_maximum_time_before_being_forced_to_stop() -> None:
    members = """
    def spirit(self):
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        while True:
            self.tick()
            time.sleep(0.05)
    """
    with Daemon(pool(members, graceful_timeout=0.5)) as d:
        d.start()
        began = time.monotonic()
        d.stop()
        assert 0.5 <= time.monotonic() - began < 10
        assert d.log_lines("gracefully (0.5 seconds)")
        assert d.log_lines("immediately")


def test_heartbeat_timeout_a_spirit_without_a_heartbeat_is_stopped_gracefully() -> None:
    members = """
    def spirit(self):
        self.tick()
        while self.ok:
            time.sleep(0.05)
        self.log.info("stopped gracefully")
    """
    settings = {"heartbeat_interval": 0.2, "heartbeat_timeout": 0.3}
    with Daemon(pool(members, **settings)) as d:
        d.start()
        d.wait_for_line("has no heartbeat (0.3 seconds), restarting")
        d.wait_for_line("stopped gracefully")


def test_spare_temporarily_spawn_up_to_this_number_of_additional_spirits() -> None:
    members = """
    def spirit(self):
        while self.tick():
            self.wait(5)
        time.sleep(1.5)
    """
    with Daemon(pool(members, spirits=3, spare=1, graceful_timeout=5)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 3)
        for pid in d.spirits:
            d.signal(signal.SIGQUIT, pid)
        most = 0
        deadline = time.monotonic() + 15
        while len(d.log_lines("Spirit", "started")) < 6:
            most = max(most, len(d.spirits))
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert most <= 4


def test_spirits_workers_number_of_spirit_processes() -> None:
    for keyword in ("spirits", "workers"):
        script = pool().replace("spirits=2", f"{keyword}=3")
        with Daemon(script) as d:
            d.start()
            assert len(d.spirits) == 3


# -- METHODS ---------------------------------------------------------------------------


def test_methods_this_class_inherits_all_methods_from_ghost() -> None:
    methods = (
        *("again", "ctrl", "start", "stop", "restart", "reload", "status"),
        *("daemonize", "flush", "set_uid", "set_gid"),
    )
    properties = ("filepid", "log", "ok", "pid", "is_daemonized", "is_spirited")
    for kind in (Ghost, Prefork):
        for name in methods:
            assert inspect.isfunction(getattr(kind, name))
        for name in properties:
            assert isinstance(inspect.getattr_static(kind, name), property)
    assert isinstance(inspect.getattr_static(Prefork, "healthy"), property)


def test_again_is_called_immediately_after_creating_the_instance() -> None:
    told: list[str] = []

    class Mine(Prefork):
        def again(self, **_keywords: object) -> Mine:
            told.append(f"again, {self.spirits} spirits")
            return self

    mine = Mine(spirits=7)
    assert told == ["again, 7 spirits"]
    assert mine.again() is mine
    assert Prefork().again().spirits == 4


def test_healthy_is_the_number_of_spirits_with_a_heartbeat() -> None:
    assert Prefork().healthy == 0
    members = """
    def spirit(self):
        if self.slot == 0:
            time.sleep(3600)
        while self.tick():
            self.wait(5)
    def heartbeat(self, pid):
        self.log.info("healthy %d of %d", self.healthy, len(self.pool))
    """
    settings = {"spirits": 3, "start_timeout": 0.3, "graceful_timeout": 0.2}
    with Daemon(pool(members, **settings)) as d:
        d.start()
        d.wait_for_line("healthy 2 of 3")
        assert not d.log_lines("healthy 3 of 3")


def test_startup_starts_manager_and_spirits_and_waits_for_manager_signals() -> None:
    script = pool().replace(".ctrl())", ".startup())")
    with Daemon(script) as d:
        run = d.run_foreground()
        d.wait_for_line("is healthy", times=2)
        assert run.returncode is None
        run.signal(signal.SIGINT)
        assert run.wait() == 0


def test_tick_sends_a_heartbeat_and_returns_ok() -> None:
    members = """
    def heartbeat(self, pid):
        self.log.info("beat")
    def spirit(self):
        self.log.info("tick gave %s, ok is %s", self.tick(), self.ok)
        self.wait(60)
        self.log.info("then tick gave %s, ok is %s", self.tick(), self.ok)
    """
    with Daemon(pool(members, spirits=1)) as d:
        d.start()
        d.wait_for_line("beat")
        d.stop()
        assert d.log_lines("] tick gave True, ok is True")
        assert d.log_lines("then tick gave False, ok is False")


def test_tick_1_marks_the_finished_status() -> None:
    members = """
    def spirit(self):
        self.log.info("tick(1) gave %s, ok is %s", self.tick(1), self.ok)
        self.wait(0.2)
    """
    with Daemon(pool(members, spirits=1)) as d:
        d.start()
        d.wait_for_line("tick(1) gave False, ok is False")
        d.wait_for_line("Spirit", "started", times=2)


def test_tick_outside_a_spirit_sends_nothing() -> None:
    """U7."""
    fresh = Prefork()
    assert fresh.tick() == fresh.ok
    assert fresh.tick(True) == fresh.ok


# -- MANAGER SIGNALS, SPIRIT SIGNALS: tests/process/test_signals.py has them in depth --


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_int_term_shut_down_server_immediately(name: str) -> None:
    with Daemon(pool(term="immediate")) as d:
        d.start()
        pid = d.pid
        d.signal(getattr(signal, name))
        d.wait_for(lambda: d.endings.get(pid) == 0)
        assert len(d.log_lines("immediately")) == 2


def test_quit_shut_down_server_gracefully() -> None:
    with Daemon(pool()) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGQUIT)
        d.wait_for(lambda: d.endings.get(pid) == 0)
        assert not d.log_lines("immediately")


def test_ttin_increase_ttou_decrease_spirit_pool_by_one() -> None:
    with Daemon(pool()) as d:
        d.start()
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: len(d.spirits) == 3)
        d.signal(signal.SIGTTOU)
        d.wait_for(lambda: len(d.spirits) == 2)


def test_spirit_quit_stop_spirit_gracefully() -> None:
    members = """
    def spirit(self):
        while self.tick():
            self.wait(5)
        self.log.info("stopped gracefully")
    """
    with Daemon(pool(members)) as d:
        d.start()
        d.kill_spirit(number=signal.SIGQUIT)
        d.wait_for_line("stopped gracefully")
        d.wait_for(lambda: d.healthy == 2)


# -- HOOKS -----------------------------------------------------------------------------


def test_hooks_this_class_inherits_all_hooks_from_ghost() -> None:
    assert set(Ghost.HOOKS) == {"preinit", "init", "startup", "hangup", "cleanup"}
    # `load` is ours: the document has no hook between the fork and the body.
    assert set(Prefork.HOOKS) == set(Ghost.HOOKS) | {
        *("finish", "heartbeat", "reap", "spawn", "waitup", "spirit", "load")
    }
    for name in Prefork.HOOKS:
        assert inspect.isfunction(getattr(Prefork, name))


def test_hooks_of_the_document_as_they_stand_there() -> None:
    members = """
    def finish(self, graceful):
        self.log.debug("Graceful server shutdown" if graceful else "Server shutdown")
    def heartbeat(self, pid):
        self.log.debug(f"Spirit {pid} has a heartbeat")
    def reap(self, pid):
        self.log.debug(f"Spirit {pid} is reaped")
    def spawn(self, pid):
        self.log.debug(f"Spirit {pid} is spawned")
    def waitup(self):
        spirits = self.spirits
        self.log.debug(f"Waiting for heartbeat messages from {spirits} spirits")
    """
    with Daemon(pool(members)) as d:
        d.start()
        spirits = d.spirits
        d.stop()
        for pid in spirits:
            for what in ("is spawned", "has a heartbeat", "is reaped"):
                assert d.log_lines("[debug]", f"Spirit {pid} {what}")
        assert d.log_lines("Waiting for heartbeat messages from 2 spirits")
        assert len(d.log_lines("Graceful server shutdown")) == 1
    with Daemon(pool(members, term="immediate")) as d:
        d.start()
        d.signal(signal.SIGTERM)
        d.wait_for_line("] Server shutdown")


def test_spirit_the_hook_that_must_be_implemented() -> None:
    with Daemon(pool().replace("def spirit", "def other")) as d:
        ended = d.ctrl("start")
        assert ended.returncode == 1
        assert "override spirit()" in ended.stderr
        assert not d.processes


def test_spirit_runs_in_isolation() -> None:
    members = """
    def spirit(self):
        self.mine = self.slot
        self.tick()
        self.log.info("mine is %d, pid is %s", self.mine, self.pid == os.getpid())
        while self.tick():
            self.wait(5)
    def waitup(self):
        assert not hasattr(self, "mine")
    """
    with Daemon(pool(members)) as d:
        d.start()
        for slot in (0, 1):
            d.wait_for_line(f"mine is {slot}, pid is True")
        assert not d.log_lines("failed")


# -- EXAMPLES --------------------------------------------------------------------------

ACME = (
    HEAD
    + """
class MyGhost(Prefork):

    def init(self):
        signal.signal(signal.SIGHUP, lambda *_: self.hangup())

    def hangup(self):
        self.log.debug(self.pool)

    def spirit(self):
        max = 10
        i = 0
        while self.tick():
            i += 1
            time.sleep(1 / 20)
            self.log.debug("%d> %d/%d" % (os.getpid(), i, max))
            if i >= max:
                break

g = MyGhost(
    logfile="daemon.log",
    pidfile="daemon.pid",
)
sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else "start"))
"""
)


def test_example_prefork_acme_with_reloading_demonstration() -> None:
    with Daemon(ACME) as d:
        assert d.ctrl().returncode == 0
        pid = d.pid
        assert d.ctrl("reload").stdout == f"Reloading {pid}\n"
        d.wait_for_line("[debug]", "pid slot generation phase")
        d.wait_for(lambda: any(f"{p} " in d.log_text() for p in d.spirits))
        d.wait_for_line("10/10")
        d.stop()
        assert not d.log_lines("[error]")


IOLOOP = (
    HEAD
    + """
import asyncio

class MyGhost(Prefork):

    def init(self):
        self.loop = asyncio.new_event_loop()

    def spirit(self):
        loop = self.loop
        max = 10
        i = 0

        def timer():
            self.log.info("Timer!")

        def recur():
            nonlocal i
            if not self.tick():
                loop.stop()
                return
            i += 1
            self.log.debug("%d> %d/%d" % (os.getpid(), i, max))
            if i >= max:
                loop.stop()
                return
            loop.call_later(1 / 20, recur)

        loop.call_later(5 / 20, timer)
        loop.call_later(1 / 20, recur)

        self.log.debug("Start IOLoop")
        if not loop.is_running():
            loop.run_forever()
        self.log.debug("Finish IOLoop")

g = MyGhost(
    logfile="daemon.log",
    pidfile="daemon.pid",
)
sys.exit(g.ctrl(sys.argv[1] if len(sys.argv) > 1 else "start"))
"""
)


def test_example_prefork_ioloop_with_an_event_loop_made_in_init() -> None:
    with Daemon(IOLOOP) as d:
        assert d.ctrl().returncode == 0
        for words in ("Start IOLoop", "Timer!", "10/10", "Finish IOLoop"):
            d.wait_for_line(words)
        d.wait_for_line("Spirit", "started", times=6)
        d.stop()
        assert not d.log_lines("[error]")


# -- what the base class promises ------------------------------------------------------


def test_base_class_life_of_a_plain_daemon() -> None:
    with Daemon(ghost()) as d:
        assert d.ctrl("status").returncode == 3
        d.start()
        assert d.ctrl("status").stdout == f"Running {d.pid}\n"
        assert d.ctrl("restart").stdout == "Restart successful\n"
        assert d.ctrl("reload").stdout == f"Reloading {d.pid}\n"
        d.stop()


def test_base_class_ok_and_flags_before_anything_runs() -> None:
    fresh = Ghost(name="none")
    assert fresh.ok is False
    assert fresh.pid == 0
    assert fresh.is_daemonized is fresh.is_spirited is False
    assert fresh.flush() is fresh


def test_base_class_attributes_can_be_read() -> None:
    given = {
        "name": "jobs",
        "pidfile": "/run/jobs.pid",
        "logfile": "/var/log/jobs.log",
        "loglevel": "info",
        "ident": "jobs-a",
        "facility": "daemon",
        "user": "nobody",
        "group": 7,
    }
    made = Ghost(**given)
    assert {name: getattr(made, name) for name in given} == given
    assert made.filepid.path == "/run/jobs.pid"


def test_base_class_daemonize_that_fails_raises_and_leaves_nothing() -> None:
    head = """
    from ghostd import AlreadyRunning, StartError
    if len(sys.argv) > 1 and sys.argv[1] == "fail":
        try:
            Ghost(pidfile="d.pid", logfile="no/folder/d.log").daemonize()
        except StartError as error:
            sys.exit(f"StartError: {error}")
    if len(sys.argv) > 1 and sys.argv[1] == "twice":
        try:
            Ghost(pidfile="d.pid", logfile="d.log").daemonize()
        except AlreadyRunning as error:
            sys.exit(f"AlreadyRunning: {error.pid}")
    """
    with Daemon(ghost(head=head)) as d:
        ended = d.ctrl("fail")
        assert ended.returncode == 1
        assert "StartError: log " in ended.stderr
        assert not d.processes
        assert not d.pidfile.exists()
        d.start()
        assert d.ctrl("twice").stderr == f"AlreadyRunning: {d.pid}\n"
