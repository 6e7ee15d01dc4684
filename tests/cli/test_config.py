"""Configuration: which source wins, what is refused, and where a mistake was made."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostd import GhostError, SettingsError
from ghostd.cli import config, files
from ghostd.cli.config import Configuration, Given, Layer, Resolved
from ghostd.http.settings import best_loop
from tests.cli import kit

SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    with kit.inside(tmp_path):
        yield tmp_path


def written(text: str, name: str = "ghostd.toml") -> Configuration:
    Path(name).write_text(textwrap.dedent(text))
    return config.read(os.path.abspath(name))


def resolved(text: str, name: str = "", *more: Layer) -> Resolved:
    return config.resolve(written(text), name, {}, *more)


# -- order ---------------------------------------------------------------------

SOURCES = ("lowest", "file", "table", "environment", "typed")


@given(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 999))
def test_the_strongest_source_wins_and_is_named(who: list[bool], first: int) -> None:
    values = {name: first + at for at, name in enumerate(SOURCES) if who[at]}
    one = {
        name: {"spirits": Given(values[name], name)} if name in values else {}
        for name in SOURCES
    }
    made = config.resolve(
        Configuration("", "/", one["file"], {"it": one["table"]}),
        "it",
        one["lowest"],
        one["environment"],
        one["typed"],
    )

    strongest = [name for name in SOURCES if name in values][-1:]
    found = made.given.get("spirits")
    assert ([found.source] if found else []) == strongest
    assert found is None or found.value == values[found.source]


def test_each_value_knows_its_source() -> None:
    made = resolved(
        """
        loglevel = "info"
        spare = 1
        spirits = 9
        [daemon.shop]
        app = "shop:app"
        spirits = 8
        """,
        "shop",
        config.environment({"GHOSTD_SPARE": "3"}),
        {"backlog": Given(5, "--backlog")},
    )

    sources = {name: (one.value, one.source) for name, one in made.given.items()}
    assert sources["loglevel"] == ("info", "ghostd.toml: loglevel")
    assert sources["spirits"] == (8, "ghostd.toml: daemon.shop.spirits")
    assert sources["spare"] == (3, "GHOSTD_SPARE")
    assert sources["backlog"] == (5, "--backlog")
    assert sources["name"] == ("shop", "ghostd.toml: daemon.shop")
    assert made.what["app"].source == "ghostd.toml: daemon.shop.app"
    explained = {key: rest for key, *rest in config.explained(made)}
    assert explained["spirits"] == ["8", "ghostd.toml: daemon.shop.spirits"]
    assert explained["heartbeat_timeout"] == ["50", "default"]
    assert explained["user"] == ["", "default"]


def test_a_pyproject_has_it_in_a_table() -> None:
    text = """
    [tool.ghostd]
    app = "shop:app"
    spirits = 2
    """
    made = config.resolve(written(text, "pyproject.toml"), "", {})

    assert made.given["spirits"].source == "pyproject.toml: tool.ghostd.spirits"
    assert config.find(None, os.getcwd()).endswith("/pyproject.toml")
    Path("ghostd.toml").write_text("")
    assert config.find(None, os.getcwd()).endswith("/ghostd.toml")


def test_a_pyproject_that_is_about_other_things_is_none() -> None:
    Path("pyproject.toml").write_text("[tool.ruff]\n")

    assert config.find(None, os.getcwd()) == ""
    with pytest.raises(GhostError, match=r"has no \[tool.ghostd\]"):
        config.read(os.path.abspath("pyproject.toml"))


def test_no_configuration_at_all() -> None:
    nothing = config.read(config.find(None, os.getcwd()))

    assert config.choose(nothing, "") == [""]
    assert config.choose(nothing, "any") == [""]
    assert config.resolve(nothing, "", {}).name == "ghost"


# -- what a daemon is ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('app = "shop:app"', "shop"),
        ('app = "web.shop:make()"', "web.shop"),
        ('target = "jobs:Mail"', "Mail"),
        ('target = "jobs:Mail"\nname = "post"', "post"),
    ],
)
def test_a_single_daemon_is_named_after_its_code(text: str, name: str) -> None:
    made = resolved(text)

    assert made.name == name
    assert made.values["pidfile"] == f"{os.getcwd()}/{name}.pid"
    assert config.choose(written(text), name) == [""]


def test_several_daemons_are_chosen_by_name() -> None:
    several = written("[daemon.a]\napp='a:b'\n[daemon.b]\ntarget='b:B'")

    assert config.choose(several, "") == ["a", "b"]
    assert config.choose(several, "b") == ["b"]
    with pytest.raises(GhostError, match="describes no daemon 'bb'") as caught:
        config.choose(several, "bb")
    assert caught.value.__notes__ == ["Did you mean 'b'?"]
    with pytest.raises(GhostError) as caught:
        config.choose(several, "xyz")
    assert caught.value.__notes__ == ["It describes a, b."]


def test_a_single_daemon_has_no_other_name() -> None:
    with pytest.raises(GhostError, match="describes no daemon 'shap'"):
        config.choose(written("app='shop:app'"), "shap")


def test_whoever_says_what_a_daemon_is_says_all_of_it() -> None:
    text = "app='shop:app'\n[daemon.jobs]\ntarget='jobs:Jobs'\n[daemon.shop]"

    assert set(resolved(text, "jobs").what) == {"target"}
    assert set(resolved(text, "shop").what) == {"app"}


def test_an_app_listens_somewhere_and_a_target_does_not() -> None:
    assert resolved("app='a:b'").given["listen"] == Given([config.ADDRESS], "default")
    assert "listen" not in resolved("target='a:B'").given


def test_an_app_runs_on_the_best_loop_and_config_says_so() -> None:
    assert resolved("app='a:b'").given["loop"] == Given(best_loop(), "default")
    assert resolved("app='a:b'\nloop='asyncio'").values["loop"] == "asyncio"
    assert "loop" not in resolved("target='a:B'").given


def test_paths_are_relative_to_where_they_are_written(folder: Path) -> None:
    elsewhere = folder / "etc"
    elsewhere.mkdir()
    (elsewhere / "ghostd.toml").write_text(
        "app='shop:app'\nlogfile='x.log'\ncontrol='run/x'\n"
        "listen=['unix:x.sock?mode=660', 'unix:/x', 'unix:@x', ':80']"
    )
    read = config.read(config.find("etc/ghostd.toml", os.getcwd()))
    variables = config.environment({"GHOSTD_CONTROL": "run/y"})
    made = config.resolve(read, "", {}, variables).values

    assert made["logfile"] == f"{elsewhere}/x.log"
    assert made["pidfile"] == f"{elsewhere}/shop.pid"
    assert made["app_dir"] == str(elsewhere)
    assert made["control"] == f"{folder}/run/y"
    unix = f"unix:{elsewhere}/x.sock?mode=660"
    assert made["listen"] == [unix, "unix:/x", "unix:@x", ":80"]


def test_no_control_socket_is_no_path() -> None:
    assert resolved("app='a:b'\ncontrol=''").values["control"] == ""


# -- what is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("sprits = 4", "ghostd.toml: sprits: unknown key 'sprits'", "'spirits'"),
        (
            "[daemon.x]\nsprits = 4",
            "ghostd.toml: daemon.x.sprits: unknown",
            "'spirits'",
        ),
        ("heartbeat-timeout = 4", "unknown key", "'heartbeat_timeout'"),
        ("loghandle = 'x'", "unknown key", ""),
        ("[daemons.x]", "unknown key 'daemons'", "'daemon'"),
        ("[daemon.x.daemon]", "unknown key 'daemon'", ""),
        ("[shop]\napp = 'a:b'", "unknown key 'shop'", ""),
        ("workers = 1\nspirits = 2", "spirits and ghostd.toml: workers are the", ""),
        ("daemon = 3", "daemon is 3, allowed: a table", ""),
        ("daemon.shop = 3", "allowed: a table for each daemon", ""),
        ("spirits = 4\nspirits = 4", "Cannot overwrite a value", ""),
        ("spirits =", "is not TOML: Invalid value", ""),
        ("spirits = " + "9" * 5000, "is not TOML", ""),
        ("x = " + "[" * 50_000, "is not TOML", ""),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, words: str, hint: str) -> None:
    """U9."""
    with pytest.raises(GhostError) as caught:
        written(text)
    assert words in str(caught.value)
    assert hint in " ".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spirits = -1", "ghostd.toml: spirits: spirits is -1, allowed: a whole"),
        ("workers = '4'", "ghostd.toml: workers: spirits is '4', allowed"),
        ("heartbeat_timeout = nan", "heartbeat_timeout is nan"),
        ("heartbeat_timeout = -inf", "heartbeat_timeout is -inf"),
        ("spirits = true", "spirits is True"),
        ("spirits = 99999999999999999999", "spirits is 99999999999999999999"),
        ("logfile = 1979-05-27", "logfile is datetime.date"),
        ("logfile = 'folder/'", "logfile is "),
        ("logfile = ''", "logfile is ''"),
        ("listen = 8000", "listen is 8000"),
        ("listen = [8000]", r"listen is \[8000\]"),
        ("name = 'a/b'", "name is 'a/b'"),
        ("app = 'shop'", "ghostd.toml: app: app is 'shop', allowed: 'module:attr"),
        ("app = 7", "app is 7"),
        ("target = 'jobs'", "target is 'jobs', allowed: package.module:Class"),
        ("target = 'jobs:a b'", "target is 'jobs:a b'"),
        ("app = 'a:b'\ntarget = 'a:B'", "app and ghostd.toml: target: a daemon has"),
        ("keywords = {a = 1}", "keywords are given to a target, here is none"),
        ("target = 'a:B'\nkeywords = 3", "keywords is 3, allowed: a table"),
        ("target = 'a:B'\nkeywords = {a = 1979-05-27}", "allowed: a table of texts"),
        ("target = 'a:B'\nkeywords = {a = {b = 1}}", "allowed: a table of texts"),
    ],
)
def test_a_value_that_is_wrong_is_told_with_its_place(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        resolved(text)


def test_a_daemon_whose_name_is_none(folder: Path) -> None:
    assert folder
    with pytest.raises(SettingsError, match="name is 'a/b'"):
        resolved("[daemon.'a/b']\napp = 'a:b'", "a/b")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe\x00", "is not text in UTF-8"),
        (b"\x00", "is not TOML"),
        (b"\x7fELF" + bytes(200), "is not TOML"),
        (b"#" * (files.LARGEST + 1), "is longer than 1048576 bytes"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, words: str) -> None:
    Path("ghostd.toml").write_bytes(data)
    with pytest.raises(GhostError, match=words):
        config.read(os.path.abspath("ghostd.toml"))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_configuration_or_refused_in_words(data: bytes) -> None:
    path = os.path.abspath("any.toml")
    Path(path).write_bytes(data)
    try:
        config.read(path)
    except GhostError as error:
        assert "any.toml" in str(error)  # noqa: PT017 - it may also be accepted


def test_a_huge_file_is_not_read_to_its_end() -> None:
    with open("ghostd.toml", "wb") as file:
        file.truncate(1 << 36)  # 64 GiB, of nothing
    with pytest.raises(GhostError, match="is longer than"):
        config.read(os.path.abspath("ghostd.toml"))


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "dangling", "loop"])
def test_what_is_no_file_is_refused_at_once(folder: Path, kind: str) -> None:
    path = folder / "ghostd.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    explicit = str(path) if kind == "missing" else None
    with pytest.raises(GhostError, match=r"cannot be read|is no regular file"):
        config.read(config.find(explicit, str(folder)))


@pytest.mark.root
def test_root_believes_no_file_that_anybody_may_write(folder: Path) -> None:
    path = folder / "ghostd.toml"
    path.write_text("spirits = 1")
    path.chmod(path.stat().st_mode | stat.S_IWOTH)

    with pytest.raises(GhostError, match="can be written by anybody, and this is root"):
        config.read(str(path))


@pytest.mark.root
def test_root_minds_only_a_pyproject_that_is_about_ghostd(folder: Path) -> None:
    path = folder / "pyproject.toml"
    path.write_text("[tool.ruff]\n")
    path.chmod(0o666)

    assert config.find(None, str(folder)) == ""


# -- the environment -----------------------------------------------------------


def test_variables_are_read_by_the_table() -> None:
    found = config.environment(
        {
            "GHOSTD_WORKERS": "3",
            "GHOSTD_LISTEN": "a:1,b:2",
            "GHOSTD_LOGLEVEL": "",
            "GHOSTD_APP": "shop:app",
            "GHOSTD_CONFIG": "x",
            "GHOSTD_CLOSED_DOORS": "epoll",
            "SPIRITS": "9",
        }
    )

    assert found == {
        "app": Given("shop:app", "GHOSTD_APP"),
        "listen": Given(["a:1", "b:2"], "GHOSTD_LISTEN"),
        "spirits": Given(3, "GHOSTD_WORKERS"),
    }


def test_a_misspelled_variable_is_refused() -> None:
    with pytest.raises(
        SettingsError, match="unknown variable 'GHOSTD_SPRITS'"
    ) as caught:
        config.environment({"GHOSTD_SPRITS": "4"})
    assert caught.value.__notes__ == ["Did you mean 'GHOSTD_SPIRITS'?"]


def test_two_names_of_one_thing_are_refused() -> None:
    with pytest.raises(SettingsError, match="are the same"):
        config.environment({"GHOSTD_SPIRITS": "4", "GHOSTD_WORKERS": "4"})


def test_variables_that_kubernetes_makes_up_are_left_alone() -> None:
    made_up = {
        "GHOSTD_SERVICE_HOST": "10.0.0.1",
        "GHOSTD_SERVICE_PORT": "80",
        "GHOSTD_PORT": "tcp://10.0.0.1:80",
        "GHOSTD_PORT_80_TCP": "tcp://10.0.0.1:80",
        "GHOSTD_PORT_80_TCP_PROTO": "tcp",
        "GHOSTD_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert config.environment(made_up) == {}


def test_a_secret_is_not_shown() -> None:
    made = resolved("app='a:b'\nkeyfile_password='abc'")
    shown = [value for key, value, _ in config.explained(made) if "password" in key]

    assert ("keyfile_password", "abc") in made.values.items()
    assert shown == ['"..."']


@pytest.mark.parametrize("path", sorted(SNIPPETS.glob("*/ghostd.toml")), ids=str)
def test_the_configurations_of_the_guides_are_good(path: Path) -> None:
    read = config.read(str(path))

    for name in config.choose(read, ""):
        assert config.resolve(read, name, {}).what


# -- files of variables --------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("  A = b c  ", "b c"),
        ("A=", ""),
        ("A=# nothing", ""),
        ("A=b#c", "b#c"),
        ("A=b # c", "b"),
        ("A='b # $c \\n'", "b # $c \\n"),
        ('A="b \\" \\\\ \\n" # c', 'b " \\ \n'),
        ("A=$HOME", "$HOME"),
        ("A=b=c", "b=c"),
    ],
)
def test_a_line_of_an_environment_file(line: str, value: str) -> None:
    Path("x.env").write_text(f"# comment\n\n{line}\n")
    assert files.variables("x.env") == {"A": value}


@pytest.mark.parametrize(
    "line", ["A", "1A=b", "A B=c", "=b", "A='b", 'A="b', "A='b' c", "A=b\0", "Ä=b"]
)
def test_a_line_that_is_no_variable_is_named(line: str) -> None:
    Path("x.env").write_text(f"A=b\n{line}\n")
    with pytest.raises(GhostError, match=r"x\.env, line 2: allowed: NAME=value"):
        files.variables("x.env")


def test_an_environment_file_belongs_to_the_daemon_and_is_no_keyword() -> None:
    Path("x.env").write_text("DSN=postgres://\n")
    made = resolved("app='a:b'\nenv_file='x.env'")

    assert made.environment == {"DSN": "postgres://"}
    assert "env_file" not in made.values
    Path("x.env").write_text("GHOSTD_SPIRITS=4\n")
    with pytest.raises(GhostError, match="GHOSTD_SPIRITS has no effect in there"):
        _ = made.environment
    assert resolved("app='a:b'").environment == {}


@pytest.mark.root
def test_root_believes_no_environment_file_that_anybody_may_write() -> None:
    Path("x.env").write_text("A=b\n")
    os.chmod("x.env", 0o666)  # noqa: S103 - just that
    with pytest.raises(GhostError, match="can be written by anybody"):
        files.variables("x.env")
