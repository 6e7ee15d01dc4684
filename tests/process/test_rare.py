"""Rare moments that went wrong once, each brought about on purpose."""

from __future__ import annotations

import signal
import sys
import time

from tests.process.scripts import pool

from ghostd.testing import Daemon


def test_a_thread_that_waits_takes_no_wake_up_from_the_body() -> None:
    members = """
    def spirit(self):
        self.tick()
        threading.Thread(target=self.rest, daemon=True).start()
        while self.wait(60):
            pass
        self.log.info("body is over")
    def rest(self):
        self.log.info("resting")
        self.wait(60)
    """
    with Daemon(pool(members, heartbeat_interval=30)) as d:
        d.start()
        d.wait_for_line("resting", times=2)
        began = time.monotonic()
        d.stop()

        assert len(d.log_lines("body is over")) == 2
        assert time.monotonic() - began < 4
        assert not d.log_lines("immediately")


def test_a_wait_in_a_thread_ends_when_the_manager_dies() -> None:
    members = """
    def spirit(self):
        rest = threading.Thread(target=self.rest)
        rest.start()
        rest.join()
        self.log.info("body is over")
    def rest(self):
        while self.wait(60):
            pass
        self.log.info("rest is over")
    """
    with Daemon(pool(members, heartbeat_interval=30, spirits=1)) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 1)
        d.signal(signal.SIGKILL)
        d.wait_for_line("body is over")
        d.wait_for(lambda: not d.processes, limit=3)

        assert d.log_lines("rest is over")
        assert not d.log_lines("failed")


def test_descriptors_beyond_1023_are_like_others() -> None:
    """select() cannot name them."""
    head = """
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    many = [open(os.devnull) for _ in range(1100)]
    """
    members = """
    def spirit(self):
        read, write = os.pipe()
        assert min(read, write) > 1023
        os.write(write, b"!")
        self.wait(60, read)
        self.log.info("there is something to read")
        while self.wait(60):
            pass
    """
    with Daemon(pool(members, head=head)) as d:
        assert d.start().stderr == ""
        d.wait_for_line("something to read", times=2)
        assert max(d.descriptors()) > 1023
        d.kill_spirit()
        d.wait_for_line("something to read", times=3)


def test_ctrl_c_between_the_two_forks_of_a_start_is_the_launchers_alone() -> None:
    """Raised in the script's frames, it would live on in three processes."""
    head = """
    import ctypes, functools
    # All of it in C, so that it is raised where fork() returns: once in the launcher,
    # once in the process in between, and not in the daemon.
    strikes = map(getattr(ctypes.CDLL(None), "raise"), [signal.SIGINT] * 2)
    os.register_at_fork(before=functools.partial(next, strikes, None))
    atexit.register(os.write, 1, b"atexit\\n")
    """
    with Daemon(pool(head=head)) as d:
        ended = d.ctrl("start")
        d.wait_for(lambda: d.healthy == 2)

        assert ended.returncode == 1
        assert ended.stderr == "\nservice goes on starting on its own\n"
        assert ended.stdout == "atexit\n"


def test_a_folder_that_is_gone_is_not_needed() -> None:
    script = pool(
        logfile="d.log", pidfile="d.pid", head="HERE = os.path.dirname(__file__)"
    )
    for name in ("d.log", "d.pid"):
        script = script.replace(repr(name), f"HERE + '/{name}'")
    with Daemon(script) as d:
        for word in ("start", "status", "reload", "restart", "stop"):
            ended = d.run(
                *(
                    "sh",
                    "-c",
                    'mkdir gone && cd gone && rmdir ../gone && exec "$@"',
                    "sh",
                ),
                *(sys.executable, str(d.script), word),
            )

            assert ended.returncode == 0, ended.stderr
            assert ended.stderr == ""


def test_a_signal_for_one_startup_does_not_end_the_next() -> None:
    script = """
    import os, signal, sys
    from ghostd import Prefork

    class G(Prefork):
        def heartbeat(self, pid):
            print("beat", flush=True)
            os.kill(os.getpid(), signal.SIGQUIT)
        def reap(self, pid):
            # The last turn has read its signals by now, so this one is left over.
            os.kill(os.getpid(), signal.SIGINT)
        def spirit(self):
            while self.tick():
                self.wait(60)

    g = G(logfile="d.log", pidfile="d.pid", spirits=1)
    codes = [g.startup(), g.startup()]
    print("done", *codes)
    """
    with Daemon(script) as d:
        ended = d.ctrl()

        assert ended.stdout == "beat\nbeat\ndone 0 0\n"


def test_the_end_of_a_long_reason_is_told() -> None:
    """It is where a traceback says what happened."""
    members = """
    def init(self):
        raise RuntimeError("the beginning " + 100_000 * "x" + " the end")
    """
    with Daemon(pool(members)) as d:
        ended = d.ctrl("start")

        assert ended.returncode == 1
        assert "the beginning" in ended.stderr
        assert ended.stderr.endswith("the end\n")
        assert len(ended.stderr) < 50_000


def test_a_signal_whose_wake_up_was_stolen_is_not_waited_on() -> None:
    members = """
    stolen = False
    def hangup(self):
        self.stolen = True
    def waitup(self):
        if self.stolen:
            self.stolen = False
            # An event loop in a hook has the descriptor for a while.
            read, write = os.pipe()
            os.set_blocking(write, False)
            before = signal.set_wakeup_fd(write)
            os.kill(os.getpid(), signal.SIGTTIN)
            signal.set_wakeup_fd(before)
            os.close(read)
            os.close(write)
    """
    # It looks by itself after the half of this timeout at the earliest.
    slow = {"heartbeat_interval": 30, "heartbeat_timeout": 60}
    with Daemon(pool(members, spirits=1, **slow)) as d:
        d.start()
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: d.healthy == 2, limit=5)


def test_ctrl_c_in_the_foreground_replaces_nobody() -> None:
    """The terminal sends it to the spirits as well, and they are dead first."""
    with Daemon(pool(spirits=8)) as d:
        for number in range(1, 6):
            run = d.run_foreground(terminal=True)
            d.wait_for(lambda: d.healthy == 8)
            run.type("\x03")

            assert run.wait() == 0
            assert len(d.log_lines("Spirit", "started")) == 8 * number
