"""Settings: every keyword with every silly value is refused in words, or is sane."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostd import Ghost, Prefork, SettingsError, settings
from ghostd.settings import GhostSettings, PoolSettings

GHOST = sorted(settings.GHOST_CHECKS)
POOL = sorted([*settings.GHOST_CHECKS, *settings.POOL_CHECKS, "workers"])

SILLY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 10),
    st.floats(),
    st.floats(-1, 200),
    st.text(),
    st.binary(),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        [
            *("-1", "0", "1_000", "+5", "١٢", "1e3", "nan", "inf", "auto", "AUTO"),
            *("", " ", ".", "..", "/", "a/b", "a\0b", "a\nb", "\ud800", "x" * 5000),
            *("debug", "Warning", "LOG_USER", "local8", "pid,,ndelay", "root:root"),
            *("300M", "1 G", "25%", "25%B", "0%", "101%", "٣M", "9" * 19, "9" * 20),
            *("uvloop", "immediate", ":80", ["[::1]:80", "unix:/s"], ["", "x"], [[]]),
            *(2**31, 2**32, 2**64, 10**400, -(2**63), 1 + 0j, object(), int, print),
        ]
    ),
)


def a_duration(stored: Any) -> bool:
    return type(stored) in (int, float) and 0 <= stored <= settings.LONGEST


def a_number(least: int, most: int) -> Callable[[Any], bool]:
    return lambda stored: type(stored) is int and least <= stored <= most


def a_path(stored: Any) -> bool:
    return os.path.isabs(stored) and "\0" not in stored


def a_word(stored: Any) -> bool:
    return stored.isprintable() and "/" not in stored and stored not in ("", "..")


def an_account(stored: Any) -> bool:
    return a_number(0, 2**32 - 2)(stored) or (isinstance(stored, str) and stored != "")


def an_amount(stored: Any) -> bool:
    """Bytes, or a share: which number that is depends on the machine."""
    share = isinstance(stored, str) and stored.isascii() and stored[-1] == "%"
    return 1 <= int(stored[:-1]) <= 100 if share else a_number(1, 2**63 - 1)(stored)


def addresses(stored: Any) -> bool:
    return type(stored) is tuple and all(each and each.isprintable() for each in stored)


def a_switch(stored: Any) -> bool:
    return type(stored) is bool


# What may be kept of a value that was accepted, as the documents tell it.
SANE: dict[str, Callable[[Any], bool]] = {
    "name": a_word,
    "pidfile": a_path,
    "logfile": a_path,
    "loghandle": lambda stored: callable(stored.write),
    "logger": lambda stored: callable(stored.info),
    "loglevel": settings.LEVELS.__contains__,
    "ident": a_word,
    "facility": settings.FACILITIES.__contains__,
    "logopt": lambda stored: all(word.isalpha() for word in stored),
    "user": an_account,
    "group": an_account,
    "umask": a_number(0, 0o777),
    "start_timeout": a_duration,
    "spirits": a_number(0, settings.MOST_SPIRITS),
    "spare": a_number(0, settings.MOST_SPIRITS),
    "heartbeat_interval": a_duration,
    "heartbeat_timeout": a_duration,
    "graceful_timeout": a_duration,
    "term": settings.TERMS.__contains__,
    "restart_budget": a_number(0, settings.MOST_SPIRITS),
    "boot_timeout": a_duration,
    "canary_time": a_duration,
    "max_unavailable": a_number(0, settings.MOST_SPIRITS),
    "max_ticks": a_number(1, settings.LARGEST),
    "max_age": a_duration,
    "max_memory": an_amount,
    "jitter": lambda stored: type(stored) in (int, float) and 0 <= stored <= 1,
    "drain_delay": a_duration,
    "preload": a_switch,
    "control": lambda stored: "\0" not in stored and not stored.endswith("/"),
    "listen": addresses,
    "backlog": a_number(1, settings.LARGEST),
    "reuseport": a_switch,
    "loop": lambda value: callable(value) or value in settings.LOOPS,
    "threads": a_number(1, settings.LARGEST),
}


def sane(name: str, value: Any, made: Ghost) -> bool:
    """Tell whether what was kept of an accepted value is what the documents allow."""
    if value is None:
        return True  # the default
    if name in settings.GHOST_CHECKS:
        return SANE[name](getattr(made.settings, name))
    assert isinstance(made, Prefork)
    kept = "spirits" if name == "workers" else name
    return SANE[kept](getattr(made.pool_settings, kept))


def test_each_setting_has_a_field_and_a_check() -> None:
    assert set(GhostSettings.__match_args__) == set(settings.GHOST_CHECKS)
    assert set(PoolSettings.__match_args__) == set(settings.POOL_CHECKS)


@pytest.mark.parametrize("name", POOL)
@given(value=SILLY)
def test_a_silly_value_is_refused_in_words_or_is_sane(name: str, value: Any) -> None:
    """U8: wrong type, NaN, huge, unicode digits, empty, bytes, surrogates."""
    try:
        made = Prefork(spirit=lambda _g: None, **{name: value})
    except SettingsError as error:
        said = str(error)
        assert said.startswith(f"{'spirits' if name == 'workers' else name} is ") or (
            name in said
        )
        assert repr(value) in said
        assert "allowed: " in said
    else:
        assert sane(name, value, made)


@pytest.mark.parametrize("name", GHOST)
@given(value=SILLY)
def test_a_plain_ghost_checks_the_same(name: str, value: Any) -> None:
    try:
        made = Ghost(**{name: value})
    except SettingsError as error:
        assert repr(value) in str(error)  # noqa: PT017
    else:
        assert sane(name, value, made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spirits", True),
        ("spirits", 4.0),
        ("spirits", -1),
        ("spirits", "4"),
        ("spirits", "Auto"),
        ("spare", -1),
        ("heartbeat_interval", 0),
        ("heartbeat_interval", -5),
        ("heartbeat_interval", float("nan")),
        ("heartbeat_timeout", float("inf")),
        ("heartbeat_timeout", "50"),
        ("graceful_timeout", -0.1),
        ("graceful_timeout", True),
        ("term", "TERM"),
        ("term", ""),
        ("restart_budget", -1),
        ("boot_timeout", 0),
        ("canary_time", -1),
        ("max_unavailable", 0.5),
        ("max_ticks", 0),
        ("max_ticks", True),
        ("max_age", 0),
        ("max_age", float("nan")),
        ("max_memory", 0),
        ("max_memory", True),
        ("max_memory", 1.5),
        ("max_memory", 2**63),
        ("max_memory", "9" * 19 + "T"),
        ("max_memory", "0"),
        ("max_memory", "0M"),
        ("max_memory", "-1M"),
        ("max_memory", "1.5G"),
        ("max_memory", "M"),
        ("max_memory", "0%"),
        ("max_memory", "101%"),
        ("max_memory", "25%B"),
        ("max_memory", "٢٥%"),
        ("jitter", 1.01),
        ("jitter", -0.1),
        ("jitter", float("nan")),
        ("jitter", False),
        ("drain_delay", float("inf")),
        ("preload", 1),
        ("preload", "yes"),
        ("reuseport", 0),
        ("control", "run/"),
        ("control", b"d.ctl"),
        ("listen", ""),
        ("listen", [""]),
        ("listen", [8000]),
        ("listen", 8000),
        ("listen", ["a\nb"]),
        ("listen", {"127.0.0.1:8000"}),
        ("backlog", 0),
        ("backlog", 2**31),
        ("loop", "gevent"),
        ("loop", ["asyncio"]),
        ("threads", 0),
        ("threads", "2"),
    ],
)
def test_refused_by_a_pool(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        Prefork(**{name: value})
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", ".."),
        ("name", "a\nb"),
        ("name", 7),
        ("pidfile", ""),
        ("pidfile", "folder/"),
        ("pidfile", b"d.pid"),
        ("pidfile", "a\0b"),
        ("logfile", 1),
        ("loghandle", "d.log"),
        ("logger", object()),
        ("loglevel", "verbose"),
        ("loglevel", 10),
        ("facility", "local8"),
        ("logopt", "pid,colour"),
        ("logopt", "pid,,ndelay"),
        ("logopt", ["pid"]),
        ("user", ""),
        ("user", -1),
        ("user", True),
        ("user", "root:root"),
        ("group", 2**32),
        ("group", "4300000000"),
        ("user", "9" * 5000),
        ("group", 1.0),
        ("umask", 0o1000),
        ("umask", -1),
        ("umask", "022"),
        ("start_timeout", -1),
    ],
)
def test_refused_by_any_ghost(name: str, value: object) -> None:
    for kind in (Ghost, Prefork):
        with pytest.raises(SettingsError, match=f"^{name} is "):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("spirits", 0, 0),
        ("spare", 0, 0),
        ("graceful_timeout", 0, 0),
        ("heartbeat_interval", 0.5, 0.5),
        ("heartbeat_timeout", 1, 1),
    ],
)
def test_zeros_and_numbers_stay_what_they_are(
    name: str, value: float, stored: float
) -> None:
    """The ancestor takes a zero for "default"."""
    made = getattr(Prefork(**{name: value}), name)
    assert made == stored
    assert type(made) is type(stored)


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("user", "0", 0),
        ("user", "root", "root"),
        ("group", 12, 12),
        ("loglevel", "WARNING", "warn"),
        ("loglevel", "crit", "fatal"),
        ("loglevel", "critical", "fatal"),
        ("facility", "LOG_LOCAL3", "local3"),
        ("logopt", "", ()),
        ("logopt", " pid , perror ", ("pid", "perror")),
        ("umask", 0, 0),
        ("pidfile", "/run/x.pid", "/run/x.pid"),
    ],
)
def test_accepted(name: str, value: object, stored: object) -> None:
    assert getattr(Ghost(**{name: value}).settings, name) == stored


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("boot_timeout", 0.01, 0.01),
        ("canary_time", 0, 0),
        ("max_unavailable", 0, 0),
        ("max_ticks", 1, 1),
        ("max_ticks", None, None),
        ("max_age", 3600, 3600),
        ("max_memory", 1, 1),
        ("max_memory", 2**63 - 1, 2**63 - 1),
        ("max_memory", "1048576", 2**20),
        ("max_memory", "300M", 300 * 2**20),
        ("max_memory", " 300mb ", 300 * 2**20),
        ("max_memory", "2g", 2**31),
        ("max_memory", "512B", 512),
        # Of what the machine or the cgroup has, which nobody knows before the start.
        ("max_memory", "25%", "25%"),
        ("max_memory", "007%", "7%"),
        ("max_memory", "100%", "100%"),
        ("jitter", 0, 0),
        ("jitter", 1, 1),
        ("preload", True, True),
        ("control", "", ""),
        ("listen", "127.0.0.1:8000", ("127.0.0.1:8000",)),
        ("listen", ["[::]:80", "fd:3"], ("[::]:80", "fd:3")),
        ("listen", [], ()),
        ("backlog", 1, 1),
        ("reuseport", False, False),
        ("loop", "trio", "trio"),
        ("threads", 8, 8),
    ],
)
def test_accepted_by_a_pool(name: str, value: object, stored: object) -> None:
    made = getattr(Prefork(**{name: value}).pool_settings, name)
    assert made == stored
    assert type(made) is type(stored)


def test_unknown_keywords_are_refused_with_what_is_known() -> None:
    with pytest.raises(SettingsError, match="unknown keyword 'sprits'") as caught:
        Prefork(sprits=4)
    assert "spirits" in str(caught.value)
    with pytest.raises(SettingsError, match="unknown keyword 'spirits'"):
        Ghost(spirits=4)


def test_spirits_and_workers_are_one() -> None:
    assert Prefork(workers=3).spirits == 3
    assert Prefork(workers=3).workers == 3
    assert Prefork(workers=0).spirits == 0
    with pytest.raises(SettingsError, match="the same"):
        Prefork(spirits=1, workers=2)
    ghost = Prefork()
    ghost.workers = 7
    assert ghost.spirits == 7
    with pytest.raises(SettingsError, match="spirits is -1"):
        ghost.spirits = -1


def test_auto_is_at_least_one() -> None:
    assert 1 <= Prefork(spirits="auto").spirits <= len(os.sched_getaffinity(0))


def test_paths_are_absolute_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F20."""
    monkeypatch.chdir(tmp_path)
    ghost = Ghost(name="x", logfile="x.log", pidfile=Path("run/x.pid"))
    monkeypatch.chdir("/")
    assert ghost.logfile == str(tmp_path / "x.log")
    assert ghost.pidfile == str(tmp_path / "run" / "x.pid")
    assert ghost.filepid.path == ghost.pidfile


def test_subclasses_may_ask_for_keywords_of_their_own() -> None:
    class Jobs(Prefork):
        def again(self, *, queue: str = "jobs", **rest: object) -> Jobs:
            self.queue = queue
            assert not rest
            return self

    assert Jobs().queue == "jobs"
    assert Jobs(queue="mail", spirits=1).queue == "mail"
    with pytest.raises(SettingsError, match="queue"):
        Jobs(kueue="mail")


@pytest.mark.parametrize("name", Prefork.HOOKS)
@pytest.mark.parametrize("value", [7, "text", [], object()], ids=type)
def test_a_hook_must_be_callable(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is "):
        Prefork(**{name: value})


async def coroutine(_ghost: object) -> None:
    """Be refused."""


def generator(_ghost: object) -> Any:
    yield


class AsynchronousCall:
    async def __call__(self, _ghost: object) -> None:
        """Be refused."""


async def endless(_ghost: object) -> Any:
    yield


@pytest.mark.parametrize("value", [coroutine, generator, endless, AsynchronousCall()])
def test_a_hook_must_be_plain(value: object) -> None:
    with pytest.raises(SettingsError, match="asynchronous or a generator"):
        Prefork(spawn=value)


@pytest.mark.parametrize("value", [coroutine, AsynchronousCall()])
def test_a_body_may_be_asynchronous(value: object) -> None:
    assert Prefork(spirit=value)


@pytest.mark.parametrize("value", [generator, endless])
def test_a_body_is_no_generator(value: object) -> None:
    with pytest.raises(SettingsError, match="asynchronous or a generator"):
        Prefork(spirit=value)


def test_a_hook_gets_the_object_first() -> None:
    told: list[object] = []
    ghost = Prefork(spawn=lambda *args: told.extend(args), finish=None)
    ghost.spawn(7)
    ghost.finish(True)
    assert told == [ghost, 7]


@pytest.mark.parametrize(
    ("argv0", "name"),
    [
        ("/srv/jobs.py", "jobs"),
        ("jobs", "jobs"),
        ("/srv/jobs/__main__.py", "jobs"),
        ("-c", "ghost"),
        ("", "ghost"),
    ],
)
def test_the_script_names_the_daemon(
    monkeypatch: pytest.MonkeyPatch, argv0: str, name: str
) -> None:
    import sys

    monkeypatch.setattr(sys, "argv", [argv0])
    ghost = Ghost()
    assert ghost.name == name
    assert ghost.ident == name
    assert ghost.pidfile == os.path.abspath(f"{name}.pid")


def test_without_arguments_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(sys, "argv", [])
    assert Ghost().name == "ghost"


def test_pool_settings_know_their_budget() -> None:
    assert Prefork(spirits=2).pool_settings.budget == 8
    assert Prefork(spirits=20).pool_settings.budget == 40
    assert Prefork(restart_budget=0).pool_settings.budget == 0
