"""
The nanny: the process under which `Daemon` runs everything, so nothing can escape.

It is a *child subreaper*: whoever forks, leads a session of its own and loses its
parent becomes a child of the nanny, and of nobody else. It starts what it is told,
reaps whoever dies below it, and ends all of them when it is told so, or when the test
that started it is gone, however that died; then it removes the folder. It is run as a
program of its own, by ``python -I -S nanny.py FD FOLDER``, and must not import ghostd.

Messages are JSON on a socket that keeps them apart, one answer for each request.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
LONGEST_MESSAGE = 1 << 20


def parents() -> dict[int, int]:
    """Map each process on this machine that is not dead to its parent."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name in brackets may hold anything, also brackets and blanks.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    found[int(name)] = int(parent)
    return found


def below(pid: int) -> list[int]:
    """List the living processes below *pid*, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found = list(children.get(pid, ()))
    for each in found:
        found.extend(children.get(each, ()))
    return found


class Nanny:  # pragma: no cover - a process that coverage does not follow
    """Answers the requests that come in at *sock*."""

    def __init__(self, sock: socket.socket) -> None:
        """Become the parent of all that will be started."""
        self._sock = sock
        self._ended: dict[int, int] = {}
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Answer until the other end hangs up, then leave nobody behind."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._wake in ready:
                os.read(self._wake, 65536)
            self._reap()
            if self._sock.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._sock, LONGEST_MESSAGE, 3)
                if not data:
                    break
                answer = self._answer(json.loads(data), fds)
                self._sock.send(json.dumps(answer).encode())
        self._end_all()

    def _answer(self, request: dict[str, Any], fds: list[int]) -> object:
        match request.pop("do"):
            case "start":
                return self._start(fds=fds, **request)
            case "ended":
                return list(self._ended.items())
            case _:
                return self._end_all()

    def _start(
        self,
        arguments: list[str],
        folder: str,
        environment: dict[str, str],
        fds: list[int],
        *,
        terminal: bool,
    ) -> int:
        pid = os.fork()
        if pid:
            for fd in fds:
                os.close(fd)
            return pid
        try:
            os.setsid()
            for number in signal.valid_signals():
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for fd, name in enumerate(fds):
                os.dup2(name, fd)
            if terminal:
                import fcntl
                import termios

                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.closerange(3, 1024)
            os.chdir(folder)
            os.execvpe(arguments[0], arguments, environment)  # noqa: S606 - by request
        except BaseException as error:  # noqa: BLE001 - said where it will be read
            os.write(2, f"cannot start {arguments[0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended[pid] = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> list[int]:
        """Kill whoever lives below; list them."""
        killed: dict[int, None] = {}
        deadline = time.monotonic() + 10
        while (pids := below(os.getpid())) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(OSError):
                    fd = os.pidfd_open(pid)
                    try:
                        # Behind the open door stands, if the number is still below
                        # us, the process that was meant.
                        if pid in below(os.getpid()):
                            signal.pidfd_send_signal(fd, signal.SIGKILL)
                            killed[pid] = None
                    finally:
                        os.close(fd)
            time.sleep(0.002)
            self._reap()
        self._reap()
        return list(killed)


if __name__ == "__main__":  # pragma: no cover - as above
    Nanny(socket.socket(fileno=int(sys.argv[1]))).serve()
    # A test that was killed cannot clean up.
    shutil.rmtree(sys.argv[2], ignore_errors=True)
