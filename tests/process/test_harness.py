"""The leash itself: what Daemon must notice, and that nothing gets off it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from tests.helpers import wait_for
from tests.process.scripts import pool

from ghostd.testing import Daemon, DaemonError
from ghostd.unix import child


def alive(pid: int) -> bool:
    return child.state(pid) not in ("", "Z", "X")


ESCAPE = """
def spirit(self):
    self.tick()
    if self.slot == 0 and os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            self.log.info("escaped")
            while True:
                signal.pause()
        os._exit(0)
    while self.tick():
        self.wait(5)
"""


def test_a_process_that_is_left_behind_fails_the_test_and_is_ended() -> None:
    escaped = 0
    with pytest.raises(DaemonError, match=r"left behind: process \d+: .*service\.py"):  # noqa: PT012, SIM117
        with Daemon(pool(ESCAPE)) as d:
            d.start()
            d.wait_for_line("escaped")
            escaped = max(set(d.processes) - {d.pid, *d.spirits})
            assert alive(escaped)
    assert not alive(escaped)


def test_a_zombie_fails_the_test() -> None:
    members = """
    def init(self):
        if os.fork() == 0:
            os._exit(0)
    """
    with pytest.raises(DaemonError, match="zombie"), Daemon(pool(members)) as d:
        d.start()


def test_a_leaked_descriptor_fails_the_test() -> None:
    members = """
    def reap(self, pid):
        self.leak = os.pipe()
    """
    with pytest.raises(DaemonError, match="2 descriptors of the manager"):  # noqa: PT012, SIM117
        with Daemon(pool(members)) as d:
            d.start()
            killed = d.kill_spirit()
            d.wait_for(lambda: d.healthy == 2 and killed not in d.spirits)


def test_a_pidfile_that_is_left_fails_the_test() -> None:
    members = """
    def cleanup(self, scope):
        open(FOREIGN, "w").close()
        os.rename(FOREIGN, self.pidfile)
        os._exit(0)
    """
    head = "FOREIGN = os.path.abspath('foreign')\n"
    with (  # noqa: PT012
        pytest.raises(DaemonError, match="pidfile"),
        Daemon(pool(members, head=head)) as d,
    ):
        d.start()
        d.stop()
        d.wait_for(lambda: not d.processes)
        d.pidfile.touch()
        d.ctrl = lambda *_, **__: subprocess.CompletedProcess((), 0, "", "")  # type: ignore[method-assign]


def test_a_draft_that_is_left_fails_the_test() -> None:
    with pytest.raises(DaemonError, match=r"file d\.pid\.x\.new"), Daemon(pool()) as d:  # noqa: PT012
        d.start()
        (d.folder / "d.pid.x.new").touch()


def test_a_failed_block_keeps_its_error_and_tells_the_story() -> None:
    pid = 0
    with pytest.raises(ZeroDivisionError) as caught, Daemon(pool()) as d:  # noqa: PT012
        d.start()
        pid = d.pid
        raise ZeroDivisionError
    assert not alive(pid)
    (story,) = caught.value.__notes__
    assert f"Manager {pid} started" in story
    assert f"{pid}: " in story


def test_a_condition_that_does_not_come_true_fails_with_the_story() -> None:
    with pytest.raises(DaemonError, match="7 spirits did not come true") as caught:  # noqa: PT012, SIM117
        with Daemon(pool(), limit=0.1) as d:
            d.start()
            d.wait_for(lambda: d.healthy == 7, what="7 spirits")
    assert "is healthy" in caught.value.__notes__[0]


def test_a_start_or_stop_that_fails_says_why() -> None:
    with Daemon(pool(spirits=-1)) as d:
        with pytest.raises(DaemonError, match="start gave 1: .*"):  # noqa: RUF043
            d.start()
        with pytest.raises(DaemonError, match="stop gave 1: .*"):  # noqa: RUF043
            d.stop()


def test_signals_reach_nobody_but_this_daemon() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger, Daemon(pool()) as d:
        d.start()
        for call in (d.signal, lambda n, p: d.kill_spirit(p, n)):
            with pytest.raises(DaemonError, match="none of this daemon's"):
                call(signal.SIGKILL, stranger.pid)
        with pytest.raises(DaemonError, match="gone"):
            d.signal(signal.SIGTERM, 2**22 + 1)
        assert stranger.poll() is None
        stranger.kill()


def test_an_output_without_end_is_noticed() -> None:
    with pytest.raises(DaemonError, match="did not end within"), Daemon(pool()) as d:
        d.run("sleep", "60", limit=0.2)


def test_a_script_may_be_a_path_and_get_variables() -> None:
    source = (
        "import os, sys; print(os.environ.get('A'), os.environ.get('B'), sys.argv[1:])"
    )
    os.environ["A"] = "unset"
    try:
        with Daemon(source + "\n", env={"A": None, "B": "b"}) as first:
            assert first.ctrl("x").stdout == "None b ['x']\n"
            with Daemon(first.script, env={"B": "2"}) as second:
                assert second.ctrl().stdout == "unset 2 []\n"
                assert second.run("/no/such/program").returncode == 127
    finally:
        del os.environ["A"]


def test_a_test_that_is_killed_takes_its_daemon_along() -> None:
    script = f"""
from ghostd.testing import Daemon
import signal
with Daemon({pool()!r}) as d:
    d.start()
    print(d.pid, *d.spirits, d._nanny.pid, d.folder, flush=True)
    signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as test:
        assert test.stdout is not None
        *words, folder = test.stdout.readline().split()
        pids = [int(word) for word in words]
        assert len(pids) == 4
        assert all(map(alive, pids))
        test.kill()
    began = time.monotonic()
    wait_for(lambda: not any(map(alive, pids)))
    assert not os.path.exists(folder)
    assert time.monotonic() - began < 10
