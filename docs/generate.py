"""
The pages of the reference that are drawn from the code, made anew at each build.

They are committed, so that a link to them works in a checkout; a test compares them.

What a table says stands once, in the code: settings in `ghostd.settings`, signals in
`ghostd.manager`, phases in `ghostd.core.member`, log events where they are logged.
"""

from __future__ import annotations

import ast
import inspect
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ghostd
from ghostd import control, loops, manager, settings
from ghostd.cli import command, config
from ghostd.cli.table import GROUPS, TABLE, Setting, allowed, one_line, texts
from ghostd.core import brake, member
from ghostd.http.settings import HTTP_CHECKS, HttpSettings

FOLDER = Path(__file__).parent / "reference" / "generated"
SOURCES = Path(ghostd.__file__).parent
ALIASES = {**settings.LEVEL_ALIASES, "exception": "error"}
NONE_HERE = object()
OCTAL = "0o{:03o}"


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Make a Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
        for row in lines
    )


def first_sentence(thing: object) -> str:
    """Give what the docstring of *thing* says first."""
    text = inspect.getdoc(thing) or ""
    return one_line(text.split("\n\n")[0])


def setting_rows(
    kind: type[Any], checks: dict[str, settings.Check]
) -> Iterator[tuple[str, str, str, str]]:
    """Describe the fields of a settings class."""
    known = texts(kind)
    for name, check in checks.items():
        value = getattr(kind, name, NONE_HERE)
        default = f"`{OCTAL.format(value) if name == 'umask' else repr(value)}`"
        if value is NONE_HERE:
            default = "see there"
        yield f"`{name}`", default, allowed(check), known[name]


def settings_page() -> str:
    """Write the settings."""
    heads = ("keyword", "default", "allowed", "meaning")
    ghost = table(heads, setting_rows(settings.GhostSettings, settings.GHOST_CHECKS))
    pool = table(heads, setting_rows(settings.PoolSettings, settings.POOL_CHECKS))
    http = table(heads, setting_rows(HttpSettings, HTTP_CHECKS))
    levels = ", ".join(f"`{name}`" for name in settings.LEVELS)
    also = ", ".join(
        f"`{new}` is `{old}`" for new, old in settings.LEVEL_ALIASES.items()
    )
    return f"""# Settings

Keywords of the constructors.
All durations are seconds, int or float.
A keyword that nobody knows, or a value that is not allowed, raises {{py:class}}`ghostd.SettingsError` with the name, the value and what is allowed.
None stands for the default.

## Of every daemon

{ghost}

The levels of the log, lowest first: {levels}.
{also[0].upper()}{also[1:]}.

## Of a pool

`workers` is another name of `spirits`.

{pool}

## Of a server of HTTP

`ghostd.http.HttpServer` takes those of a pool, and these.

{http}

## Hooks

Every hook can be given as a keyword, too; see [](hooks.md).
"""


def signals_page() -> str:
    """Write what signals do."""
    rows = [(f"`{number.name}`", text) for number, text in manager.SIGNALS.items()]
    return f"""# Signals

## To the manager

{table(("signal", "asks the manager to"), rows)}

A signal is noted when it strikes and answered by the manager's loop, never in between.
A handler that `init()` installs wins over the answer in this table, and is called from the loop as well.

## To a plain Ghost

QUIT, TERM and INT set `ok` to False.
A TERM or INT after that raises {{py:class}}`ghostd.Interrupted` in the body.
HUP and USR2 call `hangup()`, and USR1 reopens the log.
The body has no loop of ours, so the answer comes between two of its instructions.

## To a spirit

QUIT sets `ok` to False, and stays harmless until the spirit's last instruction.
TERM and INT end it at once.
{ignored()} are ignored.
"""


def ignored() -> str:
    """Name the signals that mean something to a manager and nothing to a spirit."""
    heard = {signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    names = [
        each.name.removeprefix("SIG") for each in manager.SIGNALS if each not in heard
    ]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def hooks_page() -> str:
    """Write the hooks."""

    def rows(owner: type[ghostd.Ghost], names: Iterable[str]) -> Iterator[list[str]]:
        for name in names:
            hook = getattr(owner, name)
            words = list(inspect.signature(hook).parameters)[1:]
            yield [f"`{name}({', '.join(words)})`", first_sentence(hook)]

    more = [name for name in ghostd.Prefork.HOOKS if name not in ghostd.Ghost.HOOKS]
    heads = ("hook", "what it is for")
    return f"""# Hooks

A hook is a method to override, or a callable given as a keyword of that name, which gets the object first.
What a hook of the manager raises is logged with its traceback, and the loop goes on.

## Of every daemon

{table(heads, rows(ghostd.Ghost, ghostd.Ghost.HOOKS))}

## Of a pool

{table(heads, rows(ghostd.Prefork, more))}

For each pid the order is `spawn`, `heartbeat` any number of times, `reap`.
A `hangup` of its own replaces the one of `Prefork`, which is:
{first_sentence(ghostd.Prefork.hangup)}
"""


def commands_page() -> str:
    """Write the commands and their exit codes."""
    rows = [
        (f"`{word}`", first_sentence(getattr(ghostd.Ghost, word)))
        for word in control.COMMANDS
    ]
    codes = [
        (control.RUNNING, "the daemon runs"),
        (control.DEAD_WITH_PIDFILE, "none runs, but a pidfile was left behind"),
        (control.NOT_RUNNING, "none runs"),
        (control.UNKNOWN, "it cannot be told: the pidfile cannot be read or trusted"),
    ]
    return f"""# Commands and exit codes

`sys.exit(g.ctrl())` obeys the first word of the command line.
What a command has to say goes to standard output, what went wrong to standard error.

{table(("command", "the method of the same name"), rows)}

Exit codes are 0 for success and 1 for failure; a word that is no command, or none, is 1 as well.
Only `status` says more, in the words of the Linux Standard Base:

{table(("exit code of status", "means"), codes)}

A daemon in the foreground (`run`) ends with 0, with 1 when the pool gave up or the code of its user failed, or with the int that `startup()` returned.

A spirit ends with 0 when its body returns, with 1 when it raises, and with its own code when it raises `SystemExit`.
"""


def ghostd_page() -> str:
    """Write the words, the options and the keys of the command."""
    words = [
        (
            f"`ghostd {' '.join([name, *takes(each)])}`",
            one_line(each.get_short_help_str(200)),
        )
        for name, each in command.program.commands.items()
    ]
    heads = ("option", "value", "default", "meaning")
    groups = "\n\n".join(
        f"### {heading}\n\n{table(heads, map(option_row, members(group)))}"
        for group, heading in GROUPS.items()
    )
    some = ", ".join(f"`--{name.replace('_', '-')}`" for name in command.SPOKEN_TO)
    keys = [
        (
            "`app`",
            'the application to serve: `"module:attribute"`, or `"module:factory()"`',
        ),
        (
            "`target`",
            'a daemon of your own: `"package.module:Class"`, or an instance, or a function that makes one',
        ),
        (
            "`keywords`",
            "for a `target`: a table of keywords that are no settings of ghostd's",
        ),
        (
            "`[daemon.NAME]`",
            "a table with keys for one daemon of several; what stands outside of these tables holds for all of them",
        ),
    ]
    return f"""# The command ghostd

It comes with the extra `cli`.
`ghostd package.module:Class COMMAND` needs no extra; see [](commands.md).

## Words

{table(("word", "what it does"), words)}

NAME is that of a daemon in the configuration.
Without it `run`, `serve` and all others mean the only daemon that is described there, and all but `run` and `serve` mean every one of them.
Where there is no configuration, `stop`, `status` and `reload` take NAME for that of the pidfile, `./NAME.pid`, and `reload` starts nothing.

## Options of single words

{table(("option", "of", "meaning"), own_options())}

## Settings

Each setting has one name in three places.
The option `--heartbeat-timeout 60`, the key `heartbeat_timeout = 60` of the configuration and the variable `GHOSTD_HEARTBEAT_TIMEOUT=60` are the same, and the keyword of the constructor is the key.
The option wins over the variable, the variable over the key of one daemon, that over the key of all, and that over the default.
An empty variable counts as not set.

`serve`, `run`, `start`, `restart`, `check` and `config` take all of these options; `stop`, `status` and `reload` take {some}.
A switch is given as `--preload` or `--no-preload`, and as `true` or `false` elsewhere; variables know `yes`, `no`, `on`, `off`, `1` and `0`, too.
An option whose value is a list may be repeated.
What is allowed as a value is in [](settings.md).

{groups}

## Configuration

It is `--config FILE`, or `$GHOSTD_CONFIG`, or `ghostd.toml` in the current folder, or the table `[tool.ghostd]` of the `pyproject.toml` there.
It has a key for each setting, and these:

{table(("key", "meaning"), keys)}

Relative paths in it are relative to its folder, and those of options and variables to the current one.
An application for which nothing else is said listens on `{config.ADDRESS}`.

A key that nobody knows, a value that is not allowed, more than a mebibyte, and, as root, a file that anybody may write to are refused.

## Exit codes

They are those of [the commands](commands.md), and 2 for a command line that cannot be read.
A configuration that cannot be used is 1, but for `status`: 4.
Of several daemons the largest counts.
"""


def takes(word: Any) -> list[str]:
    """Give the arguments of a word."""
    return [each.metavar for each in word.params if each.param_type_name == "argument"]


def members(group: str) -> list[Setting]:
    """Give the settings below a heading."""
    return [each for each in TABLE.values() if each.group == group]


def option_row(setting: Setting) -> tuple[str, str, str, str]:
    """Describe the option of a setting."""
    made = command.OPTIONS[setting.name]
    names = ", ".join(f"`{name}`" for name in (*made.opts, *made.secondary_opts))
    value = "" if setting.is_switch else f"`{made.metavar}`"
    missing = setting.default in (None, (), "")
    default = "" if missing else f"`{setting.write(setting.default)}`"
    return names, value, default, setting.text


def own_options() -> Iterator[tuple[str, str, str]]:
    """Describe the options that are no settings, once each, with their words."""
    found: dict[str, tuple[list[str], str]] = {}
    for word, each in command.program.commands.items():
        for made in each.params:
            if made.param_type_name == "option" and made.name not in TABLE:
                names = [f"`{name}`" for name in (*made.opts, *made.secondary_opts)]
                names[-1] += f" `{made.metavar}`" if made.metavar else ""
                words, _ = found.setdefault(", ".join(names), ([], str(made.help)))
                words.append(f"`{word}`")
    every = [f"`{word}`" for word in command.program.commands]
    for names, (words, text) in found.items():
        yield names, "all" if words == every else ", ".join(words), one_line(text)


def phases_page() -> str:
    """Write the life of a spirit as its module tells it."""
    lines = [
        line for line in (member.__doc__ or "").splitlines() if line.startswith("|")
    ]
    stamps = [(f"`{name}`", text) for name, text in texts(member.Member).items()]
    rows = "\n".join(lines)
    return f"""# Phases of a spirit

A phase is read off the time stamps of a member, and never stored.

{rows}

## What is known of a member

The values of `Prefork.pool`, seconds on the monotonic clock where they are times.

{table(("attribute", "meaning"), stamps)}
"""


# -- log events: read off the places where they are logged ---------------------


def constants(node: ast.expr | None, scope: ast.AST) -> list[str]:
    """Give the texts that an expression may stand for, looked up in its function."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=parts):
            return ["".join(map(placeholder, parts))]
        case ast.IfExp(body=one, orelse=other):
            return constants(one, scope) + constants(other, scope)
        case ast.Name(id=name):
            return [
                text
                for each in ast.walk(scope)
                if isinstance(each, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == name for t in each.targets)
                for text in constants(each.value, scope)
            ]
        case _:
            return []


def placeholder(part: ast.expr) -> str:
    """Show a piece of an f-string: text as it is, a value by its name in capitals."""
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Call):  # getpid() is a PID, but len(members) is no MEMBERS
        name = getattr(value.func, "attr", "…").removeprefix("get")
    else:
        name = getattr(value, "attr", getattr(value, "id", "…"))
    return str(name).upper().strip("_")


def logged(call: ast.Call, scope: ast.AST) -> Iterator[tuple[str, str, str, str]]:
    """Read one call: event, level, text and fields; nothing if it logs no event."""
    name = getattr(call.func, "attr", "")
    if name == "_say":
        said, event, text, *pid = call.args
        level = getattr(said, "id", "").lower()
        extra = ["pid"] * bool(pid) + [word.arg for word in call.keywords if word.arg]
        events, values = constants(event, scope), iter(pid)
    elif ALIASES.get(name, name) in settings.LEVELS and call.args:
        level = ALIASES.get(name, name)
        given = next((k.value for k in call.keywords if k.arg == "extra"), None)
        if not isinstance(given, ast.Dict):
            return
        pairs = {
            key.value: value
            for key, value in zip(given.keys, given.values, strict=True)
            if isinstance(key, ast.Constant)
        }
        events = constants(pairs.pop("event", None), scope)
        extra, text, values = list(map(str, pairs)), call.args[0], iter(call.args[1:])
    else:
        return
    words = re.sub(
        r"%[\d.]*[a-z]",
        lambda _mark: placeholder(next(values)),
        " / ".join(constants(text, scope)).partition("\n")[0],
    )
    for each_event in events:
        yield each_event, level, words, ", ".join(f"`{each}`" for each in extra)


def log_events() -> list[tuple[str, str, str, str]]:
    """Collect what the library logs, by event."""
    found = set[tuple[str, str, str, str]]()
    for path in sorted(SOURCES.rglob("*.py")):
        if "testing" in path.parts:
            continue
        for scope in ast.walk(ast.parse(path.read_text())):
            if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
                for call in ast.walk(scope):
                    if isinstance(call, ast.Call) and scope.name != "_say":
                        found.update(logged(call, scope))
    return sorted(found)


def events_page() -> str:
    """Write the log events."""
    rows = [(f"`{e}`", level, text, extra) for e, level, text, extra in log_events()]
    return f"""# Log events

Each line that ghostd itself logs has a name, for machines, in the attribute `event` of its record, and more attributes beside it.
Words in capitals stand for values; … for one without a name.

{table(("event", "level", "line", "attributes"), rows)}

A line in a file is `[2026-01-20 21:50:45.12345] [PID] [level] message`, in local time and UTF-8.
Line feeds inside of a message are followed by blanks, so no message can look like a line of its own.
"""


# -- numbers that pages mention ------------------------------------------------


def numbers() -> dict[str, str]:
    """Give figures of the code by name, for ``{{ name }}`` in a page."""
    modules: tuple[ModuleType, ...] = (brake, control, loops, manager)
    found = {
        name.lower(): f"{value:g}"
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float)
    }
    return {**found, "version": ghostd.__version__}


PAGES = {
    "settings": settings_page,
    "hooks": hooks_page,
    "signals": signals_page,
    "commands": commands_page,
    "ghostd": ghostd_page,
    "events": events_page,
    "phases": phases_page,
}


def write() -> None:
    """Write every page; one that has not changed keeps its time."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != page():
            path.write_text(page())


if __name__ == "__main__":
    write()
