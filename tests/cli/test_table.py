"""The table: everything that can be set, drawn from the settings' own classes."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostd import SettingsError, settings
from ghostd.cli import table
from ghostd.cli.table import TABLE, Setting
from ghostd.http.settings import HTTP_CHECKS

every_setting = pytest.mark.parametrize("setting", TABLE.values(), ids=TABLE)
NUMBERS = [s for s in TABLE.values() if s.kind in ("int", "float", "int | None")]


def test_every_setting_is_in_it_but_for_objects() -> None:
    checks = {
        **settings.GHOST_CHECKS,
        **settings.POOL_CHECKS,
        **HTTP_CHECKS,
        **table.COMMAND_CHECKS,
    }

    assert set(TABLE) == set(checks) - set(table.NO_OPTIONS)
    assert {setting.group for setting in TABLE.values()} == set(table.GROUPS)


@every_setting
def test_a_setting_has_a_text_and_says_what_is_allowed(setting: Setting) -> None:
    assert setting.text
    assert setting.allowed
    assert "``" not in setting.text


@every_setting
def test_the_words_of_a_choice_are_allowed(setting: Setting) -> None:
    for word in setting.choices:
        setting.check(setting.name, word)


@every_setting
def test_a_default_is_read_as_it_is_written(setting: Setting) -> None:
    if setting.default in (None, ""):
        return
    (read,) = tomllib.loads(f"it = {setting.write(setting.default)}").values()

    assert setting.check(setting.name, read) == setting.default


def test_names_of_options_and_variables() -> None:
    assert TABLE["heartbeat_interval"].option == "--heartbeat-interval"
    assert TABLE["heartbeat_interval"].variable == "GHOSTD_HEARTBEAT_INTERVAL"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("spirits", "8", 8),
        ("spirits", "auto", "auto"),
        ("heartbeat_interval", "0.5", 0.5),
        ("heartbeat_interval", "1e1", 10.0),
        ("heartbeat_interval", "5", 5),
        ("umask", "022", 0o022),
        ("umask", "0o027", 0o027),
        ("preload", "Yes", True),
        ("preload", "0", False),
        ("listen", "[::]:80, unix:/s", ["[::]:80", "unix:/s"]),
        ("headers", "A: b, c\nD: e", ["A: b, c", "D: e"]),
        ("user", "12", "12"),
        ("max_memory", "300M", "300M"),
        ("logfile", "7", "7"),
    ],
)
def test_a_text_is_read_by_the_kind_of_the_setting(
    name: str, text: str, value: Any
) -> None:
    read = TABLE[name].read(text)

    assert read == value
    assert type(read) is type(value)
    TABLE[name].check(name, read)


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda setting: setting.name)
@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1", "1_0", "٣", "0x10", "", " ", "9" * 5000, "1e999", "5s"]
)
def test_what_is_no_number_is_refused_as_it_was_written(
    setting: Setting, text: str
) -> None:
    read = setting.read(text)
    with pytest.raises(SettingsError, match=f"^{setting.name} is "):
        setting.check(setting.name, read)


@given(st.text())
def test_no_text_is_read_into_something_strange(text: str) -> None:
    for setting in TABLE.values():
        read = setting.read(text)
        try:
            setting.check(setting.name, read)
        except SettingsError as error:
            assert repr(read) in str(error)  # noqa: PT017 - it may also be accepted


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans(),
        lambda some: st.lists(some) | st.dictionaries(st.text(), some),
    )
)
def test_what_is_written_in_toml_is_read_as_the_same(value: Any) -> None:
    assert tomllib.loads(f"it = {table.in_toml(value)}") == {"it": value}


def test_without_docstrings_there_are_no_texts_and_no_failure() -> None:
    class Bare:
        pass

    Bare.__doc__ = None
    assert table.texts(Bare) == {}
