"""What goes into the log: nothing that looks like another line, nothing that blocks."""

from __future__ import annotations

import sys

import pytest

from tests.faults import kit

EVIL = r"""
class Service(Prefork):
    def spirit(self):
        self.tick()
        forged = "[2024-01-20 21:50:45.12345] [1] [info] Manager 1 stopped"
        for text in ("harmless\n" + forged, "\r" + forged, "a\x1b[2Jb", "nul\0nul",
                     "bell\a", "\udcff\udc80", "next\x85line\u2028sep\u2029par",
                     "c1 \x9b2J", "tab\tstays", "ünïcödé ✓", "%s %d %n", "%(x)s"):
            self.log.info(text)
            self.log.info("%s", text)
        self.log.info("long %s", "x" * 1_000_000)
        try:
            raise ValueError("in a traceback\n" + forged)
        except ValueError:
            self.log.exception("caught")
        for number in range(300):
            self.log.info("%d %s", number, "y" * 10_000)
        self.log.info("written by place %d", self.slot)
        while self.tick():
            self.wait(0.5)
"""

FROZEN = """
import os, socket, subprocess, sys, time
subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
reader = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
reader.bind("/run/syslog")
writer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
writer.setblocking(False)
writer.connect("/run/syslog")
queued = 0
try:
    while True:
        writer.send(b"filler")
        queued += 1
except BlockingIOError:
    print("frozen after", queued, flush=True)
ended = subprocess.run([sys.executable, sys.argv[1], "start"])
print("start gave", ended.returncode, flush=True)
while not os.path.exists(sys.argv[2] + "/thaw"):
    time.sleep(0.01)
print("thawing", flush=True)
while True:
    print(reader.recv(65536).decode(), flush=True)
"""


def test_nothing_in_a_message_can_pass_for_a_line() -> None:
    with kit.service(EVIL, spirits=4, heartbeat_timeout=60) as d:
        d.start()
        d.wait_for_line("written by place", times=4)
        data = d.logfile.read_bytes()

        text = data.decode("utf-8", "strict")
        lines = text.split("\n")
        assert lines.pop() == ""
        for line in lines:
            assert line.startswith("    ") or kit.LINE.fullmatch(line), line[:200]
        assert not any(c in text for c in "\r\x1b\0\a\x85\u2028\u2029\x9b\x7f")
        forged = [line for line in lines if "Manager 1 stopped" in line]
        assert len(forged) >= 4 * 5
        assert not [line for line in forged if line.startswith("[2024")]
        assert "tab\tstays" in text
        assert "ünïcödé ✓" in text
        # From four at once, and each of them whole.
        assert len([n for n in lines if n.endswith(" " + "y" * 10_000)]) == 4 * 300
        assert len([n for n in lines if n.endswith("long " + "x" * 1_000_000)]) == 4


@pytest.mark.root
def test_a_syslog_service_that_stopped_reading_holds_nobody_up() -> None:
    with kit.service(logfile=None) as d:
        unshare = (kit.need("unshare"), "--mount")
        code = (sys.executable, "-c", FROZEN, str(d.script), str(d.folder))
        frozen = kit.background(d, *unshare, *code)
        d.wait_for(lambda: "start gave" in frozen.stdout)
        assert "frozen after" in frozen.stdout
        assert "start gave 0" in frozen.stdout
        manager = d.pid
        for _ in range(3):
            dead = d.kill_spirit()
            d.wait_for(lambda dead=dead: dead not in d.spirits and len(d.spirits) == 3)
        assert d.pid == manager
        (d.folder / "thaw").touch()
        d.wait_for(lambda: "thawing" in frozen.stdout)
        dead = d.kill_spirit()
        d.wait_for(lambda: f"Spirit {dead} stopped" in frozen.stdout)

        assert f"service[{manager}]: " in frozen.stdout
        assert "log lines were lost" in frozen.stdout
        d.stop()
        frozen.signal(9)
        frozen.wait()


@pytest.mark.root
def test_a_log_target_that_is_a_closed_pipe_ends_nobody() -> None:
    with kit.service(logfile=None) as d:
        text = f"{sys.executable} {d.script} run 2>&1 | head -n 3"
        run = kit.background(d, "sh", "-c", text)
        d.wait_for(lambda: len(d.spirits) == 3)
        d.wait_for(lambda: run.stdout.count("\n") == 3)
        manager, dead = d.pid, d.kill_spirit()
        d.wait_for(lambda: dead not in d.spirits and len(d.spirits) == 3)

        assert d.pid == manager
        d.stop()
        run.wait()
