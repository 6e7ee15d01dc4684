"""
The pidfile: a lock that is held for life, with a number in it for people.

Only the lock says that a daemon runs. A stale file, a number that the kernel has
given to a stranger, a file of another program: all of them lack the lock. The file
is complete from its first moment: it is written under another name, locked, and then
linked or renamed to its own, so nobody ever reads half a number or finds a file that
is not locked yet.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time

from ghostd.errors import AlreadyRunning, PidfileError
from ghostd.unix import doors, fork

_NUMBER = re.compile(rb"[1-9][0-9]{0,9}\n?")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PATIENCE = 0.25


class Pidfile:
    """
    The pidfile at *path*, an absolute path.

    Attributes:
        path: where it is.
        held: this process, or the one it was forked from, holds the lock.
    """

    def __init__(self, path: str) -> None:
        """Name the file; nothing is touched."""
        self.path = path
        self._fd = -1
        self._owner = 0

    @property
    def held(self) -> bool:
        """Tell whether this very process holds the lock."""
        return self._fd >= 0 and self._owner == os.getpid()

    # -- asking ----------------------------------------------------------------

    def running(self) -> int:
        """
        Give the pid of the daemon that holds the file, 0 when none does.

        Raises:
            PidfileError: the file is none of a daemon, or its word cannot be trusted.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._running()
            except FileNotFoundError:
                return 0
            except PidfileError:
                # Caught while the daemon ended, or while another command took hold of
                # a stale file; what lasts is no such moment.
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.002)

    def _running(self) -> int:
        fd = self._open()
        try:
            return 0 if self._lock(fd, fcntl.LOCK_SH) else self._number(fd)
        finally:
            os.close(fd)

    def exists(self) -> bool:
        """Tell whether anything is at the path."""
        return os.path.lexists(self.path)

    def _open(self) -> int:
        try:
            fd = os.open(self.path, _READ)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise PidfileError(
                    f"pidfile {self.path} is a symbolic link, which may have been "
                    "planted; a regular file is needed"
                ) from None
            raise self._error("cannot be read", error) from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise PidfileError(f"pidfile {self.path} is not a regular file")
        return fd

    def _number(self, fd: int) -> int:
        """Read the number in the file of a living daemon, or raise."""
        text = os.pread(fd, 64, 0)
        if not _NUMBER.fullmatch(text):
            raise PidfileError(
                f"pidfile {self.path} is locked, but holds {text[:20]!r} and no pid"
            )
        pid = int(text)
        info = os.fstat(fd)
        holders = _holders(info.st_ino)
        if holders is not None and pid not in holders:
            who = f"process {min(holders)}" if holders else "another pid namespace"
            raise PidfileError(
                f"pidfile {self.path} says {pid}, but its lock is held by {who}"
            )
        if os.geteuid() == 0 and info.st_uid != 0:
            # Whoever owns the file chooses the number in it. Root must not signal on
            # the word of a user who could not do so himself.
            owner = _owner_of(pid)
            if owner not in (None, info.st_uid) or info.st_mode & 0o022:
                raise PidfileError(
                    f"pidfile {self.path} belongs to user {info.st_uid}, but process "
                    f"{pid} in it does not; root does not act on it"
                )
        return pid

    # -- holding ---------------------------------------------------------------

    def take(self) -> None:
        """
        Write our pid and hold the lock from now on.

        Raises:
            AlreadyRunning: a living daemon holds it.
            PidfileError: the file cannot be written.
        """
        self._refuse_open_folder()
        deadline = time.monotonic() + _PATIENCE
        while not self._try_to_take():
            if time.monotonic() > deadline:
                raise AlreadyRunning(f"pidfile {self.path} is held by another start")
            # Another process looks at the file, or is about to replace it: both are
            # over in microseconds, and there is nothing to wait on.
            time.sleep(0.002)
        self._owner = os.getpid()
        fork.keep_private(self._fd)

    def _try_to_take(self) -> bool:
        try:
            old = self._open()
        except FileNotFoundError:
            return self._publish(replace=False)
        try:
            if not self._lock(old, fcntl.LOCK_EX):
                if self._lock(old, fcntl.LOCK_SH):
                    return False  # only somebody who looks
                pid = self._number_of_living(old)
                if pid:
                    raise AlreadyRunning(f"Already running {pid}", pid)
                return False
            # We hold a stale file; but is it still the one at the path?
            return self._is_at_path(old) and self._publish(replace=True)
        finally:
            os.close(old)

    def _number_of_living(self, fd: int) -> int:
        """Read the pid of the holder; 0 while it is not that of a living process."""
        text = os.pread(fd, 64, 0)
        if not _NUMBER.fullmatch(text):
            return 0
        try:
            os.kill(int(text), 0)
        except PermissionError:
            return int(text)
        except (ProcessLookupError, OverflowError):
            return 0
        return int(text)

    def check(self) -> None:
        """
        See whether the file could be made, and leave nothing behind.

        Raises:
            PidfileError: it could not.
        """
        try:
            import tempfile  # only `check` needs it

            with tempfile.TemporaryFile(dir=os.path.dirname(self.path)):
                pass
        except OSError as error:
            raise self._error("cannot be created", error) from None

    def _publish(self, *, replace: bool) -> bool:
        """Make the file complete and locked, then give it its name at one stroke."""
        draft = f"{self.path}.{os.urandom(4).hex()}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(draft, flags, 0o644)
        except OSError as error:
            raise self._error("cannot be created", error) from None
        try:
            os.fchmod(fd, 0o644)
            self._lock(fd, fcntl.LOCK_EX)
            os.write(fd, b"%d\n" % os.getpid())
            if replace:
                os.rename(draft, self.path)
            else:
                os.link(draft, self.path, follow_symlinks=False)
                os.unlink(draft)
        except FileExistsError:
            self._discard(draft, fd)
            return False
        except OSError as error:
            if self._is_at_path(fd):
                # It has its name already, but cannot lose the other one.
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            self._discard(draft, fd)
            raise self._error("cannot be written", error) from None
        except PidfileError:
            self._discard(draft, fd)
            raise
        self._fd = fd
        return True

    @staticmethod
    def _discard(draft: str, fd: int) -> None:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(draft)

    def tend(self) -> bool:
        """
        Put the file back if somebody removed it; False when it cannot be done.

        Without it a second daemon could start beside us.
        """
        if not self.held or self._is_at_path(self._fd):
            return True
        old = self._fd
        try:
            if not self._publish(replace=False):
                return False
        except PidfileError:
            return False
        fork.keep_private(self._fd)
        fork.close(old)
        return True

    def release(self) -> None:
        """Remove the file if it is ours, and let the lock go. Safe to repeat."""
        if not self.held:
            return
        if self._is_at_path(self._fd):
            # After a drop of rights the folder may be closed to us. The lock is what
            # counts; `stop` clears the rest away.
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        fork.close(self._fd)
        self._fd = -1

    def clear_away(self) -> None:
        """Remove a file that a dead daemon left; one that is held stays."""
        try:
            fd = self._open()
        except (FileNotFoundError, PidfileError):
            return
        try:
            if self._lock(fd, fcntl.LOCK_EX) and self._is_at_path(fd):
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
        finally:
            os.close(fd)

    # -- details ---------------------------------------------------------------

    def _lock(self, fd: int, kind: int) -> bool:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._error("cannot be locked", error) from None
        return True

    def _is_at_path(self, fd: int) -> bool:
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        mine = os.fstat(fd)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _refuse_open_folder(self) -> None:
        """Refuse, as root, a folder in which anybody could swap the file."""
        folder = os.path.dirname(self.path)
        try:
            mode = os.stat(folder).st_mode
        except OSError as error:
            raise self._error("cannot be created", error) from None
        if os.geteuid() == 0 and mode & 0o002 and not mode & stat.S_ISVTX:
            raise PidfileError(
                f"pidfile {self.path}: anybody may change files in {folder}; "
                "root needs a folder that is not writable by all"
            )

    def _error(self, what: str, error: OSError) -> PidfileError:
        return PidfileError(f"pidfile {self.path} {what}: {error.strerror or error}")


def _holders(inode: int) -> set[int] | None:
    """
    List who holds locks on a file of that number, as the kernel knows them.

    A daemon in another pid namespace writes the number that it has there; here that
    is nobody, or a stranger. None: the kernel does not tell.
    """
    if not doors.PROC:
        return None
    try:
        # As bytes: a codec is a module, and rights may have been dropped by now.
        with open("/proc/locks", "rb") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None
    # Number: FLOCK ADVISORY WRITE pid major:minor:inode start end. One that waits for
    # a lock has an arrow in the second place.
    return {
        int(row[4])
        for row in rows
        if row[1] == b"FLOCK" and row[5].rpartition(b":")[2] == b"%d" % inode
    }


def _owner_of(pid: int) -> int | None:
    """Give the real user of a process, None where it cannot be told."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None
