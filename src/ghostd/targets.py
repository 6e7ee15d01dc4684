"""
Targets: where log lines go, each in one write.

A target that does not take a line (disk full, syslog away) costs the line, never the
daemon: the lost ones are counted, and the count is the next thing that is written.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable
from functools import partial

from ghostd.errors import LogError
from ghostd.settings import FACILITIES, LEVELS
from ghostd.typed import Any, ClassVar

_NAMES = {number: name for name, number in LEVELS.items()}
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if code not in (9, 10)}
_CONTROL |= {code: f"\\x{code:02x}" for code in range(128, 160)}
_CONTROL |= {10: "\n    ", 0x2028: "\\u2028", 0x2029: "\\u2029"}
SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog")


def _level_name(number: int) -> str:
    """Name a level; between two names it is the lower one."""
    return (
        _NAMES.get(number)
        or max(
            (pair for pair in _NAMES.items() if pair[0] <= number), default=(0, "trace")
        )[1]
    )


class Target(logging.Handler):
    """A place for lines; counts those that it could not take."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: int = 0
        self.trouble: str = ""
        self._loser = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; whatever goes wrong is counted, never raised."""
        try:
            text = self.text(record)
            if self.lost and self._loser != os.getpid():
                self.lost = 0  # inherited by a fork: our parent tells of its own
            if self.lost:
                self.write(self.loss_notice())
                self.lost = 0
            self.write(text)
        except Exception:  # noqa: BLE001 - a log must never end a daemon
            self.lost += 1
            self._loser = os.getpid()

    def loss_notice(self) -> bytes:
        """Make the line that says how many are missing."""
        return self.notice(
            f"{self.lost} log lines were lost: the log could not be written"
        )

    def notice(self, text: str) -> bytes:
        """Make a line about the log itself."""
        level = LEVELS["warn"]
        return self.text(logging.LogRecord("ghostd", level, "", 0, text, (), None))

    def message(self, record: logging.LogRecord) -> str:
        """
        Give the text with its traceback; nothing in it can look like a line of its own.

        Line feeds are followed by blanks, other control characters are spelled out.
        """
        text = record.getMessage()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        parts = [text, record.exc_text or "", record.stack_info or ""]
        return "\n".join(filter(None, parts)).translate(_CONTROL)

    def text(self, record: logging.LogRecord) -> bytes:
        """Make the line: time, pid, level, message."""
        seconds = int(record.created)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
        fraction = int((record.created - seconds) * 100_000)
        line = (
            f"[{stamp}.{fraction:05d}] [{os.getpid()}] "
            f"[{_level_name(record.levelno)}] {self.message(record)}\n"
        )
        return line.encode("utf-8", "backslashreplace")

    def write(self, data: bytes) -> None:
        """Write one line, or raise."""
        raise NotImplementedError

    def reopen(self) -> None:
        """Open anew at the next line."""


class FileTarget(Target):
    """
    A file that is appended to, one write for each line.

    Appending writes of several processes to a file never mix. The path is looked at
    before each line (1 us), so a file that was moved or removed is left by every
    process by itself.

    Raises:
        LogError: it cannot be opened, or must not be.
    """

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        """Open it; *owner*: whom a file that is created now shall belong to."""
        super().__init__()
        self.path = path
        self._stale = False
        self._refused = False
        self._fd = _open_log(path, owner)
        self._seen = _identity(os.fstat(self._fd))

    def write(self, data: bytes) -> None:
        """Append the line; a short write is completed, at worst mixed, never cut."""
        if self._fd < 0:
            # `logging` closes all handlers at exit, but a script's own atexit
            # functions may run later, and what they say is worth a line.
            self._fd = _open_log(self.path, None)
            self._seen = _identity(os.fstat(self._fd))
        if self._stale or self._moved():
            self._follow()
        while data:
            data = data[os.write(self._fd, data) :]

    def loss_notice(self) -> bytes:
        """Begin on a line of its own: the disk may have been full in mid-line."""
        return b"\n" + super().loss_notice()

    def _moved(self) -> bool:
        try:
            return _identity(os.stat(self.path)) != self._seen
        except OSError:
            return True

    def _follow(self) -> None:
        try:
            fd = _open_log(self.path, None)
        except LogError as error:
            # The folder is gone, or closed to us since the drop of rights: the old
            # file is better than none, and it says so once.
            self._stale = False
            if not self._refused:
                self._refused = True
                os.write(self._fd, self.notice(f"{error}; this file is kept on with"))
            return
        self._refused = False
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._seen = _identity(os.fstat(self._fd))
        self._stale = False

    def reopen(self) -> None:
        """Open anew at the next line."""
        self._stale = True

    def close(self) -> None:
        """Close the file; a line that comes all the same opens it again."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        # The number may be that of another file by the next line.
        self._fd = -1
        super().close()


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _open_log(path: str, owner: tuple[int, int] | None) -> int:
    """
    Open a log to append to, as carefully as root must.

    A symbolic link is followed only if root or we own it, and a file with several
    names is refused: both are how a log in a public folder becomes /etc/shadow.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        if os.path.islink(path):
            if os.lstat(path).st_uid not in (0, os.geteuid()):
                raise LogError(f"log {path} is a symbolic link of somebody else's")
            fd, new = os.open(path, flags | os.O_CREAT, 0o640), False
        else:
            fd, new = _create_or_open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise LogError(f"log {path} is a pipe that nobody reads") from None
        raise LogError(
            f"log {path} cannot be opened: {error.strerror or error}"
        ) from None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_nlink > 1 and os.geteuid() == 0:
        os.close(fd)
        raise LogError(
            f"log {path} has {info.st_nlink} names; root needs a file with one"
        )
    if new and owner is not None and os.geteuid() == 0:
        os.fchown(fd, *owner)
    if not stat.S_ISREG(info.st_mode):
        os.set_blocking(fd, True)
    return fd


def _create_or_open(path: str, flags: int) -> tuple[int, bool]:
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640), True
    except FileExistsError:
        return os.open(path, flags), False


class StreamTarget(Target):
    """An open text stream, such as standard error."""

    def __init__(self, stream: Any) -> None:
        """Write to *stream*, which stays open."""
        super().__init__()
        self._stream = stream

    def write(self, data: bytes) -> None:
        """Write the line and flush it."""
        self._stream.write(data.decode())
        flush = getattr(self._stream, "flush", None)
        if flush is not None:
            flush()


class SyslogTarget(Target):
    """
    The machine's syslog service, spoken to directly.

    The library's own handler waits without end for a service that stopped reading,
    and C's syslog() does too. Here such a line is lost and counted. A service that
    comes late, or again, gets the lines from then on.
    """

    _SEVERITY: ClassVar[dict[int, int]] = {
        5: 7,
        10: 7,
        20: 6,
        25: 5,
        30: 4,
        40: 3,
        50: 2,
        60: 1,
        70: 0,
    }
    _LONGEST = 8192

    def __init__(self, ident: str, facility: str, options: tuple[str, ...]) -> None:
        """Name the daemon; stay connected if the options say ``ndelay``."""
        super().__init__()
        # In most processes that import ghostd nobody logs to syslog.
        import socket

        self._new_socket: Callable[[], Any] = partial(
            socket.socket, socket.AF_UNIX, socket.SOCK_DGRAM
        )
        self._ident = ident
        self._facility = FACILITIES.index(facility)
        self._options = options
        self._socket: Any = None
        try:
            self._connect()
        except OSError:
            self.trouble = (
                f"No syslog service answers at {SYSLOG_SOCKETS[0]}: until one does, "
                "log lines are lost; a logfile would keep them"
            )
        if "ndelay" not in options:
            self.reopen()

    def text(self, record: logging.LogRecord) -> bytes:
        """Make the line as RFC 3164 has it."""
        severity = self._SEVERITY[LEVELS[_level_name(record.levelno)]]
        stamp = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        pid = f"[{os.getpid()}]" if "pid" in self._options else ""
        head = f"<{self._facility * 8 + severity}>{stamp} {self._ident}{pid}: "
        line = (head + self.message(record)).encode("utf-8", "backslashreplace")
        return line[: self._LONGEST]

    def write(self, data: bytes) -> None:
        """Send the line; a service that was restarted is found again."""
        if "perror" in self._options:
            with contextlib.suppress(OSError):
                os.write(2, data.partition(b">")[2] + b"\n")
        if self._socket is None:
            self._connect()
        try:
            self._socket.send(data)
        except BlockingIOError:
            raise
        except OSError:
            self._connect()
            self._socket.send(data)

    def _connect(self) -> None:
        self.reopen()
        for path in SYSLOG_SOCKETS:
            candidate = self._new_socket()
            candidate.setblocking(False)
            try:
                candidate.connect(path)
            except OSError:
                candidate.close()
            else:
                self._socket = candidate
                return
        raise FileNotFoundError(errno.ENOENT, "no syslog service", SYSLOG_SOCKETS[0])

    def reopen(self) -> None:
        """Connect anew at the next line."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Hang up."""
        self.reopen()
        super().close()
