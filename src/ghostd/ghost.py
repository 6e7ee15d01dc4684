"""
Ghost: one daemon, with its settings, hooks and control commands.

This is the façade. What a daemon does with its life is in `daemon`, what the
commands do in `control`, and every effect behind that in `unix`.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from signal import Signals
from types import MethodType

from ghostd import control, settings
from ghostd.daemon import SIGNALS, Daemon
from ghostd.errors import GhostError, SettingsError
from ghostd.settings import GhostSettings
from ghostd.spirit import HasFileno, Spirit
from ghostd.typed import TYPE_CHECKING, Any, ClassVar, Self
from ghostd.unix import privilege
from ghostd.unix.pidfile import Pidfile

if TYPE_CHECKING:
    from ghostd.logs import Log

_COROUTINE = 0x0080
_NEVER = 0x0020 | 0x0200
"""Code flags, the second those of generators and asynchronous generators."""


def _script_name() -> str:
    """Name the daemon after its script: ``-m package`` is ``package``."""
    path = sys.argv[0] if sys.argv and sys.argv[0] else "ghost"
    base = os.path.basename(path)
    if base == "__main__.py":
        base = os.path.basename(os.path.dirname(path))
    name = base.removesuffix(".py")
    return "ghost" if name in {"", "-c", "-m"} else name


class Ghost:
    """
    A daemon.

    Subclass it and override `startup`, or give the hooks as keywords:
    ``Ghost(startup=body)``; a callable gets the object first.

    Args:
        keywords: the fields of `GhostSettings`, and any hook by its name.

    Raises:
        SettingsError: a keyword is unknown, or its value is not allowed.
    """

    HOOKS: ClassVar[tuple[str, ...]] = (
        "preinit",
        "init",
        "startup",
        "hangup",
        "cleanup",
    )
    """Names of the hooks that may be overridden or given as keywords."""

    _CHECKS: ClassVar[dict[str, settings.Check]] = settings.GHOST_CHECKS
    _patience = 7.0
    _boot_patience = 7.0
    _has_loop = False

    def __init__(self, **keywords: Any) -> None:
        """Check every keyword at once, here, in the terminal of whoever made it."""
        extra = self._refuse_unknown(keywords)
        given = settings.checked(settings.GHOST_CHECKS, keywords)
        given.setdefault("name", _script_name())
        given.setdefault("ident", given["name"])
        # Absolute now: the daemon changes its folder, and must still find them.
        for path in ("pidfile", "logfile"):
            if path in given:
                given[path] = os.path.abspath(given[path])
        if "pidfile" not in given:
            given["pidfile"] = os.path.abspath(f"{given['name']}.pid")
        self.settings: GhostSettings = GhostSettings(**given)
        for name in self.HOOKS:
            _a_hook(name, getattr(type(self), name))
            if keywords.get(name) is not None:
                setattr(self, name, MethodType(_a_hook(name, keywords[name]), self))
        self._daemon = Daemon(self.settings, self._signals())
        self._construct(keywords)
        self.again(**extra)

    def _construct(self, keywords: dict[str, Any]) -> None:
        """Take the keywords of a subclass of this house."""

    def _refuse_unknown(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Refuse keywords that nobody knows; give those that `again` asks for."""
        code = type(self).again.__code__
        named = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
        known = (*self._CHECKS, *self.HOOKS, *named)
        for name in keywords:
            if name not in known:
                allowed = ", ".join(sorted(dict.fromkeys(known)))
                raise SettingsError(f"unknown keyword {name!r}, allowed: {allowed}")
        return {name: keywords[name] for name in named if name in keywords}

    @staticmethod
    def _signals() -> Iterable[Signals]:
        return SIGNALS

    def again(self, **_keywords: Any) -> Self:
        """
        Be called right after construction; for subclasses.

        Keywords that an override names in its signature, and only those, are taken
        from the constructor: ``def again(self, *, queue="jobs", **rest)``.
        """
        return self

    def flush(self) -> Self:
        """Reset the internal flags; not meant for use in subclasses."""
        self._daemon.flush()
        return self

    # -- what is set -----------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the daemon."""
        return self.settings.name

    @property
    def pidfile(self) -> str:
        """Path of the pidfile, absolute."""
        return self.settings.pidfile

    @property
    def logfile(self) -> str | None:
        """Path of the log, absolute; None: not a file."""
        return self.settings.logfile

    @property
    def loglevel(self) -> str:
        """Lowest level that is written."""
        return self.settings.loglevel

    @property
    def ident(self) -> str:
        """Name of the daemon in syslog."""
        return self.settings.ident

    @property
    def facility(self) -> str:
        """Facility of the daemon in syslog."""
        return self.settings.facility

    @property
    def user(self) -> str | int | None:
        """User to become."""
        return self.settings.user

    @property
    def group(self) -> str | int | None:
        """Group to become."""
        return self.settings.group

    # -- what is ---------------------------------------------------------------

    @property
    def ok(self) -> bool:
        """
        Tell whether to go on working.

        True from the start of the daemon until it is asked to end; in a spirit until
        QUIT, ``tick(True)``, or the manager's death. If this is False, end soon.
        """
        return self._daemon.spirit.ok

    @property
    def pid(self) -> int:
        """
        Process id of the daemon; in the daemon and its spirits their own.

        0 in a launcher that does not see a daemon running.
        """
        return self._daemon.pid

    @property
    def log(self) -> Log:
        """Where to log; before the daemon starts, a log is opened by the settings."""
        return self._daemon.log

    @property
    def filepid(self) -> Pidfile:
        """The pidfile as an object."""
        return self._daemon.filepid

    @property
    def is_daemonized(self) -> bool:
        """Tell whether this process is the daemon, or a spirit of it."""
        return self._daemon.is_daemonized

    @property
    def is_spirited(self) -> bool:
        """Tell whether this process is a spirit."""
        spirit = self._daemon.spirit
        return isinstance(spirit, Spirit) and spirit.pid == os.getpid()

    # -- what to do ------------------------------------------------------------

    def ctrl(self, command: str | None = None, signal: str | int | None = None) -> int:
        """
        Obey a control command: ``sys.exit(g.ctrl())``.

        Args:
            command: start, stop, restart, reload, status or run; None: the first
                argument of the command line.
            signal: what ``reload`` sends, by name or number; None: HUP; 0: nothing.

        Returns:
            The exit code. After ``start`` it returns in the launcher only.
        """
        return control.ctrl(self, command, signal)

    def start(self) -> int:
        """Start the daemon: 0, or 1 with the reason on standard error."""
        return control.start(self)

    def stop(self) -> int:
        """Stop the daemon: its pid; 0: none ran; minus its pid: it lives on."""
        return control.stop(self)

    def restart(self) -> int:
        """Stop and start the daemon: 0, or 1 with the reason on standard error."""
        return control.restart(self)

    def reload(self, signal: str | int | None = None, *, wait: bool = True) -> int:
        """
        Have the daemon reload, or start it: 0, or 1 with the reason.

        Args:
            signal: send this one, and do not wait.
            wait: for a pool: until the new code has replaced the old, or has failed.
        """
        return control.reload(self, signal, wait=wait)

    def status(self) -> int:
        """Give the pid of the running daemon, 0 if none runs."""
        return self.filepid.running()

    def run(self) -> int:
        """Live in the foreground, without forking; give the exit code."""
        return control.run(self)

    def daemonize(self) -> Self:
        """
        Make a daemon of the running script: the launcher exits, the daemon goes on.

        The pidfile is removed when the script ends.

        Raises:
            GhostError: it did not work; nothing is left behind.
        """
        control.become_daemon(self)
        atexit.register(self._daemon.hang_up)
        atexit.register(self._daemon.release)
        return self

    def set_uid(self, user: str | int | None = None) -> Self:
        """
        Become *user* (name or id; None: the one that was set) for good.

        Raises:
            PrivilegeError: no such user, or it did not work.
        """
        wanted = self.settings.user if user is None else user
        identity = privilege.resolve(settings.an_account("user", wanted), 0)
        if identity is not None and wanted is not None:
            privilege.become_user(identity.uid)
            if isinstance(self._daemon.spirit, Spirit):
                self._daemon.spirit.arm()  # the kernel forgets it with the user
        return self

    def set_gid(self, group: str | int | None = None) -> Self:
        """
        Become *group* for good: a name, an id, or several with blanks between.

        The first is the group, all are the supplementary groups; None: the one
        that was set.

        Raises:
            PrivilegeError: no such group, or it did not work.
        """
        wanted = self.settings.group if group is None else group
        if wanted is not None:
            words = wanted.split() if isinstance(wanted, str) else [wanted]
            gids = [
                privilege.group_id(settings.an_account("group", word) or 0)
                for word in words
            ]
            privilege.become_groups(gids[0], tuple(gids))
        return self

    def wait(self, seconds: float, *files: HasFileno | int) -> bool:
        """
        Sleep at most *seconds*, or until there is something to read. Gives `ok`.

        In the main thread it ends at once when the daemon or the spirit is asked to
        end (a spirit by QUIT or by the manager's death); that holds for a plain ghost,
        too. In a spirit it beats while it waits, so it may last longer than
        `heartbeat_timeout`. Python's own ``time.sleep`` does neither.

        Args:
            seconds: at most so long, from 0.
            files: descriptors, or what has one (``fileno()``), such as a listening
                socket; anything to read on one of them, or its end, ends the wait.
                Which one it was is not told.
        """
        settings.a_duration("seconds", seconds)
        return self._daemon.wait(seconds, *files)

    # -- hooks -----------------------------------------------------------------

    def preinit(self) -> None:
        """Do something in the launcher, with its rights, before the fork."""

    def init(self) -> None:
        """Do something in the daemon, rights dropped, signals already noted."""

    def startup(self) -> object:
        """
        Be the service: the body of the daemon.

        An int that it returns is the daemon's exit code.
        """
        raise GhostError(f"{type(self).__name__} has no startup(): override it")

    def hangup(self) -> None:
        """Answer HUP and USR2; by default the log is reopened."""
        self.log.reopen()

    def cleanup(self, scope: int) -> None:
        """Do the last thing before the daemon ends; *scope* 1: it was interrupted."""

    # -- between daemon, control and manager -----------------------------------

    def _check_body(self) -> None:
        """Refuse, before any fork, a ghost that has nothing to do."""
        if type(self).startup is Ghost.startup and "startup" not in vars(self):
            raise GhostError(
                f"{self.name} has nothing to do: override startup(), or give it"
            )

    def _serve(self) -> int:
        """Run the body once the launcher knows that the daemon is up."""
        self._daemon.report.ready()
        result = self.startup() if self.ok else 0
        return result if isinstance(result, int) else 0


def _a_hook(name: str, value: Any) -> Any:
    """Check a callable that was given for a hook."""
    if not callable(value):
        raise settings.refuse(name, value, "a callable that takes the object first")
    flags = _code_flags(value)
    if name == "spirit":
        flags &= ~_COROUTINE  # its loop is made for it, in the spirit
    if flags & (_COROUTINE | _NEVER):
        raise settings.refuse(
            name, value, "a plain function; this one is asynchronous or a generator"
        )
    return value


def is_asynchronous(value: Any) -> bool:
    """Tell whether a call of *value* gives a coroutine, as far as one can see."""
    return bool(_code_flags(value) & _COROUTINE)


def _code_flags(value: Any) -> int:
    inner = getattr(value, "func", value)  # of a partial
    code = getattr(inner, "__code__", None) or getattr(
        type(value).__call__, "__code__", None
    )
    return 0 if code is None else int(code.co_flags)
