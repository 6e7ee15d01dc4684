"""Real daemons by the command: applications, named configurations, exit codes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests import helpers
from tests.cli.kit import STARLETTE, Typed

README = (Path(__file__).parents[2] / "README.md").read_text()

JOBS = """
from ghostd import Prefork

class Jobs(Prefork):
    def again(self, *, queue="none", **rest):
        self.queue = queue
        return self

    def spirit(self):
        self.log.info("works for %s", self.queue)
        while self.tick():
            self.wait(1)
"""

QUICK = """
term = "immediate"
spirits = 1
listen = "127.0.0.1:PORT"
logfile = "it.log"
keepalive_drain = 0
"""


@pytest.mark.parametrize(("name", "number"), [("Starlette", 1), ("Flask", 2)])
def test_an_application_is_served_as_the_readme_says(name: str, number: int) -> None:
    typed = re.findall(r"^\$ ghostd (serve .*)$", README, re.MULTILINE)[number - 1]
    app = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[number]
    module = typed.split()[1].partition(":")[0]
    with Typed({f"{module}.py": app}) as d:
        here = typed.replace("0.0.0.0:8000", f"127.0.0.1:{d.port}")
        served = d.background(*here.split())
        d.until(f"Hello from {name}\n")

        d.wait_for(lambda: len(d.spirits) == 4)
        assert d.pidfile.name == f"{module}.pid"
        assert served.pid == d.pid
        assert served.stdout == ""
        served.signal(signal.SIGQUIT)
        assert served.wait() == 0
        assert '"GET / HTTP/1.1" 200' in served.stderr


WITNESS = """
import sys
from ghostd.http import HttpServer

class Server(HttpServer):
    def cleanup(self, scope):
        with open("modules", "w") as file:
            file.write(" ".join(sys.modules))
"""


def test_the_manager_has_nothing_that_reads_command_lines_or_serves() -> None:
    text = QUICK + "target = 'witness:Server'\nkeywords = {app = 'shop:app'}"
    files = {"shop.py": STARLETTE, "witness.py": WITNESS, "ghostd.toml": text}
    with Typed(files) as d:
        served = d.background("run")
        d.until("one")
        served.signal(signal.SIGQUIT)
        assert served.wait() == 0

        modules = (d.folder / "modules").read_text().split()
        assert "ghostd.manager" in modules
        counted = "coverage" in modules  # which reads pyproject.toml in each process
        for name in ("click", "tomllib", "difflib", "uvicorn", "asyncio", "shop"):
            assert name not in modules or (counted and name == "tomllib")


def test_ctrl_c_ends_it() -> None:
    with Typed({"shop.py": STARLETTE, "ghostd.toml": QUICK + "app='shop:app'"}) as d:
        served = d.background("serve", terminal=True)
        d.until("one")
        served.type("\x03")
        assert served.wait() == 0


def test_a_named_configuration_has_all_commands() -> None:
    with Typed({"shop.py": STARLETTE, "ghostd.toml": QUICK + "app='shop:app'"}) as d:

        def said(*words: str) -> tuple[int, str]:
            ended = d.ghostd(*words)
            assert not ended.stderr
            return ended.returncode, ended.stdout

        assert said("status") == (3, "Not running\n")
        assert said("check") == (0, "All is well\n")
        assert said("start") == (0, f"Running {d.pid}\n")
        assert d.ask() == "one"
        assert said("status", "shop") == (0, f"Running {d.pid}\n")
        d.write("shop.py", STARLETTE.replace("one", "two"))
        code, words = said("reload")
        assert (code, words.split()[-1]) == (0, str(d.pid))
        d.until("two")
        before = d.pid
        assert said("restart") == (0, "Restart successful\n")
        assert d.pid != before
        pid = d.pid
        assert said("stop") == (0, f"Stopped {pid}\n")


def test_the_application_has_the_variables_of_its_file() -> None:
    app = STARLETTE.replace('"one"', 'os.environ["A"] + os.environ["B"]')
    text = QUICK + "app='shop:app'\nenv_file='shop.env'"
    files = {
        "shop.py": f"import os\n{app}",
        "ghostd.toml": text,
        "shop.env": "A=a\nB=b",
    }
    with Typed(files, {"B": "c"}) as d:
        assert d.ghostd("start").returncode == 0
        assert d.ask() == "ac"


def test_without_a_configuration_a_daemon_is_known_by_its_name() -> None:
    with Typed({"shop.py": STARLETTE}) as d:
        listen = f"127.0.0.1:{d.port}"
        words = ("--listen", listen, "--logfile", "it.log", "--term", "immediate")
        d.ghostd("serve", "shop:app", "--daemon", *words)
        assert d.ask() == "one"

        for name in ("shop", "shop:app"):
            assert d.ghostd("status", name).stdout == f"Running {d.pid}\n"
        assert d.ghostd("reload", "shop", "--no-wait").returncode == 0
        assert d.ghostd("stop", "shop").stdout.startswith("Stopped ")
        ended = d.ghostd("reload", "shop")
        assert (ended.returncode, ended.stderr) == (1, "Not running\n")


def test_several_daemons_in_one_file() -> None:
    several = """
    term = "immediate"
    spirits = 1
    [daemon.mail]
    target = "jobs:Jobs"
    logfile = "mail.log"
    keywords = {queue = "mail"}
    [daemon.print]
    target = "jobs:Jobs"
    logfile = "print.log"
    """
    with Typed({"jobs.py": JOBS, "ghostd.toml": several}) as d:
        started = d.ghostd("start")
        assert started.returncode == 0
        names = [line.split(":")[0] for line in started.stdout.splitlines()]
        assert names == ["mail", "print"]
        assert d.ghostd("stop", "print").returncode == 0

        status = d.ghostd("status")
        assert status.returncode == 3
        assert "mail: Running " in status.stdout
        assert "print: Not running\n" in status.stdout
        assert "works for mail" in (d.folder / "mail.log").read_text()
        assert d.ghostd("stop").returncode == 0


def test_broken_code_keeps_nobody_from_a_stop() -> None:
    text = "target='jobs:Jobs'\nlogfile='it.log'\nterm='immediate'"
    with Typed({"jobs.py": JOBS, "ghostd.toml": text}) as d:
        d.ghostd("start")
        d.write("jobs.py", "def (")

        status = d.ghostd("status")
        assert (status.returncode, status.stdout) == (0, f"Running {d.pid}\n")
        assert "SyntaxError" in status.stderr
        assert d.ghostd("restart").returncode == 1
        pid = d.pid
        assert d.ghostd("stop").stdout == f"Stopped {pid}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("app='shop:app'\ngroup='nobody-knows'", "no group"),
        ("app='shop:app'\npidfile='no/such/folder/x.pid'", "x.pid cannot be created"),
        ("app='nothing:app'", "No module named 'nothing'"),
        ("app='shop:nothing'", "has no 'nothing'"),
        ("app='broken:app'", "SyntaxError"),
        ("app='exits:app'", "SystemExit"),
        ("target='exits:It'", "its module exits, with 0"),
        ("target='number:n'", "is a int, not a Ghost"),
        ("target='crashes:It'", "killed by SIGSEGV"),
        ("app='hangs:app'\nboot_timeout=0.3", "loading took longer than 0.3 seconds"),
    ],
)
def test_check_says_what_is_wrong(text: str, words: str) -> None:
    files = {
        "ghostd.toml": text,
        "shop.py": STARLETTE,
        "broken.py": "def (",
        "number.py": "n = 7",
        "exits.py": "raise SystemExit(0)",
        "crashes.py": "import os; os.kill(os.getpid(), 11)",
        "hangs.py": "import time; time.sleep(99)",
    }
    with Typed(files) as d:
        ended = d.ghostd("check")

        assert ended.returncode > 0
        assert words in ended.stderr
        assert ended.stdout == ""


@pytest.mark.root
def test_check_loads_the_application_with_the_rights_of_the_spirits() -> None:
    app = (
        "import os\nprint('as', os.getuid())\nasync def app(scope, receive, send): ..."
    )
    text = "app='shop:app'\nuser='nobody'"
    with Typed({"shop.py": app, "ghostd.toml": text}) as d:
        ended = d.ghostd("check")

        if helpers.may_enter(os.__file__):
            assert ended.stdout == f"as {helpers.NOBODY}\nAll is well\n"
        else:
            # Neither may the spirits of such a daemon, and that is what it is to find.
            assert (ended.returncode, "as 0" in ended.stdout) == (1, False)


def test_a_start_that_fails_says_why() -> None:
    text = QUICK + "app='broken:app'"
    with Typed({"broken.py": "def (", "ghostd.toml": text}) as d:
        ended = d.ghostd("start")

        assert ended.returncode == 1
        assert "SyntaxError" in ended.stderr
