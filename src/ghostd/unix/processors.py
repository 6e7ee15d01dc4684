"""How many processors this process may really use."""

from __future__ import annotations

import math
import os

from ghostd.unix import cgroup


def _quota() -> float:
    """Give the processor quota of our control group, infinite without one."""
    best = math.inf
    for version, folder in cgroup.folders("cpu"):
        if version == 2:  # noqa: PLR2004 - as the kernel counts
            quota, period = [*cgroup.words(f"{folder}/cpu.max"), "max", "0"][:2]
        else:
            quota = "".join(cgroup.words(f"{folder}/cpu.cfs_quota_us"))
            period = "".join(cgroup.words(f"{folder}/cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            best = min(best, int(quota) / int(period))
    return best


def usable() -> int:
    """Count them: the affinity mask, cut by the control group's quota; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    return max(1, min(number, math.ceil(_quota())) if _quota() < math.inf else number)
