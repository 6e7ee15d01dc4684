"""
The name of a unix socket in the file system: given, taken over, taken away.

A name is never in anybody's hands half-made: the socket is bound under a name that
nobody knows, listens, gets its owner, and then the name at one stroke. What is there
already is replaced only if it is a socket, ours, and dead. Anything else may be
somebody's file, or a trap, and stays as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ghostd.errors import ListenError
from ghostd.typed import TYPE_CHECKING
from ghostd.unix import doors

if TYPE_CHECKING:
    from socket import socket

LONGEST = 107
"""Bytes of a path that the kernel takes; one of its own ends it."""

_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_LOOK = getattr(os, "O_PATH", 0) | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_TRIES = 5
_KINDS = {
    stat.S_IFLNK: "a symbolic link, which may have been planted",
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a folder",
}


class SocketFile:
    """
    One name.

    Args:
        path: absolute.
        mode: permission bits; there is no moment at which it has others.
        uid: its owner, -1: whoever we are.
        gid: its group, -1: what the folder or we give it.
        trusted: other users whose dead sockets may be replaced.
    """

    def __init__(
        self,
        path: str,
        mode: int = 0o600,
        uid: int = -1,
        gid: int = -1,
        trusted: frozenset[int] = frozenset(),
    ) -> None:
        """Note the wishes; `bind` makes them true."""
        self.path: str = path
        self._mode = mode
        self._uid = uid
        self._gid = gid
        self._trusted = trusted | {os.geteuid(), uid}
        self._base = os.path.basename(path)
        self._folder = os.path.dirname(path) or "."
        self._owner = 0
        self._mark: tuple[int, int] | None = None

    def bind(self, sock: socket, backlog: int) -> None:
        """
        Have *sock* listen under this name.

        Raises:
            ListenError: somebody listens there, or something else is there.
        """
        try:
            folder = os.open(self._folder, _FOLDER)
        except OSError as error:
            raise self._error(f"folder {self._folder}: {_why(error)}") from None
        try:
            self._refuse_open_folder(folder)
            self._bind(sock, backlog, folder)
        finally:
            os.close(folder)

    def _bind(self, sock: socket, backlog: int, folder: int) -> None:
        self._reach(folder, self._base)  # what nobody could connect is refused now
        draft = _draft()
        try:
            before = os.umask(~self._mode & 0o777)
            try:
                sock.bind(self._reach(folder, draft))
            finally:
                os.umask(before)
            sock.listen(backlog)
            self._give_away(folder, draft)
            info = os.stat(draft, dir_fd=folder, follow_symlinks=False)
            self._publish(folder, draft)
        except OSError as error:
            raise self._error(_why(error)) from None
        finally:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=folder)
        self._mark = (info.st_dev, info.st_ino)
        self._owner = os.getpid()

    def _give_away(self, folder: int, draft: str) -> None:
        """Set owner and group; in a folder of somebody else's it may be a trap."""
        if self._uid < 0 and self._gid < 0:
            return
        if not doors.PROC or not hasattr(os, "O_PATH"):
            os.chown(draft, self._uid, self._gid, dir_fd=folder, follow_symlinks=False)
            return
        fd = os.open(draft, _LOOK, dir_fd=folder)
        try:
            info = os.fstat(fd)
            # Whoever owns the folder could have put a link to any file there meanwhile.
            if not stat.S_ISSOCK(info.st_mode) or info.st_nlink != 1:
                raise self._error("another file was put in the place of the new socket")
            os.chown(f"/proc/self/fd/{fd}", self._uid, self._gid)
        except PermissionError as error:
            raise self._error(
                f"cannot be given to user {self._uid}, group {self._gid}: {_why(error)}"
            ) from None
        finally:
            os.close(fd)

    def _publish(self, folder: int, draft: str) -> None:
        for _ in range(_TRIES):
            self._make_room(folder)
            try:
                os.link(
                    draft,
                    self._base,
                    src_dir_fd=folder,
                    dst_dir_fd=folder,
                    follow_symlinks=False,
                )
            except FileExistsError:
                continue  # somebody was quicker; who is it?
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # No hard links here: what comes in between would be replaced.
                os.rename(draft, self._base, src_dir_fd=folder, dst_dir_fd=folder)
            return
        raise self._error("others keep putting sockets there")

    def _make_room(self, folder: int) -> None:
        """See that nothing is at the path; a dead socket of ours goes."""
        try:
            there = os.stat(self._base, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(there.st_mode):
            kind = _KINDS.get(stat.S_IFMT(there.st_mode), "no socket")
            raise self._error(f"there is {kind}; it was not touched")
        if self._is_alive(folder):
            raise self._error("already in use: somebody listens there")
        if there.st_uid not in self._trusted:
            raise self._error(
                f"there is a dead socket of user {there.st_uid}; it was not touched"
            )
        aside = _draft()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._base, aside, src_dir_fd=folder, dst_dir_fd=folder)
            now = os.stat(aside, dir_fd=folder, follow_symlinks=False)
            if _identity(now) != _identity(there):
                # It had been replaced by a living one since we looked.
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._base, src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(aside, dir_fd=folder)

    def _is_alive(self, folder: int) -> bool:
        """Ask whether somebody listens, which nobody but the kernel can tell."""
        import socket

        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self._reach(folder, self._base))
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except BlockingIOError:
                return True  # so many wait there that no more can
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    return True  # one for datagrams
                raise self._error(
                    f"cannot find out who listens there: {_why(error)}"
                ) from None
        return True

    def _reach(self, folder: int, name: str) -> str:
        """Give a path that the kernel takes, however long the folder's is."""
        path = os.path.join(self._folder, name)
        if len(os.fsencode(path)) <= LONGEST:
            return path
        short = f"/proc/self/fd/{folder}/{name}"
        if not doors.PROC or len(os.fsencode(short)) > LONGEST:
            raise self._error(f"longer than {LONGEST} bytes, which nobody can connect")
        return short

    def _refuse_open_folder(self, folder: int) -> None:
        """Refuse, as root, a folder in which anybody could swap the file."""
        mode = os.stat(folder).st_mode
        if os.geteuid() == 0 and mode & 0o002 and not mode & stat.S_ISVTX:
            raise self._error(
                f"anybody may change files in {self._folder}; "
                "root needs a folder that is not writable by all"
            )

    def remove(self) -> None:
        """
        Take the name away if it is still that of our socket. Safe to repeat.

        Before the socket is closed: while it is open its inode belongs to nobody else.
        """
        if self._owner != os.getpid() or self._mark is None:
            return
        # After a drop of rights the folder may be closed to us. A dead socket does no
        # harm, and the next start replaces it.
        with contextlib.suppress(OSError):
            info = os.stat(self.path, follow_symlinks=False)
            if (info.st_dev, info.st_ino) == self._mark:
                os.unlink(self.path)
        self._mark = None

    def _error(self, why: str) -> ListenError:
        return ListenError(f"cannot listen on unix:{self.path}: {why}")


def _identity(info: os.stat_result) -> tuple[int, int, int]:
    """Tell files apart: a number alone goes to the next one as soon as it is free."""
    return info.st_dev, info.st_ino, info.st_mtime_ns


def _draft() -> str:
    return f"ghostd-{os.urandom(8).hex()}.new"


def _why(error: OSError) -> str:
    return error.strerror or str(error)
