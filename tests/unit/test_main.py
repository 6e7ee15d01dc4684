"""python -m ghostd: finding a ghost by its name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostd import Ghost, GhostError, Prefork, __main__

MODULE = """
from ghostd import Ghost, Prefork
class Jobs(Prefork):
    def spirit(self): pass
ready = Jobs(name="ready")
def factory(): return Jobs(name="made")
def wrong(): return 7
def application(environ, start_response): pass
class Space:
    jobs = Jobs
number = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "a_module_of_jobs.py").write_text(MODULE)
    (tmp_path / "a_broken_module.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["x"])
    yield "a_module_of_jobs"
    for name in ("a_module_of_jobs", "a_broken_module"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Jobs", "ready", "factory", "Space.jobs"])
def test_a_class_an_instance_or_a_function(module: str, name: str) -> None:
    assert isinstance(__main__.load(f"{module}:{name}"), Prefork)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}", "not of the form"),
        ("{}:", "not of the form"),
        (":Jobs", "not of the form"),
        ("no_such:Jobs", "no module 'no_such'"),
        ("{}.no:Jobs", "no module"),
        ("{}:None_such", "has no 'None_such'"),
        ("{}:Space.none", "has no 'Space.none'"),
        ("{}:number", "is a int, not a Ghost"),
        ("{}:wrong", "is a int, not a Ghost"),
        ("{}:application", "cannot be called: application.. missing 2 required"),
    ],
)
def test_what_is_no_ghost_is_said(module: str, name: str, words: str) -> None:
    with pytest.raises(GhostError, match=words):
        __main__.load(name.format(module))


def test_a_module_that_cannot_be_imported_shows_why(module: str) -> None:
    assert module
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        __main__.load("a_broken_module:Jobs")


def test_commands(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([f"{module}:Jobs", "status"]) == 3
    assert capsys.readouterr().out == "Not running\n"
    assert __main__.main([f"{module}:Jobs"]) == 1
    assert "Command incorrect" in capsys.readouterr().err
    assert __main__.main([f"{module}:Nothing", "status"]) == 1
    assert "has no 'Nothing'" in capsys.readouterr().err


def test_without_click_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    for words in ([], ["--help"], ["serve", "shop:app"], ["jobs", "start"]):
        assert __main__.main(words) == 1
        usage, hint = capsys.readouterr().err.splitlines()
        assert usage == "usage: ghostd package.module:Class COMMAND"
        assert "pip install 'ghostd[cli]'" in hint


def test_it_is_a_ghost_after_all() -> None:
    assert issubclass(Prefork, Ghost)
