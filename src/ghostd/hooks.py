"""
Hooks: the only door through which the manager enters code of its user.

A hook may raise anything, even SystemExit: it is logged with the hook's name, and the
loop goes on. The manager raises nothing of its own into a hook, since signals are
only noted, so whatever comes out is the hook's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ghostd.errors import GhostError
from ghostd.typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ghostd.logs import Log


class Hooks(Protocol):
    """What the manager and a spirit want from whoever owns the pool."""

    def spawn(self, pid: int) -> object:
        """Note that a spirit was born; it is a member already."""

    def heartbeat(self, pid: int) -> object:
        """Note a beat of a member."""

    def reap(self, pid: int) -> object:
        """Note that a spirit is dead; it is no member any more."""

    def waitup(self) -> object:
        """Do something before each wait."""

    def finish(self, graceful: bool) -> object:
        """Note that the pool shuts down."""

    def hangup(self) -> object:
        """Answer HUP and USR2."""

    @property
    def _loads(self) -> bool:
        """Tell whether its user has an application to load."""

    def load(self) -> object:
        """Load the application."""

    def _load_in_mold(self) -> object:
        """Load the application, and what runs the body."""

    def _embody(self) -> object:
        """Run the body of a spirit, of whatever kind it is."""


def call(
    log: Log, slow: float, name: str, hook: Callable[..., object], *args: Any
) -> bool:
    """
    Call a hook.

    Args:
        log: where its failure is told.
        slow: seconds after which it is told that the loop was held up.
        name: what the log calls it.
        hook: what to call.
        args: with what.

    Returns:
        False when it raised.
    """
    began = time.monotonic()
    try:
        hook(*args)
    except BaseException as error:
        log.exception(
            "Hook %s failed: %s",
            name,
            describe(error),  # noqa: TRY401 - one line for those who grep
            extra={"event": "hook.failed", "hook": name},
        )
        return False
    took = time.monotonic() - began
    if took > slow:
        log.warning(
            "Hook %s held the manager up for %.1f seconds",
            name,
            took,
            extra={"event": "hook.slow", "hook": name, "seconds": took},
        )
    return True


def load_anew(load: Callable[[], object]) -> None:
    """Call the hook `load`, in a Python that may be older than the code it imports."""
    # It remembers what lay in which folder.
    sys.path_importer_cache.clear()
    load()


def describe(error: BaseException) -> str:
    """Say an exception in one line, also one whose text raises itself."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # noqa: BLE001 - a text that cannot be had is no reason to die
        return type(error).__name__


def forget_our_frames(error: BaseException) -> None:
    """Show an exception whose text says all without the places that it went through."""
    if isinstance(error, GhostError) and not error.needs_frames:
        error.__traceback__ = None
