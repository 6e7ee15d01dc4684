"""
Children and their deaths: signals that reach nobody else, and ends told in words.

Only children that we know are waited for, one by one. `waitpid(-1)` would take the
exit status of a `subprocess` that a hook has started away from its owner.
"""

from __future__ import annotations

import os
import signal

from ghostd.unix import doors, fork
from ghostd.values import Value

_SENT_BY_SOMEBODY = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class Ended(Value):
    """
    How a process ended.

    Attributes:
        code: its exit code, None if a signal ended it.
        signal: the number of that signal, or None.
        core: it left a core dump.
    """

    code: int | None = None
    signal: int | None = None
    core: bool = False

    @property
    def clean(self) -> bool:
        """Tell whether it ended by itself with exit code 0."""
        return self.code == 0

    @property
    def foreign(self) -> bool:
        """Tell whether a signal that only somebody else sends ended it."""
        return self.signal in _SENT_BY_SOMEBODY

    @property
    def words(self) -> str:
        """Say it: "exit code 3", "killed by SIGSEGV, core dumped"."""
        if self.code is not None:
            return f"exit code {self.code}"
        if self.signal is None:
            return "unknown: its exit status was taken by somebody else"
        return f"killed by {signal_name(self.signal)}" + (
            ", core dumped" if self.core else ""
        )


def signal_name(number: int) -> str:
    """Name a signal, also one that has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Child:
    """
    A child that is not reaped yet, so its number cannot belong to anybody else.

    Attributes:
        pid: its process id.
        fd: readable once it is dead; -1 where the kernel has no pidfd, or no
            descriptor is left: then SIGCHLD and `poll` do it.
    """

    def __init__(self, pid: int) -> None:
        """Open the door to it; right after the fork, or at least before the reap."""
        self.pid = pid
        self.fd: int = -1
        if doors.PIDFD:
            try:
                self.fd = os.pidfd_open(pid)
            except OSError:
                return
            fork.keep_private(self.fd)

    def send(self, number: signal.Signals) -> None:
        """
        Send a signal; one to a dead child is no error.

        Raises:
            PermissionError: it has become somebody else.
        """
        try:
            if self.fd >= 0:
                signal.pidfd_send_signal(self.fd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return  # it is dead, and `poll` will say so

    def poll(self) -> Ended | None:
        """Reap it if it is dead: how it ended, else None."""
        try:
            if self.fd >= 0:
                result = os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG)
            else:
                result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return Ended()
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return Ended(result.si_status)
        return Ended(None, result.si_status, result.si_code == os.CLD_DUMPED)

    def close(self) -> None:
        """Give the descriptor back."""
        fork.close(self.fd)
        self.fd = -1


def is_mine(pid: int) -> bool:
    """Tell whether a process, alive or dead, is a child of ours that is not reaped."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def strangers(known: set[int]) -> list[int]:
    """
    List our dead children that are not among *known*; needs /proc.

    As PID 1 or subreaper a process inherits the orphans of others.
    """
    me = os.getpid()
    found = []
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/{me}/task/{thread}/children") as file:
            pids = [int(word) for word in file.read().split()]
        found += [pid for pid in pids if pid not in known and state(pid) == "Z"]
    return found


def bury(pid: int) -> None:
    """Reap a stranger quietly."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # its owner was faster


def state(pid: int) -> str:
    """Give the one-letter state of a process; "" where it cannot be read."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return ""
    # The name in brackets may hold anything, also brackets and blanks.
    return text[text.rindex(b")") + 2 :][:1].decode()


def children_of(pid: int) -> list[int]:
    """List the living children of any process; needs /proc, else []."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []
