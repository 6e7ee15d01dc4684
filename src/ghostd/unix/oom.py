"""Telling a spirit that ran out of memory from one that somebody killed."""

from __future__ import annotations

import os

from ghostd.unix import fork


def _paths() -> list[str]:
    """List where the kernel counts the kills of our group; cgroup 2 first."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().split()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        path = path.rstrip("/")
        if number == "0":
            found.append(f"/sys/fs/cgroup{path}/memory.events")
        elif "memory" in controllers.split(","):
            found.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    return found


class MemoryWatch:
    """Counts the out-of-memory kills of our control group."""

    def __init__(self) -> None:
        """Open the kernel's counter, if there is one."""
        self._fd = -1
        for path in _paths():
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            fork.keep_private(self._fd)
            break
        self._seen = self._count()

    def _count(self) -> int:
        if self._fd < 0:
            return 0
        try:
            words = os.pread(self._fd, 4096, 0).split()
        except OSError:
            return 0
        return int(words[words.index(b"oom_kill") + 1]) if b"oom_kill" in words else 0

    def struck(self) -> bool:
        """Tell whether the kernel killed one of us since the last question."""
        seen, self._seen = self._seen, self._count()
        return self._seen > seen

    def close(self) -> None:
        """Give the descriptor back."""
        fork.close(self._fd)
        self._fd = -1
