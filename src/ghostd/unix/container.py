"""Where this process runs: under an init system, in a container, as PID 1."""

from __future__ import annotations

import os

from ghostd.unix import doors
from ghostd.values import Value

_MARKS = ("/.dockerenv", "/run/.containerenv")


class Term(Value):
    """
    What TERM means.

    Attributes:
        graceful: let the spirits finish.
        why: the reason, in words.
    """

    graceful: bool
    why: str


def meaning_of_term(term: str) -> Term:
    """Decide what TERM means: *term* is "immediate", "graceful" or "auto"."""
    if term != "auto":
        return Term(term == "graceful", f"term={term}")
    if os.getpid() == 1:
        return Term(graceful=True, why="the manager is PID 1")
    for name in ("NOTIFY_SOCKET", "KUBERNETES_SERVICE_HOST"):
        if os.environ.get(name):
            return Term(graceful=True, why=f"{name} is set")
    for path in _MARKS:
        if os.path.exists(path):
            return Term(graceful=True, why=f"{path} exists")
    return Term(graceful=False, why="no init system or container was recognised")


def inherits_orphans() -> bool:
    """Tell whether the orphans of others become our children; needs /proc."""
    if not doors.PROC:
        return False
    return os.getpid() == 1 or _is_subreaper()


def _is_subreaper() -> bool:
    from ghostd.unix import death

    return death.is_subreaper()
