"""
A daemon's own life, from its first instruction to its last.

The order is the promise: pidfile, log, rights, signals, `init`, `startup`, `cleanup`,
and the pidfile away again. What fails before the daemon is up is told to the launcher
in words, with the traceback of the user's code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time
from _thread import get_ident
from collections.abc import Callable, Iterable

from ghostd import hooks
from ghostd.errors import GhostError, Interrupted, StartError
from ghostd.settings import GhostSettings
from ghostd.spirit import HasFileno, Outside, Spirit
from ghostd.typed import TYPE_CHECKING, Any, Protocol
from ghostd.unix import daemonize, death, fork, privilege
from ghostd.unix.daemonize import Report, Verdict
from ghostd.unix.pidfile import Pidfile
from ghostd.unix.poller import milliseconds
from ghostd.unix.privilege import Identity
from ghostd.unix.signals import SignalInbox

if TYPE_CHECKING:
    from ghostd.logs import Log
    from ghostd.unix.callers import Listener
    from ghostd.unix.sockets import Sockets

SIGNALS = {
    signal.SIGINT: "end; a second one interrupts the body",
    signal.SIGTERM: "end; a second one interrupts the body",
    signal.SIGQUIT: "end gracefully",
    signal.SIGHUP: "call hangup(): reopen the log",
    signal.SIGUSR2: "call hangup()",
    signal.SIGUSR1: "reopen the log",
}
"""What each signal asks of a plain ghost."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
NORMAL, INTERRUPTED = 0, 1
SLACK = 0.25


class Work(Protocol):
    """What a daemon does with its life: the user's hooks."""

    _has_loop: bool
    """It answers signals from a loop of its own, once that runs."""

    def init(self) -> object:
        """Do something in the daemon before its work."""

    def _serve(self) -> int:
        """Work; give the exit code."""

    def hangup(self) -> object:
        """Answer HUP and USR2."""

    def cleanup(self, scope: int) -> object:
        """Do the last thing."""


class Daemon:
    """
    What a process knows of the daemon it is, was forked from, or speaks to.

    Args:
        settings: the checked settings.
        signals: what its inbox notes.

    Attributes:
        filepid: the pidfile.
        inbox: the signals, once it lives.
        report: how it speaks to its launcher.
        sockets: what it listens on; None: nothing.
        boot_deadline: when the launcher wants a verdict; None: nobody waits.
        is_daemonized: this process has detached.
        known_pid: the pid that the launcher was told.
        spirit: in a spirit what it is, elsewhere an `Outside`.
        interrupted: a signal asked it to end.
        insisted: another one asked after that.
        control: path of the socket on which it answers commands, "": none.
    """

    def __init__(
        self, settings: GhostSettings, signals: Iterable[signal.Signals]
    ) -> None:
        """Begin as a process that only speaks to a daemon."""
        self.settings = settings
        self.filepid: Pidfile = Pidfile(settings.pidfile)
        self.inbox: SignalInbox = SignalInbox(signals)
        self.report: Report = Report()
        self.sockets: Sockets | None = None
        self.boot_deadline: float | None = None
        self.is_daemonized: bool = False
        self.known_pid = 0
        self.spirit: Spirit | Outside = Outside()
        self.interrupted: bool = False
        self.insisted: bool = False
        self.control: str = ""
        self._listener: Listener | None = None
        self._thread = get_ident()
        self._log: Log | None = None

    @property
    def log(self) -> Log:
        """The log; opened by the settings if nobody did so before."""
        if self._log is None:
            self._log = self._open_log()
        return self._log

    def _open_log(
        self, foreground: Any = None, owner: tuple[int, int] | None = None
    ) -> Log:
        # Logging takes 10 ms to load. A `status` writes nothing and need not pay them.
        from ghostd.logs import open_log

        return open_log(self.settings, foreground=foreground, owner=owner)

    @property
    def pid(self) -> int:
        """Own pid in the daemon and its spirits, else that of the running one, or 0."""
        if self.inbox.is_open or self.is_daemonized:
            return os.getpid()
        return self.known_pid or self.filepid.running()

    def flush(self) -> None:
        """Forget that anything was asked or said."""
        self.spirit.ok = False
        self.interrupted = False
        self.insisted = False

    def begin(self) -> None:
        """Be well from now on."""
        self.flush()
        self.spirit.ok = True

    # -- the life --------------------------------------------------------------

    def launch(self) -> Verdict | None:
        """
        Fork the daemon and hear whether it came up.

        Returns:
            The verdict in the launcher; None in the daemon, which has detached and
            must go on with `live` or `settle`.

        Raises:
            StartError: no fork, or no descriptor left.
            ListenError: nothing was passed to this process to listen on.
        """
        daemonize.open_standard_streams()
        meant = daemonize.activated() | _descriptors(self.settings.loghandle)
        if self.sockets is not None:
            self.sockets.check()
            meant |= self.sockets.meant
        deadline = time.monotonic() + self.settings.start_timeout
        try:
            read, write = fork.pipe()
            between, report = daemonize.detach((read, write))
        except OSError as error:
            raise StartError(f"cannot fork: {error.strerror}") from error
        if report is None:
            os.set_blocking(read, True)
            try:
                # Where the parent ignores SIGCHLD, dead children vanish by themselves.
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(between, 0)
                # The daemon keeps the same hour; its word comes a moment later.
                return daemonize.listen(read, deadline + SLACK)
            finally:
                os.close(read)
        self.report = report
        self.boot_deadline = deadline
        self.is_daemonized = True
        try:
            daemonize.let_go(self.settings.umask, meant)
        except OSError as error:
            report.failed(say(error))
            os._exit(1)  # the frames above us are the launcher's
        return None

    def live(self, work: Work, identity: Identity | None, *, foreground: bool) -> int:
        """Live the whole life; give the exit code. Raises nothing."""
        if foreground:
            # What the log says on standard error need not be said twice.
            settings = self.settings
            elsewhere = (settings.logfile, settings.loghandle, settings.logger)
            self.report = Report(aloud=elsewhere != (None, None, None))
        try:
            self.settle(identity, foreground=foreground)
        except Exception as error:  # noqa: BLE001 - the launcher must hear of anything
            if foreground:  # the log does not say it
                self.report = Report(aloud=True)
            self.report.failed(say(error))
            return 1
        self.inbox.reaction = self.reaction(work)
        try:
            return self._work(work)
        finally:
            self.inbox.reaction = None
            self._end(work)

    def settle(self, identity: Identity | None, *, foreground: bool) -> None:
        """
        Become the daemon: pidfile, log, sockets, rights, signals.

        Those are held back until `SignalInbox.let_in`, when there is a reaction.

        Raises:
            GhostError: one of them could not be had; nothing is left behind.
        """
        # A TERM without a handler would end us and leave the pidfile.
        self.inbox.hold()
        try:
            self.filepid.take()
            self.report.pid()
            owner = None if identity is None else (identity.uid, identity.gid)
            stream = sys.stderr if foreground else None
            self._log = self._open_log(stream, owner)
            if self._log.trouble:
                self.report.note(self._log.trouble)
            self.listen(owner)
            self._open_desk(owner)
            if identity is not None:
                load_late_modules()
            privilege.drop(identity)
            self.inbox.open()
        except BaseException:
            self.hang_up()
            self.release()
            self.inbox.close()
            raise
        self.begin()
        self.log.info(
            "Ghost process %d started", os.getpid(), extra={"event": "ghost.started"}
        )

    def listen(self, owner: tuple[int, int] | None = None) -> None:
        """
        Open what it listens on, if it does so at all; *owner*: who it will become.

        Raises:
            ListenError: an address cannot be had; none is open.
        """
        if self.sockets is None:
            return
        self.sockets.open(owner, self._warn_of_sockets)
        for listener in self.sockets.listeners.values():
            self.log.info(
                "Listening on %s",
                listener.where,
                extra={"event": "socket.opened", "socket": listener.name},
            )

    def _warn_of_sockets(self, text: str) -> None:
        self.log.warning("%s", text, extra={"event": "socket.shared"})

    def hang_up(self) -> None:
        """Close what it listens on. Safe to repeat."""
        if self.sockets is not None:
            self.sockets.close()

    def _open_desk(self, owner: tuple[int, int] | None) -> None:
        """Be there for commands that wait; without it they send signals."""
        if not self.control:
            return
        # Now, since the user that we become may not be allowed to read the library.
        import ghostd.desk  # noqa: F401
        from ghostd.unix import callers

        try:
            self._listener = callers.Listener(self.control, owner)
        except OSError as error:
            self.log.warning(
                "Control socket %s cannot be opened: %s; reload will not wait",
                self.control,
                error.strerror or error,
                extra={"event": "control.failed", "path": self.control},
            )

    def take_listener(self) -> Listener | None:
        """Give the socket for commands to whoever answers them, and closes it."""
        listener, self._listener = self._listener, None
        return listener

    def release(self) -> None:
        """Let go of the pidfile, and of the socket if nobody has taken it."""
        if (listener := self.take_listener()) is not None:
            listener.close()
        self.filepid.release()

    def clear_away(self) -> None:
        """Remove what a dead daemon left, if it was not allowed to."""
        self.filepid.clear_away()
        if self.control:
            try:
                from ghostd.unix import callers
            except (ImportError, OSError):
                return  # the machine is what failed, and that has been told
            callers.clear_away(self.control)

    def _work(self, work: Work) -> int:
        """Run the user's code; an exception of its is logged, told and exit code 1."""
        try:
            self.inbox.let_in()
            work.init()
            return work._serve()
        except Interrupted:
            return 0
        except SystemExit as error:
            if isinstance(error.code, str):
                self.log.fatal("Ghost process %d exits: %s", os.getpid(), error.code)
                self.report.failed(error.code)
            return error.code if isinstance(error.code, int) else int(bool(error.code))
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            self.log.fatal(
                "Ghost process %d failed: %s",
                os.getpid(),
                hooks.describe(error),
                exc_info=True,
                extra={"event": "ghost.failed"},
            )
            self.report.failed(say(error))
            return 1

    def _end(self, work: Work) -> None:
        """Clean up; nothing in here can keep the pidfile from going away."""
        scope = INTERRUPTED if self.interrupted else NORMAL
        hooks.call(self.log, float("inf"), "cleanup", work.cleanup, scope)
        self.hang_up()
        self.log.info(
            "Ghost process %d stopped", os.getpid(), extra={"event": "ghost.stopped"}
        )
        self.release()
        self.inbox.close()
        self.log.close()

    # -- what happens to a plain ghost -----------------------------------------

    def reaction(self, work: Work) -> Callable[[int], None]:
        """
        Make the answer of a plain ghost to a signal.

        It has no loop of ours, so the answer comes between two instructions of its
        body. The first QUIT, TERM or INT asks; a TERM or INT after that insists.
        """

        def react(number: int) -> None:
            if number in ENDING:
                self.insisted = self.interrupted and number != signal.SIGQUIT
                self.interrupted = True
                self.spirit.ok = False
            elif work._has_loop:
                return  # a manager takes it when it comes to it
            elif number == signal.SIGUSR1:
                self.log.reopen()
            else:
                hooks.call(self.log, float("inf"), "hangup", work.hangup)
            # Also one that struck inside of hangup(), where it was caught.
            if self.insisted:
                raise Interrupted(0)

        return react

    def wait(self, seconds: float, *files: HasFileno | int) -> bool:
        """Sleep at most so long; being asked to end cuts it short. Gives ok."""
        if isinstance(self.spirit, Spirit):
            return self.spirit.wait(seconds, *files)
        until = time.monotonic() + seconds
        poll = select.poll()
        for file in files:
            poll.register(file, select.POLLIN)
        # In a hook of the manager's the wake-up pipe is not ours to empty, and Python
        # wakes the main thread alone.
        plain = self.inbox.reaction is not None and get_ident() == self._thread
        if plain:
            poll.register(self.inbox.fd, select.POLLIN)
        while self.spirit.ok and (left := until - time.monotonic()) > 0:
            for fd, what in poll.poll(milliseconds(left)):
                if plain and fd == self.inbox.fd:
                    fork.drain(fd)
                elif what & select.POLLNVAL:
                    raise OSError(errno.EBADF, f"{fd} is not an open descriptor")
                else:
                    return self.spirit.ok
        return self.spirit.ok


def _descriptors(handle: Any) -> set[int]:
    """Give the descriptor of a log handle, which may have come through an exec."""
    try:
        return {handle.fileno()}
    except (AttributeError, OSError, ValueError):
        return set()


def load_late_modules() -> None:
    """
    Import now what Python imports late, for its tracebacks and for `death.arm`.

    The user that we become may not enter the folder it lies in, such as root's home.
    """
    import traceback

    death.prepare()
    try:
        raise GhostError  # noqa: TRY301 - for its traceback
    except GhostError:
        traceback.format_exc()


def say(error: BaseException) -> str:
    """Say an error: ours with its hints, any other with its traceback."""
    if isinstance(error, GhostError):
        return "\n".join((str(error), *getattr(error, "__notes__", ())))
    # The whole of it takes 3 ms to load, and most commands never fail.
    import traceback

    story = "".join(traceback.format_exception(error))
    return f"{hooks.describe(error)}\n{story}"
