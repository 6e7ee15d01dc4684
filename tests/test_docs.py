"""What the documentation says exists, runs, and leads somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ghostd
from ghostd.http.settings import HttpSettings
from ghostd.settings import GhostSettings, PoolSettings
from ghostd.testing import Daemon

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "ghostd"
SNIPPETS = ROOT / "docs" / "snippets"
PROGRAMS = [*(ROOT / "examples").glob("*.py"), *SNIPPETS.glob("*.py")]
PAGES = [
    *ROOT.glob("*.md"),
    *(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if "generated" not in page.parts  # compared with the code below
    ),
]

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)


def blocks(page: Path, language: str) -> list[str]:
    """Give the code blocks of a page that are in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)  # noqa: FURB167 - read in one go


def prose(page: Path) -> str:
    """Give a page without its code blocks."""
    fence = re.compile(r"^(```|~~~).*?^\1$", re.MULTILINE | re.DOTALL)
    return fence.sub("", page.read_text())


@each_page
def test_a_python_block_is_a_program_that_the_tests_run(page: Path) -> None:
    programs = [program.read_text() for program in PROGRAMS]
    for block in blocks(page, "python"):
        assert page.name == "CONTRIBUTING.md" or block in programs
        ast.parse(block.replace(": ...", ": pass"))


@each_page
def test_a_link_leads_somewhere(page: Path) -> None:
    text = prose(page)
    included = re.findall(r"\{literalinclude\} (\S+)", page.read_text())
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in [*links, *included]:
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Give the anchors that headings make."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@each_page
def test_a_line_holds_one_sentence(page: Path) -> None:
    for line in prose(page).splitlines():
        plain = re.sub(r"`[^`]*`|\.\.\.", "", line)
        if "|" in line or line.startswith(("    ", "%")):
            continue
        assert not re.search(r"[a-z)][.?!] [A-Z]", plain), line


@each_page
def test_a_page_names_no_machine(page: Path) -> None:
    assert not re.search(r"/(?:root|work|home)/", page.read_text())


def test_each_page_is_in_a_toctree() -> None:
    for folder in (ROOT / "docs").iterdir():
        index = folder / "index.md"
        if index.exists():
            tree = re.search(r"\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL)
            names = tree[1].split() if tree else []
            pages = {page.stem for page in folder.glob("*.md")} - {"index"}
            if "[0-9]*" not in names:
                assert pages <= set(names), folder


def test_decisions_are_numbered_without_a_gap() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))

    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for number, page in enumerate(pages, 1):
        text = page.read_text()
        assert text.startswith(f"# {number}. ")
        for part in (
            "## Context",
            "## Choice",
            "## Alternatives",
            "## What would change",
        ):
            assert part in text, page.name


def generate() -> ModuleType:
    """Load the module that draws pages from the code."""
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_those_that_the_code_makes_now() -> None:
    module = generate()

    assert {path.stem for path in module.FOLDER.iterdir()} == set(module.PAGES)
    for name, page in module.PAGES.items():
        committed = (module.FOLDER / f"{name}.md").read_text()
        assert committed == page(), f"{name}.md is old: run `make docs`, and commit it"


def test_a_readme_daemon_has_twelve_lines() -> None:
    daemon, *_ = blocks(ROOT / "README.md", "python")

    assert daemon == (SNIPPETS / "twelve_lines.py").read_text()
    assert len(daemon.splitlines()) == 12


def test_the_daemon_in_the_readme_does_what_the_readme_shows() -> None:
    daemon, *_ = blocks(ROOT / "README.md", "python")
    with Daemon(daemon, name="twelve.py") as d:
        assert d.start().stdout == f"Running {d.pid}\n"
        d.wait_for_line("at work in place 3")
        dead = d.kill_spirit()
        d.wait_for(lambda: d.healthy == 4 and dead not in d.spirits)
        old = set(d.spirits)
        assert d.ctrl("reload").stdout == f"Reloading {d.pid}\n"
        d.wait_for(lambda: not old & set(d.spirits) and d.healthy == 4)

        pid = d.pid
        assert d.stop().stdout == f"Stopped {pid}\n"


@pytest.mark.parametrize(
    "path", sorted(SNIPPETS.glob("[!t]*.py")), ids=lambda path: path.name
)
def test_a_snippet_runs(path: Path) -> None:
    with Daemon(path) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 4)
        d.wait_for(lambda: d.log_lines("place") or d.log_lines("turning"))


def test_all_of_logging_lands_in_the_log_once() -> None:
    with Daemon(SNIPPETS / "all_logging.py") as d:
        d.start()
        d.wait_for_line("UserWarning: worn out", times=4)

        assert len(d.log_lines("] [info] turning")) == 4
        assert len(d.log_lines("Manager", "started")) == 1


def test_a_file_that_is_closed_in_the_body_loses_nothing() -> None:
    with Daemon(SNIPPETS / "closed_files.py") as d:
        d.start()
        d.wait_for_line("place 3 writes to")
        folder = d.logfile.parent
        d.stop()

        for place in range(4):
            words = (folder / f"place-{place}.txt").read_text().splitlines()
            assert [line.split()[1] for line in words] == ["begins", "ends"]


@pytest.mark.parametrize(
    "path", sorted(SNIPPETS.glob("test_*.py")), ids=lambda path: path.name
)
def test_a_test_in_a_guide_passes(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout


def test_the_unit_gives_spirits_more_time_than_they_have() -> None:
    unit = (SNIPPETS / "ghostd.service").read_text()
    seconds = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])  # type: ignore[index]  # it is there

    assert "KillSignal=SIGQUIT\n" in unit
    assert seconds > ghostd.Prefork(spirit=print).graceful_timeout


# -- coming from elsewhere -----------------------------------------------------

MOVES = [ROOT / "docs/how-to" / f"from-{name}.md" for name in ("gunicorn", "uvicorn")]


def ours(page: Path, heading: str) -> Iterator[str]:
    """Give what stands in backquotes in the second column below a heading."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines()[4:]:
        if line.startswith("|"):
            yield from re.findall(r"`([^`]+)`", line.split("|")[2])


@pytest.mark.parametrize("page", MOVES, ids=lambda page: page.stem)
def test_an_option_that_replaces_another_exists(page: Path) -> None:
    named = {word for word in ours(page, "Options") if word.isidentifier()}
    known = {
        field
        for kind in (GhostSettings, PoolSettings, HttpSettings)
        for field in kind.__annotations__
    }

    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize("page", MOVES, ids=lambda page: page.stem)
def test_a_word_of_the_command_line_that_replaces_another_exists(page: Path) -> None:
    command = pytest.importorskip("ghostd.cli.command").program
    words = [word for word in ours(page, "Options") if not word.isidentifier()]
    options = {
        option
        for each in (command, *command.commands.values())
        for parameter in each.params
        for option in parameter.opts
    }

    assert words
    for word in words:
        name, _, rest = word.removeprefix("ghostd ").partition(" ")
        assert {name, rest or name} <= {*options, *command.commands}


def test_a_hook_that_replaces_another_exists() -> None:
    named = set(ours(MOVES[0], "Hooks"))

    assert named
    assert named <= {*ghostd.Prefork.HOOKS, "load"}


# -- ARCHITECTURE.md -----------------------------------------------------------

ARCHITECTURE = ROOT / "ARCHITECTURE.md"


def cells() -> Iterator[str]:
    """Give all that stands in backquotes in the tables, and looks like a path."""
    for line in ARCHITECTURE.read_text().splitlines():
        if line.startswith("|"):
            for word in re.findall(r"`([^`]+)`", line):
                if "/" in word or ".py" in word:
                    yield word


@pytest.mark.parametrize("cell", sorted(set(cells())))
def test_what_the_architecture_names_exists(cell: str) -> None:
    path, _, name = cell.partition(": ")
    found = [base / path for base in (SOURCES, ROOT / "tests", ROOT)]
    assert any(each.exists() for each in found), path
    if name:
        module = ".".join(["ghostd", *Path(path).with_suffix("").parts])
        thing: object = importlib.import_module(module)
        for part in name.split("."):
            thing = inspect.getattr_static(thing, part)


def test_the_layers_are_those_that_the_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "importlinter"
    ]
    layers = next(each for each in contracts["contracts"] if each["id"] == "layers")

    assert "\n".join(layers["layers"]) + "\n" in blocks(ARCHITECTURE, "text")
