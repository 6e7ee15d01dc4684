"""What a developer sees: records, colours, and errors that fit on a screen."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("watchfiles")
pytest.importorskip("rich")

import watchfiles
from rich.console import Console

from ghostd.cli import screen

AT = "[2026-01-20 21:50:45.12345] [17]"


def drawn(*records: str, terminal: bool = False, height: int = 25) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=terminal, height=height, width=60, highlight=False
    )
    drawing = screen.Screen(console)
    for record in records:
        drawing.draw(record)
    return stream.getvalue()


def test_a_line_is_short_and_coloured_only_on_a_terminal() -> None:
    assert (
        drawn(f"{AT} [info] Spirit 3 started")
        == "21:50:45 17 info   Spirit 3 started\n"
    )
    assert "\x1b[32m" in drawn(f"{AT} [info] Spirit 3 started", terminal=True)
    assert "\x1b[1;31m" in drawn(f"{AT} [error] Spirit 3 died", terminal=True)


def test_what_is_no_log_line_is_shown_as_it_is() -> None:
    assert drawn("what an application [prints]") == "what an application [prints]\n"
    assert len(drawn("x" * 500).splitlines()) == 1


def test_a_traceback_has_no_frames_of_ours_and_fits() -> None:
    frames = "".join(
        f'      File "/srv/shop.py", line {n}, in f\n        call({n})\n'
        for n in range(60)
    )
    ours = f'      File "{screen.OURS}spirit.py", line 1, in _live\n        hooks()\n'
    record = (
        f"{AT} [error] Spirit 3 failed: ValueError: x\n"
        f"    Traceback (most recent call last):\n{ours}{frames}    ValueError: x"
    )
    lines = drawn(record).splitlines()

    assert lines[0].endswith("Spirit 3 failed: ValueError: x")
    assert lines[1] == "Traceback (most recent call last):"
    assert re.fullmatch(r"  \.\.\. \d+ lines left out \.\.\.", lines[2])
    assert lines[-1] == "ValueError: x"
    assert "spirit.py" not in drawn(record)
    assert len(lines) <= 25 - screen.OTHER_LINES + 1


def test_a_traceback_of_our_frames_alone_leaves_the_words() -> None:
    story = (
        "Traceback (most recent call last):\n"
        f'  File "{screen.OURS}spirit.py", line 1, in _live\n'
        "    hooks()\n"
        "    ^^^^^^^\n"
        "GhostError: no\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "Traceback (most recent call last):\n"
        '  File "/srv/shop.py", line 1, in f\n'
        "    1 / 0\n"
        "ZeroDivisionError"
    )
    assert screen.without_ours(story).splitlines() == [
        "GhostError: no",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "/srv/shop.py", line 1, in f',
        "    1 / 0",
        "ZeroDivisionError",
    ]


def test_what_was_told_is_not_told_again() -> None:
    said = "ApplicationError: cannot import shop:app: SyntaxError: invalid syntax"
    story = (
        f"SyntaxError: invalid syntax{screen.CAUSE}"
        "Traceback (most recent call last):\n"
        f'  File "{screen.OURS}x.py", line 1, in f\n'
        f"    raise\nghostd.http.application.{said}"
    )
    told = story.replace("\n", "\n    ")
    lines = drawn(
        f"{AT} [error] Spirit 3 failed: {said}\n    {told}",
        f"{AT} [error] Generation 2 is dropped: {said}\n    {told}",
    ).splitlines()

    assert lines == [
        f"21:50:45 17 error  Spirit 3 failed: {said}",
        "SyntaxError: invalid syntax",
        f"21:50:45 17 error  Generation 2 is dropped: {said}",
    ]


def test_records_are_whole_and_the_last_one_needs_no_line_feed() -> None:
    read, write = os.pipe()
    os.write(write, b"one\n  more\ntw")
    os.write(write, b"o\nthr\xffee")
    os.close(write)

    assert list(screen.records(read)) == ["one\n  more", "two", "thr\ufffdee"]
    os.close(read)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/srv/shop.py", True),
        ("/srv/page.html", True),
        ("/srv/notes.txt", False),
        ("/srv/__pycache__/shop.py", False),
        ("/srv/.venv/x.py", False),
        ("/srv/build/x.py", False),
        ("/srv/test_shop.py", False),
    ],
)
def test_what_matters(path: str, wanted: bool) -> None:
    chosen = screen.Wanted(["*.py", "*.html"], ["build", "*/test_*"])

    assert chosen(watchfiles.Change.modified, str(Path(path))) == wanted
