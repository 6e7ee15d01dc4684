"""What is installed: a typed package without required dependencies."""

from __future__ import annotations

import tomllib
from pathlib import Path

import ghostd

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_nothing_else_is_needed_at_run_time() -> None:
    assert PROJECT["project"].get("dependencies", []) == []


def test_it_is_typed_and_free() -> None:
    assert (ROOT / "src/ghostd/py.typed").is_file()
    assert PROJECT["project"]["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text()


def test_every_public_name_is_there_and_documented() -> None:
    for name in ghostd.__all__:
        assert getattr(ghostd, name).__doc__, name


def test_the_version_stands_once() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert ghostd.__version__ in (ROOT / "CHANGELOG.md").read_text()
