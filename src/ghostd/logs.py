"""
The log: one line, one write, from many processes into one place.

Everything goes through the standard library's `logging`, by a logger named
``ghostd.NAME``, so user code that logs there lands in the same place. `Log` puts the
ancestor's level names and its way of joining words on top.
"""

from __future__ import annotations

import contextlib
import logging

from ghostd.settings import LEVELS, GhostSettings
from ghostd.targets import FileTarget, StreamTarget, SyslogTarget, Target
from ghostd.typed import Any, ClassVar

for _name, _number in LEVELS.items():
    # Names that `logging` has of its own stay; users' formats may show them.
    if logging.getLevelName(_number).startswith("Level "):
        logging.addLevelName(_number, _name.upper())


class _Message:
    """
    A message that is put together when, and only when, it is written.

    ``%`` in the first text takes the others, as in `logging`; where that does not
    work out they are joined with blanks, as the ancestor does.
    """

    __slots__ = ("_args", "_first")

    def __init__(self, first: object, args: tuple[object, ...]) -> None:
        self._first = first
        self._args = args

    def __str__(self) -> str:
        first = str(self._first)
        if self._args and "%" in first:
            args: Any = self._args
            if len(args) == 1 and isinstance(args[0], dict) and args[0]:
                args = args[0]
            with contextlib.suppress(TypeError, ValueError, KeyError):
                return str(first % args)
        return " ".join((first, *map(str, self._args)))


class Log:
    """
    What a daemon writes to: a method for each level.

    ``log.info("took %s s", t)`` formats only if the line is written;
    ``log.info("all", "cool")`` joins with a blank. ``extra={"event": ...}`` and
    ``exc_info=True`` are as in `logging`. Aliases: warning, crit, critical.
    """

    def __init__(self, logger: logging.Logger) -> None:
        """Wrap a logger of the standard library's."""
        self.logger = logger
        self.trouble: str = ""

    def trace(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log what only somebody who follows every step wants to see."""
        self._log(LEVELS["trace"], message, args, kwargs)

    def debug(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log what helps to find a mistake."""
        self._log(LEVELS["debug"], message, args, kwargs)

    def info(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log a step of a normal life."""
        self._log(LEVELS["info"], message, args, kwargs)

    def notice(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log something normal, but worth a look."""
        self._log(LEVELS["notice"], message, args, kwargs)

    def warn(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log something that may become an error."""
        self._log(LEVELS["warn"], message, args, kwargs)

    def error(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log something that went wrong."""
        self._log(LEVELS["error"], message, args, kwargs)

    def exception(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log an error together with the exception that is being handled."""
        self._log(LEVELS["error"], message, args, {"exc_info": True, **kwargs})

    def fatal(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log something after which the daemon cannot go on."""
        self._log(LEVELS["fatal"], message, args, kwargs)

    def alert(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log something that somebody must mend at once."""
        self._log(LEVELS["alert"], message, args, kwargs)

    def emerg(self, message: object, *args: object, **kwargs: Any) -> None:
        """Log that the system is unusable."""
        self._log(LEVELS["emerg"], message, args, kwargs)

    warning = warn
    crit = fatal
    critical = fatal

    def log(self, level: str, message: object, *args: object, **kwargs: Any) -> None:
        """Log at the level of that name."""
        self._log(LEVELS[level], message, args, kwargs)

    def write(self, level: str, text: str, extra: dict[str, Any]) -> None:
        """Log a finished line without looking up who calls: that is a third of it."""
        number = LEVELS[level]
        if self.logger.isEnabledFor(number):
            make, name = self.logger.makeRecord, self.logger.name
            self.logger.handle(
                make(name, number, "ghostd", 0, text, (), None, extra=extra)
            )

    def _log(
        self, level: int, message: object, args: tuple[object, ...], kwargs: Any
    ) -> None:
        if self.logger.isEnabledFor(level):
            kwargs.setdefault("stacklevel", 3)
            self.logger.log(level, _Message(message, args), **kwargs)

    def reopen(self) -> None:
        """Open the target anew at the next line."""
        for handler in self.logger.handlers:
            if isinstance(handler, Target):
                handler.reopen()

    def close(self) -> None:
        """Let the target go."""
        for handler in list(self.logger.handlers):
            if isinstance(handler, Target):
                self.logger.removeHandler(handler)
                handler.close()


class ForeignLog(Log):
    """
    A logger of the user's own, whatever it is.

    A level that it has no method for goes to the nearest one it has.
    """

    _NEAREST: ClassVar[dict[str, tuple[str, ...]]] = {
        "trace": ("trace", "debug"),
        "debug": ("debug",),
        "info": ("info",),
        "notice": ("notice", "info"),
        "warn": ("warning", "warn", "info"),
        "error": ("error",),
        "fatal": ("fatal", "critical", "crit", "error"),
        "alert": ("alert", "critical", "crit", "fatal", "error"),
        "emerg": ("emerg", "critical", "crit", "fatal", "error"),
    }

    def __init__(self, target: Any, lowest: str) -> None:
        """Find a method for each level once."""
        super().__init__(logging.getLogger("ghostd"))
        self._lowest = LEVELS[lowest]
        self._standard = isinstance(target, logging.Logger | logging.LoggerAdapter)
        self._methods = {
            LEVELS[level]: next(
                method
                for name in names
                if callable(method := getattr(target, name, None))
            )
            for level, names in self._NEAREST.items()
        }

    def _log(
        self, level: int, message: object, args: tuple[object, ...], kwargs: Any
    ) -> None:
        if level < self._lowest:
            return
        text: object = _Message(message, args)
        # Whatever is wrong with it, a log must never end a daemon.
        with contextlib.suppress(Exception):
            if self._standard:
                kwargs.setdefault("stacklevel", 3)
                self._methods[level](text, **kwargs)
            else:
                # Nobody knows which keywords it takes; a text goes through anywhere.
                self._methods[level](str(text) + _traceback(kwargs))

    def write(self, level: str, text: str, extra: dict[str, Any]) -> None:
        """Log a finished line."""
        self._log(LEVELS[level], text, (), {"extra": extra})

    def reopen(self) -> None:
        """Leave the target alone: it is not ours."""

    def close(self) -> None:
        """Leave the target alone: it is not ours."""


def _traceback(kwargs: dict[str, Any]) -> str:
    given = kwargs.get("exc_info")
    if not given:
        return ""
    import traceback

    if isinstance(given, BaseException):
        return "\n" + "".join(traceback.format_exception(given))
    return "\n" + traceback.format_exc()


def open_log(
    settings: GhostSettings,
    *,
    foreground: Any = None,
    owner: tuple[int, int] | None = None,
) -> Log:
    """
    Open the log that the settings ask for.

    Args:
        settings: logger, handle, file and syslog, the first of them that is given.
        foreground: a stream that stands in for syslog.
        owner: whom a log file that is created now shall belong to.

    Raises:
        LogError: the file cannot be opened, or must not be.
    """
    if settings.logger is not None:
        return ForeignLog(settings.logger, settings.loglevel)
    if settings.loghandle is not None:
        target: Target = StreamTarget(settings.loghandle)
    elif settings.logfile is not None:
        target = FileTarget(settings.logfile, owner)
    elif foreground is not None:
        target = StreamTarget(foreground)
    else:
        target = SyslogTarget(settings.ident, settings.facility, settings.logopt)
    logger = logging.getLogger(f"ghostd.{settings.name}")
    Log(logger).close()
    logger.addHandler(target)
    logger.setLevel(LEVELS[settings.loglevel])
    # Handlers of the root logger would write each line a second time.
    logger.propagate = False
    log = Log(logger)
    log.trouble = target.trouble
    return log
