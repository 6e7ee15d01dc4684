"""Logs of real daemons: many processes, rotation, syslog, full disks, user code."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import time
from pathlib import Path

import pytest
from tests.process.scripts import ghost, pool

from ghostd.testing import Daemon

LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{5}\] \[(\d+)\] \[(\w+)\] (.*)")


def test_lines_of_all_processes_are_whole() -> None:
    """F18: 100 lines of 10 kB by each of four spirits, while the log is rotated."""
    members = """
    def spirit(self):
        self.tick()
        for number in range(100):
            self.log.info("%d-%d %s", self.slot, number, str(self.slot) * 10_000)
        self.log.info("done")
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(members, spirits=4), logfile="d.log") as d:
        d.start()
        d.logfile.rename(d.folder / "d.log.1")
        d.signal(signal.SIGUSR1)
        d.wait_for(lambda: _done(d) == 4)
        lines = [x for f in _files(d) for x in f.read_text().splitlines()]
        numbers = []
        for line in lines:
            match = LINE.fullmatch(line)
            assert match, line[:80]
            if body := re.fullmatch(r"(\d)-(\d+) (\d+)", match[3]):
                assert len(body[3]) == 10_000
                assert set(body[3]) == {body[1]}
                numbers.append((int(body[1]), int(body[2])))
        assert sorted(numbers) == [(s, n) for s in range(4) for n in range(100)]


def _files(d: Daemon) -> list[Path]:
    return sorted(d.folder.glob("d.log*"))


def _done(d: Daemon) -> int:
    return sum(f.read_text().count("] done\n") for f in _files(d))


def test_logging_of_user_code_lands_in_the_same_place() -> None:
    head = "import logging\n"
    members = """
    def init(self):
        logging.getLogger("ghostd.service").warning("init by %s", "logging")
    def spirit(self):
        self.tick()
        try:
            raise ValueError("in the spirit")
        except ValueError:
            logging.getLogger("ghostd.service.part").exception("caught")
        while self.tick():
            self.wait(5)
    """
    with Daemon(pool(members, head=head, spirits=1)) as d:
        d.start()
        d.wait_for_line("[warn] init by logging")
        d.wait_for_line(f"[{d.spirits[0]}] [error] caught")
        d.wait_for(lambda: "    ValueError: in the spirit" in d.log_text())


def test_a_level_hides_what_is_below() -> None:
    with Daemon(pool(loglevel="warn")) as d:
        d.start()
        killed = d.kill_spirit()
        d.wait_for_line("[error]", f"Spirit {killed} died")
        d.stop()
        levels = {LINE.fullmatch(line)[2] for line in d.log_lines()}  # type: ignore[index]
        assert levels == {"error"}


def test_a_full_disk_costs_lines_and_never_the_daemon() -> None:
    """F14: /dev/full behind a link, then a file again."""
    with Daemon(pool(), logfile="d.log") as d:
        (d.folder / "d.log").symlink_to("/dev/full")
        ended = d.ctrl("start")
        assert ended.returncode == 0, ended.stderr
        d.kill_spirit()
        d.wait_for(lambda: len(d.spirits) == 2)
        d.logfile.unlink()
        d.kill_spirit()
        d.wait_for_line("log lines were lost")
        d.wait_for_line("killed by SIGKILL")


def test_a_handle_of_ones_own() -> None:
    head = "stream = open('own.log', 'a')\n"
    script = ghost(head=head).replace("logfile='d.log'", "loghandle=stream")
    with Daemon(script, logfile="own.log") as d:
        d.start()
        d.stop()
        assert d.log_lines("[info] Ghost process", "started")
        assert d.log_lines("[info] Ghost process", "stopped")


def test_a_logger_of_ones_own() -> None:
    head = """
    class Mine:
        def write(self, word, text):
            with open(PATH, "a") as file:
                file.write(f"{word}: {text}\\n")
        def debug(self, text): self.write("DEBUG", text)
        def info(self, text): self.write("INFO", text)
        def error(self, text): self.write("ERROR", text)
    PATH = os.path.abspath("own.log")
    """
    script = pool(head=head).replace("logfile='d.log'", "logger=Mine()")
    with Daemon(script, logfile="own.log") as d:
        d.start()
        d.kill_spirit()
        d.wait_for_line("ERROR: Spirit", "died: killed by SIGKILL")
        d.stop()
        assert d.log_lines("INFO: Manager", "stopped")


SYSLOG = """
from ghostd import targets
targets.SYSLOG_SOCKETS = (os.path.abspath("dev-log"),)
"""


def test_syslog_of_a_daemon_that_outlives_its_service() -> None:
    script = pool(head=SYSLOG, ident="jobs", facility="daemon")
    script = script.replace("logfile='d.log', ", "")
    with Daemon(script) as d:
        where = str(d.folder / "dev-log")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
            service.bind(where)
            d.start()
            assert select.select([service], [], [], 10)[0]
            line = service.recv(65536)
            assert re.match(
                rb"<30>\w{3} [ \d]\d [\d:]{8} jobs\[\d+\]: Ghost process", line
            )
        os.unlink(where)
        d.kill_spirit()
        d.wait_for(lambda: len(d.spirits) == 2)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
            service.bind(where)
            d.kill_spirit()
            service.settimeout(10)
            while b"killed by SIGKILL" not in service.recv(65536):
                pass


def test_a_syslog_service_that_stops_reading_hangs_nobody() -> None:
    members = """
    def heartbeat(self, pid):
        for _ in range(20):
            self.log.info("talkative")
    """
    script = pool(members, head=SYSLOG).replace("logfile='d.log', ", "")
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with Daemon(script) as d, unix as service:
        service.bind(str(d.folder / "dev-log"))
        d.start()
        killed = d.kill_spirit()
        d.wait_for(lambda: len(d.spirits) == 2 and killed not in d.spirits)
        began = time.monotonic()
        d.stop()
        assert time.monotonic() - began < 5


@pytest.mark.root
def test_syslog_at_its_real_place(request: pytest.FixtureRequest) -> None:
    script = ghost(ident="ghostd-test").replace("logfile='d.log', ", "")
    folder = os.open("/dev", os.O_RDONLY)
    request.addfinalizer(lambda: os.close(folder))
    fcntl.flock(folder, fcntl.LOCK_EX)  # another Python may run the same test
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        try:
            service.bind("/dev/log")
        except OSError:
            pytest.skip("a real syslog is there")
        service.settimeout(10)
        try:
            with Daemon(script) as d:
                d.start()
                ours = b"ghostd-test[%d]: Ghost process" % d.pid
                while ours not in service.recv(65536):
                    pass  # a line of somebody else on this machine
        finally:
            os.unlink("/dev/log")
