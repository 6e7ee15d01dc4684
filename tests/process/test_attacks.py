"""What an attacker found: each a script that once went wrong."""

from __future__ import annotations

import os
import signal

import pytest

from ghostd.testing import Daemon

HEAD = """
import asyncio, os, signal, sys, threading, time
from ghostd import Ghost, Prefork
"""
FOOT = """
sys.exit(g.ctrl())
"""
POOL = 'pidfile="d.pid", logfile="d.log", spirits=1, term="immediate"'


def script(body: str) -> str:
    return HEAD + body + FOOT


def test_a_signal_without_a_name_reaches_the_users_handler() -> None:
    source = script(f"""
def init(self):
    signal.signal(signal.SIGRTMIN + 1, lambda *_: self.log.info("real-time"))
def body(self):
    while self.wait(60): pass
g = Prefork({POOL}, init=init, spirit=body)
""")
    with Daemon(source) as d:
        d.start()
        for _ in range(3):
            d.signal(signal.SIGRTMIN + 1)
            d.wait_for_line("real-time")
        assert d.healthy == 1


def test_an_event_loop_in_a_hook_makes_nobody_deaf() -> None:
    source = script(f"""
async def borrow():
    asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, print)
def init(self):
    asyncio.run(borrow())
def body(self):
    while self.wait(60): pass
g = Prefork({POOL}, init=init, spirit=body)
""")
    with Daemon(source) as d:
        d.start()
        d.signal(signal.SIGTTIN)
        d.wait_for(lambda: d.healthy == 2, limit=3)


def test_a_child_of_a_spirits_that_waits_does_not_spin() -> None:
    source = script(f"""
def body(self):
    self.tick()
    if os.fork() == 0:
        began = time.process_time()
        self.wait(1.0)
        self.log.info("child used %d ms", (time.process_time() - began) * 1000)
        os._exit(0)
    os.wait()
    while self.wait(60): pass
g = Prefork({POOL}, spirit=body, heartbeat_interval=0.3)
""")
    with Daemon(source) as d:
        d.start()
        line = d.wait_for_line("child used")
        assert int(line.split()[-2]) < 300


@pytest.mark.parametrize("where", ["heartbeat", "spirit"])
def test_a_daemon_may_ask_itself_to_stop(where: str) -> None:
    hook = (
        """
def heartbeat(self, pid):
    self.stop()
"""
        if where == "heartbeat"
        else """
def heartbeat(self, pid): pass
"""
    )
    stop = "self.stop()" if where == "spirit" else "pass"
    source = script(f"""{hook}
def body(self):
    self.tick(); {stop}
    while self.wait(60): pass
g = Prefork({POOL}, spirit=body, heartbeat=heartbeat)
""")
    with Daemon(source) as d:
        d.ctrl("start")
        d.wait_for_line("Ghost process", "stopped")


def test_a_log_handle_that_came_through_an_exec_is_kept() -> None:
    source = script("""
def body(self):
    while self.wait(60): pass
read, write = os.pipe()
handle = os.fdopen(os.dup2(os.open("h.log", os.O_CREAT | os.O_WRONLY), 40), "a")
g = Prefork(pidfile="d.pid", loghandle=handle, spirits=1, spirit=body)
""")
    with Daemon(source) as d:
        d.ctrl("start")
        text = (d.folder / "d.pid").read_text()
        assert text.strip().isdigit()
        assert "Ghost process" in (d.folder / "h.log").read_text()
        d.ctrl("stop")


def test_a_hangup_during_init_of_a_pool_is_answered_once_and_later() -> None:
    source = script(f"""
class G(Prefork):
    def init(self):
        os.kill(os.getpid(), signal.SIGHUP)
        self.log.info("init is over")
    def hangup(self):
        self.log.info("hung up")
    def spirit(self):
        while self.wait(60): pass
g = G({POOL})
""")
    with Daemon(source) as d:
        d.start()
        d.wait_for_line("hung up")
        text = d.log_text()
        assert text.count("hung up") == 1
        assert text.index("init is over") < text.index("hung up")


def test_a_plain_ghosts_exit_code_is_cut_to_a_byte() -> None:
    source = script("""
g = Ghost(pidfile="d.pid", logfile="d.log", startup=lambda self: 2**40 + 3)
""")
    with Daemon(source) as d:
        assert d.run_foreground("run").wait() == 3


def test_a_body_that_closed_everything_writes_no_beat_into_its_files() -> None:
    source = script(
        f"""
def body(self):
    self.tick()
    os.closerange(3, 200)
    files = [open(f"f{{n}}", "wb", 0) for n in range(40)]
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        self.tick()
    open("done", "w").close()
    while True: time.sleep(60)
g = Prefork({POOL}, spirit=body, heartbeat_interval=0.05, graceful_timeout=0)
os.chdir(os.path.dirname(os.path.abspath(__file__)))
""".replace('f"f{n}"', 'os.path.join(FOLDER, f"f{n}")')
        .replace('open("done"', 'open(os.path.join(FOLDER, "done")')
        .replace(
            "def body", "FOLDER = os.path.dirname(os.path.abspath(__file__))\ndef body"
        )
    )
    with Daemon(source) as d:
        d.start()
        d.wait_for((d.folder / "done").exists)
        sizes = {p.name: p.stat().st_size for p in d.folder.glob("f[0-9]*")}
        assert len(sizes) == 40
        assert set(sizes.values()) == {0}


def test_a_second_term_inside_of_hangup_still_ends_a_plain_ghost() -> None:
    source = script("""
class G(Ghost):
    def startup(self):
        while True: time.sleep(60)
    def hangup(self):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
g = G(pidfile="d.pid", logfile="d.log")
""")
    with Daemon(source) as d:
        d.start()
        pid = d.pid
        d.signal(signal.SIGHUP)
        d.wait_for(lambda: not os.path.exists(f"/proc/{pid}"), limit=5)


def test_an_asynchronous_hook_is_refused_as_a_method_too() -> None:
    source = script(f"""
class G(Prefork):
    async def init(self): pass
    def spirit(self): self.tick()
g = G({POOL})
""")
    with Daemon(source) as d:
        assert "asynchronous" in d.ctrl("start").stderr


def test_a_child_of_a_plain_ghost_has_plain_signals() -> None:
    source = script("""
import multiprocessing
def startup(self):
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    worker.terminate()
    worker.join()
    self.log.info("ended by %d", worker.exitcode)
    while self.wait(60): pass
g = Ghost(pidfile="d.pid", logfile="d.log", startup=startup)
""")
    with Daemon(source) as d:
        d.start()
        d.wait_for_line("ended by -15")


def test_very_long_waits_are_waits() -> None:
    source = script("""
def startup(self):
    self.log.info("waiting")
    self.wait(300 * 86400)
    self.log.info("done")
g = Ghost(pidfile="d.pid", logfile="d.log", startup=startup, start_timeout=3e7)
""")
    with Daemon(source) as d:
        d.start()
        d.wait_for_line("waiting")
        d.ctrl("stop")
        assert "done" in d.log_text()
