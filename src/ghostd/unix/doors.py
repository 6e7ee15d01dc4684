"""
Which doors of the kernel are open: what Linux offers and others do not.

Everything has a fallback that works on any Unix. The variable
``GHOSTD_CLOSED_DOORS`` closes doors by name ("pidfd,pdeathsig"), so that the
fallbacks are tested on the machine that would never use them.
"""

from __future__ import annotations

import os
import select
import sys

_CLOSED = frozenset(os.environ.get("GHOSTD_CLOSED_DOORS", "").split(","))


def is_open(door: str, *, present: bool) -> bool:
    """Tell whether *door* may be used: it is there, and nobody closed it."""
    return present and door not in _CLOSED


def _pidfd_works() -> bool:
    """Ask: an old kernel says ENOSYS, and the filter of a container may say EPERM."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


PIDFD = is_open("pidfd", present=_pidfd_works())
"""A descriptor for a child: no signal can reach a stranger, and its death wakes us."""

PDEATHSIG = is_open("pdeathsig", present=sys.platform == "linux")
"""The kernel itself tells a spirit that its manager died."""

SUBREAPER = is_open("subreaper", present=sys.platform == "linux")
"""Orphans below a process become its children, so others may fork in its place."""

EPOLL = is_open("epoll", present=hasattr(select, "epoll"))
"""Waiting costs the same for 4 and for 500 spirits."""

PIPE2 = is_open("pipe2", present=hasattr(os, "pipe2"))
"""A pipe that is close-on-exec from its first moment."""

PROC = is_open("proc", present=os.path.isdir("/proc/self/fd"))
"""The processes and descriptors of this machine as files."""

FILTER = is_open("filter", present=sys.platform == "linux")
"""Programs that the kernel runs on each packet: which queue gets it, and whether."""
