"""Who is told of whose death, and whose child an orphan becomes (Linux)."""

from __future__ import annotations

import signal

from ghostd.unix import doors

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_prctl = None


def prepare() -> None:
    """Load what `arm` needs; in the manager, once, so that no spirit pays for it."""
    global _prctl  # noqa: PLW0603 - a module that is loaded once has one copy
    if doors.PDEATHSIG and _prctl is None:
        try:
            # ImportError: a Python built without it, or one that lies in a folder
            # which whoever we have become may not enter.
            import ctypes

            _prctl = ctypes.CDLL(None, use_errno=True).prctl
        except (ImportError, OSError, AttributeError):
            return


def arm(number: signal.Signals) -> bool:
    """
    Have the kernel send *number* to this process when its parent dies.

    Two traps, both seen: a change of user clears it, so it comes after the drop of
    rights; and it goes by the parent's *thread*, so forks come from the main thread.
    The caller still has to compare `getppid` afterwards: the parent may be dead by
    then, and a death that has happened sends nothing.

    Returns:
        False where the kernel cannot do it.
    """
    return _prctl is not None and _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def adopt_orphans(wanted: bool) -> bool:
    """
    Have orphans below this process become its children, or no longer.

    No child inherits it.

    Returns:
        False where the kernel cannot do it.
    """
    if not doors.SUBREAPER or _prctl is None:
        return False
    return bool(_prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0)


def is_subreaper() -> bool:
    """Tell whether orphans below this process become its children."""
    if _prctl is None:
        return False
    import ctypes

    answer = ctypes.c_int(0)
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer)) == 0 and bool(answer)
