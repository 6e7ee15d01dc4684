"""``--reload``: the code is what the file says, and nothing outlives Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ghostd.testing.daemon import Foreground
from tests.cli.kit import FLASK, STARLETTE, Typed

pytest.importorskip("watchfiles")
pytest.importorskip("rich")

JOBS = """
from ghostd import Prefork

class Jobs(Prefork):
    def spirit(self):
        self.log.info("state one")
        while self.tick():
            self.wait(1)
"""


@contextmanager
def developing(
    text: str, *words: str, terminal: bool = False
) -> Iterator[tuple[Typed, Foreground]]:
    with Typed({"shop.py": text}, pidfile="shop.pid") as d:
        listen = ("--listen", f"127.0.0.1:{d.port}", "--keepalive-drain", "0")
        served = d.background(
            "serve", "shop:app", "--reload", *listen, *words, terminal=terminal
        )
        yield d, served


def shown(served: Foreground) -> str:
    plain = served.screen if served._terminal >= 0 else served.stderr  # noqa: SLF001
    return re.sub(r"\x1b\[[0-9;]*m", "", plain)


def roles(d: Typed, served: Foreground) -> tuple[int, int]:
    """Give the pids of the manager and of the screen."""
    manager = d.pid
    with open(f"/proc/{served.pid}/task/{served.pid}/children") as file:
        (screen,) = {int(word) for word in file.read().split()} - {manager}
    return manager, screen


@pytest.mark.parametrize("app", [STARLETTE, FLASK], ids=["Starlette", "Flask"])
def test_a_change_is_served_and_a_broken_one_is_not(app: str) -> None:
    with developing(app) as (d, served):
        d.until("one")
        d.write("shop.py", app.replace("one", "two"))
        d.until("two")

        d.write("shop.py", app.replace("one", "three") + "def (")
        d.wait_for(lambda: "SyntaxError" in shown(served))
        assert d.ask() == "two"
        d.write("shop.py", app.replace("one", "four"))
        d.until("four")

        served.signal(signal.SIGINT)
        assert served.wait() == 0
        assert 'ghostd/spirit.py"' not in shown(served)


def test_code_that_is_broken_from_the_start_can_be_mended() -> None:
    with developing("import nothing_of_that_name\n") as (d, served):
        d.wait_for(lambda: "waiting for a change" in shown(served))
        assert "No module named 'nothing_of_that_name'" in shown(served)
        d.write("shop.py", STARLETTE)
        d.until("one")

        served.signal(signal.SIGTERM)
        assert served.wait() == 0


def test_ctrl_c_ends_all_at_once() -> None:
    with developing(STARLETTE, "--spirits", "3", terminal=True) as (d, served):
        d.until("one")
        assert len(d.processes) == 1 + 1 + 1 + 3
        assert "\x1b[" in served.screen

        served.type("\x03")
        assert served.wait() == 0
        d.wait_for(lambda: not d.processes)


@pytest.mark.parametrize("who", ["command", "manager", "screen"])
def test_whoever_is_killed_nobody_is_left(who: str) -> None:
    with developing(STARLETTE) as (d, served):
        d.until("one")
        manager, screen = roles(d, served)
        victim = {"command": served.pid, "manager": manager, "screen": screen}[who]
        d.signal(signal.SIGKILL, victim)
        if who == "manager":
            d.wait_for(lambda: "waiting for a change" in shown(served))
            served.signal(signal.SIGINT)
        d.wait_for(lambda: not d.processes)
        assert served.wait() in (-signal.SIGKILL, 137, 1)
        d.pidfile.unlink(missing_ok=True)  # of a manager that was killed


def test_a_stop_from_elsewhere_ends_it() -> None:
    with developing(STARLETTE) as (d, served):
        d.until("one")
        assert d.ghostd("stop", "shop").returncode == 0
        assert served.wait() == 0


def test_a_target_is_started_anew_and_only_with_good_code() -> None:
    text = "target = 'jobs:Jobs'\nspirits = 1\n"
    with Typed({"jobs.py": JOBS, "ghostd.toml": text}) as d:
        run = d.background("run", "--reload")
        d.wait_for(lambda: "state one" in shown(run))
        pid = d.pid
        d.write("jobs.py", JOBS + "def (")
        d.wait_for(lambda: "the old one goes on" in shown(run))
        assert "SyntaxError" in shown(run)
        assert d.pid == pid

        d.write("jobs.py", JOBS.replace("one", "two"))
        d.wait_for(lambda: "state two" in shown(run))
        assert d.pid != pid
        run.signal(signal.SIGQUIT)
        assert run.wait() == 0


def test_only_what_is_wanted_is_watched() -> None:
    with developing(STARLETTE, "--reload-exclude", "test_*") as (d, served):
        d.until("one")
        d.write("notes.txt", "no source")
        d.write("test_it.py", "excluded")
        os.mkdir(d.folder / "node_modules")
        (d.folder / "node_modules" / "x.py").write_text("")
        d.write("shop.py", STARLETTE.replace("one", "two"))
        d.until("two")

        changes = re.findall(
            r"^(\S+)(?: and .*)? changed$", shown(served), re.MULTILINE
        )
        assert set(changes) == {"shop.py"}
        served.signal(signal.SIGINT)
        served.wait()
