"""The command line: what words and options come to; nothing is started here."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghostd
from ghostd.cli import command, config
from ghostd.cli.plan import Plan
from ghostd.cli.table import TABLE
from ghostd.http.settings import best_loop
from tests.cli import kit

SHOP = "app = 'shop:app'\n"
SEVERAL = "[daemon.a]\napp='a:b'\n[daemon.b]\ntarget='b:B'\nkeywords={queue='x'}\n"
EVERY_SETTING = ("serve", "run", "start", "restart", "check", "config")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with kit.inside(tmp_path):
        yield tmp_path


def options(word: str) -> dict[str, click.Option]:
    found = command.program.commands[word].params
    return {str(each.name): each for each in found if isinstance(each, click.Option)}


# -- options -------------------------------------------------------------------


@pytest.mark.parametrize("word", EVERY_SETTING)
def test_every_setting_is_an_option(word: str) -> None:
    for name, setting in TABLE.items():
        made = options(word)[name]
        words = re.findall(r"\w+", setting.text.lower())

        assert setting.option in made.opts
        assert made.help
        assert re.findall(r"\w+", made.help.lower())[: len(words)] == words
        assert made.multiple == setting.is_list


def test_no_option_is_there_twice() -> None:
    for word in command.program.commands:
        names = [name for each in options(word).values() for name in each.opts]
        assert len(names) == len(set(names))


def test_those_that_speak_to_a_daemon_take_what_they_need() -> None:
    for word in ("stop", "status", "reload"):
        assert set(options(word)) & set(TABLE) == set(command.SPOKEN_TO)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--spirits", "8"], "spirits", 8),
        (["--workers", "auto"], "spirits", "auto"),
        (["--listen", "a:1", "--listen", "b:2,c:3"], "listen", ["a:1", "b:2", "c:3"]),
        (["--preload"], "preload", True),
        (["--no-access-log"], "access_log", False),
        (["--umask", "027"], "umask", 0o027),
        (["--max-memory", "25%"], "max_memory", "25%"),
        (["--headers", "A: b, c"], "headers", ["A: b, c"]),
        (["--control", ""], "control", ""),
    ],
)
def test_an_option_becomes_a_keyword(
    words: list[str], name: str, value: object
) -> None:
    assert kit.step("serve", "shop:app", *words).keywords[name] == value


def test_what_was_not_typed_is_no_keyword(folder: Path) -> None:
    assert kit.step("serve", "shop:app").keywords == {
        "name": "shop",
        "pidfile": f"{folder}/shop.pid",
        "app_dir": str(folder),
        "listen": [config.ADDRESS],
        "loop": best_loop(),
    }


def test_typed_paths_are_relative_to_here(folder: Path) -> None:
    (folder / "etc").mkdir()
    (folder / "etc" / "ghostd.toml").write_text(SHOP)
    made = kit.step("start", "--config", "etc/ghostd.toml", "--logfile", "x.log")

    assert made.keywords["logfile"] == f"{folder}/x.log"
    assert made.keywords["pidfile"] == f"{folder}/etc/shop.pid"
    assert made.keywords["app_dir"] == f"{folder}/etc"


# -- what goes wrong -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stat"], "No such command 'stat'. Did you mean 'start'?"),
        (["xyz"], "No such command 'xyz'; a class is written MODULE:CLASS."),
        (["serve", "--sprits", "4"], "--spirits"),
        (["serve", "a:b", "--spirits", "nan"], "spirits is 'nan', allowed: a whole"),
        (["serve", "a:b", "--umask", "9"], "umask is '9', allowed"),
        (["serve", "a:b", "--term", "now"], "term is 'now', allowed: auto, immediate"),
        (["serve", "a:b", "--reload", "--daemon"], "stays in the foreground"),
        (["serve", "a:b", "--reload-include", "x"], "only with --reload"),
        (["serve", "a:b", "c:d"], "unexpected extra argument"),
        (["stop", "--spirits", "4"], "No such option"),
    ],
)
def test_a_command_line_that_cannot_be_read(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start"], "nothing says what is to run"),
        (["serve"], "ghostd serve MODULE:ATTRIBUTE"),
        (["start", "shop"], "nothing says what 'shop' is"),
        (["serve", "shop:"], "MODULE:ATTRIBUTE: app is 'shop:', allowed: 'module:"),
        (["start", "--config", "none.toml"], "none.toml cannot be read: No such file"),
    ],
)
def test_a_configuration_that_is_not_there(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 1
    assert said in capsys.readouterr().err


def test_a_status_that_cannot_be_told_is_4(folder: Path) -> None:
    (folder / "ghostd.toml").write_text("app = 7")
    assert command.main(["status"]) == 4
    assert command.main(["stop"]) == 1


WORDS = st.one_of(
    st.sampled_from(
        [
            *(each for each in command.program.commands),
            *(each.option for each in TABLE.values()),
            *("--reload", "--config", "--explain", "--no-wait", "--", "-", "shop:app"),
            *("1", "-1", "nan", "auto", "x.log", "a:1", "", "[::]:80", "unix:x"),
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


@given(st.lists(WORDS, max_size=6))
def test_any_command_line_comes_to_a_plan_or_is_refused_in_words(
    words: list[str],
) -> None:
    """U8: also for what is typed."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        made = command.main(words)

    if isinstance(made, Plan):
        assert Plan.read(made.write()) == made
    else:
        assert made in (0, 1, 2, 4)
        assert out.getvalue() if made == 0 else err.getvalue()


# -- which daemons -------------------------------------------------------------


def test_without_a_name_all_of_them_are_meant(folder: Path) -> None:
    (folder / "ghostd.toml").write_text(SEVERAL)

    for word in ("start", "stop", "restart", "reload", "status", "check"):
        made = kit.plan(word)
        assert [each.name for each in made.steps] == ["a", "b"]
        assert made.word == word
        assert [each.name for each in kit.plan(word, "b").steps] == ["b"]


@pytest.mark.parametrize("word", ["run", "serve"])
def test_only_one_can_be_in_the_foreground(
    folder: Path, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ghostd.toml").write_text(SEVERAL)

    assert command.main([word]) == 1
    assert f"{word} takes one daemon, and here are a, b" in capsys.readouterr().err
    assert kit.step(word, "b").target == "b:B"


def test_two_daemons_cannot_share_a_pidfile(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ghostd.toml").write_text(SEVERAL)
    assert command.main(["start", "--pidfile", "x.pid"]) == 1
    assert "a and b have the same pidfile" in capsys.readouterr().err


def test_a_name_without_a_configuration_is_that_of_a_pidfile(folder: Path) -> None:
    for word in ("stop", "status", "reload"):
        made = kit.step(word, "shop")
        assert (made.app, made.target) == ("", "")
        assert made.keywords == {"name": "shop", "pidfile": f"{folder}/shop.pid"}


def test_a_target_keeps_its_own_name_and_pidfile(folder: Path) -> None:
    (folder / "ghostd.toml").write_text("target = 'jobs:Jobs'\nspirits = 2\n")
    made = kit.step("start")

    assert made.name == "Jobs"
    assert made.keywords == {"spirits": 2}
    assert made.folder == str(folder)


def test_a_target_gets_keywords_of_its_own(folder: Path) -> None:
    (folder / "ghostd.toml").write_text(SEVERAL)
    assert kit.step("start", "b").keywords == {"name": "b", "queue": "x"}


def test_an_application_that_is_typed_takes_what_is_said_of_all(folder: Path) -> None:
    (folder / "ghostd.toml").write_text("spare = 1\n" + SEVERAL)
    made = kit.step("serve", "shop:app")

    assert (made.app, made.name) == ("shop:app", "shop")
    assert made.keywords["spare"] == 1


def test_environment_and_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "ghostd.toml").write_text(SHOP + "spirits = 1\nspare = 1\nbacklog = 1\n")
    monkeypatch.setenv("GHOSTD_SPIRITS", "2")
    monkeypatch.setenv("GHOSTD_SPARE", "2")
    made = kit.step("start", "--spirits", "3").keywords

    assert (made["spirits"], made["spare"], made["backlog"]) == (3, 2, 1)


def test_the_configuration_can_be_named_by_a_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "other.toml").write_text("app = 'other:app'")
    monkeypatch.setenv("GHOSTD_CONFIG", "other.toml")
    assert kit.step("start").name == "other"


def test_detached_or_not() -> None:
    assert kit.plan("serve", "shop:app").word == "run"
    assert kit.plan("serve", "shop:app", "--daemon").word == "start"
    assert kit.plan("reload", "x").wait
    assert not kit.plan("reload", "x", "--no-wait").wait


def test_the_command_lines_of_the_guides_can_be_read() -> None:
    snippets = Path(__file__).parents[2] / "docs" / "snippets"
    unit = (snippets / "shop.service").read_text()
    image = (snippets / "Dockerfile.shop").read_text()
    found = re.findall(r"^Exec\w+=\S*/ghostd (.*)$", unit, re.MULTILINE)
    lines = [line.split() for line in found]
    lines.append(json.loads(image.rpartition("CMD ")[2])[1:])

    assert [kit.plan(*line).word for line in lines] == ["run", "reload", "run"]
    assert {kit.step(*line).name for line in lines} == {"shop"}
    variables = dict(
        re.findall(r"^(?:ENV |Environment=)(\w+)=(.*)$", unit + image, re.MULTILINE)
    )
    assert set(config.environment(variables)) == {"pidfile"}


# -- development ---------------------------------------------------------------


def test_development_is_quick_unless_told_otherwise(folder: Path) -> None:
    made = kit.plan("serve", "shop:app", "--reload")
    keywords = made.steps[0].keywords

    assert {**keywords, **command.DEVELOPMENT} == keywords
    assert made.watch == {
        "folders": [str(folder)],
        "includes": ["*.py"],
        "excludes": [],
    }
    assert (
        kit.step("serve", "shop:app", "--reload", "--spirits", "3").keywords["spirits"]
        == 3
    )


def test_what_is_watched_can_be_said(folder: Path) -> None:
    (folder / "src").mkdir()
    made = kit.plan(
        *("serve", "shop:app", "--reload", "--reload-dir", "src"),
        *("--reload-include", "*.html", "--reload-exclude", "test_*"),
    )

    assert made.watch == {
        "folders": [f"{folder}/src"],
        "includes": ["*.html"],
        "excludes": ["test_*"],
    }
    assert kit.plan("serve", "a:b", "--app-dir", "src", "--reload").watch == {
        "folders": [f"{folder}/src"],
        "includes": ["*.py"],
        "excludes": [],
    }


def test_without_the_extra_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda _name: None)
    assert command.main(["serve", "shop:app", "--reload"]) == 1
    assert "pip install 'ghostd[reload]'" in capsys.readouterr().err


# -- what is shown -------------------------------------------------------------


def test_config_can_be_pasted_into_a_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "ghostd.toml").write_text(SHOP)
    assert command.main(["config", "--spirits", "9"]) == 0
    shown = capsys.readouterr().out
    (folder / "again.toml").write_text(shown)
    again = config.resolve(config.read(f"{folder}/again.toml"), "", {})

    assert 'app = "shop:app"\n' in shown
    assert "spirits = 9\n" in shown
    assert again.values["spirits"] == 9
    assert again.values["heartbeat_timeout"] == 50


def test_config_explains(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ghostd.toml").write_text(SEVERAL + "spare = 1\n")
    assert command.main(["config", "--explain", "--spirits", "9"]) == 0
    lines = re.sub(" +", " ", capsys.readouterr().out).splitlines()

    assert lines.count("[daemon.a]") == lines.count("[daemon.b]") == 1
    assert lines.count("spirits = 9 # --spirits") == 2
    assert lines.count("spare = 2 # default") == 1
    assert lines.count("spare = 1 # ghostd.toml: daemon.b.spare") == 1
    assert lines.count("# logfile = # default") == 2


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"ghostd {ghostd.__version__}\n"
    for word in command.program.commands:
        assert command.main([word, "--help"]) == 0
        assert f"Usage: ghostd {word}" in capsys.readouterr().out
    assert command.main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: ghostd")
    assert command.main([]) == 2
    assert capsys.readouterr().err.startswith("Usage: ghostd")


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("ghostd st", ["plain,start", "plain,status", "plain,stop"]),
        ("ghostd serve --term ", ["plain,auto", "plain,graceful", "plain,immediate"]),
        ("ghostd start --logfile ", ["file,"]),
    ],
)
def test_a_shell_completes(typed: str, wanted: list[str]) -> None:
    words = typed.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "ghostd"],
        env={
            **os.environ,
            "_GHOSTD_COMPLETE": "bash_complete",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = sorted(done.stdout.splitlines())

    assert [line for line in found if "stop" not in line or line in wanted] == wanted
