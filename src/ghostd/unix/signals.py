"""
The signal inbox: signals are noted, never handled where they strike.

A handler of ours counts the signal and returns. Python's C handler has already
written a byte into the wake-up pipe, which ends the wait of whoever reads it. Only
the flag counts: 70,000 signals leave 65,536 bytes in the pipe, and 50 deaths make
one SIGCHLD, so the bytes say *look*, not *how many*.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

from ghostd.errors import GhostError
from ghostd.typed import Any
from ghostd.unix import fork

Handler = Callable[[int, Any], Any]


_open: set[SignalInbox] = set()


_masks: list[Iterable[int]] = []


def _before_fork() -> None:
    """
    Hold signals back while a hook or a body forks, as `fork_each` does itself.

    The child would have our handlers for a moment, and swallow a TERM that is meant
    for it.
    """
    if _open and not fork.is_birth():
        noted = {number for inbox in _open for number in inbox.noted}
        _masks.append(fork.set_mask(fork.SIG_BLOCK, noted))


def _after_in_parent() -> None:
    if _masks:
        fork.set_mask(fork.SIG_SETMASK, _masks.pop())


def _after_in_child() -> None:
    """Give the child plain signals; a spirit takes care of its own."""
    if fork.is_birth():
        return
    for inbox in _open:
        # Its wake-up descriptor is closed here, and the number may be a file's soon.
        signal.set_wakeup_fd(-1)
        for number in inbox.noted:
            fork.set_handler(number, fork.SIG_DFL)
    _open.clear()
    _after_in_parent()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_in_parent,
    after_in_child=_after_in_child,
)


def forget_pending(but: int) -> None:
    """Forget the signals that came while they were blocked, all but one of them."""
    while strays := signal.sigpending() - {but}:
        if signal.sigtimedwait(strays, 0) is None:
            return


class SignalInbox:
    """
    Notes signals until they are taken out.

    Args:
        signals: which ones; SIGCHLD may be among them.

    Attributes:
        fd: becomes readable when a signal arrived; `take` empties it.
        reaction: called with each signal right after it was noted, between two
            instructions of the main thread; None: nothing is.
        adopted: handlers of the user's that `adopt` found, by signal.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        """Prepare; nothing is changed before `hold` or `open`."""
        self.fd: int = -1
        self.reaction: Callable[[int], None] | None = None
        self.adopted: dict[int, Handler] = {}
        self._signals = tuple(signals)
        self._write = -1
        self._noted: dict[int, int] = {}
        self._old: dict[int, Any] = {}
        self._old_mask: set[Any] = set()
        self._held = False
        self._old_wakeup = -1

    @property
    def is_open(self) -> bool:
        """Tell whether signals are being noted."""
        return self.fd >= 0

    def open(self) -> None:
        """
        Take the signals over; also those that a parent had blocked or ignored.

        Raises:
            GhostError: not in the main thread, where alone Python handles signals.
        """
        self.fd, self._write = fork.pipe()
        fork.keep_private(self.fd, self._write)
        self._noted = {}
        try:
            self._old_wakeup = signal.set_wakeup_fd(
                self._write, warn_on_full_buffer=False
            )
        except ValueError:
            fork.close(self.fd, self._write)
            self.fd = self._write = -1
            raise GhostError("a daemon must run in the main thread") from None
        for number in self._signals:
            self._old[number] = signal.signal(number, self._note)
        _open.add(self)
        if not self._held:
            self.let_in()

    def hold(self) -> None:
        """Block the signals until `let_in`: they must not end who is half ready."""
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        self._held = True

    def let_in(self) -> None:
        """Note what was held back, and also what a parent had blocked."""
        held, self._held = self._held, False
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if not held:
            self._old_mask = mask

    def _note(self, number: int, _frame: object) -> None:
        self._noted[number] = self._noted.get(number, 0) + 1
        if self.reaction is not None:
            self.reaction(number)

    def adopt(self) -> None:
        """
        Let handlers that the user installed since `open` win, but from the loop.

        A Python handler of the user's could raise between any two instructions of
        the manager, and lose a child. So it is put aside, its signal is noted like
        ours, and the loop calls it as a hook. SIG_DFL and SIG_IGN stay as they are.
        """
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            mine = handler == self._note or handler is signal.default_int_handler
            if callable(handler) and not mine and not isinstance(handler, int):
                self.adopted[number] = handler
                self._old.setdefault(number, handler)
                signal.signal(number, self._note)

    @property
    def noted(self) -> frozenset[int]:
        """Give the signals that are noted now."""
        # Plain numbers: `signal` makes an enum member of each that it is given.
        found = {*self._old, *self.adopted}
        return frozenset(int(n) for n in found if signal.getsignal(n) == self._note)

    def leave(self, number: signal.Signals) -> None:
        """Stop noting a signal, unless the user's own handler was adopted for it."""
        if number not in self.adopted and signal.getsignal(number) == self._note:
            signal.signal(number, signal.SIG_DFL)

    def arm(self) -> None:
        """Have signals wake us again: a hook may have used an event loop."""
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    @property
    def waiting(self) -> bool:
        """Tell whether a signal was noted and not taken yet."""
        return bool(self._noted)

    def take(self) -> dict[int, int]:
        """Empty the inbox: how often each signal struck, in order of first arrival."""
        fork.drain(self.fd)
        noted = self._noted
        # A signal that strikes between these two lines is in one dict or the other.
        self._noted = {}
        return noted

    def close(self) -> None:
        """Give everything back as it was found."""
        if not self.is_open:
            if self._held:
                self._held = False
                signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
            return
        self._held = False
        for number, handler in self._old.items():
            # None: installed from C, out of Python's reach in both directions.
            if handler is not None:
                signal.signal(number, handler)
        _open.discard(self)
        signal.set_wakeup_fd(self._old_wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        fork.close(self.fd, self._write)
        self.fd = self._write = -1
        self._old.clear()
        self.adopted.clear()
