"""The manager is small: the standard library, one thread, no event loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ghostd.testing import Daemon

SOURCE = """
import json, sys, threading, os
from ghostd import Prefork

class Lean(Prefork):
    def heartbeat(self, pid):
        names = {name.partition(".")[0] for name in sys.modules}
        threads = len(os.listdir("/proc/self/task"))
        text = json.dumps({"modules": sorted(names), "threads": threads})
        self.log.info("seen " + text)

    def spirit(self):
        while self.wait(3600):
            pass

sys.exit(Lean(spirits=2, pidfile="lean.pid", logfile="lean.log").ctrl())
"""


def test_the_running_manager_has_no_event_loop_no_thread_and_no_foreign_module() -> (
    None
):
    with Daemon(SOURCE) as daemon:
        daemon.start()
        line = daemon.wait_for_line("seen {")

        seen = json.loads(line[line.index("{") :])
        foreign = {
            name
            for name in seen["modules"]
            if name not in sys.stdlib_module_names
            # What an interpreter or a test's environment loads by itself.
            and name not in {"ghostd", "coverage", "sitecustomize", "_virtualenv"}
            and not name.startswith(("__editable__", "_distutils", "a1_coverage"))
        }
        assert seen["threads"] == 1
        assert "asyncio" not in seen["modules"]
        assert "ghostd" in seen["modules"]
        assert foreign <= _loaded_by_a_bare_interpreter(), foreign


def _loaded_by_a_bare_interpreter() -> set[str]:
    code = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_ghostd_loads_neither_an_event_loop_nor_a_socket() -> None:
    code = "import ghostd, sys; print(*sys.modules)"
    source = Path(__file__).parents[2] / "src"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(source), "PATH": ""},
    )

    loaded = set(run.stdout.split())
    assert "ghostd.manager" in loaded
    # Each costs milliseconds that every `status` would pay.
    costly = {
        "asyncio",
        "socket",
        "dataclasses",
        "pathlib",
        "ctypes",
        "inspect",
        "json",
    }
    assert not loaded & (costly - _loaded_by_a_bare_interpreter())
