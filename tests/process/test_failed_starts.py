"""Start fails in every way: exit code 1, the reason on the terminal, nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest
from tests.process.scripts import ghost, pool

from ghostd.testing import Daemon


def failed(script: str, *words: str, how: str = "start") -> str:
    """Start; see it fail with *words* on standard error, and nothing left."""
    with Daemon(script) as d:
        ended = d.ctrl(how)
        _nothing_left(d, ended)
        for word in words:
            assert re.search(word, ended.stderr), ended.stderr
        return ended.stderr


def _nothing_left(d: Daemon, ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr
    assert d.processes == []
    assert not d.pidfile.exists()
    assert [n for n in os.listdir(d.folder) if n.endswith((".pid", ".new"))] == []


INIT = """
def init(self):
    secret = 1 / 0
"""


@pytest.mark.parametrize("make", [pool, ghost])
@pytest.mark.parametrize("how", ["start", "restart", "reload"])
def test_init_raises(make: object, how: str) -> None:
    failed(make(INIT), "secret = 1 / 0", "ZeroDivisionError", how=how)  # type: ignore[operator]


def test_init_raises_in_the_foreground() -> None:
    with Daemon(pool(INIT)) as d:
        run = d.run_foreground()
        assert run.wait() == 1
        assert "ZeroDivisionError" in d.log_text()
        assert not d.pidfile.exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("sys.exit(3)", "."),
        ("sys.exit('no database')", "no database"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise MemoryError", "MemoryError"),
        ("os._exit(9)", "said nothing"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "said nothing"),
    ],
)
def test_init_ends_in_other_ways(what: str, words: str) -> None:
    with Daemon(pool(f"def init(self):\n    {what}\n")) as d:
        ended = d.ctrl("start")
        assert ended.returncode == 1
        assert re.search(words, ended.stderr), ended.stderr
        assert d.processes == []
        d.ctrl("stop")  # a killed one could not remove its pidfile


def test_preinit_raises() -> None:
    said = failed(pool("def preinit(self):\n    raise OSError('port 80 is taken')\n"))
    assert "port 80 is taken" in said
    assert "preinit" in said


def test_the_pidfile_cannot_be_written() -> None:
    failed(pool(pidfile="no/folder/d.pid"), "pidfile .*no/folder/d.pid", "No such file")


def test_the_pidfile_is_a_folder() -> None:
    with Daemon(pool(), descriptors=False) as d:
        (d.folder / "d.pid").mkdir()
        ended = d.ctrl("start")
        assert ended.returncode == 1
        assert "not a regular file" in ended.stderr
        assert d.processes == []
        (d.folder / "d.pid").rmdir()


def test_the_log_cannot_be_written() -> None:
    failed(pool(logfile="no/folder/d.log"), "log .*no/folder/d.log cannot be opened")


def test_the_log_is_a_folder() -> None:
    with Daemon(pool(logfile="d.log")) as d:
        (d.folder / "d.log").mkdir()
        ended = d.ctrl("start")
        _nothing_left(d, ended)
        assert "d.log" in ended.stderr
        (d.folder / "d.log").rmdir()


@pytest.mark.parametrize("key", ["user", "group"])
def test_an_unknown_account(key: str) -> None:
    failed(pool(**{key: "no-such-one"}), f"{key} is 'no-such-one'")


@pytest.mark.root
@pytest.mark.parametrize("settings", [{"user": "root"}, {"group": 0}, {"user": 1}])
def test_without_root_another_identity_is_refused(settings: dict[str, object]) -> None:
    head = "import grp, pwd\nos.setgroups([]); os.setresgid(65534, 65534, 65534)\n"
    head += "os.setresuid(65534, 65534, 65534)\n"
    with Daemon(pool(head=head, **settings)) as d:
        d.folder.chmod(0o777)
        ended = d.ctrl("start")
        _nothing_left(d, ended)
        assert "only root can become somebody else" in ended.stderr


def test_no_body() -> None:
    script = pool().replace("def spirit", "def other")
    failed(script, r"has no body: override spirit\(\)")
    script = ghost().replace("def startup", "def other")
    failed(script, r"nothing to do: override startup\(\)")


def test_a_wrong_setting() -> None:
    failed(pool(spirits=-1), "spirits is -1, allowed: ")


def test_a_spirits_traceback_reaches_the_terminal() -> None:
    said = failed(
        pool("def spirit(self):\n    import no_such_module\n"),
        r"Spirit \d+ stopped too early: exit code 1",
        "Traceback",
        "import no_such_module",
        "ModuleNotFoundError",
    )
    assert said.count("ModuleNotFoundError") == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", "exit code 0"),
        ("sys.exit(3)", "exit code 3"),
        ("sys.exit('bad day')", "exit code 1\nbad day"),
        ("os._exit(0)", "exit code 0"),
        ("os._exit(77)", "exit code 77"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "killed by SIGTERM"),
    ],
)
def test_a_body_that_dies_at_once(body: str, words: str) -> None:
    failed(
        pool(f"def spirit(self):\n    {body}\n"),
        rf"d did not start|did not start: Spirit \d+ stopped too early: {words}",
        words,
    )


def test_the_log_tells_it_too() -> None:
    with Daemon(pool("def spirit(self):\n    raise ValueError('so')\n")) as d:
        assert d.ctrl("start").returncode == 1
        assert d.log_lines("[error]", "stopped too early, shutting down")
        text = d.log_text()
        assert "ValueError: so" in text
        assert "Traceback" in text
        assert re.search(r"Ghost process \d+ stopped\n$", text)


def test_of_many_spirits_one_that_fails_stops_the_others() -> None:
    body = """
    def spirit(self):
        if self.slot == 3:
            raise RuntimeError("only the last one")
        time.sleep(0.5)
        while self.tick():
            self.wait(5)
    """
    failed(pool(body, spirits=4), "only the last one")


def test_a_failure_after_a_first_beat_is_no_failed_start() -> None:
    """Once a spirit was healthy the daemon lives, and the log tells the trouble."""
    body = """
    def spirit(self):
        self.tick()
        time.sleep(0.3)
        raise RuntimeError("later")
    """
    with Daemon(pool(body, spirits=1)) as d:
        d.start()
        d.wait_for_line("later")
        d.wait_for_line("Spirit", "started", times=2)


def test_a_daemon_that_is_still_on_its_way_counts_as_running() -> None:
    body = """
    def spirit(self):
        time.sleep(1)
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(body, start_timeout=0.3)) as d:
        began = time.monotonic()
        ended = d.start()
        assert ended.stdout == f"Running {d.pid}\n"
        assert time.monotonic() - began < 5
        assert not d.log_lines("is healthy")
        d.wait_for(lambda: d.healthy == 2)


def test_start_waits_for_the_first_beat_of_each() -> None:
    body = """
    def spirit(self):
        time.sleep(0.3 * (self.slot + 1))
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(body, spirits=3)) as d:
        d.start()
        assert d.healthy == 3


def test_no_spirits_are_up_at_once() -> None:
    with Daemon(pool(spirits=0)) as d:
        d.start()
        assert d.spirits == []
        assert d.ctrl("status").returncode == 0


def test_a_slow_init_is_waited_for() -> None:
    with Daemon(pool("def init(self):\n    time.sleep(0.5)\n")) as d:
        d.start()
        assert d.healthy == 2


def test_a_start_that_is_killed_leaves_a_whole_daemon_or_none() -> None:
    """C8: the daemon goes on without its launcher."""
    with Daemon(pool("def init(self):\n    time.sleep(0.5)\n")) as d:
        start = d.run_foreground("start")
        d.wait_for(lambda: d.pid)
        start.signal(signal.SIGKILL)
        assert start.wait() == -signal.SIGKILL
        d.wait_for(lambda: d.healthy == 2)


def test_ctrl_c_in_a_start_leaves_it_starting() -> None:
    with Daemon(pool("def init(self):\n    time.sleep(0.7)\n")) as d:
        start = d.run_foreground("start", terminal=True)
        d.wait_for(lambda: d.pid)
        start.type("\x03")
        assert start.wait() == 1
        assert "goes on starting" in start.screen
        d.wait_for(lambda: d.healthy == 2)


def test_a_quit_during_init_still_cleans_up() -> None:
    members = """
    def init(self):
        self.log.info("init begins")
        time.sleep(0.5)
    def cleanup(self, scope):
        self.log.info("cleanup %d", scope)
    def spirit(self):
        raise SystemExit("must not run")
    """
    with Daemon(pool(members)) as d:
        start = d.run_foreground("start")
        d.wait_for_line("init begins")
        pid = d.pid
        d.signal(signal.SIGQUIT)
        start.wait()
        d.wait_for(lambda: pid in d.endings)
        assert d.log_lines("cleanup")
        assert not d.log_lines("must not run")
        assert not d.processes


def test_everything_the_launcher_had_runs_once() -> None:
    """U10: atexit, finally and with of the script belong to the launcher."""
    script = pool().replace(
        "    sys.exit(G(",
        """
    atexit.register(os.write, 1, b"atexit\\n")
    try:
        code = G(""",
    )
    script = script.rstrip()[: -len(".ctrl())")] + ".ctrl()\n"
    script += "    finally:\n        os.write(1, b'finally\\n')\n    sys.exit(code)\n"
    with Daemon(script) as d:
        out = d.start().stdout
        assert out == f"Running {d.pid}\nfinally\natexit\n"
        d.kill_spirit()
        d.wait_for(lambda: d.healthy == 2)
        assert d.stop().stdout.endswith("finally\natexit\n")
        assert "atexit" not in d.log_text()
