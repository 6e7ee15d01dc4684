"""
Callers: a Unix socket on which other processes of this machine may ask us something.

Only root and the user we are may: the socket has mode 0600, and the kernel says who
has connected. Nothing here ever blocks, and nobody can hold more than a few kilobytes
of us: one line in, a few lines out, a limited time to say it.
"""

from __future__ import annotations

# Not `socket`: it takes 4 ms to load, for what the module underneath does as well.
import _socket
import contextlib
import os
import stat
import struct
import time
from collections.abc import Iterator

from ghostd.unix import fork

VERSION = 1
"""Of what is said here; both ends name it in every line."""

LONGEST_LINE = 4096
BACKLOG = 128
"""Who may wait until the manager comes round; beyond, the kernel says EAGAIN."""
PATIENCE = 5.0
"""Seconds that a caller has to say what it wants."""

_LONGEST_PATH = 100
_CREDENTIALS = struct.Struct("=iII")


class Caller:
    """One connection: it says a line, and is told some."""

    def __init__(self, sock: _socket.socket, deadline: float) -> None:
        """Take over a socket that does not block."""
        self.fd: int = sock.fileno()
        self.deadline: float = deadline
        self.over: bool = False
        self._sock = sock
        self._heard = b""

    def hear(self) -> bytes | None:
        """Give the line once it is complete; None before, and when there is none."""
        try:
            data = self._sock.recv(LONGEST_LINE)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            data = b""
        self._heard += data
        line, end, _ = self._heard.partition(b"\n")
        if end:
            self.deadline = float("inf")
            self._heard = b""
            return line
        # Who hangs up, or talks on and on, has nothing to be told.
        self.over = not data or len(self._heard) >= LONGEST_LINE
        return None

    def say(self, line: bytes) -> None:
        """Tell a line; a caller that does not read, or is gone, is given up."""
        try:
            sent = self._sock.send(line + b"\n")
        except OSError:
            sent = -1
        if sent != len(line) + 1:
            self.over = True

    def close(self) -> None:
        """Hang up."""
        fork.disown(self.fd)
        self._sock.close()


class Listener:
    """
    The socket at *path*, an absolute path; made while we have all rights.

    Args:
        path: where; whatever socket is there is taken for a dead daemon's, so the
            pidfile must be held.
        owner: uid and gid that it will belong to, None: ours.

    Attributes:
        fd: readable when somebody calls.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: str, owner: tuple[int, int] | None = None) -> None:
        """Bind under another name, and give it its own once it is as it must be."""
        self.path: str = path
        self._users = {0, os.geteuid() if owner is None else owner[0]}
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        draft = f"{path}.{os.urandom(4).hex()}.new"
        try:
            self._sock.setblocking(False)
            _bind(self._sock, draft)
            os.chmod(draft, 0o600)
            if owner is not None:
                os.chown(draft, *owner)
            self._sock.listen(BACKLOG)
            info = os.lstat(draft)
            self._refuse_others(path)
            os.rename(draft, path)
        except BaseException:
            self._sock.close()
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise
        self._made = (info.st_dev, info.st_ino)
        self.fd: int = self._sock.fileno()
        fork.keep_private(self.fd)

    @staticmethod
    def _refuse_others(path: str) -> None:
        """Leave a file alone that is no socket: it is none of ours."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(17, "is in use by something else", path)

    def accept(self) -> Caller | None:
        """Give the next caller, None if nobody else calls, or nobody who may."""
        while True:
            try:
                fd, _ = self._sock._accept()  # type: ignore[attr-defined]  # noqa: SLF001 - see above
            except OSError:
                return None
            sock = _socket.socket(fileno=fd)
            sock.setblocking(False)
            uid = peer(sock)
            if uid is None or uid in self._users:
                fork.keep_private(sock.fileno())
                return Caller(sock, time.monotonic() + PATIENCE)
            sock.close()

    def close(self) -> None:
        """Hang up, and take the socket's name away if it is still ours."""
        fork.disown(self.fd)
        self._sock.close()
        with contextlib.suppress(OSError):
            info = os.lstat(self.path)
            if (info.st_dev, info.st_ino) == self._made:
                os.unlink(self.path)


def peer(sock: _socket.socket) -> int | None:
    """Give the uid of whoever has connected; None where the kernel does not say."""
    option = getattr(_socket, "SO_PEERCRED", None)
    if option is None:
        return None  # the mode of the socket is all there is
    data = sock.getsockopt(_socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


def clear_away(path: str) -> None:
    """Remove a socket at which nobody listens; what is in use, or none, stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        call(path).close()
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except OSError:
        return


def call(path: str) -> _socket.socket:
    """
    Connect to the socket at *path*.

    Raises:
        OSError: nobody listens there, or not to us.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: _socket.socket, path: str) -> None:
    before = os.umask(0o177)
    try:
        with _short(path) as name:
            sock.bind(name)
    finally:
        os.umask(before)


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """Give a name for *path* that fits into an address, which holds 107 bytes."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
