"""What the tests of molds share: a service that loads an application from a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ghostd.testing import Daemon
from tests.faults import kit

BODY = """
class Service(Prefork):
    def load(self):
        global app
        import app

    def spirit(self):
        self.log.info("place %d has version %s", self.slot, app.VERSION)
        while self.tick():
            self.wait(0.5)
"""

APP = """
import logging, os
logging.getLogger("ghostd.service").info("imported by %d", os.getpid())
VERSION = "{version}"
"""


def service(
    app: str = "", *, body: str = BODY, version: str = "one", **settings: object
) -> Daemon:
    """Make a daemon with `preload`, over an application that may do more."""
    given = {"preload": True, "canary_time": 0.05, "logger": None, **settings}
    env = {"PYTHONDONTWRITEBYTECODE": "1", **given.pop("env", {})}  # type: ignore[dict-item]  # ours
    d = kit.service(body, env=env, **given)
    return _WithApp(d, app, version)


class _WithApp(Daemon):
    """A daemon in whose folder there is an application from the beginning."""

    def __init__(self, d: Daemon, app: str, version: str) -> None:
        vars(self).update(vars(d))
        self._app = (app, version)

    def __enter__(self) -> Daemon:  # type: ignore[override]  # of no use to tests
        d = super().__enter__()
        deploy(d, *self._app)
        return d


def deploy(d: Daemon, app: str = "", version: str = "one") -> None:
    """Put new code in the place of the old, in one step."""
    path = d.folder / "app.py"
    new = d.folder / "app.py.tmp"
    new.write_text(APP.format(version=version) + app)
    os.replace(new, path)


def up(d: Daemon, number: int = 3) -> int:
    """Start it, wait until it is complete, and an embryo in stock; give its pid."""
    kit.up(d, number)
    d.wait_for(stocked(d))
    return d.pid


def stocked(d: Daemon) -> Callable[[], bool]:
    """Make a condition: there is one mold, and it has made a spare embryo."""
    return lambda: len(d.molds) == 1 and len(d.embryos) == 1


def versions(d: Daemon, version: str) -> int:
    """Count the spirits that had this version."""
    return len(d.log_lines(f"has version {version}"))


def replace(d: Daemon) -> int:
    """Kill a spirit and wait for its successor; give the dead one's pid."""
    number = len(d.spirits)
    dead = d.kill_spirit()
    d.wait_for(lambda: dead not in d.spirits and kit.healthy(d, number)())
    return dead


def took(since: float) -> float:
    """Give the seconds that went by."""
    return time.monotonic() - since
