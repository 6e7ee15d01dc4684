"""
Every setting with its unit, default and check, in one place.

All durations are seconds, int or float. Values are checked when an object is
constructed, so that a mistake shows in the terminal of whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable

from ghostd.errors import SettingsError
from ghostd.typed import Any
from ghostd.values import Value

LEVELS = {
    "trace": 5,
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warn": 30,
    "error": 40,
    "fatal": 50,
    "alert": 60,
    "emerg": 70,
}
"""Names of the log levels, lowest first, with the numbers `logging` knows them by."""

LEVEL_ALIASES = {"warning": "warn", "crit": "fatal", "critical": "fatal"}

FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news"),
    *("uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *(f"local{number}" for number in range(8)),
)
"""Names of the syslog facilities; the index is the number on the wire (RFC 5424)."""

TERMS = ("auto", "immediate", "graceful")
LOOPS = ("asyncio", "uvloop", "trio")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LARGEST = 2**31 - 1
LONGEST = 10 * 365 * 86400.0
MOST_SPIRITS = 100_000
ALL_BITS = 0o777
LONGEST_ID = 10
WHOLE = 100
MOST_BYTES = 2**63 - 1
MOST_DIGITS = 19


def refuse(name: str, value: object, allowed: str) -> SettingsError:
    """Make the error that names the setting, its value and what is allowed."""
    return SettingsError(f"{name} is {value!r}, allowed: {allowed}")


def a_duration(name: str, value: object, least: float = 0.0) -> float:
    """Check a number of seconds from *least* to ten years; give it unchanged."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= LONGEST:  # type: ignore[operator]  # a number
        raise refuse(name, value, f"a number of seconds from {least:g} to ten years")
    return value  # type: ignore[return-value]  # a number


def a_positive_duration(name: str, value: object) -> float:
    """Check a number of seconds from a hundredth: shorter ones only burn power."""
    return a_duration(name, value, 0.01)


def a_count(name: str, value: object) -> int:
    """Check a whole number from 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise refuse(name, value, f"a whole number from 0 to {MOST_SPIRITS}")
    if not 0 <= value <= MOST_SPIRITS:
        raise refuse(name, value, f"a whole number from 0 to {MOST_SPIRITS}")
    return value


def a_count_or_auto(name: str, value: object) -> int | str:
    """Check a whole number from 0, or the word ``auto``."""
    if value == "auto":
        return "auto"
    try:
        return a_count(name, value)
    except SettingsError:
        raise refuse(
            name, value, f"a whole number from 0 to {MOST_SPIRITS}, or 'auto'"
        ) from None


def a_positive_count(name: str, value: object) -> int:
    """Check a whole number from 1."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= LARGEST:  # type: ignore[operator]  # a number
        raise refuse(name, value, f"a whole number from 1 to {LARGEST}")
    return value  # type: ignore[return-value]  # a number


def a_share(name: str, value: object) -> float:
    """Check a number from 0 to 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:  # type: ignore[operator]  # a number
        raise refuse(name, value, "a number from 0 to 1")
    return value  # type: ignore[return-value]  # a number


def a_switch(name: str, value: object) -> bool:
    """Check True or False."""
    if not isinstance(value, bool):
        raise refuse(name, value, "True or False")
    return value


def an_amount(name: str, value: object) -> int | str:
    """
    Check an amount of memory; give bytes, or a share as ``"25%"``.

    A share stays a text: of how much, is known on the machine that runs the daemon.
    """
    amount: object = value
    if isinstance(value, str):
        word = value.strip().upper()
        if word.endswith("%") and 0 < _plain_number(word[:-1]) <= WHOLE:
            return f"{_plain_number(word[:-1])}%"
        word = word.removesuffix("B")
        unit = UNITS.get(word[-1:], 1)
        amount = _plain_number(word if unit == 1 else word[:-1]) * unit
    number = isinstance(amount, int) and not isinstance(amount, bool)
    if not number or not 0 < amount <= MOST_BYTES:  # type: ignore[operator]  # a number
        allowed = "bytes, or a number with K, M, G or T, or a share such as '25%'"
        raise refuse(name, value, allowed)
    return amount  # type: ignore[return-value]  # a number


def _plain_number(digits: str) -> int:
    """Read ASCII digits; 0 for all else. Thousands of digits would cost seconds."""
    plain = digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS
    return int(digits) if plain else 0


def a_loop(name: str, value: object) -> Any:
    """Check the name of an event loop, or a callable that makes one."""
    if callable(value) or value in LOOPS:
        return value
    allowed = ", ".join(LOOPS) + ", or a callable that makes an asyncio loop"
    raise refuse(name, value, allowed)


def some_addresses(name: str, value: object) -> tuple[str, ...]:
    """Check a list of addresses; what they mean is looked at when they are opened."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(
        isinstance(each, str) and each and each.isprintable() for each in given
    ):
        raise refuse(name, value, "an address, or a list of them")
    return tuple(given)


def a_path_or_none_at_all(name: str, value: object) -> str | None:
    """Check a path of a file, or the empty text for none."""
    return "" if value == "" else a_path(name, value)


def a_word(name: str, value: object) -> str:
    """Check a text that can stand in a file name and in a log line."""
    plain = isinstance(value, str) and value not in {"", ".", ".."}
    if not plain or "/" in value or not value.isprintable():  # type: ignore[operator,attr-defined]  # a str
        raise refuse(name, value, "printable text without '/'")
    return value  # type: ignore[return-value]  # a str


def a_path(name: str, value: object) -> str | None:
    """Check a path of a file; ``os.PathLike`` is welcome, bytes are not."""
    if value is None:
        return None
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str) or not value or "\0" in value or value[-1] == "/":
        raise refuse(name, value, "the path of a file, as str or PathLike")
    return value


def a_level(name: str, value: object) -> str:
    """Check the name of a log level, in any case."""
    word = value.lower() if isinstance(value, str) else ""
    word = LEVEL_ALIASES.get(word, word)
    if word not in LEVELS:
        raise refuse(name, value, ", ".join((*LEVELS, *LEVEL_ALIASES)))
    return word


def a_facility(name: str, value: object) -> str:
    """Check the name of a syslog facility, with or without ``LOG_``."""
    word = value.lower().removeprefix("log_") if isinstance(value, str) else ""
    if word not in FACILITIES:
        raise refuse(name, value, ", ".join(FACILITIES))
    return word


def log_options(name: str, value: object) -> tuple[str, ...]:
    """Check a comma-separated list of syslog options."""
    words = [w.strip() for w in value.split(",")] if isinstance(value, str) else [""]
    words = [word for word in words if word] if value == "" else words
    known = ("ndelay", "odelay", "nowait", "cons", "perror", "pid", "nofatal", "noeol")
    if any(word not in known for word in words):
        raise refuse(name, value, "a comma-separated list of " + ", ".join(known))
    return tuple(words)


def an_account(name: str, value: object) -> str | int | None:
    """Check the name or number of a user or group; whether it exists shows later."""
    given = value
    if isinstance(value, str) and value and value.isprintable() and ":" not in value:
        if not (value.isascii() and value.isdigit()):
            return value
        # More digits are no number of the kernel's, and thousands cost seconds.
        value = int(value) if len(value) <= LONGEST_ID else -1
    number = isinstance(value, int) and not isinstance(value, bool)
    if value is None or (number and 0 <= value < 2**32 - 1):  # type: ignore[operator]  # a number
        return value  # type: ignore[return-value]  # None or a number
    raise refuse(name, given, "a name, a number from 0 to 4294967294, or None")


def a_mask(name: str, value: object) -> int:
    """Check a file mode mask."""
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or not 0 <= value <= ALL_BITS:  # type: ignore[operator]  # a number
        raise refuse(name, value, "a number from 0o000 to 0o777")
    return value  # type: ignore[return-value]  # a number


def a_term(name: str, value: object) -> str:
    """Check what TERM means."""
    if value not in TERMS:
        raise refuse(name, value, ", ".join(TERMS))
    return str(value)


def a_stream(name: str, value: object) -> Any:
    """Check that something can be written to."""
    if value is not None and not callable(getattr(value, "write", None)):
        raise refuse(name, value, "an open text stream, or None")
    return value


def a_logger(name: str, value: object) -> Any:
    """Check that something has the four methods every logger has."""
    methods = ("debug", "info", "error")
    if value is None or all(callable(getattr(value, m, None)) for m in methods):
        return value
    raise refuse(name, value, "an object with the methods of a logger, or None")


class GhostSettings(Value):
    """
    What a `Ghost` can be told.

    Attributes:
        name: names the daemon, its pidfile and its syslog ident; default: the
            file name of the script, without ``.py``.
        pidfile: path; default ``./NAME.pid``; made absolute at construction.
        logfile: path, appended to; None: syslog.
        loghandle: an open text stream to log to instead of the file.
        logger: an object with the level methods; wins over all other targets.
        loglevel: the lowest level that is written.
        ident: the name syslog knows the daemon by; default *name*.
        facility: the syslog facility.
        logopt: syslog options, comma-separated: ``pid`` adds the process id,
            ``ndelay`` opens at once, ``perror`` copies to standard error.
        user: name or id to become; alone it takes that user's own group and
            supplementary groups. Needs root.
        group: name or id to become. Needs root.
        umask: file mode mask of the daemon.
        start_timeout: seconds that ``start`` waits to be told that the daemon is
            up before it says Running of one that is still on its way.
    """

    name: str
    pidfile: str
    logfile: str | None = None
    loghandle: Any = None
    logger: Any = None
    loglevel: str = "debug"
    ident: str = ""
    facility: str = "user"
    logopt: tuple[str, ...] = ("ndelay", "pid")
    user: str | int | None = None
    group: str | int | None = None
    umask: int = 0o022
    start_timeout: float = 5


class PoolSettings(Value):
    """
    What the pool of a `Prefork` can be told.

    Attributes:
        spirits: wanted number of spirits, from 0; ``"auto"`` becomes the number of
            processors that this process may really use.
        spare: at most this many extra spirits while others are leaving; 0: a
            replacement starts only when the old one is gone.
        heartbeat_interval: seconds; a spirit sends at most one beat in each.
        heartbeat_timeout: seconds; a spirit silent for interval + timeout is
            stopped gracefully and replaced.
        graceful_timeout: seconds from being told to quit to SIGKILL.
        term: what TERM means to the manager: "immediate", "graceful", or "auto":
            immediate, but graceful under an init system or in a container.
        restart_budget: lives in a row that may end before the first beat, or within
            a second, before replacing them is slowed down; default: twice
            *spirits*, at least 8.
        boot_timeout: seconds from birth to the first beat, which says that the
            spirit is ready; a spirit that takes longer is stopped and replaced.
        canary_time: seconds that the first spirit of a new generation must stay
            alive and ready before a reload goes on.
        max_unavailable: at most this many spirits may be missing during a reload; 0:
            an old one leaves only when its replacement is ready.
        max_ticks: a spirit is replaced after so many ticks; the manager hears of it
            within *heartbeat_interval*.
        max_age: seconds after which a spirit is replaced.
        max_memory: bytes of memory (``"300M"``, ``"25%"`` of what the machine or the
            cgroup has) above which a spirit is replaced.
        jitter: by which share of themselves *max_ticks*, *max_age* and *max_memory*
            are lowered at most, by chance, so that not all spirits end at once.
        drain_delay: seconds that a graceful stop waits before any spirit is told,
            while `ready` says no: load balancers take their time.
        preload: ``load`` runs once for each generation, in a process from which its
            spirits are forked, so that they share its memory.
        control: path of the socket on which the daemon answers commands; default
            the pidfile's with ``.ctl`` for ``.pid``; ``""``: none.
        listen: addresses to listen on, opened with all rights before the first fork:
            ``HOST:PORT``, ``[IPV6]:PORT``, ``:PORT``, ``udp:HOST:PORT``,
            ``unix:/PATH?mode=660&user=U&group=G``, ``fd:NUMBER``, ``systemd:NAME``;
            ``?name=...`` on any of them names it.
        backlog: connections that may wait on each; the kernel has a limit, too.
        reuseport: each slot has a queue of its own on each TCP or UDP address.
        loop: what an asynchronous body runs on: ``asyncio``, ``uvloop``, ``trio``, or
            a callable that makes an asyncio loop. An application that is served runs on
            uvloop where that is installed.
        threads: number of threads that run the (plain) body in each spirit; each of
            them has to tick.
    """

    spirits: int = 4
    spare: int = 2
    heartbeat_interval: float = 5
    heartbeat_timeout: float = 50
    graceful_timeout: float = 120
    term: str = "auto"
    restart_budget: int | None = None
    boot_timeout: float = 60
    canary_time: float = 1
    max_unavailable: int = 0
    max_ticks: int | None = None
    max_age: float | None = None
    max_memory: int | str | None = None
    jitter: float = 0.1
    drain_delay: float = 0
    preload: bool = False
    control: str | None = None
    listen: tuple[str, ...] = ()
    backlog: int = 1024
    reuseport: bool = False
    loop: str | Callable[[], Any] = "asyncio"
    threads: int = 1

    @property
    def silence(self) -> float:
        """Give the seconds after its last beat in which a spirit may be silent."""
        return self.heartbeat_interval + self.heartbeat_timeout

    @property
    def budget(self) -> int:
        """Give the restart budget as a number."""
        if self.restart_budget is None:
            return max(8, 2 * self.spirits)
        return self.restart_budget


Check = Callable[[str, object], Any]

GHOST_CHECKS: dict[str, Check] = {
    "name": a_word,
    "pidfile": a_path,
    "logfile": a_path,
    "loghandle": a_stream,
    "logger": a_logger,
    "loglevel": a_level,
    "ident": a_word,
    "facility": a_facility,
    "logopt": log_options,
    "user": an_account,
    "group": an_account,
    "umask": a_mask,
    "start_timeout": a_duration,
}

POOL_CHECKS: dict[str, Check] = {
    "spirits": a_count_or_auto,
    "spare": a_count,
    "heartbeat_interval": a_positive_duration,
    "heartbeat_timeout": a_positive_duration,
    "graceful_timeout": a_duration,
    "term": a_term,
    "restart_budget": a_count,
    "boot_timeout": a_positive_duration,
    "canary_time": a_duration,
    "max_unavailable": a_count,
    "max_ticks": a_positive_count,
    "max_age": a_positive_duration,
    "max_memory": an_amount,
    "jitter": a_share,
    "drain_delay": a_duration,
    "preload": a_switch,
    "control": a_path_or_none_at_all,
    "listen": some_addresses,
    "backlog": a_positive_count,
    "reuseport": a_switch,
    "loop": a_loop,
    "threads": a_positive_count,
}


def checked(checks: dict[str, Check], keywords: dict[str, Any]) -> dict[str, Any]:
    """
    Check the keywords that *checks* knows; those that are None keep their default.

    Raises:
        SettingsError: a value is not allowed.
    """
    return {
        name: check(name, keywords[name])
        for name, check in checks.items()
        if keywords.get(name) is not None
    }
