"""
Daemon: a real daemon in a test, from which nothing can escape.

    with Daemon(script) as d:
        d.start()
        d.wait_for(lambda: d.healthy == 4)
        d.kill_spirit()
        d.wait_for(lambda: d.healthy == 4)

The script runs in a temporary folder of its own. Each command has a session of its
own, and all of them run below a `nanny`, a process that inherits every orphan, so a
daemon cannot get away by forking. When the block ends the daemon is stopped, and the
test fails if anything is left: a process, a zombie, a pidfile, a descriptor.

Needs Linux: /proc, pidfds and child subreapers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGQUIT
from types import TracebackType
from typing import Any, Self, TypeVar

from ghostd.errors import PidfileError
from ghostd.mold import MOLD, UNBORN_NAME
from ghostd.testing import nanny
from ghostd.unix import child, naming
from ghostd.unix.pidfile import Pidfile

T = TypeVar("T")

LIMIT = 15.0
"""Seconds after which a condition that is waited for counts as failed."""

LOOK = 0.01
"""Seconds between two looks at a condition, in the beginning."""

_SELDOM = 0.1
_PATIENCE = 0.05

_LEFT_BEHIND = 3.0
_STORY = re.compile(
    rb"^\[[^]]+\] \[\d+\] \[\w+\] Spirit (\d+) (started|is healthy)$", re.MULTILINE
)


class DaemonError(AssertionError):
    """The daemon did not do what the test expects of it."""


def _looks(limit: float) -> Iterator[bool]:
    """
    Give a turn for each look at a condition, true in the last one.

    A look costs what it looks at, all of /proc perhaps. So the pauses between them grow
    with what has been waited already, which makes no wait longer by more than that
    share of it.
    """
    began = time.monotonic()
    while (gone := time.monotonic() - began) < limit:
        yield False
        time.sleep(min(_SELDOM, max(LOOK, gone * _PATIENCE)))
    yield True


class Foreground:
    """
    A program that runs beside the test.

    Attributes:
        pid: its process id.
    """

    def __init__(self, daemon: Daemon, pid: int, output: str, terminal: int) -> None:
        """Know where its output goes: two files, or the terminal."""
        self.pid = pid
        self._daemon = daemon
        self._output = output
        self._terminal = terminal
        self._shown = b""

    @property
    def stdout(self) -> str:
        """What it has written to its standard output so far."""
        return Path(self._output + ".out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        """What it has written to its standard error so far."""
        return Path(self._output + ".err").read_text(errors="replace")

    @property
    def screen(self) -> str:
        """What its terminal shows so far."""
        while self._terminal >= 0 and select.select([self._terminal], [], [], 0)[0]:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                break  # Linux says EIO when nobody has the terminal open any more
            if not data:
                break
            self._shown += data
        return self._shown.decode(errors="replace")

    def type(self, text: str) -> None:
        r"""Type on its terminal; ``"\x03"`` is Ctrl-C."""
        os.write(self._terminal, text.encode())

    def hang_up(self) -> None:
        """Close its terminal, as a window does that is closed."""
        self._daemon._terminals.remove(self._terminal)  # noqa: SLF001 - one story
        os.close(self._terminal)
        self._terminal = -1

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._daemon.signal(number, self.pid)

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that ended it, None while it runs."""
        return self._daemon.endings.get(self.pid)

    def wait(self, limit: float = LIMIT) -> int:
        """
        Wait for its end; give the exit code, or minus the signal that ended it.

        Raises:
            DaemonError: it still runs after *limit* seconds.
        """
        self._daemon.wait_for(
            lambda: self.pid in self._daemon.endings, limit, f"the end of {self.pid}"
        )
        return self._daemon.endings[self.pid]


class Daemon:
    """
    A daemon and all its processes, for the time of a ``with`` block.

    Args:
        script: path of a script that ends with ``sys.exit(ghost.ctrl())``, or its
            text, which is dedented and saved as *name*.
        python: the interpreter.
        env: variables to set (or, if None, to unset) for all commands.
        name: file name for a script that is given as text.
        pidfile: its path, relative to `folder`; None: the only ``*.pid`` in there.
        logfile: its path, relative to `folder`; None: the only ``*.log`` in there.
        limit: seconds after which waiting fails.
        descriptors: at the end, fail if the manager has more pipes, sockets, pidfds
            and the like than when it was started.

    Attributes:
        folder: the temporary folder; current folder of all commands.
        script: path of the script.
    """

    def __init__(  # noqa: PLR0913 - all but the first are keywords
        self,
        script: str | Path,
        *,
        python: str = sys.executable,
        env: Mapping[str, str | None] | None = None,
        name: str = "service.py",
        pidfile: str | None = None,
        logfile: str | None = None,
        limit: float = LIMIT,
        descriptors: bool = True,
    ) -> None:
        """Note the arguments; the ``with`` block makes them real."""
        self._given = script
        self._name = name
        self._python = python
        self._limit = limit
        self._descriptors = descriptors
        self._pidfile = pidfile
        self._logfile = logfile
        self._environment = dict(os.environ)
        for key, value in (env or {}).items():
            if value is None:
                self._environment.pop(key, None)
            else:
                self._environment[key] = value
        self._nanny: subprocess.Popen[bytes] | None = None
        self._runs = 0
        self._terminals: list[int] = []
        self._baseline: tuple[int, int] | None = None
        self._read: tuple[int, int] = (0, 0)
        self._healthy: set[int] = set()

    # -- the block -------------------------------------------------------------

    def __enter__(self) -> Self:
        """Make the folder and the nanny."""
        self.folder: Path = Path(tempfile.mkdtemp(prefix="ghostd-"))
        self.folder.chmod(0o755)  # a daemon that drops root must be able to enter
        is_path = isinstance(self._given, Path) or "\n" not in self._given
        self.script: Path = (
            Path(self._given).resolve() if is_path else self.folder / self._name
        )
        if not is_path:
            self.script.write_text(textwrap.dedent(str(self._given)))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._nanny = subprocess.Popen(  # noqa: S603 - ours
                [
                    *(sys.executable, "-I", "-S", nanny.__file__),
                    *(str(theirs.fileno()), str(self.folder)),
                ],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._sock = ours
        ours.settimeout(60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """
        Stop the daemon, and see to it that nothing is left.

        Raises:
            DaemonError: something was, and the block itself did not fail.
        """
        try:
            story = self._story() if error is not None else ""
            left = self._stop_cleanly() if error is None else []
            left += self._end()
        finally:
            self._sock.close()
            if self._nanny is not None:
                self._nanny.wait(30)
            for fd in self._terminals:
                os.close(fd)
            shutil.rmtree(self.folder, ignore_errors=True)
        if error is not None:
            error.add_note(story)
        elif left:
            raise DaemonError("left behind: " + "\n  ".join(left))

    def _stop_cleanly(self) -> list[str]:
        left = []
        if pid := self.pid:
            left += self._leaks()
            # What `stop` begins with, at the price of no other interpreter.
            for number in (SIGQUIT, SIGCONT):
                with contextlib.suppress(DaemonError):
                    self._send(pid, number)
            for _ in _looks(_LEFT_BEHIND):
                if not self.pid:
                    break
        if self.pid or (self._runs and self.pidfile.exists()):
            ended = self.ctrl("stop", limit=60.0)
            if ended.returncode:
                left.append(f"a daemon that does not stop: {ended.stderr}")
        for _ in _looks(_LEFT_BEHIND):
            if not self.processes:
                break
        return left

    def _leaks(self) -> list[str]:
        """Look for zombies and descriptors that a calm manager should not have."""
        for is_last in _looks(_LEFT_BEHIND):
            found = [f"zombie {pid}" for pid in self.zombies]
            if self._descriptors and self._baseline and self._baseline[0] == self.pid:
                more = self._overhead() - self._baseline[1]
                if more > 0:
                    names = sorted(self.descriptors().items())
                    found.append(f"{more} descriptors of the manager: {names}")
            if not found or is_last:
                break
        return found

    def _overhead(self) -> int:
        """Count the manager's anonymous descriptors but for those of its children."""
        kinds = ("pipe:", "socket:", "anon_inode:")
        names = [n for n in self.descriptors().values() if n.startswith(kinds)]
        closed_doors = self._environment.get("GHOSTD_CLOSED_DOORS", "").split(",")
        each = 1 if "pidfd" in closed_doors else 2
        # A mold and its stock have as many as a spirit, each.
        return len(names) - each * len(self._children(alive=True))

    def _end(self) -> list[str]:
        left = [f"process {p}: {self._command_line(p)}" for p in self.processes]
        with contextlib.suppress(OSError):
            self._ask("end")
        if self._runs:
            left += [f"file {path.name}" for path in self.folder.glob("*.new")]
            if os.path.lexists(self.pidfile):
                left.append(f"pidfile {self.pidfile}")
        return left

    # -- the nanny -------------------------------------------------------------

    def _ask(self, do: str, fds: tuple[int, ...] = (), **request: object) -> Any:
        data = json.dumps({"do": do, **request}).encode()
        socket.send_fds(self._sock, [data], fds)
        return json.loads(self._sock.recv(nanny.LONGEST_MESSAGE))

    @property
    def endings(self) -> dict[int, int]:
        """Who of the commands, daemons and orphans has ended, and how."""
        return dict(self._ask("ended"))

    @property
    def processes(self) -> list[int]:
        """Whatever lives: commands, daemons, spirits, children of theirs, orphans."""
        assert self._nanny is not None  # noqa: S101 - inside the block
        return nanny.below(self._nanny.pid)

    @staticmethod
    def _command_line(pid: int) -> str:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return "gone"

    def _send(self, pid: int, number: int) -> None:
        """Send a signal to a process below the nanny, and to nobody else."""
        try:
            fd = os.pidfd_open(pid)
            try:
                if pid not in self.processes:
                    raise DaemonError(f"process {pid} is none of this daemon's")
                signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)
        except ProcessLookupError:
            raise DaemonError(f"process {pid} is gone") from None

    # -- what is ---------------------------------------------------------------

    @property
    def pidfile(self) -> Path:
        """Path of the pidfile."""
        return self._only("*.pid", self._pidfile, self.script.stem + ".pid")

    @property
    def logfile(self) -> Path:
        """Path of the log."""
        return self._only("*.log", self._logfile, self.script.stem + ".log")

    def _only(self, pattern: str, given: str | None, else_: str) -> Path:
        if given is not None:
            return self.folder / given
        return next(iter(sorted(self.folder.glob(pattern))), self.folder / else_)

    @property
    def pid(self) -> int:
        """Process id of the running daemon, 0 if none runs."""
        try:
            return Pidfile(str(self.pidfile)).running()
        except PidfileError:
            return 0

    @property
    def spirits(self) -> list[int]:
        """Process ids of the manager's living spirits, the oldest first."""
        others = (MOLD, UNBORN_NAME)
        pids = self._children(alive=True)
        return [each for each in pids if naming.name_of(each) not in others]

    @property
    def molds(self) -> list[int]:
        """Process ids of the manager's living molds, the oldest first."""
        pids = self._children(alive=True)
        return [each for each in pids if naming.name_of(each) == MOLD]

    @property
    def embryos(self) -> list[int]:
        """Process ids of those that have been forked and are no spirits yet."""
        pids = self._children(alive=True)
        return [each for each in pids if naming.name_of(each) == UNBORN_NAME]

    @property
    def zombies(self) -> list[int]:
        """Process ids of the manager's dead children that are not reaped yet."""
        return self._children(alive=False)

    def _children(self, *, alive: bool) -> list[int]:
        pid = self.pid
        states = {each: child.state(each) for each in child.children_of(pid)}
        if alive:
            return [each for each, state in states.items() if state not in ("", *"ZX")]
        return [each for each, state in states.items() if state == "Z"]

    @property
    def healthy(self) -> int:
        """Number of living spirits that the log, at level debug, calls healthy."""
        self._follow_log()
        return len(self._healthy.intersection(self.spirits))

    def _follow_log(self) -> None:
        try:
            with open(self.logfile, "rb") as file:
                inode, at = self._read
                info = os.fstat(file.fileno())
                if info.st_ino != inode or info.st_size < at:
                    at = 0
                file.seek(at)
                data = file.read()
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._read = (info.st_ino, at + whole)
        for pid, what in _STORY.findall(data[:whole]):
            (self._healthy.add if what == b"is healthy" else self._healthy.discard)(
                int(pid)
            )

    def descriptors(self, pid: int | None = None) -> dict[int, str]:
        """Map the open descriptors of a process, the manager's by default, to names."""
        pid = self.pid if pid is None else pid
        found = {}
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        return found

    def log_text(self) -> str:
        """Everything in the log; "" while there is none."""
        try:
            return self.logfile.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def log_lines(self, *words: str) -> list[str]:
        """Give the lines of the log that hold all of *words*."""
        lines = self.log_text().splitlines()
        return [line for line in lines if all(word in line for word in words)]

    def wait_for(
        self,
        condition: Callable[[], T],
        limit: float | None = None,
        what: str = "the condition",
    ) -> T:
        """
        Wait until *condition* gives something true; give that.

        Raises:
            DaemonError: it did not within *limit* seconds; it tells the whole story.
        """
        limit = self._limit if limit is None else limit
        for is_last in _looks(limit):
            if result := condition():
                break
            if is_last:
                raise DaemonError(f"{what} did not come true within {limit:g} seconds")
        return result

    def wait_for_line(self, *words: str, times: int = 1) -> str:
        """Wait until that many lines of the log hold all of *words*; give the last."""

        def found() -> list[str]:
            lines = self.log_lines(*words)
            return lines if len(lines) >= times else []

        return self.wait_for(found, what=f"{times} log lines with {words}")[-1]

    def _story(self) -> str:
        """Tell what there is to know when a test has failed."""
        lines = self.log_text().splitlines()[-40:]
        people = [f"{pid}: {self._command_line(pid)}" for pid in self.processes]
        outputs = [
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("foreground-*"))
            if path.stat().st_size
        ]
        return "\n".join(["processes:", *people, "log:", *lines, *outputs])

    # -- what to do ------------------------------------------------------------

    def ctrl(
        self, *words: str, limit: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """
        Run the script with these words; give exit code and output.

        It waits for the end of the output, as a pipe in a shell does.

        Raises:
            DaemonError: it did not end within *limit* seconds.
        """
        return self.run(self._python, str(self.script), *words, limit=limit)

    def run(
        self, *arguments: str, limit: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run any program below the nanny; otherwise as `ctrl`."""
        pipes = [os.pipe() for _ in range(2)]
        try:
            with open(os.devnull, "rb") as null:
                fds = (null.fileno(), pipes[0][1], pipes[1][1])
                pid = self._launch(arguments, fds)
            for _, write in pipes:
                os.close(write)
            stdout, stderr = _read_both([read for read, _ in pipes], limit)
        except TimeoutError:
            raise DaemonError(
                f"the output of {arguments} did not end within {limit:g} seconds"
            ) from None
        finally:
            for read, _ in pipes:
                os.close(read)
        self.wait_for(lambda: pid in self.endings, limit, f"the end of {arguments}")
        code = self.endings[pid]
        return subprocess.CompletedProcess(arguments, code, stdout, stderr)

    def _launch(
        self,
        arguments: tuple[str, ...],
        fds: tuple[int, ...],
        *,
        terminal: bool = False,
    ) -> int:
        self._runs += 1
        pid: int = self._ask(
            "start",
            fds,
            arguments=list(arguments),
            folder=str(self.folder),
            environment=self._environment,
            terminal=terminal,
        )
        return pid

    def start(self) -> subprocess.CompletedProcess[str]:
        """
        Start the daemon.

        Raises:
            DaemonError: it did not come up.
        """
        ended = self.ctrl("start")
        if ended.returncode:
            raise DaemonError(f"start gave {ended.returncode}: {ended.stderr}")
        if pid := self.pid:
            self._baseline = (pid, self._overhead())
        return ended

    def stop(self) -> subprocess.CompletedProcess[str]:
        """
        Stop the daemon.

        Raises:
            DaemonError: it did not stop.
        """
        ended = self.ctrl("stop")
        if ended.returncode:
            raise DaemonError(f"stop gave {ended.returncode}: {ended.stderr}")
        return ended

    def run_foreground(
        self, *words: str, terminal: bool = False, python: tuple[str, ...] = ()
    ) -> Foreground:
        """
        Run the script in the foreground, by default with the word ``run``.

        Args:
            words: other words.
            terminal: give it a terminal of its own; see `Foreground.type`.
            python: arguments of the interpreter instead of the script's path.
        """
        arguments = (
            self._python,
            *(python or (str(self.script),)),
            *(words or ("run",)),
        )
        output = str(self.folder / f"foreground-{self._runs}")
        if terminal:
            master, slave = os.openpty()
            self._terminals.append(master)
            pid = self._launch(arguments, (slave, slave, slave), terminal=True)
            os.close(slave)
            return Foreground(self, pid, output, master)
        with (
            open(os.devnull, "rb") as null,
            open(output + ".out", "wb") as out,
            open(output + ".err", "wb") as err,
        ):
            fds = (null.fileno(), out.fileno(), err.fileno())
            pid = self._launch(arguments, fds)
        return Foreground(self, pid, output, -1)

    def signal(self, number: int, pid: int | None = None) -> None:
        """
        Send a signal to the manager, or to another process of this daemon.

        Raises:
            DaemonError: it is gone, or it is none of this daemon's.
        """
        self._send(self.pid if pid is None else pid, number)

    def kill_spirit(self, pid: int | None = None, number: int = SIGKILL) -> int:
        """
        Send a signal to a spirit and give its pid; after a KILL it is dead.

        Args:
            pid: which one; None: the oldest.
            number: which signal; KILL by default.
        """
        pid = self.spirits[0] if pid is None else pid
        self._send(pid, number)
        if number == SIGKILL:
            self.wait_for(
                lambda: child.state(pid) in ("", "Z", "X"), what=f"the death of {pid}"
            )
        return pid


def _read_both(fds: list[int], limit: float) -> tuple[str, str]:
    """Read two pipes to their ends."""
    deadline = time.monotonic() + limit
    data = dict.fromkeys(fds, b"")
    open_ = set(fds)
    while open_:
        ready, _, _ = select.select(
            open_, [], [], max(0.0, deadline - time.monotonic())
        )
        if not ready:
            raise TimeoutError
        for fd in ready:
            chunk = os.read(fd, 65536)
            data[fd] += chunk
            if not chunk:
                open_.discard(fd)
    first, second = (data[fd].decode(errors="replace") for fd in fds)
    return first, second
