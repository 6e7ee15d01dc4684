"""
The spirit's side: what runs in the child between the fork and its end.

The order of `enter` matters. Signals stay blocked until the spirit's own handlers
stand; what belongs to the manager is closed before any code of the user runs; and
whatever the body does, the process ends by `os._exit` here, so no frame, no
``finally`` and no atexit of the launcher, the manager or the script runs in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from _thread import get_ident
from collections.abc import Generator, Iterable
from time import monotonic

from ghostd.hooks import Hooks, describe, forget_our_frames, load_anew
from ghostd.typed import TYPE_CHECKING, Any, NoReturn, Protocol
from ghostd.unix import death, fork, terminal
from ghostd.unix.lifeline import FarEnd
from ghostd.unix.poller import milliseconds

# gevent puts a poll() of its own into the module, which lets others run: that is right
# in a wait, and impossible between two instructions, where a signal strikes.
_poll = select.poll

if TYPE_CHECKING:
    from ghostd.logs import Log

    class Answer(bool):  # type: ignore[misc]  # what nobody can make, and all may read
        """
        What `wait` gives: True or False in a plain body, to be awaited in another.

        It exists for type checkers only, and is a bool to them, so that both
        ``if self.wait(1)`` and ``if await self.wait(1)`` pass; each body knows which
        of the two it is.
        """

        def __await__(self) -> Generator[Any, Any, bool]:
            """Give True or False at the end of the wait."""


class HasFileno(Protocol):
    """Anything with a descriptor: a file, a socket."""

    def fileno(self) -> int:
        """Give the descriptor."""


class Spirit:
    """
    What a spirit knows of itself; `Prefork.tick` reads it thousands of times a second.

    Attributes:
        ok: go on working.
        due: when the next beat is to be sent, seconds on the monotonic clock.
        slot: its place in the pool.
        generation: which reload it belongs to.
        pid: its process id, 0 before it is born.
    """

    __slots__ = (
        "_far_end",
        "_graceful",
        "_interval",
        "_manager",
        "_presence",
        "_thread",
        "_wake",
        "due",
        "generation",
        "ok",
        "pid",
        "slot",
    )

    def __init__(  # noqa: PLR0913 - each is one fact of the birth
        self,
        slot: int,
        generation: int,
        far_end: FarEnd,
        *,
        presence: int,
        manager: int,
        interval: float,
        graceful: float,
    ) -> None:
        """Note the facts of the birth, in the manager; `enter` makes them true."""
        self.ok: bool = True
        self.due: float = 0.0
        self.slot: int = slot
        self.generation: int = generation
        self.pid: int = 0
        self._far_end = far_end
        self._presence = presence
        self._manager = manager
        self._interval = interval
        self._graceful = graceful
        self._thread: int = get_ident()
        self._wake: tuple[int, int] | None = None

    lag: float = 0.0
    """Seconds by which its loop was late when it last looked; 0 where there is none."""

    def begin(self) -> None:
        """Be this process, from now on."""
        self.pid = os.getpid()
        self._far_end.keep()

    def beat(self, finished: bool) -> bool:
        """Send the beat that is due, or the farewell, and tell whether to go on."""
        now = monotonic()
        if os.getpid() != self.pid:
            # A child of the spirit's: it must not vouch for its parent.
            self.due = float("inf")
            return self.ok
        if now >= self.due:
            self.due = now + self._interval
            if not self._far_end.beat(now) and self.ok:
                self._orphaned()
        if finished and self.ok:
            self.leave()
            self._far_end.farewell(now)
        return self.ok

    def leave(self) -> None:
        """Be asked to leave, by whomever; may strike between any two instructions."""
        self.ok = False

    async def drained(self) -> None:
        """Wait, in an asynchronous body, until it is asked to leave."""
        raise RuntimeError("this body is a plain one: use `draining` as a flag")

    def tired(self, why: str) -> None:
        """Ask for a successor, and go on until it serves."""
        if os.getpid() == self.pid:
            self._far_end.tired(why)

    def wait(self, seconds: float, *files: HasFileno | int) -> bool:
        """Sleep at most so long, beating; a QUIT or the manager's death ends it."""
        until = monotonic() + seconds
        poll = select.poll()
        for file in (self._presence, *files):
            poll.register(file, select.POLLIN)
        # Python wakes the main thread alone; another would take its wake-ups away, and
        # sees a QUIT when its own wait is over.
        wake = self._open_wake() if get_ident() == self._thread else None
        before = -1
        if wake is not None:
            poll.register(wake[0], select.POLLIN)
            before = signal.set_wakeup_fd(wake[1], warn_on_full_buffer=False)
        try:
            while self.ok and not self._doze(poll, wake, until):
                pass
        finally:
            if wake is not None:
                signal.set_wakeup_fd(before)
        return self.ok

    def _doze(
        self, poll: select.poll, wake: tuple[int, int] | None, until: float
    ) -> bool:
        """Beat if that is due, else sleep once; tell whether the wait is over."""
        now = monotonic()
        if now >= self.due:
            self.beat(finished=False)
            return False
        over = now >= until
        pause = 0.0 if over else min(until, self.due) - now
        for fd, what in poll.poll(milliseconds(pause)):
            if fd == self._presence:
                self._orphaned()
            elif wake is not None and fd == wake[0]:
                fork.drain(fd)
            elif what & select.POLLNVAL:
                raise OSError(errno.EBADF, f"{fd} is not an open descriptor")
            else:
                over = True
        return over

    def _open_wake(self) -> tuple[int, int]:
        if self._wake is None:
            self._wake = fork.pipe()
            fork.keep_private(*self._wake)
        return self._wake

    def on_quit(self, _number: int, _frame: object) -> None:
        """Be asked to leave: by the manager, or by the kernel because it is gone."""
        self.leave()
        # A dying manager's pipe hangs up a moment before it stops being our parent.
        poll = _poll()
        poll.register(self._presence, select.POLLIN)
        if poll.poll(0) or os.getppid() != self._manager:
            self._orphaned()

    def _orphaned(self) -> None:
        """Leave because the manager is gone; whoever does not look is ended."""
        self.leave()
        if os.getpid() == self.pid:
            # Nobody else is left to keep the graceful timeout.
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, max(0.001, self._graceful))

    def arm(self) -> None:
        """Have the manager's death told to us even while the body never ticks."""
        if not death.arm(signal.SIGQUIT):
            _watch_presence(self._presence, self.pid)
        if os.getppid() != self._manager:
            self._orphaned()  # it died before we could ask to be told


def _watch_presence(presence: int, pid: int) -> None:
    """Do with a thread what only Linux can do without one."""
    import threading

    def watch() -> None:
        poll = select.poll()
        poll.register(presence, select.POLLIN)
        poll.poll()
        os.kill(pid, signal.SIGQUIT)

    threading.Thread(target=watch, name="ghostd-presence", daemon=True).start()


class Draining:
    """
    Whether a spirit has been asked to leave, or has said farewell.

    A flag everywhere: ``if self.draining``. An asynchronous body may also wait for it:
    ``await self.draining``.
    """

    __slots__ = ("_spirit",)

    def __init__(self, spirit: Spirit | Outside) -> None:
        """Be that of *spirit*."""
        self._spirit = spirit

    def __bool__(self) -> bool:
        """Tell: finish what is begun, begin nothing new."""
        return isinstance(self._spirit, Spirit) and not self._spirit.ok

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait for it."""
        return self.wait().__await__()

    async def wait(self) -> None:
        """
        Wait for it; where a coroutine function is wanted.

        Raises:
            RuntimeError: not in an asynchronous body.
        """
        await self._spirit.drained()

    def __repr__(self) -> str:
        """Show the flag."""
        return f"<Draining: {bool(self)}>"


class Counted:
    """
    A spirit that is tired after so many ticks; `Prefork.tick` sees it in its place.

    Nothing of this costs a spirit without such a limit anything: here every tick is
    due, and is counted before the real one is asked.
    """

    __slots__ = ("_left", "_limit", "_spirit")

    due: float = float("-inf")

    def __init__(self, spirit: Spirit, limit: int) -> None:
        """Count down from *limit*."""
        self._spirit = spirit
        self._left = self._limit = limit

    @property
    def ok(self) -> bool:
        """Go on working."""
        return self._spirit.ok

    def beat(self, finished: bool) -> bool:
        """Count, and do what the spirit does."""
        self._left -= 1
        if self._left == 0:
            self._spirit.tired(f"it has ticked {self._limit} times")
        if finished or monotonic() >= self._spirit.due:
            return self._spirit.beat(finished)
        return self._spirit.ok


class Outside:
    """What stands in a process that is no spirit: nothing is ever due."""

    __slots__ = ("due", "ok")

    slot = None
    generation = None
    lag: float = 0.0

    def __init__(self, *, ok: bool = False) -> None:
        """Be not well yet: that comes with the start."""
        self.due: float = float("inf")
        self.ok: bool = ok

    def beat(self, finished: bool) -> bool:  # noqa: ARG002 - a spirit's signature
        """Send nothing to nobody."""
        return self.ok

    async def drained(self) -> None:
        """Be no spirit, so nobody can ask it to leave."""
        raise RuntimeError("this process is no spirit")


def enter(
    spirit: Spirit,
    hooks: Hooks,
    log: Log,
    mask: Iterable[int],
    *,
    loads: bool = False,
) -> NoReturn:
    """
    Be a spirit until the body returns, raises or is ended.

    Args:
        spirit: what is known of the birth.
        hooks: the body is among them.
        log: where its failure is told.
        mask: the signals that are blocked from now on.
        loads: call `load` before the body.
    """
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        fork.set_handler(signal.SIGQUIT, spirit.on_quit)
        fork.set_handler(signal.SIGTERM, fork.SIG_DFL)
        fork.set_handler(signal.SIGINT, fork.SIG_DFL)
        # The others keep the manager's handlers, which only count. That ignores them
        # as well as SIG_IGN would, and programs that the body starts do not inherit it.
        spirit.begin()
        spirit.arm()
        fork.set_mask(fork.SIG_SETMASK, mask)
        code = _live(spirit, hooks, log, loads=loads)
    finally:
        fork.flush()
        # SIGQUIT stays harmless up to here: our handler is never taken down.
        os._exit(code)


def _live(spirit: Spirit, hooks: Hooks, log: Log, *, loads: bool) -> int:
    """Run the body; give the exit code."""
    try:
        if loads:
            _load(spirit, hooks)
        hooks._embody()  # noqa: SLF001 - a public name would be taken from subclasses
    except SystemExit as error:
        if isinstance(error.code, str):
            spirit._far_end.last_words(error.code)  # noqa: SLF001 - one story
            log.error("Spirit %d exits: %s", spirit.pid, error.code)  # noqa: TRY400 - it asked to
        return _exit_code(error)
    except BaseException as error:
        import traceback  # loaded already, by the log

        forget_our_frames(error)
        spirit._far_end.last_words(traceback.format_exc())  # noqa: SLF001 - one story
        # The log may be what is broken.
        with contextlib.suppress(Exception):
            log.exception(
                "Spirit %d failed: %s",
                spirit.pid,
                describe(error),  # noqa: TRY401 - one line for those who grep
                extra={"event": "spirit.failed"},
            )
        return 1
    return 0


def _load(spirit: Spirit, hooks: Hooks) -> None:
    """
    Load the application; a QUIT meanwhile ends the spirit at once.

    Nothing is in progress yet, and a load that hangs somewhere in C never comes back
    to Python, where a handler of ours would run. So the kernel ends it, by the default
    of that signal, but without the core dump that is part of it.
    """
    import resource

    limits = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limits[1]))
    fork.set_handler(signal.SIGQUIT, fork.SIG_DFL)
    if not spirit.ok:  # asked before
        raise SystemExit(0)
    load_anew(hooks.load)
    fork.set_handler(signal.SIGQUIT, spirit.on_quit)
    resource.setrlimit(resource.RLIMIT_CORE, limits)


def _exit_code(error: SystemExit) -> int:
    """Read SystemExit as Python does: None is 0, a text is printed and is 1."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    return terminal.complain(str(error.code))
