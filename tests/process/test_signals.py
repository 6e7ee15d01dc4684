"""Each signal to the manager, to a spirit, and to a plain ghost."""

from __future__ import annotations

import signal
import time

import pytest
from tests.process.scripts import ghost, pool

from ghostd import daemon, manager
from ghostd.testing import Daemon

HOOKED = """
def hangup(self):
    self.log.info("hook hangup")
def finish(self, graceful):
    self.log.info("hook finish %s", graceful)
def cleanup(self, scope):
    self.log.info("hook cleanup %s", scope)
"""

SLOW = (
    HOOKED
    + """
def spirit(self):
    while self.tick():
        self.wait(5)
    self.log.info("leaving slowly")
    time.sleep(60)
"""
)


def ended(d: Daemon, pid: int) -> int:
    """Wait for the end of the manager and of all its spirits; give the exit code."""
    d.wait_for(lambda: pid in d.endings, what="the manager's end")
    assert not d.processes
    assert not d.pidfile.exists()
    return d.endings[pid]


# -- the manager -----------------------------------------------------------------------

TESTED = {
    "SIGINT": "test_int_and_term_are_immediate",
    "SIGTERM": "test_int_and_term_are_immediate",
    "SIGQUIT": "test_quit_is_graceful",
    "SIGTTIN": "test_ttin_is_one_more_and_ttou_one_fewer",
    "SIGTTOU": "test_ttin_is_one_more_and_ttou_one_fewer",
    "SIGHUP": "test_hup_and_usr2_call_hangup",
    "SIGUSR2": "test_hup_and_usr2_call_hangup",
    "SIGUSR1": "test_usr1_reopens_the_log",
    "SIGCHLD": "test_chld_runs_no_code_of_the_user",
}


def test_every_row_of_the_table_has_a_test() -> None:
    assert {number.name for number in manager.SIGNALS} == set(TESTED)
    assert {number.name for number in daemon.SIGNALS} <= set(TESTED)
    for name in TESTED.values():
        assert callable(globals()[name])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_int_and_term_are_immediate(name: str) -> None:
    with Daemon(pool(SLOW, term="immediate")) as d:
        d.start()
        pid = d.pid
        began = time.monotonic()
        d.signal(getattr(signal, name))
        assert ended(d, pid) == 0
        assert time.monotonic() - began < 4
        assert [line[-17:] for line in d.log_lines("hook finish")] == [
            "hook finish False"
        ]
        assert len(d.log_lines("[warn]", "immediately")) == 2
        assert not d.log_lines("leaving slowly")
        assert d.log_lines("hook cleanup")


def test_quit_is_graceful() -> None:
    with Daemon(pool(SLOW.replace("60", "0.3"))) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGQUIT)
        assert ended(d, pid) == 0
        assert len(d.log_lines("leaving slowly")) == 2
        assert len(d.log_lines("gracefully (5 seconds)")) == 2
        assert not d.log_lines("immediately")
        assert d.log_lines("hook finish True")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_after_a_quit_the_harder_stop_wins_at_once(name: str) -> None:
    """S4: the ancestor waits for up to 120 s."""
    with Daemon(pool(SLOW, term="immediate", graceful_timeout=60)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGQUIT)
        d.wait_for_line("leaving slowly", times=2)
        began = time.monotonic()
        d.signal(getattr(signal, name))
        assert ended(d, pid) == 0
        assert time.monotonic() - began < 4
        said = [line.split()[-1] for line in d.log_lines("hook finish")]
        assert said == ["True", "False"], "once, and once more"


def test_signals_repeated_change_nothing() -> None:
    """S5."""
    with Daemon(pool(SLOW.replace("60", "0.5"))) as d:
        d.start()
        pid = d.pid
        for number in (signal.SIGQUIT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN):
            d.signal(number)
        d.wait_for_line("leaving slowly", times=2)
        for number in (signal.SIGQUIT, signal.SIGTTIN, signal.SIGUSR1):
            d.signal(number)
        assert ended(d, pid) == 0
        assert len(d.log_lines("hook finish")) == 1
        assert len(d.log_lines("Spirit", "started")) == 2


def test_term_auto_is_immediate_on_a_bare_machine_and_graceful_elsewhere() -> None:
    """The mark of a container decides; NOTIFY_SOCKET makes it graceful anywhere."""
    with Daemon(pool(SLOW.replace("60", "0.3")), env={"NOTIFY_SOCKET": "/x"}) as d:
        d.start()
        pid = d.pid
        d.wait_for_line(
            "[info]", "TERM means a graceful stop here: NOTIFY_SOCKET is set"
        )
        d.signal(signal.SIGTERM)
        assert ended(d, pid) == 0
        assert d.log_lines("hook finish True")
        assert len(d.log_lines("TERM means")) == 1
    bare = "from ghostd.unix import container\ncontainer._MARKS = ()\n"
    with Daemon(pool(SLOW, head=bare)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGTERM)
        assert ended(d, pid) == 0
        assert d.log_lines("hook finish False")
        assert not d.log_lines("TERM means")


@pytest.mark.parametrize("term", ["immediate", "graceful"])
def test_term_can_be_forced(term: str) -> None:
    with Daemon(pool(SLOW.replace("60", "0.2"), term=term)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGTERM)
        assert ended(d, pid) == 0
        assert d.log_lines(f"hook finish {term == 'graceful'}")
        assert not d.log_lines("TERM means")


@pytest.mark.parametrize("first", ["SIGTERM", "SIGQUIT"])
def test_a_second_term_is_immediate(first: str) -> None:
    with Daemon(pool(SLOW, term="graceful", graceful_timeout=60)) as d:
        d.start()
        pid = d.pid
        d.signal(getattr(signal, first))
        d.wait_for_line("leaving slowly", times=2)
        d.signal(signal.SIGTERM)
        assert ended(d, pid) == 0
        assert d.log_lines("hook finish False")


def test_two_terms_in_one_turn_insist_too() -> None:
    busy = """
    def heartbeat(self, pid):
        time.sleep(0.5)
    """
    with Daemon(pool(SLOW, busy, term="graceful", graceful_timeout=60)) as d:
        d.start()
        pid = d.pid
        for _ in range(2):
            d.signal(signal.SIGTERM)
            time.sleep(0.05)
        assert ended(d, pid) == 0


def test_ttin_is_one_more_and_ttou_one_fewer() -> None:
    with Daemon(pool(spirits=1)) as d:
        d.start()
        (first,) = d.spirits
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 2)
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 3)
        assert d.log_lines("Pool size 2 -> 3")
        youngest = d.spirits[-1]
        d.signal(signal.SIGTTOU)
        d.wait_for(lambda: len(d.spirits) == 2)
        assert youngest not in d.spirits, "the youngest goes"
        for wanted in (1, 0):
            d.signal(signal.SIGTTOU)
            d.wait_for(lambda number=wanted: len(d.spirits) == number)  # type: ignore[misc]
            if wanted:
                assert d.spirits == [first]
        d.signal(signal.SIGTTOU)
        d.signal(signal.SIGHUP)
        d.wait_for_line("Generation 1 is good: replacing 0 spirits")
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 1, what="one more than nothing")
        assert not d.log_lines("died")


def test_ttou_takes_one_without_a_beat_first() -> None:
    members = """
    def spirit(self):
        if self.slot == 1:
            time.sleep(3600)
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(members, spirits=3, start_timeout=0.5, graceful_timeout=0.2)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 2)
        mute = d.spirits[1]
        d.signal(signal.SIGTTOU)
        d.wait_for(lambda: mute not in d.spirits)
        assert len(d.spirits) == 2
        assert d.healthy == 2


def test_hup_and_usr2_call_hangup() -> None:
    with Daemon(pool(HOOKED)) as d:
        d.start()
        spirits = d.spirits
        d.signal(signal.SIGHUP)
        d.wait_for_line("hook hangup")
        d.signal(signal.SIGUSR2)
        d.wait_for_line("hook hangup", times=2)
        assert d.spirits == spirits, "overridden: nothing is replaced"


def test_usr1_reopens_the_log() -> None:
    with Daemon(pool(), logfile="d.log") as d:
        d.start()
        d.logfile.rename(d.folder / "d.log.1")
        d.signal(signal.SIGUSR1)
        d.kill_spirit()
        d.wait_for_line("killed by SIGKILL")
        assert "SIGKILL" not in (d.folder / "d.log.1").read_text()


def test_chld_runs_no_code_of_the_user() -> None:
    with Daemon(pool(HOOKED)) as d:
        d.start()
        spirits = d.spirits
        for _ in range(20):
            d.signal(signal.SIGCHLD)
        d.kill_spirit()
        d.wait_for(lambda: len(d.spirits) == 2 and d.spirits != spirits)
        assert not d.log_lines("hook")


def test_a_handler_installed_in_init_wins() -> None:
    members = """
    def init(self):
        signal.signal(signal.SIGHUP, lambda *_: self.log.info("mine: HUP"))
        signal.signal(signal.SIGTERM, lambda *_: self.log.info("mine: TERM"))
        signal.signal(signal.SIGWINCH, lambda *_: self.log.info("mine: WINCH"))
        signal.signal(signal.SIGUSR1, self.fails)
    def fails(self, number, frame):
        raise RuntimeError("handler of USR1")
    """
    with Daemon(pool(HOOKED, members)) as d:
        d.start()
        spirits = d.spirits
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGWINCH):
            d.signal(number)
            d.wait_for_line(f"mine: {number.name[3:]}")
        d.signal(signal.SIGUSR1)
        d.wait_for_line("Hook", "SIGUSR1", "failed", "handler of USR1")
        assert d.spirits == spirits
        assert not d.log_lines("hook hangup")


def test_a_signal_ignored_in_init_stays_ignored() -> None:
    members = "def init(self):\n    signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with Daemon(pool(HOOKED, members)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.signal(signal.SIGUSR2)
        d.wait_for_line("hook hangup")
        assert len(d.log_lines("hook hangup")) == 1


def test_a_storm_of_signals() -> None:
    """S1: the pool is what it was, and the rare signal is not lost."""
    with Daemon(pool(HOOKED)) as d:
        d.start()
        pid = d.pid
        code = (
            "import os, signal\n"
            f"for _ in range(5000):\n"
            f"    os.kill({pid}, signal.SIGUSR1); os.kill({pid}, signal.SIGCHLD)\n"
            f"os.kill({pid}, signal.SIGUSR2)\n"
        )
        assert d.run("/usr/bin/env", "python3", "-c", code).returncode == 0
        d.wait_for_line("hook hangup")
        assert d.healthy == 2
        assert not d.log_lines("[error]")


def test_what_nohup_and_other_parents_left_is_undone() -> None:
    """S6: an ignored HUP, a blocked TERM, an ignored CHLD."""
    head = """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGQUIT})
    """
    with Daemon(pool(HOOKED, head=head)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGHUP)
        d.wait_for_line("hook hangup")
        d.kill_spirit()
        d.wait_for_line("died: killed by SIGKILL")
        d.signal(signal.SIGTERM)
        assert ended(d, pid) == 0


def test_a_spirit_that_floods_its_lifeline_keeps_nobody_from_the_signals() -> None:
    """A mad spirit only harms itself: its thousands of beats are one call."""
    members = """
    def heartbeat(self, pid):
        time.sleep(0.01)
    def spirit(self):
        far_end = self._daemon.spirit._far_end
        while True:
            far_end.beat(time.monotonic())
    """
    with Daemon(pool(HOOKED, members, spirits=1, graceful_timeout=0.1)) as d:
        d.start()
        pid = d.pid
        time.sleep(0.3)
        began = time.monotonic()
        d.signal(signal.SIGQUIT)
        assert ended(d, pid) == 0
        assert time.monotonic() - began < 5


# -- a spirit --------------------------------------------------------------------------


def test_quit_to_a_spirit_is_graceful_and_it_is_replaced() -> None:
    """S13."""
    members = """
    def spirit(self):
        while self.tick():
            self.wait(5)
        self.log.info("said goodbye")
    """
    with Daemon(pool(members)) as d:
        d.start()
        gone = d.kill_spirit(number=signal.SIGQUIT)
        d.wait_for(lambda: gone not in d.spirits and d.healthy == 2)
        assert len(d.log_lines("said goodbye")) == 1
        assert not d.log_lines(f"Spirit {gone} died")


def test_quit_is_harmless_until_the_last_instruction() -> None:
    """M2046 of Mojo: QUIT to a spirit that is ending must not dump core."""
    members = """
    def spirit(self):
        self.tick()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT})
        time.sleep(1.1)
        os.kill(os.getpid(), signal.SIGQUIT)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGQUIT})
    """
    with Daemon(pool(members, spirits=1)) as d:
        d.start()
        (first,) = d.spirits
        d.wait_for(lambda: first not in d.spirits)
        d.wait_for_line(f"Spirit {first} stopped")
        assert not d.log_lines("died")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_term_and_int_end_a_spirit(name: str) -> None:
    with Daemon(pool()) as d:
        d.start()
        gone = d.kill_spirit(number=getattr(signal, name))
        d.wait_for_line(f"Spirit {gone} died: killed by {name}")
        d.wait_for(lambda: d.healthy == 2)


def test_the_rest_is_ignored_by_a_spirit() -> None:
    with Daemon(pool(spirits=1)) as d:
        d.start()
        (pid,) = d.spirits
        names = (
            "SIGHUP SIGUSR1 SIGUSR2 SIGTTIN SIGTTOU SIGTSTP SIGPIPE SIGCHLD SIGWINCH"
        )
        for name in names.split():
            d.signal(getattr(signal, name), pid)
        time.sleep(0.3)
        assert d.spirits == [pid]


def test_a_handler_of_the_launchers_does_not_live_on_in_a_spirit() -> None:
    head = """
    def mine(number, frame):
        os.write(2, b"wrong process")
        os._exit(99)
    signal.signal(signal.SIGTERM, mine)
    signal.signal(signal.SIGWINCH, mine)
    signal.signal(signal.SIGHUP, mine)
    """
    with Daemon(pool(head=head)) as d:
        d.start()
        first, second = d.spirits
        d.signal(signal.SIGTERM, first)
        d.wait_for_line(f"Spirit {first} died: killed by SIGTERM")
        d.signal(signal.SIGHUP, second)
        d.signal(signal.SIGQUIT, second)
        d.wait_for_line(f"Spirit {second} stopped")
        assert not d.log_lines("exit code 99")


# -- a plain ghost ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGQUIT"])
def test_a_plain_ghost_is_asked_to_end(name: str) -> None:
    with Daemon(ghost(HOOKED)) as d:
        d.start()
        pid = d.pid
        d.signal(getattr(signal, name))
        assert ended(d, pid) == 0
        assert d.log_lines("hook cleanup 1")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_second_one_interrupts_the_body_of_a_plain_ghost(name: str) -> None:
    members = """
    def startup(self):
        try:
            while True:
                time.sleep(0.05)
                if not self.ok:
                    self.log.info("asked")
                    time.sleep(60)
        except Exception:
            self.log.info("must not be caught")
        finally:
            self.log.info("finally")
    """
    with Daemon(ghost(HOOKED, members)) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGQUIT)
        d.wait_for_line("asked")
        d.signal(signal.SIGQUIT)
        d.signal(getattr(signal, name))
        assert ended(d, pid) == 0
        assert d.log_lines("finally")
        assert not d.log_lines("must not be caught")
        assert d.log_lines("hook cleanup 1")


def test_signals_of_a_plain_ghost() -> None:
    with Daemon(ghost(HOOKED), logfile="d.log") as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.wait_for_line("hook hangup")
        d.signal(signal.SIGUSR2)
        d.wait_for_line("hook hangup", times=2)
        d.logfile.rename(d.folder / "d.log.1")
        d.signal(signal.SIGUSR1)
        d.signal(signal.SIGHUP)
        d.wait_for_line("hook hangup")


def test_a_plain_ghost_that_returns_ends_normally() -> None:
    members = "def startup(self):\n    return 7\n"
    with Daemon(ghost(HOOKED, members)) as d:
        assert d.ctrl("start").returncode == 0
        d.wait_for(lambda: 7 in d.endings.values())
        assert d.log_lines("hook cleanup 0")
        assert not d.processes


def test_a_plain_ghost_that_raises_ends_with_1_and_a_traceback() -> None:
    members = "def startup(self):\n    raise ValueError('broken')\n"
    with Daemon(ghost(HOOKED, members)) as d:
        d.ctrl("start")
        d.wait_for(lambda: not d.processes)
        assert d.log_lines("[fatal]", "failed: ValueError: broken")
        assert "Traceback" in d.log_text()
        assert d.log_lines("hook cleanup 0")
