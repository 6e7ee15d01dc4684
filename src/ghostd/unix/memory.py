"""How much memory a process has, and how much there is; Linux only."""

from __future__ import annotations

import contextlib
import os

from ghostd.unix import cgroup

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int:
    """Give the bytes a process has in memory, shared ones included; 0: unknown."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def proportional(pid: int) -> int:
    """
    Give the bytes of a process with its share of what it shares; 0: unknown.

    That is what would be free without it, or nearly. Reading it takes the kernel some
    milliseconds for each GB, so `resident` is looked at first.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    return 0


def available() -> int:
    """Give the bytes that this process and all others of its cgroup may have."""
    limits = []
    for version, folder in cgroup.folders("memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"  # noqa: PLR2004 - as the kernel counts
        limit = "".join(cgroup.words(f"{folder}/{name}"))
        if limit.isdigit():
            limits.append(int(limit))
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", "rb") as file:
        limits.append(int(file.readline().split()[1]) * 1024)
    return min(limits, default=0)


def amount(limit: int | str) -> int:
    """Give the bytes of a limit: bytes as they are, or "25%" of what there is."""
    if isinstance(limit, int):
        return limit
    return available() * int(limit.rstrip("%")) // 100
