"""How many processors this process may really use."""

from __future__ import annotations

import math
import os


def _quota() -> float:
    """Give the processor quota of our control group, infinite without one."""
    best = math.inf
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().split()
    except OSError:
        return best
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            best = min(best, _ratio_v2("/sys/fs/cgroup", path))
        elif "cpu" in controllers.split(","):
            best = min(best, _ratio_v1("/sys/fs/cgroup/cpu", path))
    return best


def _read(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def _ratio_v2(root: str, path: str) -> float:
    # A limit of any group above ours binds us too.
    best = math.inf
    while True:
        words = _read(f"{root}{path.rstrip('/')}/cpu.max")
        if words and words[0] != "max":
            best = min(best, int(words[0]) / int(words[1]))
        if path in ("", "/"):
            return best
        path = path.rsplit("/", 1)[0]


def _ratio_v1(root: str, path: str) -> float:
    for folder in (f"{root}{path.rstrip('/')}", root):
        quota = _read(f"{folder}/cpu.cfs_quota_us")
        period = _read(f"{folder}/cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            return int(quota[0]) / int(period[0])
    return math.inf


def usable() -> int:
    """Count them: the affinity mask, cut by the control group's quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    return max(1, min(number, math.ceil(_quota())) if _quota() < math.inf else number)
