"""
The table of everything that can be set from outside.

It is read off the settings' own classes: name, default, check and text stand there,
once. The options of the command line, the keys of a file, the variables of the
environment and the pages of the reference are all drawn from this table.
"""

from __future__ import annotations

import inspect
import re
import textwrap

from ghostd import settings
from ghostd.errors import SettingsError
from ghostd.http.settings import HTTP_CHECKS, HttpSettings, a_folder
from ghostd.settings import Check, GhostSettings, PoolSettings
from ghostd.typed import Any
from ghostd.values import Value

NO_OPTIONS = ("loghandle", "logger", "app")
"""Settings whose value is an object: only a program can give one. An app is named."""

ALIASES = {"workers": "spirits"}
"""Other names, which everything that knows a name knows."""

PREFIX = "GHOSTD_"
"""How variables of the environment begin: ``GHOSTD_SPIRITS``."""

_YES = ("yes", "true", "on", "1")
_NO = ("no", "false", "off", "0")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_BROKEN = re.compile(
    r"[+-]?[0-9]{0,18}\.?[0-9]{1,18}(e[+-]?[0-9]{1,3})?", re.IGNORECASE
)
_OCTAL = re.compile(r"(0o)?[0-7]{1,4}")

_A_CHOICE = re.compile(r"[a-z0-9-]+(, [a-z0-9-]+)+")


_WORDS: dict[Check, str] = {
    settings.a_count: "NUMBER",
    settings.a_count_or_auto: "NUMBER",
    settings.a_positive_count: "NUMBER",
    settings.a_share: "SHARE",
    settings.an_amount: "AMOUNT",
    settings.a_mask: "OCTAL",
    settings.some_addresses: "ADDRESS",
}


OWN = "command"
"""Group of those settings that the command itself obeys."""


class CommandSettings(Value):
    """
    What the command can be told about a daemon, beside what the daemon can.

    Attributes:
        env_file: path of a file of variables, ``NAME=value`` in each line, that the
            daemon gets unless it has them already.
    """

    env_file: str | None = None


COMMAND_CHECKS: dict[str, Check] = {"env_file": settings.a_path}

_PATHS = (settings.a_path, settings.a_path_or_none_at_all, a_folder)


class Setting(Value):
    """
    One thing that can be set.

    Attributes:
        name: keyword of the constructor and key of the file.
        group: heading under which it is listed.
        kind: the type of the value, as it is written in the settings' class.
        default: the value if nobody sets it; None: see the text.
        text: what it means.
        check: gives the value, or raises `SettingsError`.
    """

    name: str
    group: str
    kind: str
    default: Any
    text: str
    check: Check

    @property
    def option(self) -> str:
        """Give the option of the command line: ``--heartbeat-interval``."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Give the variable of the environment: ``GHOSTD_HEARTBEAT_INTERVAL``."""
        return PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        """Tell whether it is on or off."""
        return self.kind == "bool"

    @property
    def is_list(self) -> bool:
        """Tell whether it may be given several times."""
        return self.kind.startswith("tuple") and self.check is not settings.log_options

    @property
    def is_path(self) -> bool:
        """Tell whether a relative value is relative to somebody's folder."""
        return self.check in _PATHS

    @property
    def is_secret(self) -> bool:
        """Tell whether it must not be shown."""
        return self.name.endswith("password")

    @property
    def allowed(self) -> str:
        """Say what is allowed, in the words of the check."""
        return allowed(self.check)

    @property
    def choices(self) -> tuple[str, ...]:
        """List the words that are allowed; empty: it is not a choice of words."""
        allowed = self.allowed
        return tuple(allowed.split(", ")) if _A_CHOICE.fullmatch(allowed) else ()

    @property
    def placeholder(self) -> str:
        """Give the word for a value in a help text."""
        if self.choices:
            return "WORD"
        if self.check in _WORDS:
            return _WORDS[self.check]
        if self.is_path:
            return "PATH"
        return "SECONDS" if "float" in self.kind else "TEXT"

    def read(self, text: str) -> Any:
        """
        Make a value of what stands in the environment or on the command line.

        What does not look like a value stays a text, and the check refuses it by the
        words that the user wrote: Python's own ``float`` would take ``nan`` and the
        digits of any script.
        """
        if self.is_switch:
            word = text.strip().lower()
            return word in _YES if word in (*_YES, *_NO) else text
        if self.check is settings.some_addresses:
            return text.replace(",", " ").split()
        if self.is_list:
            return [line for line in text.splitlines() if line.strip()]
        if self.check is settings.a_mask:
            return int(text, 8) if _OCTAL.fullmatch(text) else text
        return text if "str" in self.kind else _number(text)

    def write(self, value: Any) -> str:
        """Give a value as it would stand in a configuration file."""
        if self.check is settings.a_mask:
            return f"0o{value:03o}"
        if self.check is settings.log_options and not isinstance(value, str):
            return in_toml(",".join(value))
        return in_toml(value)


def allowed(check: Check) -> str:
    """Have a check say what it allows, by giving it what nobody would."""
    try:
        check("it", object())
    except SettingsError as error:
        return str(error).partition("allowed: ")[2]
    raise AssertionError(f"{check} allows anything")


def _number(text: str) -> int | float | str:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _BROKEN.fullmatch(text) else text


def in_toml(value: Any) -> str:
    """Write a text, a number, a switch, a list or a table as TOML does."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(in_toml, value))}]"
        case dict():
            pairs = (f"{_quoted(key)} = {in_toml(one)}" for key, one in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return _quoted(str(value))


def _quoted(text: str) -> str:
    """Give a text as a basic string of TOML."""
    marks = {'"': '\\"', "\\": "\\\\"}
    signs = (
        marks.get(sign) or (sign if sign.isprintable() else f"\\U{ord(sign):08x}")
        for sign in text
    )
    return f'"{"".join(signs)}"'


def texts(kind: type) -> dict[str, str]:
    """
    Read the section "Attributes" of a class's docstring: name and text of each.

    Empty in a Python that was told to leave docstrings out.
    """
    whole = inspect.getdoc(kind) or ""
    found = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", whole, re.MULTILINE)
    body = textwrap.dedent(found[1]).strip() if found else ""
    parts = re.split(r"^(\w+): ", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(one_line, parts[2::2]), strict=True))


def one_line(text: str) -> str:
    """Turn the marks of a docstring into those of plain text; one line."""
    return " ".join(text.split()).replace("``", "`")


def _rows(group: str, kind: type, checks: dict[str, Check]) -> list[Setting]:
    known = texts(kind)
    return [
        Setting(
            name,
            group,
            kind.__annotations__[name],
            getattr(kind, name, None),
            known.get(name, ""),
            check,
        )
        for name, check in checks.items()
        if name not in NO_OPTIONS
    ]


def _all() -> dict[str, Setting]:
    rows = [
        *_rows("daemon", GhostSettings, settings.GHOST_CHECKS),
        *_rows("pool", PoolSettings, settings.POOL_CHECKS),
        *_rows("http", HttpSettings, HTTP_CHECKS),
        *_rows(OWN, CommandSettings, COMMAND_CHECKS),
    ]
    return {row.name: row for row in rows}


TABLE: dict[str, Setting] = _all()
"""Every setting by its name, in the order in which it is listed."""

GROUPS: dict[str, str] = {
    "daemon": "Of every daemon",
    "pool": "Of a pool of spirits",
    "http": "Of an application that is served",
    OWN: "Of the command",
}
"""The headings of the table."""
