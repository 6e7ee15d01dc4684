"""Reloads of real daemons: who asks is told; broken code replaces nobody."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

import pytest
from tests.faults import kit

from ghostd.testing import Daemon
from ghostd.unix import callers

BODY = """
class Service(Prefork):
    def spirit(self):
        with open(os.path.join(HERE, "mood")) as file:
            mood = file.read()
        if mood == "broken":
            raise RuntimeError("the new code is broken")
        if mood == "exits":
            sys.exit("no database here")
        if mood == "hangs":
            signal.pause()
        self.tick()
        if mood == "short":
            time.sleep(0.05)
            os._exit(3)
        while self.tick():
            self.wait(0.2)
"""
QUICK: dict[str, object] = {
    "canary_time": 0.2,
    "boot_timeout": 0.5,
    "graceful_timeout": 1,
}


def service(body: str = BODY, **settings: object) -> Daemon:
    return kit.service(body, **{**QUICK, **settings})


def feel(d: Daemon, mood: str) -> None:
    (d.folder / "mood").write_text(mood)


def ask(d: Daemon, line: bytes) -> list[dict[str, Any]]:
    """Say a line at the desk; give the answers until it hangs up."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(d.folder / "service.ctl"))
        sock.sendall(line)
        heard = b""
        while data := sock.recv(65536):
            heard += data
    return [json.loads(each) for each in heard.splitlines()]


def test_a_reload_waits_until_everybody_is_replaced() -> None:
    with service() as d:
        feel(d, "fine")
        kit.up(d)
        before = d.spirits

        done = d.ctrl("reload")

        assert (done.returncode, done.stdout) == (0, f"Reloading {d.pid}\n")
        status = ask(d, b'{"ghostd": 1, "do": "status"}\n')[0]["status"]
        young = [m for m in status["members"] if m["generation"] == 1]
        assert {m["phase"] for m in young} == {"alive"}
        assert len(young) == 3
        assert not set(before) & {m["pid"] for m in young}


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("broken", "RuntimeError: the new code is broken"),
        ("exits", "no database here"),
        ("hangs", "is not ready after 0.5 seconds"),
        ("short", "exit code 3"),
    ],
)
def test_broken_code_replaces_nobody_and_the_reason_is_told(
    mood: str, reason: str
) -> None:
    with service() as d:
        feel(d, "fine")
        kit.up(d)
        before = d.spirits
        feel(d, mood)

        failed = d.ctrl("reload")

        assert failed.returncode == 1
        assert "service was not reloaded: " in failed.stderr
        assert reason in failed.stderr
        d.wait_for(lambda: d.spirits == before, what="the canary's end")
        assert d.log_lines("Generation 1 is dropped, generation 0 goes on")

        feel(d, "fine")

        assert d.ctrl("reload").returncode == 0
        d.wait_for(lambda: not set(before) & set(d.spirits), what="the old ones' end")


def test_a_reload_during_a_reload_supersedes_it() -> None:
    with service(boot_timeout=30) as d:
        feel(d, "fine")
        kit.up(d)
        feel(d, "hangs")
        first = d.run_foreground("reload")
        d.wait_for(lambda: bool(d.log_lines("Generation 1 is on trial")))
        feel(d, "fine")

        assert d.ctrl("reload").returncode == 0

        assert first.wait() == 1
        assert "another reload has begun" in first.stderr


def test_a_stop_during_a_reload_ends_it() -> None:
    with service(boot_timeout=30) as d:
        feel(d, "fine")
        kit.up(d)
        feel(d, "hangs")
        reload = d.run_foreground("reload")
        d.wait_for(lambda: bool(d.log_lines("Generation 1 is on trial")))

        d.stop()

        assert reload.wait() == 1
        assert "the daemon is stopping" in reload.stderr


def test_a_killed_manager_ends_the_wait() -> None:
    with service(boot_timeout=30) as d:
        feel(d, "fine")
        kit.up(d)
        feel(d, "hangs")
        reload = d.run_foreground("reload")
        d.wait_for(lambda: bool(d.log_lines("Generation 1 is on trial")))
        spirits = d.spirits

        d.signal(signal.SIGKILL)

        assert reload.wait() == 1
        assert "the daemon ended before the reload did" in reload.stderr
        d.wait_for(lambda: not any(os.path.exists(f"/proc/{p}") for p in spirits))
        feel(d, "fine")
        kit.up(d)  # the dead one's socket is in nobody's way


def test_a_signal_by_name_is_sent_and_not_waited_for() -> None:
    with service(boot_timeout=30) as d:
        feel(d, "fine")
        kit.up(d)
        feel(d, "hangs")

        d.signal(signal.SIGHUP)

        d.wait_for(lambda: bool(d.log_lines("Generation 1 is on trial")))
        assert len(d.spirits) == 4


def test_without_a_desk_a_reload_is_a_signal() -> None:
    with service(control="") as d:
        feel(d, "fine")
        kit.up(d)

        done = d.ctrl("reload")

        assert done.returncode == 0
        assert not (d.folder / "service.ctl").exists()
        d.wait_for(lambda: bool(d.log_lines("Generation 1 has replaced all others")))


def test_a_desk_that_cannot_be_opened_is_no_reason_not_to_start() -> None:
    with service(control="nowhere/at.all") as d:
        feel(d, "fine")
        kit.up(d)

        assert d.log_lines("Control socket", "nowhere/at.all cannot be opened")
        assert d.ctrl("reload").returncode == 0


def test_a_hangup_that_replaces_nobody_is_done_at_once() -> None:
    body = BODY + "    def hangup(self):\n        self.log.info('hung up')\n"
    with service(body) as d:
        feel(d, "fine")
        kit.up(d)
        before = d.spirits

        assert d.ctrl("reload").returncode == 0

        assert d.log_lines("hung up")
        assert d.spirits == before


@pytest.mark.parametrize(
    ("line", "failed"),
    [
        (b"hello\n", "say one line of JSON, version 1"),
        (b"[]\n", "say one line of JSON, version 1"),
        (b'{"ghostd": 2, "do": "reload"}\n', "say one line of JSON, version 1"),
        (b'{"ghostd": 1, "do": "dance"}\n', "do is 'dance', allowed: reload, status"),
        (b"[" * 4000 + b"\n", "say one line of JSON, version 1"),
        (b"\xff\xfe\n", "say one line of JSON, version 1"),
    ],
)
def test_nonsense_is_answered(line: bytes, failed: str) -> None:
    with service() as d:
        feel(d, "fine")
        kit.up(d)

        assert ask(d, line) == [{"ghostd": 1, "failed": failed}]


def test_crowds_and_the_silent_hold_nobody_up() -> None:
    with service() as d:
        feel(d, "fine")
        kit.up(d)
        path = str(d.folder / "service.ctl")
        silent = [callers.call(path) for _ in range(20)]
        for _ in range(100):
            callers.call(path).close()

        status = ask(d, b'{"ghostd": 1, "do": "status"}\n')[0]["status"]

        assert status["ready"]
        assert status["healthy"] == 3
        for sock in silent:
            sock.close()


def test_a_spirit_that_wants_to_is_replaced_by_its_successor_first() -> None:
    body = """
class Service(Prefork):
    def spirit(self):
        self.tick()
        if self.generation == 0 and not os.path.exists(f"{HERE}/{self.slot}"):
            open(f"{HERE}/{self.slot}", "w").close()
            self.retire("it has had enough")
        while self.tick():
            self.wait(0.2)
"""
    with service(body) as d:
        d.start()

        d.wait_for_line("is to be replaced: it has had enough", times=3)
        d.wait_for_line("Spirit", "stopped", times=3)
        d.wait_for(kit.healthy(d))


def test_so_many_ticks_are_enough() -> None:
    body = """
class Service(Prefork):
    def spirit(self):
        while self.tick():
            self.wait(0.01)
"""
    with service(body, max_ticks=20, spirits=1, jitter=0) as d:
        d.start()

        d.wait_for(lambda: bool(d.log_lines("to be replaced: it has ticked 20 times")))
        d.wait_for(lambda: bool(d.log_lines("Spirit", "stopped")))


def test_old_age_is_enough() -> None:
    with service(max_age=0.3, spirits=2) as d:
        feel(d, "fine")
        d.start()

        d.wait_for(lambda: len(d.log_lines("is to be replaced: it is")) >= 2)
        d.wait_for(lambda: len(d.log_lines("Spirit", "stopped")) >= 2)


def test_too_much_memory_is_enough() -> None:
    body = """
class Service(Prefork):
    def spirit(self):
        if self.slot == 0 and not os.path.exists(f"{HERE}/big"):
            open(f"{HERE}/big", "w").close()
            self.ballast = b"x" * (100 << 20)
        while self.tick():
            self.wait(0.2)
"""
    with service(body, max_memory="90M", jitter=0) as d:
        d.start()

        line = d.wait_for_line("is to be replaced: it has", "MiB, allowed 90")

        d.wait_for_line("Spirit", "stopped")
        assert d.log_lines("is to be replaced") == [line]


def test_a_graceful_stop_is_delayed_while_the_desk_says_not_ready() -> None:
    with service(drain_delay=0.5) as d:
        feel(d, "fine")
        kit.up(d)
        before = d.spirits

        d.signal(signal.SIGQUIT)

        d.wait_for(
            lambda: not ask(d, b'{"ghostd": 1, "do": "status"}\n')[0]["status"]["ready"]
        )
        assert d.spirits == before
        d.wait_for(lambda: not d.spirits)
