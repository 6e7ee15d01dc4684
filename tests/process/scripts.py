"""Scripts for real daemons, short to write and quick to run."""

from __future__ import annotations

import textwrap

HEAD = """\
import atexit, os, signal, subprocess, sys, threading, time, traceback
from ghostd import Ghost, Prefork
"""

FAST = {
    "logfile": "d.log",
    "pidfile": "d.pid",
    "heartbeat_interval": 0.1,
    "heartbeat_timeout": 10,
    "graceful_timeout": 5,
    "canary_time": 0,
    "spirits": 2,
}

BODY = """\
def spirit(self):
    while self.tick():
        self.wait(5)
"""

SERVE = """\
def startup(self):
    while self.ok:
        self.wait(5)
"""

IGNORE_QUIT = "signal.signal(signal.SIGQUIT, signal.SIG_IGN)"


def _script(
    base: str, members: tuple[str, ...], head: str, settings: dict[str, object]
) -> str:
    keywords = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    inner = "\n".join(textwrap.dedent(member) for member in members)
    return (
        f"{HEAD}{textwrap.dedent(head)}\n\n"
        f"class G({base}):\n{textwrap.indent(inner, '    ')}\n\n"
        f"if __name__ == '__main__':\n    sys.exit(G({keywords}).ctrl())\n"
    )


def pool(*members: str, head: str = "", **settings: object) -> str:
    """Write a script with a Prefork; without a body of its own it ticks and waits."""
    if not any("def spirit" in member for member in members):
        members = (*members, BODY)
    return _script("Prefork", members, head, {**FAST, **settings})


def ghost(*members: str, head: str = "", **settings: object) -> str:
    """Write a script with a plain Ghost; without a body of its own it waits."""
    if not any("def startup" in member for member in members):
        members = (*members, SERVE)
    plain = {"logfile": "d.log", "pidfile": "d.pid", **settings}
    return _script("Ghost", members, head, plain)
