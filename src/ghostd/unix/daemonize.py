"""
Becoming a daemon, and telling the launcher the truth about it.

Two forks: the first makes the daemon no child of the launcher's and lets it lead a
session, the second takes its right to ever get a terminal again. Between daemon and
launcher lies a pipe. What the daemon says there decides what ``start`` prints.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

from ghostd.unix import doors, fork, terminal
from ghostd.unix.poller import milliseconds
from ghostd.values import Value

STDERR = 2
_HALF = 16_384
_SEPARATOR = b"\0"


class Verdict(Value):
    """
    What became of a daemon that was started.

    Attributes:
        up: it runs, as far as it can be told.
        pid: its process id, 0 when it never had one that counts.
        reason: why it is not up, a readable block; "" if it is.
        notes: what whoever started it should know all the same.
    """

    up: bool
    pid: int
    reason: str = ""
    notes: tuple[str, ...] = ()


class Report:
    """The daemon's end of the pipe to its launcher; every method may be repeated."""

    def __init__(self, fd: int = -1, *, aloud: bool = False) -> None:
        """
        Take the descriptor over; -1: nobody is waiting.

        *aloud*: say notes and failures on standard error, for a daemon in the
        foreground whose log goes elsewhere.
        """
        self._fd = fd
        self._aloud = aloud
        if fd >= 0:
            fork.keep_private(fd)

    def pid(self) -> None:
        """Say who we are: the pidfile is ours."""
        self._send("pid", str(os.getpid()))

    def ready(self) -> None:
        """Say that the daemon is up, and hang up."""
        self._send("ready", "")
        self.close()

    def note(self, text: str) -> None:
        """Say something that whoever started the daemon should know."""
        self._send("note", text)

    def failed(self, reason: str) -> None:
        """Say why the daemon will not be up; it hangs up when it is gone."""
        self._send("failed", reason)

    def close(self) -> None:
        """Hang up."""
        fork.close(self._fd)
        self._fd = -1

    def _send(self, word: str, text: str) -> None:
        if self._aloud and word in {"note", "failed"}:
            terminal.complain(text)
        if self._fd < 0:
            return
        data = f"{word} {text}".encode("utf-8", "replace").replace(_SEPARATOR, b"")
        # A launcher that was killed cannot be told; the daemon lives on.
        with contextlib.suppress(OSError):
            # Of a long story the beginning and the end tell most.
            if len(data) > 2 * _HALF:
                data = data[:_HALF] + b"\n[...]\n" + data[-_HALF:]
            os.write(self._fd, data + _SEPARATOR)


def listen(fd: int, deadline: float) -> Verdict:
    """
    Hear the daemon out, at most until *deadline* on the monotonic clock.

    A daemon that is still on its way by then counts as up. After a failure this
    returns only when the daemon is gone, so that nothing is left running.
    """
    data = b""
    pid = 0
    reason = ""
    notes: list[str] = []
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        patience = None if reason else milliseconds(deadline - time.monotonic())
        if not poll.poll(patience):
            notes.append("It is still on its way: no word from it yet")
            return Verdict(up=True, pid=pid, notes=tuple(notes))
        chunk = os.read(fd, 65536)
        if not chunk:
            return Verdict(up=False, pid=pid, reason=reason or _silent_end(pid))
        *messages, data = (data + chunk).split(_SEPARATOR)
        for message in messages:
            word, _, text = message.decode("utf-8", "replace").partition(" ")
            if word == "pid":
                pid = int(text)
            elif word == "ready":
                return Verdict(up=True, pid=pid, notes=tuple(notes))
            elif word == "note":
                notes.append(text)
            else:
                reason = text


def _silent_end(pid: int) -> str:
    name = f"Process {pid}" if pid else "The daemon"
    return f"{name} ended before it was up and said nothing; its log may tell more"


def open_standard_streams() -> None:
    """Put /dev/null where 0, 1 or 2 is closed, or the next file would land there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)


def detach(report: tuple[int, int]) -> tuple[int, Report | None]:
    """
    Fork twice.

    Args:
        report: a pipe, read end first.

    Returns:
        In the launcher the pid of the process in between, to be waited for, and
        None; in the daemon 0 and its `Report`, with every signal still blocked.
    """
    read, write = report
    fork.flush()
    # A Ctrl-C in between would be raised in the script, in three processes.
    mask = fork.set_mask(fork.SIG_BLOCK, fork.EVERY_SIGNAL)
    try:
        pid = os.fork()
    except OSError:
        fork.set_mask(fork.SIG_SETMASK, mask)
        raise
    if pid:
        fork.close(write)
        fork.set_mask(fork.SIG_SETMASK, mask)
        return pid, None
    os.setsid()
    try:
        if os.fork():
            os._exit(0)
    except OSError as error:
        # In between there is nobody to raise to: the stack is the launcher's.
        Report(write).failed(f"cannot fork: {error.strerror}")
        os._exit(1)
    fork.close(read)
    os.set_blocking(write, True)
    return 0, Report(write)


def inherited(keep: set[int]) -> list[int]:
    """
    List the descriptors that came with us through an exec, but for those in *keep*.

    What this program itself opened is close-on-exec, Python sees to that. What is
    not must have been left open by whoever started us.
    """
    if doors.PROC:
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
    else:
        fds = list(range(min(os.sysconf("SC_OPEN_MAX"), 4096)))
    found = []
    for fd in fds:
        if fd > STDERR and fd not in keep:
            with contextlib.suppress(OSError):
                if os.get_inheritable(fd):
                    found.append(fd)
    return found


def activated() -> set[int]:
    """List the descriptors that an init system passed to this very process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return set()
    number = os.environ.get("LISTEN_FDS", "")
    sane = number.isascii() and number.isdigit() and len(number) < len("100000")
    many = int(number) if sane else 0
    return set(range(3, 3 + many))


def let_go(umask: int, meant: set[int]) -> None:
    """Drop what ties a daemon to where it was started: files, mask, folder, streams."""
    os.umask(umask)
    if os.geteuid() == 0:
        # Root's daemon must not keep a file system from being unmounted.
        os.chdir("/")
    for fd in inherited(meant):
        os.close(fd)
    fork.flush()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    for fd in range(3):
        os.dup2(null, fd)
    if null > STDERR:
        os.close(null)
