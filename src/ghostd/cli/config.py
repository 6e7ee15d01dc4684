"""
What was set, and where: a file, the environment, the command line.

Each value keeps its source, so that a mistake can be told with the place where it was
made, and so that ``ghostd config --explain`` can tell where a value comes from. Later
layers win: the file, its table for one daemon, the environment, the command line.

What a file says is relative to its folder, what is typed to where it is.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from ghostd.cli import files
from ghostd.cli.table import ALIASES, OWN, PREFIX, TABLE, in_toml
from ghostd.errors import GhostError, SettingsError
from ghostd.http.settings import an_application, best_loop
from ghostd.settings import Check, refuse
from ghostd.typed import Any
from ghostd.values import Value

FILES = ("ghostd.toml", "pyproject.toml")
"""Where a configuration is looked for in the current folder; the first one wins."""

PYPROJECT_TABLE = ("tool", "ghostd")

WHAT = ("app", "target", "keywords")
"""Keys that say what a daemon is; all others say how it runs."""

ADDRESS = "127.0.0.1:8000"
"""Where an application is served if nothing else is said."""

CONFIG_VARIABLE = PREFIX + "CONFIG"
_NOT_SETTINGS = (CONFIG_VARIABLE, PREFIX + "CLOSED_DOORS")
_NEAR = 0.8
_TARGET = re.compile(r"\w+(\.\w+)*:\w+(\.\w+)*")


class Given(Value):
    """
    A value and where it was given.

    Attributes:
        value: as it was given; not checked yet.
        source: ``ghostd.toml: daemon.shop.spirits``, ``GHOSTD_SPIRITS``,
            ``--spirits``, or ``default``.
        folder: what it is relative to, if it names code; "": the current one.
    """

    value: Any
    source: str
    folder: str = ""


Layer = dict[str, Given]
"""What one source gives, by the names of the table."""


class Configuration(Value):
    """
    What a file says.

    Attributes:
        path: of the file; "": there is none.
        folder: what relative paths in it are relative to.
        shared: what it says of every daemon.
        daemons: what it says of each, by name; empty: it describes a single one.
    """

    path: str
    folder: str
    shared: Layer
    daemons: dict[str, Layer]


class Resolved(Value):
    """
    What all sources together say of one daemon.

    Attributes:
        name: how it is called.
        what: app, target and keywords, as far as they were given.
        given: the settings that were given, checked, in the order of the table.
        folder: where its code is looked for first.
    """

    name: str
    what: Layer
    given: Layer
    folder: str

    @property
    def values(self) -> dict[str, Any]:
        """Give the settings as keywords for the daemon."""
        return {
            name: given.value
            for name, given in self.given.items()
            if TABLE[name].group != OWN
        }

    @property
    def environment(self) -> dict[str, str]:
        """
        Read the variables that the daemon gets.

        Raises:
            GhostError: there is no such file, or it is none.
        """
        if "env_file" not in self.given:
            return {}
        path = self.given["env_file"].value
        found = files.variables(path)
        for name in found:
            if name.startswith(PREFIX):
                error = GhostError(f"{path}: {name} has no effect in there")
                error.add_note("It would come too late. Write it into ghostd.toml.")
                raise error
        return found


# -- the file ------------------------------------------------------------------


def find(explicit: str | None, folder: str) -> str:
    """
    Find the configuration: *explicit*, else the first of `FILES` that says anything.

    Returns:
        Its path, or "" where there is none.

    Raises:
        GhostError: it cannot be read, or is none.
    """
    if explicit:
        return os.path.abspath(explicit)
    for name in FILES:
        path = os.path.join(folder, name)
        if os.path.lexists(path) and (name == FILES[0] or _tables(path)):
            return path
    return ""


def read(path: str) -> Configuration:
    """
    Read a configuration; "" for none.

    Raises:
        GhostError: it cannot be read or trusted, or holds a key that nobody knows.
    """
    if not path:
        return Configuration("", os.getcwd(), {}, {})
    folder, file = os.path.split(path)
    tables = _tables(path)
    within = ""
    if file == FILES[1]:
        within = "tool.ghostd."
        if not tables:
            raise GhostError(f"{path} has no [tool.ghostd]")
    place = Place(file, folder, within)
    daemons = tables.pop("daemon", {})
    if not isinstance(daemons, dict) or not all(
        isinstance(each, dict) for each in daemons.values()
    ):
        raise SettingsError(
            f"{place.of('daemon')} is {daemons!r}, allowed: a table for each daemon, "
            "[daemon.NAME]"
        )
    shared = place.layer(tables, "")
    return Configuration(
        path,
        folder,
        shared,
        {
            name: {
                "name": Given(name, place.of(f"daemon.{name}")),
                **place.layer(table, f"daemon.{name}."),
            }
            for name, table in daemons.items()
        },
    )


class Place(Value):
    """
    Where a table stands.

    Attributes:
        file: name of the file.
        folder: its folder.
        within: table of the file that holds the configuration, with a dot, or "".
    """

    file: str
    folder: str
    within: str

    def of(self, key: str) -> str:
        """Name a key with its file."""
        return f"{self.file}: {self.within}{key}"

    def layer(self, table: Mapping[str, Any], prefix: str) -> Layer:
        """
        Make a layer of a table.

        Raises:
            SettingsError: it holds a key that nobody knows, or the same thing twice.
        """
        found: Layer = {}
        for key, value in table.items():
            name = ALIASES.get(key, key)
            if name not in TABLE and name not in WHAT:
                known = (*TABLE, *ALIASES, *WHAT, *(() if prefix else ("daemon",)))
                raise _unknown(self.of(prefix + key), key, known)
            if name in found:
                raise SettingsError(
                    f"{self.of(prefix + key)} and {found[name].source} are the same: "
                    "give one of them"
                )
            found[name] = Given(
                anchored(name, value, self.folder), self.of(prefix + key), self.folder
            )
        return found


def _unknown(where: str, key: str, known: Iterable[str]) -> SettingsError:
    """Make the error for a key that nobody knows, with the one it may stand for."""
    error = SettingsError(f"{where}: unknown key {key!r}")
    for near in difflib.get_close_matches(key, list(known), 1):
        error.add_note(f"Did you mean {near!r}?")
    return error


def _tables(path: str) -> dict[str, Any]:
    """Read what a file says; of ``pyproject.toml`` our part, {} where it has none."""
    ours = PYPROJECT_TABLE if os.path.basename(path) == FILES[1] else ()
    return files.toml(path, ours)


# -- the environment and the command line --------------------------------------


def environment(variables: Mapping[str, str]) -> Layer:
    """
    Make a layer of the variables that begin with ``GHOSTD_``.

    An empty one counts as not given. One that nobody knows is refused if it looks
    like a known one, misspelled; others are left alone, since Kubernetes makes up
    ``GHOSTD_SERVICE_HOST`` and more if a service happens to be called ghostd.

    Raises:
        SettingsError: one is misspelled, or stands for the same thing as another.
    """
    known = {name.upper(): ALIASES.get(name, name) for name in (*TABLE, *ALIASES)}
    known.update({"APP": "app", "TARGET": "target"})
    found: Layer = {}
    for variable in sorted(variables):
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        word = variable.removeprefix(PREFIX)
        name, text = known.get(word), variables[variable]
        if name is None:
            for near in difflib.get_close_matches(word, known, 1, _NEAR):
                refusal = SettingsError(f"unknown variable {variable!r}")
                refusal.add_note(f"Did you mean {PREFIX + near!r}?")
                raise refusal
        elif text and name in found:
            raise SettingsError(
                f"{variable} and {found[name].source} are the same: give one of them"
            )
        elif text:
            found[name] = given(name, text, variable, os.getcwd())
    return found


def given(name: str, text: str, source: str, folder: str) -> Given:
    """Make a value of a text."""
    value = TABLE[name].read(text) if name in TABLE else text
    return Given(anchored(name, value, folder), source)


def anchored(name: str, value: Any, folder: str) -> Any:
    """Make a relative path absolute: relative to where it was written."""
    if name == "listen":
        each = [value] if isinstance(value, str) else value
        return [_socket(one, folder) for one in each] if _is_list(each) else value
    if name in TABLE and TABLE[name].is_path and isinstance(value, str) and value:
        # Not normalised: a slash at the end is a mistake that the check shall see.
        return os.path.join(folder, value)
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _socket(address: Any, folder: str) -> Any:
    scheme, colon, path = str(address).partition(":")
    if isinstance(address, str) and scheme == "unix" and path[:1] not in ("", "@"):
        return f"{scheme}{colon}{os.path.join(folder, path)}"
    return address


# -- all together --------------------------------------------------------------


def resolve(
    configuration: Configuration, name: str, lowest: Layer, *more: Layer
) -> Resolved:
    """
    Put everything together for the daemon *name*; "" for the only one.

    Args:
        configuration: what the file says.
        name: of the daemon.
        lowest: the layer below the file, defaults of the occasion.
        more: the layers above the file, the strongest one last.

    Raises:
        SettingsError: a value is not allowed; it is told where it was given.
    """
    merged: Layer = dict(lowest)
    for layer in (configuration.shared, configuration.daemons.get(name, {}), *more):
        # Whoever says what a daemon is says all of it.
        if "app" in layer or "target" in layer:
            for word in WHAT:
                merged.pop(word, None)
        merged.update(layer)
    what = {word: merged.pop(word) for word in WHAT if word in merged}
    _check_what(what)
    merged.setdefault("name", Given(name or _name_of(what), "default"))
    checked = {key: merged[key] for key in TABLE if key in merged}
    for key, one in checked.items():
        _checked(TABLE[key].check, key, one)
    called = checked["name"].value
    folder = next((one.folder for one in what.values()), "") or os.getcwd()
    pidfile = os.path.join(configuration.folder, f"{called}.pid")
    checked.setdefault("pidfile", Given(pidfile, "default"))
    if "app" in what:
        checked.setdefault("app_dir", Given(folder, "default"))
        checked.setdefault("listen", Given([ADDRESS], "default"))
        checked.setdefault("loop", Given(best_loop(), "default"))
    return Resolved(called, what, checked, folder)


def _check_what(what: Layer) -> None:
    if "app" in what and "target" in what:
        raise SettingsError(
            f"{what['app'].source} and {what['target'].source}: a daemon has an app "
            "to serve, or is the target, not both"
        )
    if "app" in what:
        _checked(an_application, "app", what["app"])
    if "target" in what:
        _checked(_a_target, "target", what["target"])
    if "keywords" in what:
        keywords, source = what["keywords"].value, what["keywords"].source
        if not isinstance(keywords, dict) or not all(map(_is_plain, keywords.values())):
            raise SettingsError(
                f"{source}: keywords is {keywords!r}, "
                "allowed: a table of texts, numbers, switches and lists of them"
            )
        if "target" not in what:
            raise SettingsError(
                f"{source}: keywords are given to a target, here is none"
            )


def _a_target(name: str, value: object) -> str:
    if isinstance(value, str) and _TARGET.fullmatch(value):
        return value
    raise refuse(name, value, "package.module:Class")


def _checked(check: Check, name: str, one: Given) -> None:
    try:
        check(name, one.value)
    except SettingsError as error:
        raise SettingsError(f"{one.source}: {error}") from None


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int | float)


def _name_of(what: Layer) -> str:
    """Name a daemon that nobody named: a served one after its module."""
    if "app" in what:
        return str(what["app"].value).partition(":")[0]
    if "target" in what:
        return str(what["target"].value).rpartition(":")[2]
    return "ghost"


def choose(configuration: Configuration, name: str) -> list[str]:
    """
    Tell which daemons of the file are meant: the one of that name, or all of them.

    Returns:
        Their names; "" for the single one that a file without names describes.

    Raises:
        GhostError: there is none of that name.
    """
    daemons = configuration.daemons
    if not name:
        return list(daemons) or [""]
    if name in daemons:
        return [name]
    if not daemons and (not configuration.path or name == _only_name(configuration)):
        return [""]
    known = list(daemons) or [_only_name(configuration)]
    error = GhostError(f"{configuration.path} describes no daemon {name!r}")
    near = difflib.get_close_matches(name, known, 1)
    error.add_note(
        f"Did you mean {near[0]!r}?" if near else f"It describes {', '.join(known)}."
    )
    raise error


def _only_name(configuration: Configuration) -> str:
    return resolve(configuration, "", {}).name


def explained(resolved: Resolved) -> Iterator[tuple[str, str, str]]:
    """Give key, value and source of everything that can be set, defaults included."""
    for word, one in resolved.what.items():
        yield word, in_toml(one.value), one.source
    for name, setting in TABLE.items():
        default = None if setting.default in ("", ()) else setting.default
        one = resolved.given.get(name, Given(default, "default"))
        shown = "" if one.value is None else setting.write(one.value)
        yield name, '"..."' if shown and setting.is_secret else shown, one.source
