"""
Sockets that an init system opened for us: LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES.

The claim is made in the process that LISTEN_PID names. A daemon that detaches gets
another pid, so its launcher claims, and the descriptors go through the forks.
"""

from __future__ import annotations

import os

from ghostd.unix import daemonize

VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
UNNAMED = "unknown"
"""What the init system calls a descriptor that has no name."""


def labels() -> dict[int, str]:
    """Map the descriptors that were passed to this very process to their names."""
    fds = sorted(daemonize.activated())
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * len(fds)
    return {fd: name or UNNAMED for fd, name in zip(fds, names, strict=False)}


def why_none() -> str:
    """Say why nothing was passed to this process, or nothing that counts."""
    pid = os.environ.get("LISTEN_PID")
    if pid is None:
        return "no init system passed any: LISTEN_PID is not set"
    if pid != str(os.getpid()):
        return f"they are for process {pid} (LISTEN_PID), and this is {os.getpid()}"
    return f"LISTEN_FDS is {os.environ.get('LISTEN_FDS')!r}"


def forget() -> None:
    """Unset the variables: programs that we start must not take them for theirs."""
    for name in VARIABLES:
        os.environ.pop(name, None)
