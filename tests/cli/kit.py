"""What the tests of the command share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ghostd.cli import command
from ghostd.cli.plan import Plan, Step
from ghostd.testing import Daemon
from ghostd.testing.daemon import Foreground
from tests.http.kit import free_port

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def home(request):
    return PlainTextResponse("one")

app = Starlette(routes=[Route("/", home)])
"""

FLASK = """
from flask import Flask

app = Flask(__name__)

@app.get("/")
def home():
    return "one"
"""


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Be in *folder*, without any variable of ours."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("GHOSTD_")]:
            patch.delenv(name)
        patch.chdir(folder)
        yield


def plan(*words: str) -> Plan:
    """Give what a command line comes to."""
    made = command.main(list(words))
    assert isinstance(made, Plan), made
    return made


def step(*words: str) -> Step:
    """Give the only step of what a command line comes to."""
    (only,) = plan(*words).steps
    return only


class Typed(Daemon):
    """
    A folder in which ``ghostd`` is typed.

    Attributes:
        port: one that nobody listens on.
    """

    def __init__(
        self,
        files: dict[str, str],
        env: dict[str, str | None] | None = None,
        pidfile: str | None = None,
    ) -> None:
        """Take the texts of files by their names; ``PORT`` becomes the port."""
        self._files = files
        self.port = free_port()
        super().__init__(
            "import sys; from ghostd.__main__ import main\n"
            "sys.exit(main([*sys.argv[1:]]))\n",
            name="typed.py",
            env=env,
            pidfile=pidfile,
        )

    def __enter__(self) -> Self:
        """Write the files."""
        super().__enter__()
        for name, text in self._files.items():
            self.write(name, text)
        return self

    def write(self, name: str, text: str) -> None:
        """Write a file at once, as an editor does."""
        text = text.replace("PORT", str(self.port))
        new = self.folder / f".{name}~"
        new.write_text(text)
        new.replace(self.folder / name)

    def ghostd(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type ``ghostd`` and *words*."""
        return self.run(sys.executable, "-m", "ghostd", *words)

    def background(self, *words: str, terminal: bool = False) -> Foreground:
        """Type ``ghostd`` and *words*, for something that goes on."""
        return self.run_foreground(*words, terminal=terminal, python=("-m", "ghostd"))

    def ask(self) -> str:
        """Send a request; "" while nobody answers."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/", timeout=10) as answer:
                return str(answer.read().decode())
        except (URLError, ConnectionError, TimeoutError):
            return ""

    def until(self, answer: str) -> None:
        """Wait until that is answered."""
        self.wait_for(lambda: self.ask() == answer, what=f"the answer {answer!r}")
