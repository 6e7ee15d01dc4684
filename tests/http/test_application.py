"""Finding an application, and seeing what it is; settings of a server."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ghostd import SettingsError
from ghostd.http import ApplicationError, HttpServer, HttpSettings
from ghostd.http.application import Name, find, interface_of, parse
from ghostd.http.settings import HTTP_CHECKS


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("shop:app", Name("shop", ("app",))),
        ("shop.web:api.app", Name("shop.web", ("api", "app"))),
        ("shop:make()", Name("shop", ("make",), called=True)),
        (
            "shop:make('a', n=1)",
            Name("shop", ("make",), called=True, args=("a",), kwargs=(("n", 1),)),
        ),
    ],
)
def test_a_name_is_read(text: str, name: Name) -> None:
    assert parse(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "shop", "shop:", ":app", "a-b:app", "shop:app[0]", "shop:f(x)"),
        *("shop:f(**{})", "shop:1", "shop:f()()", "./shop.py:app", "shop:a b"),
    ],
)
def test_what_is_no_name_is_refused_by_the_settings(text: str) -> None:
    assert parse(text) is None
    with pytest.raises(SettingsError, match=r"^app is .*, allowed: 'module:"):
        HttpServer(app=text)


def test_an_application_is_found_in_its_folder(folder: Path) -> None:
    (folder / "found_here.py").write_text("class Api:\n    app = len\n")

    assert find("found_here:Api.app", str(folder), factory=False) is len


def test_a_factory_is_called(folder: Path) -> None:
    (folder / "made_here.py").write_text("def make(*a, **k):\n    return a, k\n")

    assert find("made_here:make", str(folder), factory=True) == ((), {})
    assert find("made_here:make(1, b=2)", str(folder), factory=False) == (
        (1,),
        {"b": 2},
    )
    with pytest.raises(ApplicationError, match="is no factory"):
        find("made_here:__name__", str(folder), factory=True)


def test_an_error_shows_the_frames_of_its_author_only(folder: Path) -> None:
    (folder / "wrong_here.py").write_text("import wrong_there\n")
    (folder / "wrong_there.py").write_text("def f():\n    return [][1]\n\nf()\n")
    with pytest.raises(ApplicationError) as caught:
        find("wrong_here:app", str(folder), factory=False)

    assert str(caught.value) == (
        "cannot import wrong_here:app: IndexError: list index out of range "
        f"({folder}/wrong_there.py:2)"
    )
    cause = caught.value.__cause__
    assert cause is not None
    trace, files = cause.__traceback__, []
    while trace is not None:
        files.append(Path(trace.tb_frame.f_code.co_filename).name)
        trace = trace.tb_next
    assert files == ["wrong_here.py", "wrong_there.py", "wrong_there.py"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("nowhere_here", None, "No module named 'nowhere_here'"),
        ("cut_here", "app = (\n", "cut_here.py, line 1"),
        ("left_here", "import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("empty_here", "", "empty_here has no 'app'"),
        ("lacks_here", "import nowhere_else\n", "No module named 'nowhere_else'"),
    ],
)
def test_what_is_wrong_with_a_module_is_told(
    folder: Path, name: str, text: str | None, why: str
) -> None:
    if text is not None:
        (folder / f"{name}.py").write_text(text)
    with pytest.raises(ApplicationError) as caught:
        find(f"{name}:app", str(folder), factory=False)

    assert str(caught.value).startswith(f"cannot import {name}:app: ")
    assert why in str(caught.value)


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def old_asgi(scope: Any, receive: Any, send: Any) -> Any: ...


class Asgi:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any, more: int = 0) -> Any: ...


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (asgi, "asgi"),
        (Asgi(), "asgi"),
        (old_asgi, "asgi"),
        (functools.partial(asgi), "asgi"),
        (wsgi, "wsgi"),
        (Wsgi(), "wsgi"),
        (Wsgi().__call__, "wsgi"),
        (functools.partial(wsgi), "wsgi"),
        (lambda _environ, _start_response, *_rest: None, "wsgi"),
    ],
)
def test_the_kind_of_an_application_is_seen(app: Any, kind: str) -> None:
    assert interface_of(app) == kind


def test_frameworks_are_seen() -> None:
    from flask import Flask
    from starlette.applications import Starlette

    assert interface_of(Starlette()) == "asgi"
    assert interface_of(Flask(__name__)) == "wsgi"


@pytest.mark.parametrize("app", [Asgi, Wsgi, lambda: None, 3, "text", len])
def test_what_is_no_application_is_refused_with_a_hint(app: Any) -> None:
    with pytest.raises(ApplicationError, match="neither ASGI nor WSGI") as caught:
        interface_of(app)

    assert "interface=" in caught.value.__notes__[0]


# -- settings ------------------------------------------------------------------

GOOD: dict[str, list[tuple[Any, Any]]] = {
    "app": [("a:b", "a:b"), (asgi, asgi)],
    "app_dir": [("src", os.path.abspath("src")), (Path("/x"), "/x")],
    "certfile": [("c.pem", os.path.abspath("c.pem"))],
    "forwarded_allow_ips": [("10.0.0.1,::1",) * 2, (["a", "b"], "a,b"), ("*", "*")],
    "headers": [
        ({"X-A": "1"}, (("X-A", "1"),)),
        (["X-A: b: c"], (("X-A", "b: c"),)),
        ([("X-A", "1"), ["X-B", "2"]], (("X-A", "1"), ("X-B", "2"))),
    ],
    "interface": [("wsgi", "wsgi")],
    "probe": [("/health?a=b",) * 2],
    "root_path": [("", ""), ("/api/", "/api")],
    "ws_ping_interval": [(0, 0), (2.5, 2.5)],
}

BAD: dict[str, list[Any]] = {
    "app": [3, "a b:c"],
    "app_dir": ["", 3, "a\0b"],
    "client_cert": ["maybe"],
    "factory": [1],
    "forwarded_allow_ips": ["", "a b", [1], 3],
    "headers": [3, "X: 1", ["X"], [("a",)], [("a", 1)], {"a b": "c"}, {"a": "b\r\nc"}],
    "http": ["h2"],
    "interface": ["asgi2", None.__class__],
    "keepalive": [-1, "5"],
    "max_requests": [0, True],
    "probe": ["health", "/a b", "/ä", 3],
    "root_path": ["api", 3],
    "threads": [0],
    "ws_ping_interval": [-1, 0.001, "0"],
}


def test_settings_are_kept_as_they_are_meant() -> None:
    for name, pairs in GOOD.items():
        for given, stored in pairs:
            server = HttpServer(**{"app": "a:b", name: given})
            assert getattr(server.http_settings, name) == stored, name


def test_silly_settings_are_refused_by_name() -> None:
    for name, values in BAD.items():
        for value in values:
            with pytest.raises(SettingsError, match=f"^{name} is .*, allowed: "):
                HttpServer(**{"app": "a:b", name: value})


def test_every_field_has_a_check_and_every_check_a_field() -> None:
    assert tuple(HTTP_CHECKS) == HttpSettings.__match_args__


def test_a_server_needs_an_application_and_no_trio() -> None:
    with pytest.raises(SettingsError, match="app is missing"):
        HttpServer()
    with pytest.raises(SettingsError, match="loop is 'trio'"):
        HttpServer(app="a:b", loop="trio")
    with pytest.raises(SettingsError, match=r"unknown keyword 'apps', allowed: .*app"):
        HttpServer(apps="a:b")


def test_a_server_listens_on_streams(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="listen is 'udp::53'"):
        HttpServer(app="a:b", listen=["udp::53"])

    assert HttpServer(app="a:b").run() == 1
    assert "nothing to listen on" in capsys.readouterr().err


def test_threads_are_for_the_application_and_not_for_the_body() -> None:
    server = HttpServer(app="a:b", threads=7)

    assert server.http_settings.threads == 7
    assert server.pool_settings.threads == 1
