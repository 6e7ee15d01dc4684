"""
What a developer sees: the log in colours, errors that fit on a screen, and changes.

This is a process of its own, the only one that has watchfiles, rich and a thread. It
knows nothing of daemons: it reads a pipe, and writes a byte into another when a file
has changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from textwrap import dedent
from typing import Any

import watchfiles
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.text import Text

LINE = re.compile(r"\[\S+ (\d\d:\d\d:\d\d)\.\d+\] \[(\d+)\] \[(\w+)\] (.*)", re.DOTALL)
COLOURS = {
    "trace": "dim",
    "debug": "dim",
    "info": "green",
    "notice": "cyan",
    "warn": "yellow",
}
OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
OUR_FRAME = re.compile(
    rf'^  File "{re.escape(OURS)}[^\n]*\n(?:    [^\n]*(?:\n|\Z))*', re.MULTILINE
)
NO_FRAMES = re.compile(
    r"^Traceback \(most recent call last\):\n(?!  File )", re.MULTILINE
)
CAUSE = "\n\nThe above exception was the direct cause of the following exception:\n\n"
CALM = 0.02
"""Seconds without another line after which a record counts as whole."""

STEP = 50
"""Milliseconds without another change after which a change counts as whole."""

FIRST = 100
"""Milliseconds after which watching has surely begun; it wakes up as often anyway."""

FEWEST_LINES = 16
OTHER_LINES = 6


class Wanted(watchfiles.DefaultFilter):
    """Which files matter: by default sources, outside of caches and environments."""

    def __init__(self, includes: list[str], excludes: list[str]) -> None:
        """Match names, or paths where a pattern has a slash."""
        super().__init__()
        self._includes = includes
        self._excludes = excludes

    def __call__(self, change: watchfiles.Change, path: str) -> bool:
        """Tell whether a change of *path* matters."""
        folders = path.split(os.sep)
        if any(
            fnmatch(path, pattern) or any(fnmatch(each, pattern) for each in folders)
            for pattern in self._excludes
        ):
            return False
        return super().__call__(change, path) and any(
            fnmatch(path, pattern) or fnmatch(folders[-1], pattern)
            for pattern in self._includes
        )


def show(log: int, change: int, watch: dict[str, Any]) -> int:
    """
    Show what comes out of *log* until it is closed, and write to *change*.

    A byte is written there once it watches, and one for each change.
    """
    console = Console(stderr=True, highlight=False)
    screen = Screen(console)
    over = threading.Event()

    def read() -> None:
        with open(log, "rb", buffering=0):
            for record in records(log):
                with contextlib.suppress(OSError):  # the terminal may be gone
                    screen.draw(record)
        over.set()

    reader = threading.Thread(target=read)
    reader.start()
    folders = watch["folders"]
    wanted = Wanted(watch["includes"], watch["excludes"])
    turns = watchfiles.watch(
        *folders,
        watch_filter=wanted,
        step=STEP,
        stop_event=over,
        rust_timeout=FIRST,
        yield_on_timeout=True,
    )
    next(turns, None)  # by a change or without one: from now on it watches
    console.print(f"[dim]watching {escape(', '.join(folders))}[/]")
    _tell(change)
    for changes in turns:
        if names := sorted({os.path.relpath(path) for _, path in changes}):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            console.print(f"[bold]{escape(names[0])}{more} changed[/]")
            _tell(change)
    reader.join()
    return 0


def _tell(change: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(change, b"!")


def records(fd: int) -> Iterator[str]:
    """Read records: a line, and the lines after it that begin with a blank."""
    left, whole = b"", list[str]()
    while True:
        ready = select.select([fd], [], [], CALM if whole else None)[0]
        if not ready:
            yield "\n".join(whole)
            whole = []
            continue
        data = os.read(fd, 65536)
        *lines, left = (left + data).split(b"\n")
        if not data and left:
            lines, left = [left], b""
        for line in lines:
            text = line.decode(errors="replace")
            if whole and not text.startswith((" ", "\t")):
                yield "\n".join(whole)
                whole = []
            whole.append(text)
        if not data:
            if whole:
                yield "\n".join(whole)
            return


class Screen:
    """Draws records: log lines in colours, anything else as it is."""

    def __init__(self, console: Console) -> None:
        """Draw on *console*."""
        self._console = console
        self._last = ""

    def draw(self, record: str) -> None:
        """Draw a record; a story that was told just before is not told again."""
        found = LINE.fullmatch(record)
        if found is None:
            self._print(Text(fitting(record, self._console.height)))
            return
        at, pid, level, message = found.groups()
        first, *rest = message.split("\n")
        colour = COLOURS.get(level, "bold red")
        self._print(
            Text.assemble((at, "dim"), f" {pid} ", (f"{level:<6} {first}", colour))
        )
        if rest:
            story = said_once(without_ours(dedent("\n".join(rest))), first)
            if story and story != self._last:
                story = fitting(story, self._console.height)
                self._print(Syntax(story, "pytb").highlight(story), end="")
            self._last = story

    def _print(self, text: Text, end: str = "\n") -> None:
        # Wrapping of ours would be in the way of whoever copies a line.
        self._console.print(text, soft_wrap=True, end=end)


def without_ours(story: str) -> str:
    """Leave the frames of ghostd out of a traceback; the mistake is in none of them."""
    return NO_FRAMES.sub("", OUR_FRAME.sub("", story)).strip("\n")


def said_once(story: str, first: str) -> str:
    """Leave out a last exception that has no frames, and whose words stand above."""
    *before, last = story.split(CAUSE)
    said = last.partition(": ")[2]
    return CAUSE.join(before) if before and said and said in first else story


def fitting(text: str, height: int) -> str:
    """Leave out the middle of what does not fit on a screen; the end tells most."""
    lines = text.splitlines()
    room = max(FEWEST_LINES, height - OTHER_LINES)
    if len(lines) <= room:
        return text
    left = len(lines) - room + 1
    return "\n".join([lines[0], f"  ... {left} lines left out ...", *lines[left + 1 :]])
