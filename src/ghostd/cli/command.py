"""
The command line: words, options, and what they come to.

Nothing is done here but reading and showing; what is to be done goes out as a `Plan`.
The options are drawn from the table.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable

import click

import ghostd
from ghostd import control
from ghostd.cli import config, table
from ghostd.cli.config import Given, Layer, Resolved
from ghostd.cli.plan import WRONG, Plan, Step
from ghostd.cli.table import GROUPS, TABLE, Setting
from ghostd.daemon import say
from ghostd.errors import GhostError, SettingsError
from ghostd.settings import PoolSettings
from ghostd.typed import Any

DEVELOPMENT: dict[str, Any] = {
    "spirits": 1,
    "canary_time": 0,
    "graceful_timeout": 5,
    "term": "immediate",
}
"""What ``--reload`` changes among the defaults: quick rather than careful."""

SPOKEN_TO = ("name", "pidfile", "control", "graceful_timeout")
"""Settings that matter to whoever speaks to a daemon that runs already."""

COMPLETION = "_GHOSTD_COMPLETE"
"""Variable by which a shell asks for completions."""

USAGE = 2
"""Exit code of a command line that cannot be read."""


# -- options -------------------------------------------------------------------


class _Checked(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.3 only
    """A value that the setting's own check allows."""

    def __init__(self, setting: Setting) -> None:
        """Read values of *setting*."""
        self.setting = setting
        self.name: str = setting.placeholder.lower()

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Make a value of a text, or say what is allowed."""
        read = self.setting.read(value) if isinstance(value, str) else value
        try:
            self.setting.check(self.setting.name, read)
        except SettingsError as error:
            self.fail(str(error), param, ctx)
        return read

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click calls it so
        param: click.Parameter,  # noqa: ARG002 - click calls it so
        incomplete: str,
    ) -> list[click.shell_completion.CompletionItem]:
        """Complete the words of a choice, and the names of files."""
        item = click.shell_completion.CompletionItem
        if self.setting.is_path:
            return [item(incomplete, type="file")]
        words = self.setting.choices
        return [item(word) for word in words if word.startswith(incomplete)]


class Option(click.Option):
    """An option that knows under which heading it is listed."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        """Take what click takes, and the heading."""
        self.heading = heading
        super().__init__(*args, **kwargs)


def option(setting: Setting) -> Option:
    """Make the option of a setting."""
    other = [f"--{new}" for new, old in table.ALIASES.items() if old == setting.name]
    names = [setting.option, *other]
    if setting.is_switch:
        names = [f"{setting.option}/--no-{setting.option.removeprefix('--')}"]
    more: dict[str, Any] = {}
    if not setting.is_switch:
        more = {"type": _Checked(setting), "metavar": _metavar(setting)}
    return Option(
        [*names, setting.name],
        help=_help(setting),
        heading=GROUPS[setting.group],
        default=None,
        multiple=setting.is_list,
        **more,
    )


def _help(setting: Setting) -> str:
    text = re.sub(r"\*(\w+)\*", r"\1", setting.text)
    text = text[:1].upper() + text[1:]
    default = setting.default
    if default in (None, (), "") or setting.is_switch:
        return text
    words = ",".join(default) if isinstance(default, tuple) else setting.write(default)
    return text + f"  [default: {words}]".replace('"', "")


def _metavar(setting: Setting) -> str:
    few = setting.choices and len(setting.choices) <= 5  # noqa: PLR2004 - fits in a line
    return f"[{'|'.join(setting.choices)}]" if few else setting.placeholder


class Command(click.Command):
    """A command whose options stand under headings."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the options, the command's own first."""
        headings: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                heading = getattr(param, "heading", "Options")
                headings.setdefault(heading, []).append(record)
        for heading, records in headings.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Group(click.Group):
    """The program; a word that it does not know is answered with the nearest."""

    command_class: type[click.Command] | None = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List them in the order in which they are written below."""
        del ctx
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command."""
        word = args[0] if args else ""
        if word and word not in self.commands and not word.startswith("-"):
            for near in difflib.get_close_matches(word, self.commands, 1):
                ctx.fail(f"No such command {word!r}. Did you mean {near!r}?")
            ctx.fail(f"No such command {word!r}; a class is written MODULE:CLASS.")
        return super().resolve_command(ctx, args)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

OPTIONS: dict[str, Option] = {name: option(setting) for name, setting in TABLE.items()}
"""The option of each setting; made once, for all commands."""


def settings_options(names: Iterable[str]) -> Decorator:
    """Add the options of these settings to a command."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        params = function.__dict__.setdefault("__click_params__", [])
        params.extend(reversed([OPTIONS[name] for name in names]))
        return function

    return add


every_setting: Decorator = settings_options(TABLE)
spoken_to: Decorator = settings_options(SPOKEN_TO)
config_file: Decorator = click.option(
    "--config",
    "config",
    metavar="FILE",
    envvar=config.CONFIG_VARIABLE,
    type=click.Path(dir_okay=False),
    help="The configuration; without it ghostd.toml in the current folder, or "
    "[tool.ghostd] of the pyproject.toml there.",
)
a_name: Decorator = click.argument(
    "daemon", required=False, default="", metavar="[NAME]"
)
watching: list[Decorator] = [
    click.option(
        "--reload",
        "reload",
        is_flag=True,
        help="For development: reload whenever a source file changes. Stays in the "
        "foreground; needs the extra 'reload'.",
    ),
    click.option(
        "--reload-dir",
        "reload_dirs",
        metavar="FOLDER",
        multiple=True,
        type=click.Path(exists=True, file_okay=False),
        help="Watch this folder; may be repeated.  [default: the application's]",
    ),
    click.option(
        "--reload-include",
        "reload_includes",
        metavar="PATTERN",
        multiple=True,
        help="Watch files whose name matches; may be repeated.  [default: *.py]",
    ),
    click.option(
        "--reload-exclude",
        "reload_excludes",
        metavar="PATTERN",
        multiple=True,
        help="Leave out files and folders whose name matches; may be repeated.",
    ),
]


def _watch_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for each in reversed(watching):
        function = each(function)
    return function


# -- from options to a plan ----------------------------------------------------


def typed(values: dict[str, Any]) -> Layer:
    """Make a layer of what was typed."""
    found: Layer = {}
    for name, value in values.items():
        if name in TABLE and value is not None and value != ():
            setting = TABLE[name]
            source = setting.option
            if setting.is_list:
                value = [word for each in value for word in each]  # noqa: PLW2901
            elif value is False:
                source = f"--no-{setting.option.removeprefix('--')}"
            anchored = config.anchored(name, value, os.getcwd())
            found[name] = Given(anchored, source)
    return found


def resolved(
    path: str | None,
    name: str,
    values: dict[str, Any],
    more: Layer | None = None,
    defaults: dict[str, Any] | None = None,
) -> list[Resolved]:
    """Put file, environment and command line together, for each daemon meant."""
    read = config.read(config.find(path, os.getcwd()))
    layer = {**typed(values), **(more or {})}
    lowest = {key: Given(value, "--reload") for key, value in (defaults or {}).items()}
    if name and not read.path:
        # Without a configuration a name is the name of its pidfile, which `serve` has
        # made of the module, and the application is what was typed then.
        layer.setdefault("name", Given(name.partition(":")[0], "NAME"))
    names = [""] if "app" in layer else config.choose(read, name)
    variables = config.environment(os.environ)
    found = [config.resolve(read, each, lowest, variables, layer) for each in names]
    _refuse_twins(found)
    return found


def _refuse_twins(daemons: list[Resolved]) -> None:
    seen: dict[Any, Resolved] = {}
    for each in daemons:
        pidfile = each.given["pidfile"]
        if other := seen.get(pidfile.value):
            raise SettingsError(
                f"{other.name} and {each.name} have the same pidfile, "
                f"{pidfile.value} ({pidfile.source})"
            )
        seen[pidfile.value] = each


def step(daemon: Resolved) -> Step:
    """Make the step of a daemon."""
    what = {word: str(one.value) for word, one in daemon.what.items()}
    given = keywords = daemon.values
    if "target" in what:
        # It may have a name and a pidfile of its own, and must not be asked twice.
        defaults = {key for key, one in daemon.given.items() if one.source == "default"}
        if os.getcwd() != os.path.dirname(given["pidfile"]):
            defaults -= {"pidfile"}
        keywords = {key: one for key, one in given.items() if key not in defaults}
        if "keywords" in daemon.what:
            keywords.update(daemon.what["keywords"].value)
    return Step(
        daemon.name,
        what.get("app", ""),
        what.get("target", ""),
        keywords,
        {key: given[key] for key in SPOKEN_TO if key in given},
        daemon.environment,
        daemon.folder,
        given.get("boot_timeout", PoolSettings.boot_timeout),
    )


def _steps(daemons: list[Resolved], *, need: bool) -> tuple[Step, ...]:
    for each in daemons:
        if need and not {"app", "target"} & set(each.what):
            named = each.given["name"].source != "default"
            what = f"{each.name!r} is" if named else "is to run"
            error = GhostError(f"nothing says what {what}")
            error.add_note(
                "Write app = 'module:attribute' or target = 'module:Class' into "
                "ghostd.toml, or use: ghostd serve MODULE:ATTRIBUTE"
            )
            raise error
    return tuple(step(each) for each in daemons)


def _one(daemons: list[Resolved], word: str) -> list[Resolved]:
    if len(daemons) > 1:
        names = ", ".join(each.name for each in daemons)
        raise GhostError(f"{word} takes one daemon, and here are {names}: say which")
    return daemons


# -- the words -----------------------------------------------------------------

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(ghostd.__version__, message="ghostd %(version)s")
def program() -> None:
    """
    Daemons that keep their spirits alive.

    `ghostd serve MODULE:ATTRIBUTE` serves an application; the other words take the
    name of a daemon that ghostd.toml describes, or no name if it describes only one.
    `ghostd MODULE:CLASS WORD` speaks to a daemon of your own that has no script.
    """


@program.command(cls=Command)
@click.argument("app", required=False, default="", metavar="[MODULE:ATTRIBUTE]")
@click.option(
    "--daemon", "detach", is_flag=True, help="Detach, as `ghostd start` does."
)
@_watch_options
@config_file
@every_setting
def serve(app: str, detach: bool, config: str | None, **values: Any) -> Plan:
    """
    Serve an ASGI or WSGI application, in the foreground.

    Without MODULE:ATTRIBUTE, the one that ghostd.toml names. The log goes to standard
    error unless it is told otherwise. Ctrl-C ends it at once.
    """
    more, name = {}, app
    if ":" in app:
        more, name = {"app": Given(app, "MODULE:ATTRIBUTE")}, ""
    if detach and values["reload"]:
        raise click.UsageError("--reload stays in the foreground: not with --daemon.")
    return _foreground(
        "serve", config, name, values, more, word="start" if detach else "run"
    )


@program.command(cls=Command)
@a_name
@_watch_options
@config_file
@every_setting
def run(daemon: str, config: str | None, **values: Any) -> Plan:
    """Run a daemon in the foreground, as `serve` does."""
    return _foreground("run", config, daemon, values, {}, word="run")


def _foreground(  # noqa: PLR0913 - what serve and run have in common
    typed_word: str,
    path: str | None,
    name: str,
    values: dict[str, Any],
    more: Layer,
    *,
    word: str,
) -> Plan:
    given = {key: values.pop(key) for key in list(values) if key.startswith("reload")}
    developing = given.pop("reload")
    if not developing and any(given.values()):
        raise click.UsageError("--reload-... means something only with --reload.")
    defaults = DEVELOPMENT if developing else {}
    daemons = _one(resolved(path, name, values, more, defaults), typed_word)
    steps = _steps(daemons, need=True)
    return Plan(word, steps, watch=_watch(steps[0], given) if developing else None)


def _watch(step: Step, given: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Say what is to be watched."""
    missing = [
        each
        for each in ("watchfiles", "rich")
        if importlib.util.find_spec(each) is None
    ]
    if missing:
        error = GhostError(f"--reload needs {' and '.join(missing)}")
        error.add_note("pip install 'ghostd[reload]'")
        raise error
    folders = given["reload_dirs"] or (step.keywords.get("app_dir") or step.folder,)
    return {
        "folders": [os.path.abspath(each) for each in folders],
        "includes": list(given["reload_includes"]) or ["*.py"],
        "excludes": list(given["reload_excludes"]),
    }


def _command(word: str, text: str) -> None:
    """Make a command that starts daemons."""

    @program.command(word, cls=Command, help=text)
    @a_name
    @config_file
    @every_setting
    def command(daemon: str, config: str | None, **values: Any) -> Plan:
        return Plan(word, _steps(resolved(config, daemon, values), need=True))


def _message(word: str, text: str) -> None:
    """Make a command that speaks to daemons that run."""

    @program.command(word, cls=Command, help=text)
    @a_name
    @config_file
    @spoken_to
    def command(daemon: str, config: str | None, **values: Any) -> Plan:
        return Plan(word, _steps(resolved(config, daemon, values), need=False))


_command("start", "Start a daemon, and wait until it is up.")
_message("stop", "Stop a daemon gracefully.")
_command("restart", "Stop a daemon if it runs, and start it.")


@program.command(cls=Command)
@a_name
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Wait until the last spirit is replaced, or the reload has failed.",
)
@config_file
@spoken_to
def reload(daemon: str, wait: bool, config: str | None, **values: Any) -> Plan:
    """Replace the spirits of a daemon, with new code, one after another."""
    steps = _steps(resolved(config, daemon, values), need=False)
    return Plan("reload", steps, wait)


_message("status", "Tell whether a daemon runs: 0, 1 (dead), 3 (stopped), 4 (unknown).")
_command("check", "Look whether a daemon could start: configuration, rights, code.")


@program.command(cls=Command, name="config")
@a_name
@click.option("--explain", is_flag=True, help="Tell also where each value comes from.")
@config_file
@every_setting
def show_config(daemon: str, explain: bool, config: str | None, **values: Any) -> int:
    """Show what a daemon would be set to."""
    daemons = resolved(config, daemon, values)
    for each in daemons:
        if len(daemons) > 1:
            click.echo(f"[daemon.{each.name}]")
        for line in _shown(each, explain=explain):
            click.echo(line)
    return 0


def _shown(daemon: Resolved, *, explain: bool) -> Iterable[str]:
    for key, value, source in config.explained(daemon):
        # What has no value and no default cannot be written in TOML.
        line = f"{key} = {value}" if value else f"# {key} ="
        yield f"{line:<48} # {source}" if explain else line


def main(arguments: list[str]) -> Plan | int:
    """
    Read a command line.

    Returns:
        What is to be done, or the exit code where nothing is left to do.
    """
    if not arguments and COMPLETION not in os.environ:
        # Who says nothing is told what could be said, and has not succeeded.
        with contextlib.redirect_stdout(sys.stderr):
            main(["--help"])
        return USAGE
    try:
        made: object = program.main(
            arguments,
            prog_name="ghostd",
            complete_var=COMPLETION,
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GhostError as error:
        click.echo(f"ghostd: {say(error)}", err=True)
        return control.UNKNOWN if arguments[:1] == ["status"] else WRONG
    # An int: where click was asked for help, it gives the exit code.
    return made if isinstance(made, Plan | int) else 0
