"""
The mold: a process that has loaded the application, so that spirits need not.

This is its own side, what runs in it; what the manager holds of it is in `foundry`.
It runs `load` once, says how that went, and from then on makes an *embryo* whenever
it is asked to: a fork of itself that waits to be told which spirit it is.

An embryo is the manager's child and not the mold's: the process between the two ends
at once, and the kernel gives the orphan to the manager, which is a subreaper (see
docs/adr/0017). It runs no code of the user's before the manager, which by then knows
its pid, has sent its birth certificate; if the manager dies or has no use for it, the
channel between the two ends, and the embryo with it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterable
from functools import partial

from ghostd.core.actions import Spawn
from ghostd.hooks import describe, forget_our_frames, load_anew
from ghostd.typed import TYPE_CHECKING, NoReturn
from ghostd.unix import channel, death, fork, naming, signals

if TYPE_CHECKING:
    from ghostd.logs import Log

READY, BROKEN, EMBRYO, UNBORN = b"R", b"B", b"E", b"U"
"""What a mold says: loaded; not loaded, and why; a pid; no embryo, and the errno."""

ASK = b"?"
"""What it is asked: make an embryo, with the end of a channel that comes along."""

WHERE = getattr(signal, "SIGRTMAX", signal.SIGUSR2)
"""The signal upon which it writes into its diary where it is; nobody else sends it."""

NUMBER = struct.Struct("=q")
CERTIFICATE = struct.Struct("=qq")
"""What an embryo is told: its place and its generation; with it comes its lifeline."""

LONGEST_WORDS, LONGEST_STORY = 1024, 16_384
MOLD, UNBORN_NAME = "ghostd mold", "ghostd embryo"
"""What ``ps`` calls them, so that nobody takes them for spirits."""

# gevent, patched in by `load`, has others that wait for a hub.
_waitpid = os.waitpid

Quicken = Callable[[Spawn, tuple[int, ...]], fork.Entrance]
"""Makes what an embryo runs: of its birth and the descriptors that came with it."""


class Mold:
    """
    A mold, in its own process.

    Args:
        generation: whose code it loads.
        fd: its end of the channel to the manager.
        diary: where it writes what it does while it loads, when it is asked to.
        manager: the manager's pid.
        load: the user's hook.
        quicken: makes what an embryo runs once it is told who it is.
        log: where it tells what the user should know.
    """

    def __init__(  # noqa: PLR0913 - each is one fact of its life
        self,
        generation: int,
        fd: int,
        diary: int,
        *,
        manager: int,
        load: Callable[[], object],
        quicken: Quicken,
        log: Log,
    ) -> None:
        """Note the facts, in the manager."""
        self._generation = generation
        self._fd = fd
        self._diary = diary
        self._manager = manager
        self._load = load
        self._quicken = quicken
        self._log = log
        self._name = ""
        self._mask: Iterable[int] = ()

    def enter(self, mask: Iterable[int]) -> NoReturn:
        """Be the mold until the manager has no use for it; runs after the fork."""
        code = 1
        try:
            self._name = naming.rename(MOLD)
            self._mask = mask
            signal.set_wakeup_fd(-1)
            fork.keep_private(self._fd, self._diary)
            # Nothing of it is worth finishing, also where `load` hangs.
            if death.arm(signal.SIGKILL) and os.getppid() == self._manager:
                # The manager's handlers stay, which only count: whatever is sent to
                # the whole group is not for us, and what `load` starts must not
                # inherit that it is ignored.
                # Where it hangs is told even from C.
                faulthandler.register(WHERE, file=self._diary)
                fork.set_mask(fork.SIG_SETMASK, mask)
                code = self._live()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends here
            self._log.exception(
                "Mold %d failed: %s",
                os.getpid(),
                describe(error),
                extra={"event": "mold.failed", "generation": self._generation},
            )
        finally:
            fork.flush()
            os._exit(code)

    def _live(self) -> int:
        """Load, then answer; give the exit code."""
        try:
            load_anew(self._load)
            faulthandler.unregister(WHERE)
            fork.close(self._diary)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            self._be_broken(error)
            return 1
        self._tell_of_threads()
        # What is alive now will be alive in every spirit. Out of the collector's
        # sight its pages stay shared with them.
        gc.collect()
        gc.freeze()
        # The manager may have gone, or have no use for this generation any more.
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            channel.send(self._fd, READY)
            while questions := self._questions():
                # Several at a time: most of the work is done by those in between, and
                # there may be more than one processor.
                begun = [self._begin_embryo(fd) for fd in questions]
                for answer in map(self._finish_embryo, begun):
                    channel.send(self._fd, answer)
        return 0

    def _questions(self) -> list[int]:
        """Wait for questions; give the channels of the embryos that are wanted."""
        found: list[int] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                question, fds = channel.receive(self._fd, wait=not found)
                if not question:
                    return []
                fork.keep_private(*fds)
                found += fds
        return found

    def _be_broken(self, error: BaseException) -> None:
        """Say why the code does not load: to the log, and to whoever wanted it."""
        import traceback

        forget_our_frames(error)
        said = describe(error)
        words = f"load() failed: {said}".encode("utf-8", "replace")[:LONGEST_WORDS]
        # The end of a long traceback tells more than its beginning.
        story = traceback.format_exc().encode("utf-8", "replace")[-LONGEST_STORY:]
        with contextlib.suppress(OSError):
            channel.send(self._fd, BROKEN + words + b"\n" + story)
        self._log.exception(
            "Mold %d cannot load generation %d: %s",
            os.getpid(),
            self._generation,
            said,
            extra={"event": "mold.broken", "generation": self._generation},
        )

    def _tell_of_threads(self) -> None:
        names = threads()
        if not names:
            return
        self._log.warning(
            "load() has left threads that no spirit will have: %s",
            ", ".join(names),
            extra={"event": "mold.threads", "threads": names},
        )
        # It is said; from Python 3.12 on each fork would say it again.
        import warnings

        warnings.filterwarnings(
            "ignore", ".* is multi-threaded, use of fork", DeprecationWarning
        )

    # -- embryos ---------------------------------------------------------------

    def _begin_embryo(self, fd: int) -> tuple[int, int] | int:
        """Fork the one that forks it; give its pid and its pipe, or an errno."""
        read = write = -1
        try:
            read, write = os.pipe()
            fork.keep_private(read)
            between = partial(self._be_between, fd, write)
            spared = tuple(sorted((fd, write)))
            pids, error = fork.fork_each([(spared, between)])
        except OSError as failure:
            pids, error = [], failure
        fork.close(fd, write)
        if error is not None:
            fork.close(read)
            return error.errno or 0
        return pids[0], read

    def _finish_embryo(self, begun: tuple[int, int] | int) -> bytes:
        """Wait for the end of the one in between; give the answer."""
        if isinstance(begun, int):
            return UNBORN + NUMBER.pack(begun)
        pid, read = begun
        said = os.read(read, NUMBER.size)
        fork.close(read)
        # From this one's end on the embryo is the manager's child.
        with contextlib.suppress(ChildProcessError):  # the user ignores SIGCHLD
            _waitpid(pid, 0)
        (number,) = NUMBER.unpack(said) if said else (0,)
        if number > 0:
            return EMBRYO + NUMBER.pack(number)
        return UNBORN + NUMBER.pack(-number)

    def _be_between(self, fd: int, write: int, _mask: Iterable[int]) -> NoReturn:
        """Fork the embryo, say its pid, and be gone."""
        fork.keep_private(write)
        try:
            number = fork.fork(partial(self._be_embryo, fd))
        except OSError as error:
            number = -(error.errno or 0)
        os.write(write, NUMBER.pack(number))
        os._exit(0)

    def _be_embryo(self, fd: int, _mask: Iterable[int]) -> NoReturn:
        """Wait, every signal blocked, until it is told who it is."""
        naming.rename(UNBORN_NAME)
        certificate, fds = channel.receive(fd, wait=True)
        if not certificate:
            os._exit(0)
        fork.close(fd)
        # What came before its birth was for nobody. A QUIT stays: it may have come
        # right after, and a spirit that leaves too soon is only replaced.
        signals.forget_pending(but=signal.SIGQUIT)
        naming.rename(self._name)
        enter = self._quicken(Spawn(*CERTIFICATE.unpack(certificate)), fds)
        enter(self._mask)


def threads() -> list[str]:
    """Name the threads beside this one; those of other languages have no names."""
    threading = sys.modules.get("threading")
    names = []
    if threading is not None:
        me = threading.current_thread()
        names = [thread.name for thread in threading.enumerate() if thread is not me]
    with contextlib.suppress(OSError):
        foreign = len(os.listdir("/proc/self/task")) - 1 - len(names)
        if foreign > 0:
            names.append(f"{foreign} not of Python's")
    return names
